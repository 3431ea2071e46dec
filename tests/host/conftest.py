"""Build folders that the tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from small_build import write_small_build


@pytest.fixture(scope="session")
def shared_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that no test may change."""
    return write_small_build(tmp_path_factory.mktemp("builds") / "build")


@pytest.fixture
def build(shared_build: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(shared_build, tmp_path / "build"))
