"""Operators of other kinds around attention: what is moved, normalised, pooled and weighed over tokens, and biases that are computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import Builder, C, T
from onnx import TensorProto, helper
from running import check

from attnc.errors import UnsupportedError
from attnc.frontend import import_model
from attnc.model import Model

H, D = 2, 4


def ops(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


def whole(tmp_path: Path, b: Builder, y: str, opset: int = 0) -> Model:
    """Compare with onnxruntime; all of it is on the device."""
    b.opset = opset or b.opset
    return check(b.save(tmp_path / "m.onnx", y), strict=True)


def tokens(b: Builder, count: int = T) -> str:
    """Tokens [1, count, C] that the device made."""
    return b.linear(b.input("x", [1, count, C]), C, C)


def picture(b: Builder, height: int = 6, width: int = 8, channels: int = 16) -> str:
    """A picture [n, channels, height, width] that the device made."""
    return str(b("Conv", b.input("x", ["n", 3, height, width]), b.random(channels, 3, 1, 1)))


def turn(b: Builder, x: str) -> str:
    return str(b("Transpose", x, perm=[0, 2, 1]))


# ---- rows and channels exchanged ----


def test_product_over_tokens(tmp_path: Path) -> None:
    b = Builder()
    y = turn(b, b("Relu", b("MatMul", turn(b, tokens(b)), b.random(T, 7))))
    assert ops(whole(tmp_path, b, b.linear(y, C, 3))).count("transpose") == 2


def test_channels_of_any_tensor_alone(tmp_path: Path) -> None:
    """Only a linear could give some of its channels; now anything can."""
    b = Builder()
    y = b("Softmax", tokens(b), axis=-1)
    y = b("Mul", b("Slice", y, np.array([1]), np.array([4]), np.array([2])), b("Slice", y, np.array([5]), np.array([8]), np.array([2])))
    assert ops(whole(tmp_path, b, y)).count("gather_channels") == 2


@pytest.mark.parametrize("axes", [[2], [1], [1, 2]])
@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean"])
def test_sums_alone(tmp_path: Path, axes: list[int], operator: str) -> None:
    b = Builder()
    split = b("Reshape", tokens(b), np.array([1, T, H, D]))
    y = b("Sigmoid", b(operator, split, np.array([axis + 1 for axis in axes]), keepdims=0))
    whole(tmp_path, b, y)


def test_one_matrix_for_every_head(tmp_path: Path) -> None:
    b = Builder()
    split = b("Transpose", b("Reshape", b("Gelu" if b.opset >= 20 else "Tanh", tokens(b)), np.array([1, T, H, D])), perm=[0, 2, 1, 3])
    y = b("Tanh", b("MatMul", split, b.random(D, 6)))
    whole(tmp_path, b, b("Reshape", b("Transpose", y, perm=[0, 2, 1, 3]), np.array([1, T, H * 6])))


# ---- normalisation over tokens ----


@pytest.mark.parametrize("shape", [["n", 6, 9], ["n", 8, 3, 4]])
def test_instance_normalization(tmp_path: Path, shape: list[Any]) -> None:
    b, rank = Builder(), len(shape) - 2
    y = b("Conv", b.input("x", shape), b.random(8, shape[1], *[1] * rank))
    y = b("Conv", b("InstanceNormalization", y, b.random(8), b.random(8)), b.random(4, 8, *[1] * rank))
    assert ops(whole(tmp_path, b, y)).count("transpose") == 2


@pytest.mark.parametrize("groups", [1, 2, 4, 16])
def test_group_normalization(tmp_path: Path, groups: int) -> None:
    b = Builder(21)
    y = b("GroupNormalization", picture(b), b.random(16), b.random(16), num_groups=groups)
    model = b.model(b("Conv", y, b.random(4, 16, 1, 1)))
    dims = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 8]).type]  # inference of onnx does not know the operator
    model.graph.output[0].type.CopyFrom(dims[0])
    onnx.save(model, tmp_path / "m.onnx")
    found = check(tmp_path / "m.onnx", strict=True)
    (norm,) = [node for node in found.graph.nodes if node.op == "layer_normalization"]
    assert groups == 16 or (norm.attrs["rows_together"], norm.attrs["group"]) == (48, 16 // groups)


def test_group_normalization_as_torch_spells_it(tmp_path: Path) -> None:
    b = Builder()
    y = b("InstanceNormalization", b("Reshape", picture(b), np.array([1, 2, 8 * 48])), np.ones(2), np.zeros(2))
    y = b("Add", b("Mul", b("Reshape", y, np.array([1, 16, 6, 8])), b.random(16, 1, 1)), b.random(16, 1, 1))
    found = whole(tmp_path, b, b("Conv", y, b.random(4, 16, 1, 1)))
    assert ops(found) == ["linear", "layer_normalization", "linear"]


# ---- pooling ----

POOLS: dict[str, dict[str, Any]] = {
    "windows": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "overlapping": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "dilated": {"kernel_shape": [2, 3], "dilations": [2, 2], "pads": [1, 2, 1, 2]},
    "ceil": {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1},
    "rows": {"kernel_shape": [4, 1], "strides": [4, 1], "ceil_mode": 1},
}


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_pooling(tmp_path: Path, operator: str, case: str) -> None:
    b = Builder(19)
    y = b("Relu", b(operator, picture(b), **POOLS[case]))
    assert (operator == "MaxPool") == ("max_rows" in ops(whole(tmp_path, b, y)))


def test_padding_that_counts(tmp_path: Path) -> None:
    b = Builder(19)
    whole(tmp_path, b, b("AveragePool", picture(b), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1))


def test_means_of_tokens_as_a_picture(tmp_path: Path) -> None:
    """As Funnel halves its tokens: the channels are the second axis of the picture; the last window has one token."""
    b = Builder()
    y = b("AveragePool", b("Unsqueeze", tokens(b), np.array([1])), kernel_shape=[2, 1], strides=[2, 1], ceil_mode=1)
    found = whole(tmp_path, b, b.linear(b("Squeeze", y, np.array([1])), C, 3))
    assert ops(found) == ["linear", "gather_rows", "mean_rows", "linear"]


def test_largest_of_tokens(tmp_path: Path) -> None:
    b = Builder()
    x = tokens(b, 6)
    first = b("ReduceMax", b("Reshape", x, np.array([1, 2, 3, C])), np.array([1]), keepdims=0)
    y = b("Add", first, b("ReduceMax", x, np.array([1])))
    assert ops(whole(tmp_path, b, y)).count("max_rows") == 2
    b = Builder()
    whole(tmp_path, b, b("Relu", b("GlobalMaxPool", picture(b))))


# ---- softmax over tokens ----


def weights(b: Builder, x: str, count: int = 1) -> str:
    return str(b("Softmax", b.linear(b("Tanh", x), C, count), axis=1))


def test_tokens_that_are_weighed(tmp_path: Path) -> None:
    b = Builder()
    x = tokens(b)
    product = b("MatMul", turn(b, weights(b, x)), x)
    summed = b("ReduceSum", b("Mul", weights(b, x), x), np.array([1]), keepdims=0)
    mean = b("ReduceMean", b("Mul", x, weights(b, x)), np.array([1]), keepdims=0)
    y = b("Add", b("Add", b("Squeeze", product, np.array([1])), summed), mean)
    found = ops(whole(tmp_path, b, b.linear(y, C, 3)))
    assert found.count("attention") == 3 and "softmax" not in found


def test_heads_that_weigh_tokens(tmp_path: Path) -> None:
    b = Builder()
    x = tokens(b)
    shaped = b("Unsqueeze", weights(b, x, H), np.array([-1]))
    y = b("ReduceSum", b("Mul", shaped, b("Reshape", x, np.array([1, T, H, D]))), np.array([1]), keepdims=0)
    found = whole(tmp_path, b, b.linear(b("Reshape", y, np.array([1, C])), C, 3))
    (node,) = [node for node in found.graph.nodes if node.op == "attention"]
    assert node.attrs["num_heads"] == H


def test_weights_of_tokens_used_otherwise(tmp_path: Path) -> None:
    b = Builder()
    x = tokens(b)
    y = b("Mul", b("Softmax", b.linear(x, C, C), axis=1), x)
    assert "softmax" in ops(whole(tmp_path, b, b.linear(y, C, 3)))


def test_kernels_that_every_token_computes(tmp_path: Path) -> None:
    """As ConvBERT has them: a softmax over the taps of every head, and windows of tokens weighed by it."""
    b, taps, size = Builder(), 3, 8
    x = tokens(b)
    kernels = b("Softmax", b("Reshape", b.linear(x, C, H * taps), np.array([T * H, taps, 1])), axis=1)
    wide = b("Pad", b.linear(x, C, H * size), np.array([0, 1, 0, 0, 1, 0]))
    windows = b("Gather", wide, np.arange(T)[:, None] + np.arange(taps), axis=1)  # [1, T, taps, H * size]
    windows = b("Reshape", b("Transpose", windows, perm=[0, 1, 3, 2]), np.array([T * H, size, taps]))
    y = b("Reshape", b("MatMul", windows, kernels), np.array([1, T, H * size]))
    found = ops(whole(tmp_path, b, b.linear(y, H * size, 3)))
    assert found.count("softmax") == H and found.count("depthwise") == 1


# ---- rows by position ----


@pytest.mark.parametrize("integer", [TensorProto.INT64, TensorProto.INT32])
def test_rows_at_positions_of_an_input(tmp_path: Path, integer: int) -> None:
    b = Builder()
    y = b("Gather", tokens(b), b.input("which", [3], integer), axis=1)
    path = b.save(tmp_path / "m.onnx", b.linear(y, C, C))
    which = np.array([4, 0, -4], np.int64 if integer == TensorProto.INT64 else np.int32)
    assert "attention" in ops(check(path, which=which))


def test_elements_at_positions_of_an_input(tmp_path: Path) -> None:
    """Those of a shuffle that the host computes, the same for all channels."""
    b = Builder()
    order = b("TopK", b.input("noise", [1, T]), np.array([3]), axis=1, outputs=2)[1]
    y = b("GatherElements", tokens(b), b("Expand", b("Unsqueeze", order, np.array([2])), np.array([1, 3, C])), axis=1)
    check(b.save(tmp_path / "m.onnx", b.linear(y, C, C)))


def test_elements_at_constant_positions(tmp_path: Path) -> None:
    b = Builder()
    which = b.rng.integers(-C, C, (1, T, 3))
    whole(tmp_path, b, b("Relu", b("GatherElements", tokens(b), which, axis=2)))


# ---- attention with a bias that the device computes ----


def positions(b: Builder, q: str, count: int = 2 * T - 1) -> str:
    """Scores of queries [1, H, T, D] and a table, of each query and key those of their distance."""
    table = b("MatMul", q, b.random(1, H, D, count))
    which = np.clip(np.arange(T) - np.arange(T)[:, None] + count // 2, 0, count - 1)
    return str(b("GatherElements", table, np.broadcast_to(which, (1, H, T, T)).copy(), axis=3))


def mixed(b: Builder, change: Callable[[str, str, str], str]) -> str:
    """Attention; `change` is applied to scores, queries and keys."""
    x = b.input("x", [1, T, C])
    q, k, v = (b("Transpose", b("Reshape", b.linear(x, C, C), np.array([1, T, H, D])), perm=[0, 2, 1, 3]) for _ in range(3))
    scores = change(b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), q, k)
    y = b("MatMul", b("Softmax", scores, axis=-1), v)
    return b.linear(b("Reshape", b("Transpose", y, perm=[0, 2, 1, 3]), np.array([1, T, C])), C, 3)


def test_relative_positions(tmp_path: Path) -> None:
    """Of queries and of keys, as DeBERTa has both, scaled together."""
    b = Builder()

    def change(scores: str, q: str, k: str) -> str:
        of_keys = b("Transpose", positions(b, k, 5), perm=[0, 1, 3, 2])
        return str(b("Mul", b("Add", b("Add", scores, positions(b, q)), b("Div", of_keys, 1.7)), 0.3))

    found = whole(tmp_path, b, mixed(b, change))
    (bias,) = [node for node in found.graph.nodes if node.op == "mask_bias"]
    assert bias.attrs["gain"] == pytest.approx(0.3) and {"gather_channels", "transpose"} <= set(ops(found))


@pytest.mark.parametrize("spelled", ["add", "where"])
def test_relative_positions_with_a_mask_of_an_input(tmp_path: Path, spelled: str) -> None:
    b = Builder()
    mask = b.input("attention_mask", [1, 1, 1, T], TensorProto.BOOL)

    def change(scores: str, q: str, k: str) -> str:
        biased = b("Sub", scores, positions(b, q))
        if spelled == "where":
            return str(b("Where", mask, biased, -3.4e38))
        return str(b("Add", biased, b("Where", mask, 0.0, -10000.0)))

    check(b.save(tmp_path / "m.onnx", mixed(b, change)))


def test_numbers_that_a_mask_hides_may_be_any(tmp_path: Path) -> None:
    """Transformer-XL shifts rows by reading on in the next one, right of the diagonal."""
    b = Builder()

    def change(scores: str, q: str, k: str) -> str:
        table = b("MatMul", q, b.random(1, H, D, T))
        padded = b("Concat", np.zeros((1, H, T, 1)), table, axis=-1)
        shifted = b("Slice", b("Reshape", padded, np.array([1, H, T + 1, T])), np.array([1]), np.array([T + 1]), np.array([2]))
        return str(b("Where", np.tri(T, dtype=bool), b("Add", scores, shifted), -1e30))

    whole(tmp_path, b, mixed(b, change))


def test_gated_positions(tmp_path: Path) -> None:
    """A constant table times a number of each query and head, as WavLM has it; what is the same for all keys changes nothing."""
    b = Builder()

    def change(scores: str, q: str, k: str) -> str:
        gate = b("Sigmoid", b("MatMul", q, b.random(D, 1)))
        return str(b("Add", b("Add", scores, b("Mul", gate, b.random(H, T, T))), b("MatMul", q, b.random(D, 1))))

    found = whole(tmp_path, b, mixed(b, change))
    assert ops(found).count("mask_bias") == 1


def test_scores_with_their_axes_turned(tmp_path: Path) -> None:
    """[queries, keys, batch, heads], as Transformer-XL has them."""
    b = Builder()
    x = b.input("x", [T, 1, C])
    q, k, v = (b("Reshape", b.linear(x, C, C), np.array([T, 1, H, D])) for _ in range(3))
    scores = b("Mul", b("Einsum", q, k, equation="ibnd,jbnd->ijbn"), 0.5)
    scores = b("Where", np.tri(T, dtype=bool)[:, :, None, None], scores, -1e30)
    y = b("Einsum", b("Softmax", scores, axis=1), v, equation="ijbn,jbnd->ibnd")
    whole(tmp_path, b, b.linear(b("Reshape", y, np.array([T, 1, C])), C, 3))


# ---- the rest ----


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(("inverse", "onesided"), [(0, 0), (1, 0), (0, 1)])
def test_fourier_transform(tmp_path: Path, axis: int, inverse: int, onesided: int) -> None:
    b = Builder(20)
    x = b("Unsqueeze", tokens(b), np.array([3]))
    x = x if onesided else b("Concat", x, b("Unsqueeze", b("Relu", b.linear("x", C, C)), np.array([3])), axis=3)
    y = b("DFT", x, "", np.array(axis), inverse=inverse, onesided=onesided)
    whole(tmp_path, b, b("Relu", b("Gather", y, np.array(0), axis=3)))


def test_both_transforms_of_fnet(tmp_path: Path) -> None:
    b = Builder(20)
    x = tokens(b)
    y = b("Concat", b("Unsqueeze", x, np.array([3])), np.zeros((1, T, C, 1)), axis=3)
    y = b("DFT", b("DFT", y, "", np.array(2)), "", np.array(1))
    whole(tmp_path, b, b("Add", x, b("Gather", y, np.array(0), axis=3)))


@pytest.mark.parametrize("gain", [0.8, 0.3])
def test_sum_of_two_functions(tmp_path: Path, gain: float) -> None:
    """xIELU: a square on the right, an exponential on the left, and a line."""
    b = Builder()
    x = tokens(b)
    left = b("Mul", b("Sub", b("Sub", b("Exp", b("Min", x, -1e-6)), 1.0), x), 0.6)
    right = b("Mul", b("Mul", x, gain), x)
    y = b("Where", b("Greater", x, 0.0), b("Add", right, b("Mul", x, 0.5)), b("Add", left, b("Mul", x, 0.5)))
    found = whole(tmp_path, b, y)
    assert {node.attrs["function"] for node in found.graph.nodes if node.op == "unary"} == {"elu", "relu_squared"}


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_padding_with_own_elements(tmp_path: Path, mode: str) -> None:
    b = Builder(19)
    whole(tmp_path, b, b("Relu", b("Pad", tokens(b), np.array([0, 2, 0, 0, 1, 0]), mode=mode)))


def test_blocks_put_together(tmp_path: Path) -> None:
    b = Builder()
    blocks = b("Reshape", turn(b, tokens(b, 12)), np.array([1, 8, 12]))
    y = b("Col2Im", blocks, np.array([6, 8]), np.array([2, 2]), strides=[2, 2])
    whole(tmp_path, b, b("Relu", y))
    overlapping = Builder()
    y = overlapping("Col2Im", turn(overlapping, tokens(overlapping, 12)), np.array([4, 5]), np.array([2, 2]))
    with pytest.raises(UnsupportedError, match="overlap"):
        import_model(overlapping.save(tmp_path / "o.onnx", overlapping("Conv", y, overlapping.random(4, 2, 1, 1))))


def test_a_part_that_is_written_over(tmp_path: Path) -> None:
    """As dynamo writes `x[:, :3] *= y`, of which only that part is read again."""

    def written(b: Builder, first: int) -> str:
        turned = b("Transpose", tokens(b), perm=[1, 0, 2])
        part = b("Mul", b("Slice", turned, np.array([0]), np.array([3]), np.array([0])), b.random(3, 1, C))
        y = b("Transpose", b("ScatterND", turned, np.arange(3)[:, None], part), perm=[1, 0, 2])
        return b.linear(b("Slice", y, np.array([first]), np.array([first + 2]), np.array([1])), C, 3)

    b, mixed = Builder(), Builder()
    whole(tmp_path, b, written(b, 1))
    with pytest.raises(UnsupportedError, match="elements of several tensors"):
        import_model(mixed.save(tmp_path / "o.onnx", written(mixed, 2)))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_elements_of_two_tensors(tmp_path: Path, share: float) -> None:
    b = Builder()
    x = tokens(b)
    y = b("Where", b.rng.random((T, C)) < share, x, b("Softmax", b.linear(x, C, C), axis=-1))
    whole(tmp_path, b, b.linear(y, C, 3))


def test_parts_that_are_written_between_each_other(tmp_path: Path) -> None:
    """As DeepSeek-V3 rotates: even channels by one product, odd ones by another, both read together."""
    b = Builder()
    x = tokens(b)
    even, odd = (b("Slice", x, np.array([first]), np.array([C]), np.array([-1]), np.array([2])) for first in (0, 1))
    empty = b.constant(np.zeros((1, T, C), np.float32))
    for first, part in ((0, b("Sigmoid", even)), (1, b("Tanh", odd))):
        where = np.stack(np.meshgrid(np.zeros(1), np.arange(T), np.arange(first, C, 2), indexing="ij"), -1).astype(np.int64)
        empty = b("ScatterND", empty, where, part)
    check(b.save(tmp_path / "m.onnx", b.linear(b("Mul", empty, b.random(C)), C, 3)), strict=True)
