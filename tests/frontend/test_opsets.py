"""One block of a transformer in every opset that is read, against onnxruntime on the file itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import Builder, C, T
from running import check

from attnc.errors import ModelError, UnsupportedError
from attnc.frontend import import_model
from attnc.frontend.load import MIN_OPSET
from attnc.model import Model

OPERATORS = ["linear", "layer_normalization", *["linear"] * 3, "attention", "linear", "unary", "linear", "mul", "linear", "add"]


def names(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


def with_axes(b: Builder, op: str, x: str, axes: list[int], inputs_since: int = 13) -> str:
    return str(b(op, x, np.array(axes)) if b.opset >= inputs_since else b(op, x, axes=axes))


def block(b: Builder) -> str:
    x = b.linear(b.input("x", ["n", T, C]), C, C)
    d = b("Sub", x, with_axes(b, "ReduceMean", x, [-1], 18))
    y = b("Div", d, b("Sqrt", b("Add", with_axes(b, "ReduceMean", b("Mul", d, d), [-1], 18), 1e-5)))
    q, k, v = (b("Transpose", b("Reshape", b.linear(y, C, C), np.array([-1, T, 2, 4])), perm=[0, 2, 1, 3]) for _ in range(3))
    p = b("Softmax", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), axis=3)
    o = b.linear(b("Reshape", b("Transpose", b("MatMul", p, v), perm=[0, 2, 1, 3]), np.array([-1, T, C])), C, 12)
    gate, up = b("Split", o, np.array([6, 6]), outputs=2, axis=-1) if b.opset >= 13 else b("Split", o, split=[6, 6], outputs=2, axis=-1)
    z = b("Add", b.linear(b("Mul", b("Mul", gate, b("Sigmoid", gate)), up), 6, C), x)
    return with_axes(b, "Squeeze", with_axes(b, "Unsqueeze", z, [1]), [1])


@pytest.mark.parametrize("opset", range(MIN_OPSET, 26))
def test_opset(tmp_path: Path, opset: int) -> None:
    b = Builder(opset)
    found = check(b.save(tmp_path / "m.onnx", block(b)), strict=True)
    assert names(found) == OPERATORS


def test_old_models_with_external_data(tmp_path: Path) -> None:
    b = Builder(11)
    onnx.save(b.model(block(b)), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=128)
    check(tmp_path / "m.onnx", strict=True)


def test_softmax_of_old_opsets_runs_over_all_axes_behind_its_axis(tmp_path: Path) -> None:
    b = Builder(12)
    x = b.linear(b.input("x", [1, T, C]), C, C)
    with pytest.raises(UnsupportedError, match="Softmax"):
        import_model(b.save(tmp_path / "m.onnx", b.linear(b("Softmax", x, axis=1), C, 3)), strict=True)


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    b = Builder(11)
    y = b("Upsample", b.input("x", [1, 1, T, C]), np.ones(4), mode="nearest")
    with pytest.raises(ModelError, match=r"Upsample|opset 11"):
        import_model(b.save(tmp_path / "m.onnx", b.linear(y, C, 3)))


@pytest.mark.parametrize(("opset", "axis"), [(11, -1), (12, 3), (12, 1)])
def test_softmax_of_old_opsets(tmp_path: Path, opset: int, axis: int) -> None:
    """It took all axes from one on together: the same for the last one, and for one that only axes of one element are behind."""
    b = Builder(opset)
    x = b.input("x", [1, T, C])
    q, k, v = (b("Transpose", b("Reshape", b.linear(x, C, C), np.array([1, T, 2, C // 2])), perm=[0, 2, i, 4 - i]) for i in (1, 3, 1))
    if axis == 1:  # scores [2 T, T] of all heads
        scores = b("Reshape", b("MatMul", q, k), np.array([2 * T, T]))
        made = b("Reshape", b("Softmax", scores, axis=1), np.array([1, 2, T, T]))
    else:
        made = b("Softmax", b("MatMul", q, k), axis=axis)
    merged = b("Reshape", b("Transpose", b("MatMul", made, v), perm=[0, 2, 1, 3]), np.array([1, T, C]))
    assert "attention" in names(check(b.save(tmp_path / "m.onnx", b.linear(merged, C, 3))))


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """As onnxruntime takes them."""
    b = Builder(17)
    path = b.save(tmp_path / "m.onnx", b("LayerNormalization", b.linear(b.input("x", [1, T, C]), C, C), b.random(C)))
    model = onnx.load(path)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())
    assert names(check(path)) == ["linear", "layer_normalization"]
