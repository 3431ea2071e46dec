"""Attention as the ONNX operator with all it can say, and softmax, windows and masks as they are spelled out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import Builder, C, T
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from running import check, random_inputs, run_model

from attnc.errors import AttncError
from attnc.frontend import import_model
from attnc.model import Model

H, D = 2, 4


def ops(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


def heads(b: Builder, x: str, count: int, tokens: int = T) -> str:
    split = b("Reshape", b.linear(x, C, D * count), np.array([1, tokens, count, D]))
    return str(b("Transpose", split, perm=[0, 2, 1, 3]))


def merged(b: Builder, y: str) -> str:
    return b.linear(b("Reshape", b("Transpose", y, perm=[0, 2, 1, 3]), np.array([1, T, H * D])), H * D, 3)


def qkv(b: Builder, query_heads: int = H, kv_heads: int = H) -> list[str]:
    x = b.input("x", ["n", T, C])
    return [heads(b, x, count) for count in (query_heads, kv_heads, kv_heads)]


def against_reference(path: Path) -> Model:
    model = import_model(path)
    inputs = random_inputs(model)
    expected = ReferenceEvaluator(onnx.load(path)).run(None, inputs)
    for found, wanted in zip(run_model(model, inputs).values(), expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    return model


# ---- the operator ----

OPERATOR: dict[str, tuple[int, dict[str, Any]]] = {
    "softcap": (24, {"softcap": 2.0}), "softcap_scale": (24, {"softcap": 1.5, "scale": 0.7}), "left": (25, {"left_window_size": 2}),
    "right": (25, {"right_window_size": 1}), "both": (25, {"left_window_size": 1, "right_window_size": 2}),
    "itself": (25, {"left_window_size": 0}), "causal_window": (25, {"left_window_size": 2, "is_causal": 1}),
    "all": (25, {"left_window_size": 3, "is_causal": 1, "softcap": 3.0, "scale": 0.4}),
}  # fmt: skip


@pytest.mark.parametrize("case", OPERATOR)
@pytest.mark.parametrize("mask", ["none", "added", "boolean"])
def test_operator(tmp_path: Path, case: str, mask: str) -> None:
    opset, attributes = OPERATOR[case]
    b = Builder(opset)
    operands = qkv(b, 4, 2)
    if mask != "none":
        operands.append(b.random(T, T) if mask == "added" else b.constant((b.rng.random((1, 1, T, T)) > 0.5) | np.eye(T, dtype=bool)))
    model = against_reference(b.save(tmp_path / "m.onnx", b("Attention", *operands, **attributes)))
    (node,) = [node for node in model.graph.nodes if node.op == "attention"]
    assert node.attrs["num_heads"] == 4 and node.attrs["num_kv_heads"] == 2
    assert node.attrs.get("softcap", 0.0) == attributes.get("softcap", 0.0)


def test_keys_and_values_are_outputs_too(tmp_path: Path) -> None:
    b = Builder(24)
    y, k, v = b("Attention", *qkv(b, 4, 2), outputs=3, is_causal=1)
    proto = b.model(y, k, v)
    for output, count in zip(proto.graph.output[1:], (2, 2), strict=True):
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["n", count, T, D]))
    onnx.save(proto, tmp_path / "m.onnx")
    against_reference(tmp_path / "m.onnx")


def test_what_the_operator_may_not_have(tmp_path: Path) -> None:
    b = Builder(24)
    operands = qkv(b)
    lengths = b.constant(np.array([3]))
    path = b.save(tmp_path / "m.onnx", b("Attention", *operands, "", "", "", lengths, name="counted"))
    with pytest.raises(AttncError, match=r"counted.*not padding; caches are not supported"):
        import_model(path)
    b = Builder(24)
    _, _, _, scores = b("Attention", *qkv(b), outputs=4, name="scored")
    with pytest.raises(AttncError, match=r"scored.*output 3 is not supported"):
        import_model(b.save(tmp_path / "m.onnx", b("MatMul", scores, b.random(T, 3))))


# ---- softmax spelled out ----


def exponential(b: Builder, s: str, shifted: bool) -> str:
    return str(b("Exp", b("Sub", s, b("ReduceMax", s, np.array([-1]))) if shifted else s))


def divided(b: Builder, s: str) -> str:
    e = exponential(b, s, True)
    return str(b("Div", e, b("ReduceSum", e, np.array([3]))))


def multiplied(b: Builder, s: str) -> str:
    e = exponential(b, s, True)
    return str(b("Mul", b("Reciprocal", b("ReduceSum", e, np.array([-1]))), b("Cast", e, to=1)))


def plain(b: Builder, s: str) -> str:
    e = exponential(b, s, False)
    return str(b("Div", e, b("ReduceSum", b("Identity", e), np.array([-1]))))


@pytest.mark.parametrize("spelling", [divided, multiplied, plain])
def test_softmax_spelled_out(tmp_path: Path, spelling: Callable[[Builder, str], str]) -> None:
    b = Builder(18)
    q, k, v = qkv(b)
    y = b("MatMul", spelling(b, b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 0.5)), v)
    model = check(b.save(tmp_path / "m.onnx", merged(b, y)), strict=True)
    assert ops(model).count("attention") == 1 and "softmax" not in ops(model)


def test_what_is_nearly_a_softmax_is_none(tmp_path: Path) -> None:
    b = Builder(18)
    q, k, v = qkv(b)
    s = b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2]))
    e = exponential(b, s, False)
    y = b("MatMul", b("Div", e, b("ReduceSum", e, np.array([2]))), v)  # over the queries
    with pytest.raises(AttncError):
        import_model(b.save(tmp_path / "m.onnx", merged(b, y)))


@pytest.mark.parametrize("flattened", ["Flatten", "Reshape"])
def test_softmax_of_scores_flattened(tmp_path: Path, flattened: str) -> None:
    """As the softmax of an older opset becomes one of today, where the shape is known only while the model is read."""
    b = Builder(18)
    q, k, v = qkv(b)
    mask = b("Unsqueeze", b("Cast", b.input("mask", ["n", T], TensorProto.INT64), to=1), np.array([1, 2]))
    expanded = b("Expand", mask, b("Concat", b("Shape", mask, end=2), np.array([T, T]), axis=0))
    s = b("Add", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), b("Mul", b("Sub", 1.0, expanded), -1e9))
    rows = b("Flatten", s, axis=3) if flattened == "Flatten" else b("Reshape", s, np.array([-1, T]))
    y = b("MatMul", b("Reshape", b("Softmax", rows, axis=1), b("Shape", s)), v)
    given = np.ones((1, T), np.int64)
    given[0, 3:] = 0
    assert ops(check(b.save(tmp_path / "m.onnx", merged(b, y)), mask=given)).count("attention") == 1


def test_flattened_scores_are_good_for_a_softmax_alone(tmp_path: Path) -> None:
    b = Builder(18)
    q, k, _ = qkv(b)
    rows = b("Flatten", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), axis=3)
    with pytest.raises(AttncError, match="as part of attention"):
        import_model(b.save(tmp_path / "m.onnx", b.linear(b("Add", rows, 1.0), T, 3)))


# ---- windows and masks ----


def positions(b: Builder) -> tuple[str, str]:
    steps = b("Range", np.array(0), np.array(T), np.array(1))
    return b("Unsqueeze", steps, np.array([1])), b("Unsqueeze", steps, np.array([0]))


def window(b: Builder) -> str:
    """Queries see keys up to themselves, and two behind: both comparisons as exporters write them."""
    i, j = positions(b)
    return str(b("And", b("LessOrEqual", j, i), b("Greater", j, b("Sub", i, np.array(3)))))


def window_not(b: Builder) -> str:
    i, j = positions(b)
    return str(b("Not", b("Or", b("Greater", j, i), b("LessOrEqual", b("Add", j, np.array(3)), i))))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("made", [window, window_not])
@pytest.mark.parametrize("how", ["where_scores", "where_bias", "multiplied"])
def test_windows_of_two_comparisons(tmp_path: Path, made: Callable[[Builder], str], how: str, padded: bool) -> None:
    b = Builder(18)
    q, k, v = qkv(b)
    keep = b("Reshape", made(b), np.array([1, 1, T, T]))
    if padded:
        given = b("Unsqueeze", b("Cast", b.input("mask", ["n", T], TensorProto.INT64), to=9), np.array([1, 2]))
        keep = b("And", keep, given)
    lowest = float(np.finfo(np.float32).min)
    s = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 0.5)
    if how == "where_scores":
        s = b("Where", keep, s, lowest)
    elif how == "where_bias":
        s = b("Add", b("Where", keep, 0.0, lowest), s)
    else:
        s = b("Add", s, b("Mul", b("Sub", 1.0, b("Cast", keep, to=1)), lowest))
    y = merged(b, b("MatMul", b("Softmax", s, axis=-1), v))
    options = {"mask": np.ones((1, T), np.int64)} if padded else {}
    model = check(b.save(tmp_path / "m.onnx", y), strict=not padded, **options)
    assert ops(model).count("attention") == 1


@pytest.mark.parametrize("rows", [1, T])
@pytest.mark.parametrize("how", ["where_scores", "where_bias", "multiplied"])
def test_a_padding_mask_spread_over_queries_is_one_row(tmp_path: Path, how: str, rows: int) -> None:
    """As exporters write it: a constant with a row per query, all equal, and the mask expanded to it. A last row of its own is kept."""
    b = Builder(18)
    q, k, v = qkv(b)
    every = np.ones((1, 1, T, T), bool)
    every[..., -1, 0] = rows == 1
    given = b("Unsqueeze", b("Cast", b.input("mask", ["n", T], TensorProto.INT64), to=9), np.array([1, 2]))
    keep = b("And", every, b("Expand", given, np.array([1, 1, T, T])))
    s = b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2]))
    if how == "where_scores":
        s = b("Where", keep, s, -1e9)
    elif how == "where_bias":
        s = b("Add", b("Where", keep, 0.0, -1e9), s)
    else:
        s = b("Add", s, b("Mul", b("Sub", 1.0, b("Cast", keep, to=1)), -1e9))
    path = b.save(tmp_path / "m.onnx", merged(b, b("MatMul", b("Softmax", s, axis=-1), v)))
    mask = np.ones((1, T), np.int64)
    mask[0, 2] = 0
    model = check(path, mask=mask)
    (attention,) = (node for node in model.graph.nodes if node.op == "attention")
    assert attention.attrs["bias_rows"] == rows and model.graph.value(attention.inputs[3]).shape == (rows, T)


@pytest.mark.parametrize("rows", ["some keys", "all keys", "all keys, some cleared"])
def test_probabilities_that_the_mask_clears_again(tmp_path: Path, rows: str) -> None:
    """DeBERTa sets what is masked to 0 after the softmax as well; a row without keys then is 0. One that is cleared in part the device
    cannot make."""
    b = Builder(18)
    q, k, v = qkv(b)
    masked = np.triu(np.ones((T, T), bool), 1) if rows == "some keys" else np.triu(np.ones((T, T), bool), 0)
    cleared = np.triu(np.ones((T, T), bool), 1) if rows.endswith("cleared") else masked
    s = b("Where", masked, -3e38, b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])))
    p = b("Where", cleared, 0.0, b("Softmax", s, axis=-1))
    path = b.save(tmp_path / "m.onnx", merged(b, b("MatMul", p, v)))
    if rows.endswith("cleared"):
        with pytest.raises(AttncError, match="probabilities"):
            import_model(path)
    else:
        assert ops(check(path, strict=True)).count("attention") == 1


LOWEST = float(np.finfo(np.float32).min)


def added(b: Builder, s: str, keep: str, low: float) -> str:
    return str(b("Add", s, b("Where", keep, 0.0, low)))


def added_twice(b: Builder, s: str, keep: str, low: float) -> str:
    """Beyond float32, which makes minus infinity, and back; the first two keys are masked once."""
    first = np.array([0.0] * 2 + [low] * (T - 2), np.float32)
    return str(b("Max", b("Add", b("Add", s, b("Where", keep, 0.0, low)), first), low))


def chosen(b: Builder, s: str, keep: str, low: float) -> str:
    return str(b("Where", keep, s, low))


def biased_and_chosen(b: Builder, s: str, keep: str, low: float) -> str:
    return str(b("Where", keep, b("Add", s, b.random(1, H, T, T)), low))


def chosen_and_added(b: Builder, s: str, keep: str, low: float) -> str:
    """Both masks leave all keys out; those of the constant one are masked more."""
    return str(b("Add", b("Where", keep, s, low), np.triu(np.full((T, T), low, np.float32), 3)))


KEYLESS = {
    "-1e4 added": (added, -1e4), "-1e9 added": (added, -1e9), "lowest added": (added, LOWEST), "-inf added": (added, -np.inf),
    "lowest added twice": (added_twice, LOWEST), "-1e4 in place": (chosen, -1e4), "lowest in place": (chosen, LOWEST),
    "-inf in place": (chosen, -np.inf), "-1e9 in place of a sum": (biased_and_chosen, -1e9), "twice": (chosen_and_added, -1e9),
}  # fmt: skip


@pytest.mark.parametrize("source", ["fed", "constant"])
@pytest.mark.parametrize("case", KEYLESS)
def test_queries_whose_keys_are_all_masked(tmp_path: Path, case: str, source: str) -> None:
    """What onnxruntime gives: the softmax of the scores, or their mean, or zeros where NaN is guarded against."""
    spelling, low = KEYLESS[case]
    b = Builder(18)
    q, k, v = qkv(b)
    mask = np.arange(T * T).reshape(1, 1, T, T) % 3 != 1
    mask[0, 0, [0, 3]] = False
    keep = b.constant(mask) if source == "constant" else b.input("mask", [1, 1, T, T], TensorProto.BOOL)
    s = spelling(b, b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 0.5), keep, low)
    p = b("Softmax", s, axis=-1)
    p = b("Where", b("IsNaN", p), 0.0, p) if low == -np.inf else p
    path = b.save(tmp_path / "m.onnx", merged(b, b("MatMul", p, v)))
    model = check(path, tolerance=1e-3 if case == "-1e4 added" else 1e-5, **({"mask": mask} if source == "fed" else {}))
    (node,) = [node for node in model.graph.nodes if node.op == "attention"]
    assert node.attrs["guarded"] == (low == -np.inf)


@pytest.mark.parametrize("kind", ["boolean", "lowest", "-inf", "-1e9"])
@pytest.mark.parametrize("source", ["fed", "constant"])
@pytest.mark.parametrize("causal", [0, 1])
def test_queries_whose_keys_the_operator_masks(tmp_path: Path, kind: str, source: str, causal: int) -> None:
    b = Builder(23)
    keep = np.arange(T * T).reshape(T, T) % 3 != 1
    keep[[0, 3]] = False
    mask = keep if kind == "boolean" else np.where(keep, 0.0, LOWEST if kind == "lowest" else float(kind)).astype(np.float32)
    operands = qkv(b)
    given = (
        b.constant(mask) if source == "constant" else b.input("mask", [T, T], TensorProto.BOOL if kind == "boolean" else TensorProto.FLOAT)
    )
    path = b.save(tmp_path / "m.onnx", b("Attention", *operands, given, is_causal=causal))
    model = check(path, tolerance=1e-5, **({"mask": mask} if source == "fed" else {}))
    assert all(node.attrs["guarded"] for node in model.graph.nodes if node.op == "attention")


def test_what_stands_in_place_of_nan_is_0(tmp_path: Path) -> None:
    b = Builder(18)
    q, k, v = qkv(b)
    p = b("Softmax", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    p = b("Where", b("IsNaN", p), 0.5, p)
    with pytest.raises(AttncError, match="other than around their softmax"):
        import_model(b.save(tmp_path / "m.onnx", merged(b, b("MatMul", p, v))))


def test_normalised_queries_and_keys(tmp_path: Path) -> None:
    b = Builder(24)
    q, k, v = qkv(b)
    q, k = (b("RMSNormalization", x, b.random(D), axis=-1, epsilon=1e-5) for x in (q, k))
    model = against_reference(b.save(tmp_path / "m.onnx", b("Attention", q, k, v, is_causal=1)))
    assert ops(model).count("rms_normalization") == 2 and ops(model).count("attention") == 1


@pytest.mark.parametrize("bound", ["Clip", "Max", "Add", ""])
def test_queries_and_keys_of_unit_length(tmp_path: Path, bound: str) -> None:
    b = Builder(20)

    def unit(x: str) -> str:
        long = b("ReduceL2", x, np.array([-1]), keepdims=1)
        long = b(bound, *((1e-6, long) if bound == "Max" else (long, 1e-6))) if bound else long
        return str(b("Div", x, b("Expand", long, np.array([1, H, T, D]))))

    q, k, v = qkv(b)
    p = b("Softmax", b("Mul", b("MatMul", unit(q), b("Transpose", unit(k), perm=[0, 1, 3, 2])), 3.0), axis=-1)
    found = ops(check(b.save(tmp_path / "m.onnx", merged(b, b("MatMul", p, v))), strict=True))
    assert found.count("rms_normalization") == 2 and found.count("attention") == 1


def test_other_lengths_are_none(tmp_path: Path) -> None:
    b = Builder(20)
    y = b.linear(b.input("x", ["n", T, C]), C, C)
    bounded = b("Max", b("ReduceL2", y, np.array([-1]), keepdims=1), 0.5)
    path = b.save(tmp_path / "m.onnx", b.linear(b("Div", y, bounded), C, 2))
    with pytest.raises(AttncError, match="ReduceL2"):
        import_model(path)


@pytest.mark.parametrize("after", ["nothing", "bias"])
def test_a_factor_per_head(tmp_path: Path, after: str) -> None:
    b = Builder(20)
    q, k, v = qkv(b)
    s = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), np.array([0.3, 0.7], np.float32).reshape(H, 1, 1))
    s = b("Add", s, b.random(1, H, T, T)) if after == "bias" else s
    found = ops(check(b.save(tmp_path / "m.onnx", merged(b, b("MatMul", b("Softmax", s, axis=-1), v))), strict=True))
    assert found.count("attention") == 1 and found.count("mul") == 0


def test_factors_that_differ_among_the_scores_of_a_head(tmp_path: Path) -> None:
    b = Builder(20)
    q, k, v = qkv(b)
    s = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), b.random(1, H, 1, T))
    with pytest.raises(AttncError):
        import_model(b.save(tmp_path / "m.onnx", merged(b, b("MatMul", b("Softmax", s, axis=-1), v))))


@pytest.mark.parametrize("mean", [False, True])
def test_weights_as_an_output_are_computed_on_the_host(tmp_path: Path, mean: bool) -> None:
    """Of each head, or their mean, from the queries and keys that the device made."""
    b = Builder(17)
    q, k, v = qkv(b)
    p = b("Softmax", b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 0.5), axis=-1)
    y = merged(b, b("MatMul", p, v))
    model = check(b.save(tmp_path / "m.onnx", y, b("ReduceMean", p, axes=[1], keepdims=0) if mean else p))
    assert "attention" in ops(model) and model.trailing is not None
