"""The runtime as boards have it: the oldest Python and numpy, and the newest; installed by pip from an archive, without a network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from attnc_host import archive
from board.cases import CASES, Bench
from board.environments import WANTED, python_of

FOLDER = Path(__file__).parents[2] / ".venv" / "boards"


@pytest.fixture(scope="session")
def app(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("app") / "app.zip"
    archive.write_archive(bench.manifest, path)
    return path


def run(version: str, bench: Bench, app: Path, tmp_path: Path, cases: int) -> None:
    python = python_of(FOLDER, version)
    if not python.is_file():
        pytest.skip(f"make test makes an environment of Python {version} with {WANTED[version]} where it can; there is none")
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    site = tmp_path / "site"
    pip = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(app)]
    done = subprocess.run(pip, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "expected.npy", bench.expected)
    script = Path(__file__).parent / "on_board.py"
    given = [str(app), str(bench.manifest.folder), str(tmp_path / "expected.npy"), str(cases)]
    done = subprocess.run(
        [str(python), str(script), *given], capture_output=True, text=True, env={**env, "PYTHONPATH": str(site)}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"fine with Python {version}, numpy {WANTED[version].partition('==')[2]}, at {site}" in done.stdout


@pytest.mark.parametrize("version", WANTED)
def test_runs_as_on_a_board(version: str, bench: Bench, app: Path, tmp_path: Path) -> None:
    run(version, bench, app, tmp_path, cases=5)


@pytest.mark.slow
@pytest.mark.parametrize("version", WANTED)
def test_every_fault_as_on_a_board(version: str, bench: Bench, app: Path, tmp_path: Path) -> None:
    run(version, bench, app, tmp_path, cases=len(CASES))
