from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from planted import PLANTED
from small_build import write_small_build


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small build whose simulator is compiled; not to be written to."""
    from attnc.cli import main

    build = write_small_build(tmp_path_factory.mktemp("simulated") / "build")
    assert main(["cosim", str(build), "--json"]) == 0
    return build


@pytest.fixture(scope="session")
def planted(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build with two more processes in its engine, which wait for each other unless `first` holds 7 tokens."""
    build = Path(shutil.copytree(simulated, tmp_path_factory.mktemp("planted") / "build"))
    top = build / "hls" / "attnc_top.cpp"
    before, region, behind = top.read_text().rpartition("  ATTNC_REGION\n")
    assert region
    top.write_text(before + PLANTED + behind)
    (build / "schedule.yaml").write_text("schema: 1\ndesign: {lanes: 4, pe: 4, rows: 4, queries: 4}\n")
    return build


@pytest.fixture
def build(simulated: Path, tmp_path: Path) -> Path:
    """A copy of it, which make takes for as new."""
    return Path(shutil.copytree(simulated, tmp_path / "build"))
