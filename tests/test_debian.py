"""`make debian`, with which `make test` begins: what tests run is installed where it can be, and nothing fails where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from debian import PROGRAMS

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *scripts: tuple[str, str]) -> tuple[str, list[str]]:
    """What the target prints where only these programs (name, script) are on PATH, and what apt-get was asked for."""
    for name, script in scripts:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    make = [shutil.which("make") or "make", "-s", "-o", ".venv/.test", f"BIN={Path(sys.executable).parent}", "debian"]
    done = subprocess.run(make, cwd=ROOT, env={**os.environ, "PATH": str(folder), "MAKEFLAGS": ""}, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    asked = folder / "asked"
    return done.stdout, asked.read_text().splitlines() if asked.is_file() else []


def apt_get(folder: Path, code: int) -> tuple[str, str]:
    return "apt-get", f'echo "$@" >> {folder}/asked; exit {code}'


def test_what_is_missing_is_installed(tmp_path: Path) -> None:
    said, asked = run(tmp_path, ("id", "echo 0"), apt_get(tmp_path, 0), ("clang++-15", ""), ("dtc", ""), ("chromium", ""))
    assert said == "installing tcl with apt-get: some tests run it\n"
    assert asked[0].endswith("install tcl")


@pytest.mark.parametrize(("user", "tries"), [("0", ["install chromium clang device-tree-compiler tcl", "update"]), ("1000", [])])
def test_a_machine_that_cannot_install_is_told_so(user: str, tries: list[str], tmp_path: Path) -> None:
    said, asked = run(tmp_path, ("id", f"echo {user}"), apt_get(tmp_path, 100))
    assert said.splitlines()[-1].startswith("note: no chromium clang device-tree-compiler tcl here: tests that run them are skipped")
    assert len(asked) == len(tries) and all(line.endswith(each) for line, each in zip(asked, tries, strict=True))


def test_nothing_is_said_where_all_is_there(tmp_path: Path) -> None:
    programs = [(names[-1], "") for names in PROGRAMS.values()]
    assert run(tmp_path, *programs, apt_get(tmp_path, 0)) == ("", [])
