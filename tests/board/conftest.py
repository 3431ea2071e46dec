"""One build with a compiled simulator serves all tests of boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from board.cases import Bench
from small_build import write_deep_build


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.of(write_deep_build(Path(tmp_path_factory.mktemp("board")) / "build"))
