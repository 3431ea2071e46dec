"""What a user may get wrong about weights, calibration data and settings, through the command line: a defined result or one error."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attnc.cli import main
from attnc.model import TensorSpec
from attnc.quant.samples import synthetic_samples
from attnc.verify.csim import compare_build

K, N = 32, 8
Capture = pytest.CaptureFixture[str]
Change = Callable[[np.ndarray], object]


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-O1")


def put(value: float) -> Change:
    return lambda array: array.__setitem__(np.unravel_index(3, array.shape), value)


def model(path: Path, change: Change = lambda array: None, which: str = "w0") -> Path:
    """Linear, ReLU, layer normalisation, linear; `change` edits one of the constants in place."""
    rng = np.random.default_rng(0)
    constants = {"w0": rng.normal(size=(K, K)) / 5, "b0": rng.normal(size=K), "gamma": rng.normal(1, 0.1, K), "beta": rng.normal(size=K)}
    constants["w1"] = rng.normal(size=(K, N)) / 5
    change(constants[which])
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m"], name="first"),
        helper.make_node("Add", ["m", "b0"], ["a"], name="bias"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("LayerNormalization", ["r", "gamma", "beta"], ["l"], name="norm"),
        helper.make_node("MatMul", ["l", "w1"], ["y"], name="last"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6, size]) for name, size in (("x", K), ("y", N))]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "model", values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def error_of(capsys: Capture, tmp_path: Path, *args: object) -> str:
    assert main(["compile", *map(str, args), "-o", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and "Warning" not in err and not (tmp_path / "out").exists()
    return err.splitlines()[-1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("which", "what"), [("w0", "weight"), ("b0", "constant operand"), ("gamma", "constant operand"), ("w1", "weight")])
def test_weights_that_are_no_numbers(capsys: Capture, tmp_path: Path, which: str, what: str, value: float) -> None:
    found = error_of(capsys, tmp_path, model(tmp_path / "m.onnx", put(value), which))
    assert "NaN or infinity, the first at [" in found and f"its {what} holds" in found, found


CALIBRATION: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "nan": ({"x": np.full((4, 6, K), np.nan, np.float32)}, "input 'x': contains NaN or infinity"),
    "infinite": ({"x": np.full((4, 6, K), np.inf, np.float32)}, "input 'x': contains NaN or infinity"),
    "too large": ({"x": np.full((4, 6, K), 1e300)}, "input 'x': contains a number that float32 cannot hold"),
    "name": ({"z": np.zeros((4, 6, K))}, "input 'x' is missing; the file has 'z'"),
    "nothing": ({}, "the archive is empty"),
    "shape": ({"x": np.zeros((4, 6, K - 1))}, "input 'x': needed shape [samples, 6, 32] or [samples, 1, 6, 32], found [4, 6, 31]"),
    "rank": ({"x": np.zeros((4, 2, 6, K))}, "or [samples, 1, 6, 32], found [4, 2, 6, 32]"),
    "no samples": ({"x": np.zeros((0, 6, K))}, "found shape [0, 6, 32]"),
    "text": ({"x": np.array(["a"])}, "input 'x': needed float32, found <U1"),
    "complex": ({"x": np.zeros((4, 6, K), complex)}, "needed float32, found complex128"),
    "objects": ({"x": np.array([None, 1], object)}, "not an .npz archive of numbers"),
}


@pytest.mark.parametrize("case", CALIBRATION)
def test_calibration_data(capsys: Capture, tmp_path: Path, case: str) -> None:
    arrays, message = CALIBRATION[case]
    np.savez(tmp_path / "calib.npz", **arrays)  # type: ignore[arg-type]
    found = error_of(capsys, tmp_path, model(tmp_path / "m.onnx"), "--calib", tmp_path / "calib.npz")
    assert message in found and "calib.npz" in found


def zeros(path: Path, shape: tuple[int, ...], held: int, descr: str = "<f4") -> Path:
    """An archive whose array x claims `shape`, and holds `held` bytes of zeros, which compress well."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made, made.open("x.npy", "w", force_zip64=True) as file:
        file.write(header.getvalue())
        for _ in range(held >> 20):
            file.write(bytes(1 << 20))
    return path


ARCHIVES: dict[str, tuple[tuple[int, ...], str, str]] = {
    "expands": (
        (1 << 12, 6, K),
        "<f4",
        "at most 1048576 bytes in an archive of this size, found 3145728; the largest is",
    ),
    "more than memory": ((1 << 40,), "<f4", "takes 4398046511104 bytes, and holds 3145728"),
    "overflows": ((1 << 62, 4), "<f4", "takes 73786976294838206464 bytes, and holds 3145728"),
    "negative": ((-1, -1), "<f4", "'x.npy' has shape [-1, -1]"),
    "less than it holds": ((4, 6, K), "<f4", "takes 3072 bytes, and holds 3145728"),
    "wide text": ((1 << 40,), "<U65536", "and holds 3145728"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_that_expand(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """They are refused by their headers, before any array is there."""
    shape, descr, message = ARCHIVES[case]
    monkeypatch.setattr("attnc.npz.MAX_BYTES", 1 << 20)
    monkeypatch.setattr(np, "load", lambda *args, **options: pytest.fail("it is read"))
    path = zeros(tmp_path / "calib.npz", shape, 3 << 20, descr)
    found = error_of(capsys, tmp_path, model(tmp_path / "m.onnx"), "--calib", path)
    assert message in found and "calib.npz" in found


def test_made_up_samples_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnc.quant.samples.SYNTHETIC_ELEMENTS", 320)
    for size, count in ((8, 16), (20, 16), (100, 3), (1000, 1)):
        specs = [TensorSpec("x", np.dtype(np.float32), (1, size), True), TensorSpec("y", np.dtype(np.int64), (1, 2), True)]
        made = synthetic_samples(onnx.ModelProto(), specs, 0)
        assert {name: array.shape for name, array in made.items()} == {"x": (count, 1, size), "y": (count, 1, 2)}


def test_names_cannot_command_a_terminal(capsys: Capture, tmp_path: Path) -> None:
    """A name with an escape sequence, one with a line of its own, a very long one: one message, escaped and short."""
    for name in ("\x1b[31mred\x07", "a\nattnc: error: nothing", "n" * 5000):
        path = model(tmp_path / "m.onnx")
        proto = onnx.load(path)
        proto.graph.node[2].op_type, proto.graph.node[2].name = "Sin", name
        onnx.save(proto, path)
        assert main(["compile", str(path), "-o", str(tmp_path / "out"), "--no-check", "-q"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("attnc: error: node ") and len(said.splitlines()) == 1 and len(said) < 2000
        assert all(c.isprintable() for c in said.rstrip("\n"))


def test_what_onnxruntime_refuses_is_an_error(capsys: Capture, tmp_path: Path) -> None:
    """Mod of fractions runs on the host in front of the device, where onnxruntime does not take it."""
    path = model(tmp_path / "m.onnx")
    proto = onnx.load(path)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    proto.graph.node.insert(0, helper.make_node("Mod", ["x", "two"], ["rest"], name="mod"))
    proto.graph.node[1].input[0] = "rest"
    onnx.save(proto, path)
    found = error_of(capsys, tmp_path, path)
    assert "onnxruntime cannot run the leading host graph: " in found and "fmod" in found


@pytest.mark.parametrize("value", [1e30, -3e38])
def test_a_constant_that_swallows_what_it_is_added_to(capsys: Capture, tmp_path: Path, value: float) -> None:
    path = model(tmp_path / "m.onnx")
    proto = onnx.load(path)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(value), "large"))
    proto.graph.node.insert(1, helper.make_node("Add", ["m", "large"], ["sum"], name="swallows"))
    proto.graph.node[2].input[0] = "sum"
    onnx.save(proto, path)
    assert "between its inputs and its outputs" in error_of(capsys, tmp_path, path)


@pytest.mark.parametrize("package", ["attnc", "attnc_host"])
def test_onnxruntime_sends_nothing_and_leaves_nothing(tmp_path: Path, package: str) -> None:
    """It would keep a file for its telemetry in the temporary folder."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", f"import {package}, onnxruntime"]
    subprocess.run(command, env={**environment, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}, check=True)
    assert not list(tmp_path.iterdir())


SETTINGS: dict[str, tuple[str, str]] = {
    "key": ("weight: int4", "unknown key weight (did you mean weights?)"),
    "width": ("weights: int9", "needed int8, int6"),
    "one bit": ("weights: int1", "needed int8, int6"),
    "layer": ("layers: [{match: lst, weights: int4}]", "'lst' matches no layer (did you mean last?)"),
    "group": ("group_size: 48", "group_size: needed 0, 16, 32, 64 or 128, found 48"),
    "group that does not divide": ("layers: [{match: last, weights: int4, group_size: 64}]", "group_size 64 does not divide its 32 inputs"),
    "engine": ("engine: lookup", "engine lookup takes weights of at most 6 bits"),
    "quantizer": ("weights: int4\nquantizer: absmean", "absmean cannot make int4 weights"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(capsys: Capture, tmp_path: Path, case: str) -> None:
    text, message = SETTINGS[case]
    (tmp_path / "c.yaml").write_text(text)
    found = error_of(capsys, tmp_path, model(tmp_path / "m.onnx"), "--config", tmp_path / "c.yaml")
    assert message in found and "c.yaml" in found


def test_options(capsys: Capture, tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx")
    for options, message in (
        (("--weights", "int7"), "needed int8, int6"),
        (("--group-size", "7"), "group_size: needed 0, 16, 32, 64 or 128, found 7"),
        (("--quantizer", "gtpq"), "quantizer: needed one of minmax"),
        (("--implementation", "softmx=table"), "needed one of the functions that the model has"),
    ):
        assert message in error_of(capsys, tmp_path, path, *options)


ZEROS: dict[str, tuple[Change, str, tuple[str, ...]]] = {
    "weight": (lambda w: w.fill(0), "w0", ()),
    "ternary weight": (lambda w: w.fill(0), "w0", ("--weights", "ternary")),
    "binary weight": (lambda w: w.fill(0), "w0", ("--weights", "binary2", "--quantizer", "binary")),
    "output channel": (lambda w: w[:, 3].fill(0), "w0", ("--weights", "int4", "--quantizer", "gptq")),
    "input channel": (lambda w: w[3].fill(0), "w1", ("--activations", "dynamic")),
    "gains": (lambda w: w.fill(0), "gamma", ()),
    "tiny": (lambda w: w.__imul__(1e-30), "w0", ()),
    "huge": (lambda w: w.__imul__(1e15), "w0", ()),
}


@pytest.mark.parametrize("case", ZEROS)
def test_channels_of_zeros_have_a_defined_result(capsys: Capture, tmp_path: Path, case: str) -> None:
    change, which, options = ZEROS[case]
    path = model(tmp_path / "m.onnx", change, which)
    assert main(["compile", str(path), "-o", str(tmp_path / "out"), "--no-check", "--quiet", *options]) == 0
    assert "Warning" not in capsys.readouterr().err
    assert compare_build(tmp_path / "out").bit_exact


@pytest.mark.parametrize("options", [(), ("--activations", "dynamic"), ("--weights", "int4", "--quantizer", "quantease")])
def test_calibration_with_zeros_alone_has_a_defined_result(capsys: Capture, tmp_path: Path, options: tuple[str, ...]) -> None:
    np.savez(tmp_path / "calib.npz", x=np.zeros((4, 6, K), np.float32))
    path = model(tmp_path / "m.onnx")
    command = ["compile", str(path), "--calib", str(tmp_path / "calib.npz"), "-o", str(tmp_path / "out"), "--no-check", "--quiet"]
    assert main([*command, *options]) == 0
    assert "Warning" not in capsys.readouterr().err
    assert compare_build(tmp_path / "out").bit_exact


def test_what_libraries_say_is_not_for_the_user(tmp_path: Path) -> None:
    """The optimizer logs a warning where a constant is split; a process of its own, since pytest takes what is logged in this one."""
    path = model(tmp_path / "m.onnx")
    proto = onnx.load(path)
    proto.graph.node.insert(0, helper.make_node("Split", ["w1"], ["half", "rest"], axis=0, num_outputs=2))
    proto.graph.node.insert(1, helper.make_node("Concat", ["half", "rest"], ["whole"], axis=0))
    proto.graph.node[-1].input[1] = "whole"
    onnx.save(proto, path)
    command = [sys.executable, "-m", "attnc", "compile", str(path), "-o", str(tmp_path / "out"), "--no-check", "-q"]
    said = [subprocess.run([*command, *more], capture_output=True, text=True, check=True).stderr for more in ([], ["-v"])]
    assert said[0] == "" and "onnxscript" in said[1] and "Skipping constant folding" in said[1]
