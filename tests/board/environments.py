"""Environments as boards have them: `python tests/board/environments.py FOLDER` makes what it can, and says what it cannot.

Kria's Ubuntu 22.04 has Python 3.10 with numpy 1.21, PYNQ 4 has Python 3.12 with numpy 2.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

WANTED = {"3.10": "numpy==1.21.6", "3.12": "numpy==2.2.6"}


def interpreter(version: str) -> str | None:
    """A Python of this version with venv: on PATH, else one that pyenv has."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for name in (shutil.which(f"python{version}"), *map(str, pyenv)):
        if name is None:
            continue
        done = subprocess.run([name, "-c", "import venv, ensurepip, sys; print(sys.version)"], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.startswith(f"{version}."):
            return name
    return None


def python_of(folder: Path, version: str) -> Path:
    """The interpreter of an environment."""
    return folder / version / "bin" / "python"


def make(folder: Path, version: str) -> str | None:
    """Make one; why not, where that fails."""
    found = interpreter(version)
    if found is None:
        return f"no Python {version} with venv on this machine"
    done = subprocess.run([found, "-m", "venv", "--clear", str(folder / version)], capture_output=True, text=True)
    if done.returncode == 0:
        command = [str(python_of(folder, version)), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--only-binary", ":all:"]
        done = subprocess.run([*command, WANTED[version]], capture_output=True, text=True)
    if done.returncode != 0:
        shutil.rmtree(folder / version, ignore_errors=True)
        return re.sub(r"\s+", " ", done.stderr.strip() or done.stdout.strip())[-300:]
    return None


def main() -> int:
    for version, numpy in WANTED.items():
        why = make(Path(sys.argv[1]), version)
        if why is not None:
            print(f"note: the runtime is not tested with Python {version} and {numpy}: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
