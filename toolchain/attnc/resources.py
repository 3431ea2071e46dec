"""Where the files that are not Python lie: inside an installed wheel, or in the checkout."""

from __future__ import annotations

from pathlib import Path

from attnc.errors import BuildError


def data_path(kind: str) -> Path:
    """Folder of "templates" or "hls_kernels"."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_data" / kind, package.parents[1] / kind):
        if folder.is_dir():
            return folder
    raise BuildError(f"the folder {kind!r} is missing: reinstall attnc (looked beside {package})")
