"""Checksums: what a build folder holds is what the compiler wrote, or it is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attnc_host.errors import AcceleratorError
from attnc_host.fields import Fields

BLOCK = 1 << 20
MAX_THREADS = 4
OWN = "checksum"
"""The field of a manifest that holds the checksum of all its other fields."""
DAMAGED = "the build folder is damaged; compile the model again"
CHANGED = "it was changed after the model was compiled; compile again, or leave this check out (--no-verify, verify=False)"


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def manifest_checksum(data: Mapping[str, Any]) -> str:
    """Checksum of what a manifest says, however its JSON is laid out."""
    text = json.dumps({key: value for key, value in data.items() if key != OWN}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_files(fields: Fields, root: Path, verify: bool, edited: bool) -> None:
    """Every file that the manifest lists is there and has its size; with `verify` the manifest itself and all files have their checksums.
    Sources may be `edited`."""
    wanted: list[tuple[Path, str]] = []
    files = fields.child("files")
    for name in files.data:
        entry = files.child(name)
        path = fields.inside(name, f"files[{name!r}]")
        size, checksum = entry.integer("bytes", 0), entry.text("sha256")
        if not path.is_file():
            raise AcceleratorError(f"{root}: the file {name!r} is missing, {DAMAGED}")
        if is_source(name) and (edited or not verify):
            continue
        found = path.stat().st_size
        if found != size:
            raise AcceleratorError(f"{path}: needed {size} bytes, found {found}: {CHANGED if is_source(name) else DAMAGED}")
        wanted.append((path, checksum))
    if not verify:
        return
    if manifest_checksum(fields.data) != fields.text(OWN):
        raise AcceleratorError(f"{fields.file}: the checksum of its fields differs: {CHANGED}")
    for path in _different(wanted):
        raise AcceleratorError(f"{path}: the checksum differs from the manifest's: {CHANGED}")


def is_source(name: str) -> bool:
    """Whether a file of a build is C++ or a script, which may be edited where what it computes is compared with golden."""
    return name.startswith("hls/") and not name.startswith("hls/data/")


def _different(wanted: list[tuple[Path, str]]) -> Iterator[Path]:
    """Files whose checksum is another. A file under two names is read once; hashing needs no interpreter, so threads share the work."""
    by_file: dict[tuple[int, int], Path] = {}
    for path, _ in wanted:
        status = path.stat()
        by_file.setdefault((status.st_dev, status.st_ino), path)
    with ThreadPoolExecutor(min(MAX_THREADS, len(os.sched_getaffinity(0)))) as pool:
        largest_first = sorted(by_file.items(), key=lambda item: -item[1].stat().st_size)
        found = dict(zip((key for key, _ in largest_first), pool.map(lambda item: sha256(item[1]), largest_first), strict=True))
    for path, checksum in wanted:
        status = path.stat()
        if found[(status.st_dev, status.st_ino)] != checksum:
            yield path
