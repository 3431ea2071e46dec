"""The accelerator as a function."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import attnc_host
from attnc.arrays import Array
from attnc.verify.golden_backend import GoldenBackend
from attnc_host import Accelerator, AcceleratorError, InputError, accelerator, backends
from attnc_host import manifest as manifests
from small_build import expected_outputs, random_inputs, weights, write_small_build


def bound(x: Array) -> Array:
    """Half a step of each x (times |w|), of each weight (times |x|) and of y."""
    weight, _ = weights()
    x = np.abs(np.clip(x, -3.84, 3.81))
    return np.asarray(np.abs(weight).sum(1) * 0.015 + x.sum(-1, keepdims=True) * np.abs(weight).max(1) / 254 + 0.0401)


class Echo:
    """A backend that answers with a fixed byte."""

    def __init__(self, manifest: manifests.Manifest, types: str = "native", byte: int = 1) -> None:
        self.manifest, self.byte, self.closed, self.calls = manifest, byte, False, 0

    def execute(self, images: Array) -> Array:
        self.calls += 1
        return np.full((images.shape[0], self.manifest.output_bytes), self.byte, np.uint8)

    def close(self) -> None:
        self.closed = True


def test_csim_equals_golden_and_is_near_float(build: Path) -> None:
    inputs = random_inputs(7)
    with Accelerator.open(build, backend="csim") as device, Accelerator.open(build, backend="golden") as golden:
        found, expected = device.run(inputs), golden.run(inputs)
    assert found["y"].shape == (7, 4, 5) and found["y"].dtype == np.float32
    np.testing.assert_array_equal(found["y"], expected["y"])
    assert (np.abs(found["y"] - np.clip(expected_outputs(inputs["x"]), -10.24, 10.16)) <= bound(inputs["x"])).all()


def test_leading_and_trailing(tmp_path: Path, build: Path) -> None:
    hosted = write_small_build(tmp_path / "hosted", host=True)
    inputs = random_inputs(3)
    with Accelerator.open(hosted, "golden") as device, Accelerator.open(build, "golden") as plain:
        found = device.run({"x": inputs["x"]})["y"]
        np.testing.assert_array_equal(found, plain.run({"x": inputs["x"] * 2})["y"] / 2)
    assert found.shape == (3, 4, 5)


def test_host_graphs_need_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = write_small_build(tmp_path / "hosted", host=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AcceleratorError, match=r"leading\.onnx runs on the host and needs onnxruntime"):
        Accelerator.open(hosted, "golden").run(random_inputs(1))


def test_damaged_host_graph(tmp_path: Path) -> None:
    hosted = write_small_build(tmp_path / "hosted", host=True)
    path = hosted / "host" / "leading.onnx"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(AcceleratorError, match="onnxruntime cannot load it"):
        Accelerator.open(hosted, "golden", verify=False).run(random_inputs(1))


def test_fixed_batch_of_one(tmp_path: Path) -> None:
    fixed = write_small_build(tmp_path / "fixed", batched=False)
    with Accelerator.open(fixed, "golden") as device:
        assert device.run(random_inputs(1))["y"].shape == (1, 4, 5)
        assert device.run(random_inputs(3))["y"].shape == (3, 4, 5)


def test_outputs_without_an_axis_for_samples(shared_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description, inputs = manifests.load(shared_build), random_inputs(5)
    expected = Accelerator(description, GoldenBackend(description)).run(inputs)["y"]
    port, fetch = manifests.Port("y", np.dtype(np.float32), (4, 5), False), replace(description.fetches[0], shape=(4, 5))
    description = replace(description, outputs=(port,), fetches=(fetch,))
    device = Accelerator(description, GoldenBackend(description))
    np.testing.assert_array_equal(device.run(inputs)["y"], expected)
    np.testing.assert_array_equal(device.run({"x": inputs["x"][:1]})["y"], expected[0])
    np.testing.assert_array_equal(device.run({"x": inputs["x"][:1, np.newaxis]})["y"], expected[:1])
    monkeypatch.setattr(accelerator, "CHUNK_BYTES", 32 * 48 * 2)
    np.testing.assert_array_equal(device.run(inputs)["y"], expected)


@pytest.mark.parametrize("backend", ["golden", "csim"])
def test_every_backend_refuses_what_is_no_number(build: Path, backend: str) -> None:
    inputs = random_inputs(2)
    inputs["x"][1, 0, 0] = np.nan
    with Accelerator.open(build, backend) as device, pytest.raises(AcceleratorError, match="'x': contains NaN or infinity"):
        device.run(inputs)


def test_chunks_change_nothing(shared_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_inputs(9)
    whole = Accelerator.open(shared_build, "golden").run(inputs)["y"]
    monkeypatch.setattr(accelerator, "CHUNK_BYTES", 32 * 48 * 2)
    description = manifests.load(shared_build)
    golden = GoldenBackend(description)
    counted: list[int] = []

    class Counting(Echo):
        def execute(self, images: Array) -> Array:
            counted.append(images.shape[0])
            return golden.execute(images)

    np.testing.assert_array_equal(Accelerator(description, Counting(description)).run(inputs)["y"], whole)
    assert counted == [2, 2, 2, 2, 1]


def test_backends_by_name_and_as_objects(shared_build: Path) -> None:
    backends.register_backend("echo", Echo)
    try:
        with Accelerator.open(shared_build, "echo", byte=2) as device:
            np.testing.assert_allclose(device.run(random_inputs(2))["y"], 2 * 0.08)
        assert isinstance(device.backend, Echo) and device.backend.closed
    finally:
        del backends.BACKENDS["echo"]
    given = Echo(manifests.load(shared_build))
    assert Accelerator.open(shared_build, backend=given).backend is given
    with pytest.raises(AcceleratorError, match=r"needed one of cosim, csim.*found 'cism' \(did you mean 'csim'\?\)"):
        Accelerator.open(shared_build, "cism")


def test_the_host_imports_nothing_of_the_compiler() -> None:
    """The package as it lies on a board: alone on the path, without attnc and without onnxruntime."""
    root = Path(attnc_host.__file__).parents[1]
    code = f"""
import sys
sys.path[:] = [{str(root)!r}, *(p for p in sys.path if "toolchain" not in p)]
import attnc_host
foreign = {{"attnc", "onnx", "onnxruntime", "rich", "typer"}} & {{name.split(".")[0] for name in sys.modules}}
sys.exit(repr(foreign) if foreign else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


OLD_PYTHON = Path("/root/.pyenv/versions/3.10.13/bin/python")


@pytest.mark.skipif(not OLD_PYTHON.is_file(), reason="Python 3.10 is not installed")
def test_compiles_with_the_oldest_python(tmp_path: Path) -> None:
    files = sorted(Path(attnc_host.__file__).parent.rglob("*.py"))
    code = "import sys\nfor name in sys.argv[1:]: compile(open(name).read(), name, 'exec')"
    done = subprocess.run([OLD_PYTHON, "-c", code, *files], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_whose_fault_it_is(tmp_path: Path) -> None:
    """What inputs do wrong, on the way through the host's graphs too, is an `InputError`; what the device does is not."""

    class Broken(Echo):
        def execute(self, images: Array) -> Array:
            raise AcceleratorError("the device does not answer")

    folder = write_small_build(tmp_path / "hosted", host=True)
    with Accelerator.open(folder, Broken(manifests.load(folder))) as device:
        with pytest.raises(InputError, match="needed shape"):
            device.run({"x": np.zeros((2, 3), np.float32)})
        with pytest.raises(InputError, match="becomes NaN or infinite in sample 1"):
            device.run({"x": np.stack([np.zeros((4, 6), np.float32), np.full((4, 6), 3e38, np.float32)])})
        with pytest.raises(AcceleratorError, match="does not answer") as failure:
            device.run(random_inputs(1))
    assert not isinstance(failure.value, InputError)
