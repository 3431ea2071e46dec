"""The wheel and the sdist: complete, and usable without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import attnc

ROOT = Path(__file__).resolve().parents[1]
DATA = ("templates", "hls_kernels")


def run(*command: str | Path, cwd: Path, timeout: int = 600) -> str:
    """Run outside the checkout's environment; return stdout, or fail with everything printed."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(source: Path, folder: Path) -> Path:
    folder.mkdir()
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel") / "out")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment with the wheel; dependencies come from this one, behind the wheel's own files."""
    folder = tmp_path_factory.mktemp("venv") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    paths = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))
    return folder / "bin"


def test_wheel_carries_templates_and_kernels(wheel: Path) -> None:
    expected = {
        f"attnc/_data/{path.relative_to(ROOT).as_posix()}"
        for kind in DATA
        for path in (ROOT / kind).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = names(wheel)
    assert expected
    assert {name for name in found if name.startswith("attnc/_data/")} == expected
    assert {"attnc/__init__.py", "attnc/py.typed", "attnc/cli.py", "attnc_host/__init__.py"} <= found
    assert not [name for name in found if name.startswith(("tests/", "models/"))]


@pytest.mark.slow
def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path / "sdist", cwd=ROOT)
    (sdist,) = (tmp_path / "sdist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert names(build_wheel(source, tmp_path / "again")) == names(wheel)


def test_host_runtime_builds_alone(tmp_path: Path) -> None:
    host = build_wheel(ROOT / "host", tmp_path / "host")
    assert "attnc_host/__init__.py" in names(host)
    assert f"attnc_host-{attnc.__version__}-" in host.name
    assert not [name for name in names(host) if name.startswith("attnc/")]


def test_installed_wheel_finds_its_own_files(installed: Path, tmp_path: Path) -> None:
    code = "import attnc, attnc_host; from attnc.resources import data_path as d; print(attnc.__file__, attnc_host.__file__, *map(d, %r))"
    for path in run(installed / "python", "-c", code % (DATA,), cwd=tmp_path).split():
        assert Path(path).resolve().is_relative_to(installed.resolve().parent), path


def test_installed_wheel_compiles_and_simulates(installed: Path, tmp_path: Path) -> None:
    vit, build = ROOT / "models" / "vit_digits", tmp_path / "build"
    model, calibration = vit / "vit_digits.onnx", vit / "calib.npz"
    run(installed / "attnc", "compile", model, "--target", "kv260", "--calib", calibration, "-o", build, "--no-check", cwd=tmp_path)
    assert (build / "manifest.json").is_file()
    result = json.loads(run(installed / "attnc", "csim", build, "--json", cwd=tmp_path))
    assert result["bit_exact"] is True
    assert result["elements"] > 0
    assert result["mismatches"] == 0
    assert result["first_mismatch"] is None
