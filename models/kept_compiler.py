"""A C++ compiler that keeps what it makes: python kept_compiler.py FOLDER g++ ARGUMENTS...

Builds of one model differ in their data alone as often as not: their sources are compiled once. What is kept is found again by the
arguments and all that may be read: sources and headers of the working folder, or the objects that are linked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HEADERS = ("*.hpp", "include/**/*.hpp", "sim/*.h")


def made_of(command: list[str]) -> list[Path]:
    """The files that a compilation or a link in this folder may read."""
    named = [Path(word) for word in command if word.endswith((".cpp", ".o")) and command[command.index(word) - 1] != "-o"]
    return named + [path for pattern in HEADERS if "-c" in command for path in sorted(Path().glob(pattern))]


def main(folder: Path, command: list[str]) -> int:
    """Run the command, or give what it made before."""
    digest = hashlib.sha256("\0".join(command).encode())
    for path in made_of(command):
        digest.update(f"\0{path}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    made, kept = Path(command[command.index("-o") + 1]), folder / digest.hexdigest()
    if kept.exists():
        shutil.copy(kept, made)
        return 0
    code = subprocess.run(command).returncode
    if code == 0:
        part = kept.with_suffix(f".{os.getpid()}")
        shutil.copy(made, part)
        part.replace(kept)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
