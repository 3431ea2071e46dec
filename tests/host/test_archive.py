"""The archive for the board: what is in it, the same bytes again, and none that is damaged or hostile gets past reading."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from attnc.cli import main
from attnc.errors import BuildError
from attnc_host import Accelerator, AcceleratorError, archive, wheel
from attnc_host import manifest as manifests
from small_build import random_inputs, write_small_build


@pytest.fixture(scope="session")
def app(shared_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("app") / "app.zip"
    archive.write_archive(manifests.load(shared_build), path)
    return path


def test_holds_what_the_board_needs_and_nothing_else(app: Path, shared_build: Path, tmp_path: Path) -> None:
    names = zipfile.ZipFile(app).namelist()
    own = {name for name in names if name.startswith("attnc_host/") and name.endswith((".py", ".html"))} | {
        "pyproject.toml",
        "attnc_wheel.py",
    }
    assert {name for name in names if name not in own} == {f"app/{name}" for name in ("manifest.json", *archive.ENTRIES, *archive.GOLDEN)}
    archive.write_archive(manifests.load(shared_build), tmp_path / "small.zip", golden=False)
    assert not [name for name in zipfile.ZipFile(tmp_path / "small.zip").namelist() if "graph" in name or "params" in name]
    with pytest.raises(BuildError, match=r"graph\.json: is missing"):
        Accelerator.open(tmp_path / "small.zip", "golden")


def test_what_pip_is_told_is_what_the_package_says(app: Path) -> None:
    """In an archive and in the wheel that is made of it, as in the sources."""
    tomllib = pytest.importorskip("tomllib")
    own = tomllib.loads((Path(archive.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    packed = tomllib.loads(zipfile.ZipFile(app).read("pyproject.toml").decode())["project"]
    keys = ("name", "version", "requires-python", "dependencies", "optional-dependencies")
    assert {key: own[key] for key in keys} == {key: packed[key] for key in keys}
    wanted = [f"Requires-Dist: {name}" for name in own["dependencies"]]
    wanted += [f'Requires-Dist: {name}; extra == "serve"' for name in own["optional-dependencies"]["serve"]]
    lines = wheel.METADATA.format(version=own["version"]).splitlines()
    assert [line for line in lines if line.startswith("Requires-Dist")] == wanted and f"Version: {own['version']}" in lines


def test_the_same_build_gives_the_same_bytes(app: Path, shared_build: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shared_build, tmp_path / "elsewhere"))
    archive.write_archive(manifests.load(copy), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == app.read_bytes()


def test_answers_as_the_build_does(app: Path, shared_build: Path, tmp_path: Path) -> None:
    inputs = random_inputs(3)
    with Accelerator.open(app) as packed, Accelerator.open(shared_build, "golden") as build:
        np.testing.assert_array_equal(packed.run(inputs)["y"], build.run(inputs)["y"])
        folder = packed.manifest.folder
        assert folder.is_dir()
    assert not folder.exists()
    hosted = write_small_build(tmp_path / "hosted", host=True)
    archive.write_archive(manifests.load(hosted), tmp_path / "hosted.zip")
    with Accelerator.open(tmp_path / "hosted.zip", "golden") as packed, Accelerator.open(hosted, "golden") as build:
        np.testing.assert_array_equal(packed.run(inputs)["y"], build.run(inputs)["y"])


def rewritten(app: Path, target: Path, edit: dict[str, bytes | None], more: dict[str, bytes] | None = None, how: int = 0) -> Path:
    """A copy with entries changed, left out (None) or added."""
    with zipfile.ZipFile(app) as old, zipfile.ZipFile(target, "w", how) as new:
        for name in old.namelist():
            content = edit.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in (more or {}).items():
            new.writestr(name, content)
    return target


def test_refuses_what_is_damaged_or_hostile(app: Path, tmp_path: Path) -> None:
    weights, manifest = "app/weights/weights.bin", "app/manifest.json"
    with zipfile.ZipFile(app) as whole:
        data, text = bytearray(whole.read(weights)), json.loads(whole.read(manifest))
    data[3] ^= 1
    text["files"]["../outside"] = {"bytes": 1, "sha256": "0" * 64}
    cases = {
        "checksum differs": rewritten(app, tmp_path / "1.zip", {weights: bytes(data)}),
        "needed .* bytes, found no such entry": rewritten(app, tmp_path / "2.zip", {weights: None}),
        "needed .* bytes, found 1 bytes": rewritten(app, tmp_path / "3.zip", {weights: b"x"}),
        "is no archive of attnc": rewritten(app, tmp_path / "4.zip", {manifest: None}),
        "a path inside the build folder": rewritten(
            app, tmp_path / "5.zip", {manifest: json.dumps(text).encode()}, {"app/../outside": b"x"}
        ),
        "stored and not encrypted": rewritten(app, tmp_path / "6.zip", {}, how=zipfile.ZIP_DEFLATED),
    }
    for message, path in cases.items():
        with pytest.raises(AcceleratorError, match=message):
            Accelerator.open(path, "golden")
    assert not (tmp_path.parent / "outside").exists()
    raw = bytearray(app.read_bytes())
    at = raw.index(bytes(zipfile.ZipFile(app).read(weights))[:64])
    raw[at] ^= 0x10  # a byte of the file itself, which the ZIP has a checksum of
    (tmp_path / "7.zip").write_bytes(raw)
    (tmp_path / "8.zip").write_bytes(app.read_bytes()[:-200])
    for name, message in (("7.zip", "the archive is damaged"), ("8.zip", "is no")):
        with pytest.raises(AcceleratorError, match=message):
            Accelerator.open(tmp_path / name, "golden")


def test_bitstreams_come_along_and_must_fit(shared_build: Path, tmp_path: Path) -> None:
    manifest = manifests.load(shared_build)
    bit = tmp_path / "design_1.bit"
    bit.write_bytes(b"bits")
    archive.write_archive(manifest, tmp_path / "app.zip", [bit])
    with archive.opened(tmp_path / "app.zip") as opened:
        assert (opened.folder / "bitstream" / "attnc_top.bit").read_bytes() == b"bits"
    with pytest.raises(AcceleratorError, match="second file that ends in"):
        archive.write_archive(manifest, tmp_path / "app.zip", [bit, bit])
    with pytest.raises(AcceleratorError, match="needed a file that ends in"):
        archive.write_archive(manifest, tmp_path / "app.zip", [tmp_path / "no.bit"])


def test_integers_in_and_out(shared_build: Path) -> None:
    inputs = random_inputs(2)
    q = np.clip(np.rint(inputs["x"].astype(np.float64) / 0.03), -128, 127).astype(np.int8)
    with Accelerator.open(shared_build, "golden") as device:
        found = device.run({"x": q}, integers=True)["y"]
        assert found.dtype == np.int8
        np.testing.assert_allclose(found * 0.08, device.run(inputs)["y"], rtol=1e-6)
        with pytest.raises(AcceleratorError, match="from -128 to 127"):
            device.run({"x": q.astype(np.int16) + 100}, integers=True)
        futures = [device.run_async({"x": inputs["x"][i : i + 1]}) for i in range(2)]
        np.testing.assert_array_equal(np.concatenate([future.result()["y"] for future in futures]), device.run(inputs)["y"])
        with pytest.raises(AcceleratorError, match="scalars: this accelerator takes none, found 'position'"):
            device.run(inputs, scalars={"position": 1})


def test_integers_need_the_whole_model_on_the_device(tmp_path: Path) -> None:
    hosted = write_small_build(tmp_path / "hosted", host=True)
    with Accelerator.open(hosted, "golden") as device, pytest.raises(AcceleratorError, match="run on the host"):
        device.run(random_inputs(1), integers=True)


def test_on_the_command_line(shared_build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app, other, bit = tmp_path / "app.zip", tmp_path / "other.zip", tmp_path / "design.bit"
    bit.write_bytes(b"bits")
    assert main(["package", str(shared_build), "-o", str(app), "--bitstream", str(bit), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == app.stat().st_size and "app/bitstream/attnc_top.bit" in told["entries"]
    assert main(["package", str(shared_build), "-o", str(app), "--no-golden"]) == 0 and app.stat().st_size < told["bytes"]
    other.write_bytes(b"mine")
    for given, message in ((other, "other.zip"), (tmp_path / "app.tar", "ends in .zip")):
        assert main(["package", str(shared_build), "-o", str(given)]) == 2 and message in capsys.readouterr().err
    assert other.read_bytes() == b"mine"
    archive.write_archive(manifests.load(shared_build), app)
    np.savez(tmp_path / "x.npz", **random_inputs(2))  # type: ignore[arg-type]
    assert main(["run", str(app), "--inputs", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backend"] == "golden"
    with Accelerator.open(shared_build, "golden") as golden:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], golden.run(random_inputs(2))["y"])
