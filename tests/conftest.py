"""Makes the helpers in tests/ importable from every test folder, and shares a small build folder."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def shared_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder of one layer that no test may change."""
    from small_build import write_small_build

    return write_small_build(tmp_path_factory.mktemp("builds") / "build")


@pytest.fixture
def build(shared_build: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(shared_build, tmp_path / "build"))
