"""Pages in a headless Chromium: what it says on its console, what it asks for, and the document that is left."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from debian import find

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)
"""No window, and nothing on the browser's own account; no name is resolved but localhost's."""
FLAGS = ("--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom")
OWN = re.compile(r"https?://([a-z0-9-]+\.)*(google|googleapis|gstatic)\.com[/:]")
"""What the browser asks for on its own account."""


@dataclass(frozen=True)
class Visit:
    """Lines of the console, addresses on the network that the page asked for, the document after its scripts have run."""

    console: list[str]
    requests: list[str]
    document: str


def program() -> str:
    """The browser; the test is skipped where there is none."""
    found = find("chromium")
    if found is None:
        pytest.skip("chromium is not installed (Debian, Ubuntu: apt-get install chromium)")
    return found


def visit(page: str, folder: Path, *flags: str) -> Visit:
    """Open a page, a file or an address, with a profile in `folder`."""
    log = folder / "net.json"
    command = [program(), *QUIET, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", *flags, page]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, env={**os.environ, "HOME": str(folder)})
    assert done.returncode == 0, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line or ":CONSOLE(" in line]
    events = json.loads(log.read_text())["events"]
    urls = {str(event["params"]["url"]) for event in events if "url" in event.get("params", {})}
    return Visit(console, sorted(url for url in urls if not OWN.match(url) and not url.startswith(("file:", "data:"))), done.stdout)
