"""Makes the helpers in tests/ importable from every test folder, and shares a small build folder."""

import fcntl
import gc
import shutil
import sys
from pathlib import Path

import pytest

from attnc.process import COLLECT_AFTER

sys.path.insert(0, str(Path(__file__).parent))
gc.set_threshold(COLLECT_AFTER)  # as in a command


@pytest.fixture(scope="session")
def shared_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder of one layer that no test may change."""
    from small_build import write_small_build

    return write_small_build(tmp_path_factory.mktemp("builds") / "build")


@pytest.fixture
def build(shared_build: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return Path(shutil.copytree(shared_build, tmp_path / "build"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of the shipped model as `attnc compile` leaves it, one for all processes of a run, that no test may change."""
    from attnc.cli import main
    from small_build import DIGITS

    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if shared.name.startswith("popen-") else shared  # of pytest-xdist
    build = shared / "digits" / "build"
    build.parent.mkdir(exist_ok=True)
    with open(build.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not build.exists():
            calib = str(DIGITS / "calib.npz")
            assert main(["compile", str(DIGITS / "vit_digits.onnx"), "--target", "kv260", "--calib", calib, "-o", str(build), "-q"]) == 0
    return build
