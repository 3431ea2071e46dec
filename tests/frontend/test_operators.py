"""Hand-built graphs: every spelling of normalisations, functions, products and attention, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import Builder, C, T
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from running import check, random_inputs, run_model

from attnc.frontend import import_model
from attnc.model import Model


def ops(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


def save_and_check(b: Builder, tmp_path: Path, output: str, strict: bool = True, **options: object) -> Model:
    return check(b.save(tmp_path / "m.onnx", output), strict=strict, **options)  # type: ignore[arg-type]


# ---- layer normalisation ----


def centered(b: Builder, x: str) -> str:
    return b("Sub", x, b("ReduceMean", x, np.array([-1])) if b.opset >= 18 else b("ReduceMean", x, axes=[-1]))


def mean(b: Builder, x: str, keep: int = 1) -> str:
    return b("ReduceMean", x, np.array([-1]), keepdims=keep) if b.opset >= 18 else b("ReduceMean", x, axes=[-1], keepdims=keep)


def norm_pow_div(b: Builder, x: str) -> str:
    d = centered(b, x)
    return b("Div", d, b("Sqrt", b("Add", mean(b, b("Pow", d, 2.0)), 1e-5)))


def norm_mul_reciprocal(b: Builder, x: str) -> str:
    d = centered(b, x)
    return b("Mul", b("Reciprocal", b("Sqrt", b("Add", 1e-5, mean(b, b("Mul", d, d))))), d)


def norm_pow_half(b: Builder, x: str) -> str:
    d = centered(b, x)
    return b("Mul", d, b("Pow", b("Add", mean(b, b("Pow", d, 2.0)), 1e-3), -0.5))


def norm_moments(b: Builder, x: str) -> str:
    m = mean(b, x)
    variance = b("Sub", mean(b, b("Mul", x, x)), b("Mul", m, m))
    return b("Div", b("Sub", x, m), b("Pow", b("Add", b("Relu", variance), 1e-5), 0.5))


def norm_keras(b: Builder, x: str) -> str:
    m = mean(b, x)
    d = b("Sub", x, m)
    factor = b("Mul", b("Reciprocal", b("Sqrt", b("Add", mean(b, b("Mul", d, d)), 1e-5))), b.random(C))
    return b("Add", b("Mul", x, factor), b("Sub", b.random(C), b("Mul", m, factor)))


def norm_unbiased(b: Builder, x: str) -> str:
    d = centered(b, x)
    variance = b("Div", b("ReduceSum", b("Mul", d, d), np.array([-1])), float(C - 1))
    return b("Div", d, b("Add", b("Sqrt", variance), 1e-6))


def norm_no_axis(b: Builder, x: str) -> str:
    m = b("Unsqueeze", mean(b, x, keep=0), np.array([-1]))
    d = b("Sub", x, m)
    variance = b("Unsqueeze", mean(b, b("Pow", d, 2.0), keep=0), np.array([2]))
    return b("Div", d, b("Sqrt", b("Add", variance, 1e-5)))


SPELLINGS = [norm_pow_div, norm_mul_reciprocal, norm_pow_half, norm_moments, norm_keras, norm_unbiased, norm_no_axis]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("opset", "on_input"), [(13, False), (18, False), (18, True)])
def test_layer_normalization(tmp_path: Path, spelling: Callable[[Builder, str], str], opset: int, on_input: bool) -> None:
    b = Builder(opset)
    x = b.input("x", ["n", T, C])
    y = spelling(b, x if on_input else b.linear(x, C, C))
    y = b("Add", b("Mul", y, b.random(C)), b.random(1, 1, C))
    found = save_and_check(b, tmp_path, b.linear(y, C, 4))
    assert ops(found) == ["linear"] * (not on_input) + ["layer_normalization", "linear"]


def test_layer_normalization_operator(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", ["n", T, C])
    y = b("LayerNormalization", x, b.random(C), epsilon=0.1, axis=2)
    found = save_and_check(b, tmp_path, b("Mul", y, 3.0))
    assert ops(found) == ["layer_normalization"] and found.graph.nodes[0].attrs["epsilon"] == pytest.approx(0.1)


def test_a_row_that_is_repeated_times_a_constant(tmp_path: Path) -> None:
    """Neither operand has more than a row, and all rows of the result are one."""
    b = Builder(17)
    x = b.linear(b.input("x", [1, T, C]), C, C)
    row = b("Expand", b("Slice", x, np.array([0]), np.array([1]), np.array([1])), np.array([1, T, C]))
    doubled = b("Sub", b("Mul", row, np.arange(C, dtype=np.float32)), 0.5)
    save_and_check(b, tmp_path, b("Add", b.linear(doubled, C, C), x))


def test_gated(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", [1, T, C])
    gate, up = b("Split", b.linear(x, C, 12), np.array([6, 6]), outputs=2, axis=-1)
    found = save_and_check(b, tmp_path, b.linear(b("Mul", b("Mul", gate, b("Sigmoid", gate)), up), 6, C))
    assert sorted(ops(found)) == ["linear", "linear", "linear", "mul", "unary"]


# ---- products ----


@pytest.mark.parametrize("case", ["plain", "transB", "alpha_beta", "no_bias", "transA", "full_bias"])
def test_gemm(tmp_path: Path, case: str) -> None:
    b = Builder()
    x = b.input("x", [C, T] if case == "transA" else [T, C])
    if case == "transB":
        y = b("Gemm", x, b.random(3, C), b.random(3), transB=1)
    elif case == "alpha_beta":
        y = b("Gemm", x, b.random(C, 3), b.random(1, 3), alpha=0.3, beta=2.5)
    elif case == "no_bias":
        y = b("Gemm", x, b.random(C, 3))
    elif case == "transA":
        y = b("Gemm", x, b.random(C, 3), b.random(3), transA=1)
    else:
        y = b("Gemm", x, b.random(C, 3), b.random(T, 3), beta=0.5) if case == "full_bias" else b("Gemm", x, b.random(C, 3), b.random(3))
    found = save_and_check(b, tmp_path, y)
    assert ops(found) == ["linear"] + ["add"] * (case == "full_bias")


def test_products_with_constants(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", [1, T, C])
    y = b("MatMul", b.random(6, C), b("Transpose", b.linear(x, C, C), perm=[0, 2, 1]))
    y = b("Transpose", y, perm=[0, 2, 1])
    heads = b("MatMul", b("Unsqueeze", y, np.array([1])), b.random(3, 6, 4))
    back = b("MatMul", heads, b.random(3, 4, 2))
    flat = b("Reshape", b("Transpose", back, perm=[0, 2, 1, 3]), np.array([1, T, 6]))
    found = save_and_check(b, tmp_path, b("MatMul", flat, b.random(6)))
    assert set(ops(found)) == {"linear"}


@pytest.mark.parametrize(("rows", "shape", "axis"), [(1, (1, 64), 1), (2, (1, 128), -1), (64, (64, C), 0), (64, (40, C), 0)])
def test_gathered_constants(tmp_path: Path, rows: int, shape: tuple[int, int], axis: int) -> None:
    # As BERT picks its token types from a buffer of 512.
    b = Builder()
    long = 512 if axis else rows
    data = b.rng.standard_normal((rows, 512) if axis else (rows, C)).astype(np.float32)
    chosen = b("GatherElements", data, b.rng.integers(-long, long, shape), axis=axis)
    x = b.input("x", [1, shape[0], C])
    y = b("Add", b.linear(x, C, C), chosen) if axis == 0 else b("MatMul", b.linear(x, C, shape[1]), b("Transpose", chosen, perm=[1, 0]))
    save_and_check(b, tmp_path, y)


def test_flattened_tokens(tmp_path: Path) -> None:
    b = Builder()
    x = b("Relu", b.linear(b.input("x", [1, T, C]), C, 4))
    found = save_and_check(b, tmp_path, b("Gemm", b("Flatten", x), b.random(3, 4 * T), b.random(3), transB=1))
    assert found.outputs[0].shape == (1, 3)


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(2, 2, 1), (3, 2, 1), (2, 2, 2)])
def test_convolution(tmp_path: Path, kernel: int, stride: int, groups: int) -> None:
    b = Builder()
    x = b.input("x", ["n", 2, 6, 8])
    y = b("Conv", x, b.random(4, 2 // groups, kernel, kernel), b.random(4), strides=[stride, stride], group=groups)
    y = b("Relu", b("BatchNormalization", y, b.random(4), b.random(4), b.random(4), np.abs(b.rng.standard_normal(4)) + 0.5))
    found = save_and_check(b, tmp_path, b("Conv", y, b.random(3, 4, 1, 1)))
    assert ops(found) == ["linear", "unary", "linear"]


def test_convolution_1d_with_padding(tmp_path: Path) -> None:
    b = Builder()
    y = b("Conv", b.input("x", ["n", 2, 9]), b.random(4, 2, 3), strides=[2], pads=[1, 1])
    found = save_and_check(b, tmp_path, y, strict=False)
    assert found.leading is not None and ops(found) == ["linear"]


def test_a_node_of_the_host_may_have_the_name_of_its_tensor(tmp_path: Path) -> None:
    b = Builder()
    tokens = b("Concat", b.input("x", [1, T, C]), np.ones((1, 1, C), np.float32), axis=1)
    y = b("MatMul", tokens, b.random(C, 3))
    path = b.save(tmp_path / "m.onnx", y)
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.save(model, path)
    found = check(path, strict=False)
    assert found.leading is not None and ops(found) == ["linear"]


# ---- attention ----


def attention_inputs(b: Builder, heads: int = 2, kv: int = 2, four: bool = False) -> list[str]:
    x = b.input("x", ["n", T, C])
    parts = []
    for count in (heads, kv, kv):
        y = b.linear(x, C, 4 * count)
        parts.append(b("Transpose", b("Reshape", y, np.array([1, T, count, 4])), perm=[0, 2, 1, 3]) if four else y)
    return parts


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("case", ["plain", "scale", "causal", "bool", "float", "grouped", "bool_input"])
def test_attention_operator(tmp_path: Path, case: str, four: bool) -> None:
    b = Builder(23)
    heads, kv = (4, 2) if case == "grouped" else (2, 2)
    operands = attention_inputs(b, heads, kv, four)
    attributes: dict[str, object] = {} if four else {"q_num_heads": heads, "kv_num_heads": kv}
    if case == "scale":
        attributes["scale"] = 0.3
    if case == "causal":
        attributes["is_causal"] = 1
    if case == "bool":
        operands.append(b.constant(b.rng.random((T, T)) + np.eye(T) > 0.4))
    if case == "float":
        operands.append(b.random(1, 2, T, T))
    if case == "bool_input":
        operands.append(b.input("mask", [1, 1, T, T], TensorProto.BOOL))
    path = b.save(tmp_path / "m.onnx", b("Attention", *operands, **attributes))
    model = import_model(path)
    inputs = random_inputs(model)
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(None, inputs)
    found = run_model(model, inputs)
    np.testing.assert_allclose(next(iter(found.values())), expected, atol=1e-4)
    assert ops(model).count("attention") == 1 and set(ops(model)) == {"linear", "attention"}


def test_attention_of_inputs(tmp_path: Path) -> None:
    b = Builder()
    q, k, v = (b.input(name, ["n", 2, T, 4]) for name in "qkv")
    scores = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 0.5)
    bias = b("Mul", b("Sub", 1.0, b("Cast", b.input("mask", ["n", T], TensorProto.INT64), to=1)), -10000.0)
    scores = b("Add", scores, b("Unsqueeze", bias, np.array([1, 2])))
    p = b("Softmax", scores, axis=3)
    p = b("Where", b("IsNaN", p), 0.0, p)
    found = save_and_check(b, tmp_path, b("MatMul", p, v), strict=False)
    assert ops(found) == ["attention"] and len(found.graph.inputs) == 4


def test_learned_queries(tmp_path: Path) -> None:
    b = Builder()
    _, k, v = attention_inputs(b, four=True)
    scores = b("MatMul", b.random(1, 2, 3, 4), b("Transpose", k, perm=[0, 1, 3, 2]))
    found = save_and_check(b, tmp_path, b("MatMul", b("Softmax", scores), v))
    assert "attention" in ops(found)


def test_windows(tmp_path: Path) -> None:
    """Windowed attention of 8 tokens in 2 windows, rolled by one: rows gathered, two groups."""
    b = Builder()
    x = b.linear(b.input("x", [1, 8, C]), C, C)
    rolled = b(
        "Concat",
        b("Slice", x, np.array([1]), np.array([8]), np.array([1])),
        b("Slice", x, np.array([0]), np.array([1]), np.array([1])),
        axis=1,
    )
    windows = b("Reshape", rolled, np.array([2, 4, C]))
    qkv = [b("Transpose", b("Reshape", b.linear(windows, C, C), np.array([2, 4, 2, 4])), perm=[0, 2, 1, 3]) for _ in range(3)]
    scores = b("Add", b("MatMul", qkv[0], b("Transpose", qkv[1], perm=[0, 1, 3, 2])), b.random(2, 4, 4))
    y = b("Transpose", b("MatMul", b("Softmax", scores), qkv[2]), perm=[0, 2, 1, 3])
    found = save_and_check(b, tmp_path, b("Add", x, b.linear(b("Reshape", y, np.array([1, 8, C])), C, C)))
    attention = next(node for node in found.graph.nodes if node.op == "attention")
    assert attention.attrs["groups"] == 2 and attention.attrs["bias_heads"] == 2 and attention.attrs["bias_rows"] == 4


def test_rotary(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", [1, T, C])
    angles = np.outer(np.arange(T), [1.0, 0.1])
    cos, sin = (np.tile(f(angles), 2)[None, None] for f in (np.cos, np.sin))

    def turned() -> str:
        y = b("Transpose", b("Reshape", b.linear(x, C, C), np.array([1, T, 2, 4])), perm=[0, 2, 1, 3])
        left, right = b("Split", y, np.array([2, 2]), outputs=2, axis=-1)
        return b("Add", b("Mul", y, cos), b("Mul", b("Concat", b("Neg", right), left, axis=-1), sin))

    q, k = turned(), turned()
    v = b("Transpose", b("Reshape", b.linear(x, C, C), np.array([1, T, 2, 4])), perm=[0, 2, 1, 3])
    p = b("Softmax", b("Div", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 2.0))
    found = save_and_check(b, tmp_path, b("MatMul", p, v))
    assert ops(found).count("attention") == 1


# ---- rows, outputs, host ----


def test_constants_of_the_host_keep_their_axes(tmp_path: Path) -> None:
    """A scalar index takes an axis away; as a vector of one it would leave it, and what follows would mean something else."""
    b = Builder()
    boxes = b.input("boxes", [1, T, 2], TensorProto.INT64)
    place = b("Gather", b.random(30, C), b("Gather", boxes, np.array(1), axis=2))
    word = b("Gather", b.random(30, C), b.input("ids", [1, T], TensorProto.INT64))
    save_and_check(b, tmp_path, b.linear(b("Add", word, place), C, C), strict=False)


def test_pooling_and_softmax(tmp_path: Path) -> None:
    b = Builder()
    x = b.linear(b.input("x", ["n", T, C]), C, C)
    pooled = b("ReduceMean", x, np.array([1]), keepdims=0)
    summed = b("ReduceSum", b("Slice", x, np.array([1]), np.array([4]), np.array([1])), np.array([1]), keepdims=0)
    found = save_and_check(b, tmp_path, b("Softmax", b.linear(b("Add", pooled, summed), C, 3), axis=1))
    assert ops(found).count("mean_rows") == 2 and ops(found)[-1] == "softmax"


def test_masked_mean(tmp_path: Path) -> None:
    b = Builder()
    x = b.linear(b.input("x", ["n", T, C]), C, C)
    mask = b("Unsqueeze", b("Cast", b.input("mask", ["n", T], TensorProto.INT64), to=1), np.array([-1]))
    total = b("ReduceSum", b("Mul", x, mask), np.array([1]), keepdims=0)
    count = b("Clip", b("ReduceSum", mask, np.array([1]), keepdims=0), 1e-9)
    found = save_and_check(b, tmp_path, b.linear(b("Div", total, count), C, 2), strict=False)
    assert found.trailing is None


def test_what_does_not_depend_on_the_inputs(tmp_path: Path) -> None:
    """A tensor less itself, and what follows from it, beside something that is worth a device."""
    b = Builder()
    x = b.linear(b.input("x", [1, T, C]), C, C)
    nothing = b("Sub", x, x)
    less = b("Add", b("Mul", b("Add", nothing, nothing), b.random(C)), b.random(C))
    check(b.save(tmp_path / "m.onnx", b("Add", x, b("MatMul", less, b.random(C, C)))))


def test_trailing(tmp_path: Path) -> None:
    b = Builder()
    y = b.linear(b.input("x", ["n", T, C]), C, C)
    norm = b("ReduceL1", y, np.array([-1]), keepdims=1)
    b("Div", y, norm, name="unit")
    b("ArgMax", y, axis=-1, keepdims=0, name="arg")
    path = tmp_path / "m.onnx"
    onnx.save(b.model(b.nodes[-2].output[0], b.nodes[-1].output[0], elem_types=(1, TensorProto.INT64)), path)
    found = check(path)
    assert found.trailing is not None and {n.op_type for n in found.trailing.graph.node} == {"ReduceL1", "Div", "ArgMax"}
    assert {p.node for p in found.placements if p.where == "host"} >= {"unit", "arg"}


def test_output_layout_and_several_outputs(tmp_path: Path) -> None:
    b = Builder()
    y = b.linear(b.input("x", ["n", T, C]), C, 6)
    moved = b("Transpose", b("Reshape", y, np.array([1, T, 2, 3])), perm=[0, 2, 3, 1])
    path = b.save(tmp_path / "m.onnx", y, moved, b("Slice", y, np.array([0]), np.array([2]), np.array([2])))
    assert check(path, strict=True).trailing is None


def test_static_batch_is_one_sample_of_groups(tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", [3, T, C])
    q, k, v = (b.linear(x, C, C) for _ in range(3))
    found = save_and_check(b, tmp_path, b("MatMul", b("Softmax", b("MatMul", q, b("Transpose", k, perm=[0, 2, 1]))), v))
    assert found.graph.nodes[-1].attrs["groups"] == 3 and not found.inputs[0].batched


def test_deep_graph(tmp_path: Path) -> None:
    b = Builder()
    x = b.linear(b.input("x", [1, 2, C]), C, C)
    for _ in range(400):
        x = b("Add", x, b("Tanh", b("Mul", x, 0.5)))
    found = import_model(b.save(tmp_path / "m.onnx", b.linear(x, C, C)))
    assert ops(found).count("unary") == 400


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_float_types(tmp_path: Path, elem_type: int) -> None:
    b = Builder()
    x = b.input("x", ["n", T, C], elem_type)
    y = b("MatMul", x, b.constant(b.rng.standard_normal((C, 4)).astype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)), keep=True))
    onnx.save(b.model(y, elem_types=(elem_type,)), tmp_path / "m.onnx")
    check(
        tmp_path / "m.onnx",
        tolerance=2e-3 if elem_type == TensorProto.FLOAT16 else 1e-5,
        x=b.rng.standard_normal((1, T, C)).astype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)),
    )
