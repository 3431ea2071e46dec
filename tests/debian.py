"""Programs of Debian that some tests run; without them these tests are skipped.

python tests/debian.py      prints the packages whose programs are missing
"""

from __future__ import annotations

import shutil

import pytest

PROGRAMS: dict[str, tuple[str, ...]] = {
    "chromium": ("chromium", "chromium-browser"),
    "clang": ("clang++", *(f"clang++-{release}" for release in range(22, 12, -1))),
    "device-tree-compiler": ("dtc",),
    "tcl": ("tclsh",),
}
"""By package, the first that is there counts."""


def find(package: str) -> str | None:
    """The path of a package's program."""
    return next(filter(None, map(shutil.which, PROGRAMS[package])), None)


def needs(package: str) -> pytest.MarkDecorator:
    """Mark of a test that runs a package's program."""
    return pytest.mark.skipif(find(package) is None, reason=f"no {PROGRAMS[package][0]} (Debian package {package})")


if __name__ == "__main__":
    print(*(package for package in PROGRAMS if find(package) is None))
