"""A file of samples is one for all commands: what calibrates a model is what its build runs on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attnc.cli import main
from attnc.npz import load_npz

C = 8


def model(path: Path, x: list[object], mask: list[object], seed: int = 0) -> Path:
    """y = relu((x + mask) @ w), and the sum of its tokens."""
    weight = numpy_helper.from_array(np.random.default_rng(seed).normal(size=(C, C)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x), ("mask", mask))]
    graph = helper.make_graph(nodes, "graph", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", C])], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def expected(path: Path, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    weight = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    return np.asarray(np.maximum((x + mask) @ weight, 0))


CASES: dict[str, tuple[list[object], list[object], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "batch of 2": ([2, 4, C], [4, C], (5, 2, 4, C), (4, C), (5, 2, 4, C)),
    "sequence first": ([4, 1, C], [4, 1, C], (5, 4, 1, C), (5, 4, 1, C), (5, 4, 1, C)),
    "batch of 1": ([1, 4, C], [4, C], (5, 4, C), (5, 4, C), (5, 4, C)),
    "dynamic": (["n", "t", C], ["t", C], (5, 4, C), (4, C), (5, 4, C)),
    "dynamic, in front": (["n", "t", C], ["t", C], (5, 1, 4, C), (5, 4, C), (5, 4, C)),
}
"""Declared shapes of x and mask, shapes of their arrays in the file, and the shape of what comes out."""


@pytest.mark.parametrize("case", CASES)
def test_what_calibrates_is_what_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("CXXFLAGS", "-O1")
    declared_x, declared_mask, given_x, given_mask, shape = CASES[case]
    rng = np.random.default_rng(1)
    x, mask = rng.normal(size=given_x), rng.normal(size=given_mask)
    path, data, build = model(tmp_path / "m.onnx", declared_x, declared_mask), tmp_path / "data.npz", tmp_path / "build"
    np.savez(data, x=x, mask=mask)
    assert main(["compile", str(path), "--calib", str(data), "-o", str(build), "-q"]) == 0
    assert main(["run", str(build), "--inputs", str(data), "--output", str(tmp_path / "y.npz"), "--backend", "golden"]) == 0
    found = load_npz(tmp_path / "y.npz")["y"]
    wanted = np.stack([expected(path, one, mask[i] if len(mask) == len(x) else mask) for i, one in enumerate(x)])
    assert found.shape == shape
    np.testing.assert_allclose(found, wanted.reshape(shape), atol=0.1 * np.abs(wanted).max())
    capsys.readouterr()
    assert main(["csim", str(build), "--inputs", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 5
    assert main(["eval", str(build), "--inputs", str(data), "--model", str(path), "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)["evaluation"]
    assert evaluation["samples"] == 5 and evaluation["output_sqnr_db"]["y"] > 25
