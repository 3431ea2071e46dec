"""The page at `/`: one file, which asks nobody but this service for anything."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

PAGE = (Path(__file__).parent / "page.html").read_bytes()


def _hash(tag: bytes) -> str:
    """The checksum of what stands between two tags, as a content security policy names it."""
    inner = PAGE.partition(b"<" + tag + b">")[2].partition(b"</" + tag + b">")[0]
    return f"'sha256-{b64encode(sha256(inner).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; script-src {_hash(b'script')}; style-src {_hash(b'style')}; "
    "connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser may do on the page: run its own script, and talk to this service."""
