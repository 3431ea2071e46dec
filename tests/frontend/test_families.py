"""What families need beyond plain encoders: root-mean-square norms, rotary embeddings, windows, soft caps, convolutions on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import Builder, C, T
from onnx import TensorProto
from running import check

from attnc.errors import UnsupportedError
from attnc.frontend import import_model
from attnc.frontend.rotary import Mix, rotation
from attnc.model import Model

H, D = 2, 8


def ops(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


# ---- root-mean-square normalisation ----


def mean_square(b: Builder, x: str) -> str:
    return str(b("Add", b("ReduceMean", b("Pow", x, 2.0), np.array([-1])), 1e-5))


RMS: dict[str, Callable[[Builder, str], str]] = {
    "reciprocal": lambda b, x: b("Mul", x, b("Reciprocal", b("Sqrt", mean_square(b, x)))),
    "power": lambda b, x: b("Mul", b("Pow", mean_square(b, x), -0.5), x),
    "division": lambda b, x: b("Div", x, b("Sqrt", mean_square(b, x))),
    "sum": lambda b, x: b(
        "Div", x, b("Sqrt", b("Add", b("Div", b("ReduceSum", b("Mul", x, x), np.array([-1])), np.array(float(C))), 1e-6))
    ),
}


@pytest.mark.parametrize("style", RMS)
def test_rms_normalisation(tmp_path: Path, style: str) -> None:
    b = Builder()
    x = b.linear(b.input("x", [1, T, C]), C, C)
    y = b("Mul", b.random(C), RMS[style](b, x))
    found = check(b.save(tmp_path / "m.onnx", b.linear(y, C, 3)), strict=True)
    assert ops(found) == ["linear", "rms_normalization", "linear"]


@pytest.mark.parametrize("style", RMS)
def test_rms_normalisation_behind_a_function(tmp_path: Path, style: str) -> None:
    """The square of a function is a function too, and its mean could be that of a layer normalisation."""
    b = Builder()
    x = b.linear(b.input("x", [1, T, C]), C, C)
    x = b("Pow", b("Relu", x), 2.0) if style == "power" else b("Tanh", x)
    found = check(b.save(tmp_path / "m.onnx", b.linear(RMS[style](b, x), C, 3)), strict=True)
    assert ops(found) == ["linear", "unary", "rms_normalization", "linear"]


def test_rms_normalisation_of_heads(tmp_path: Path) -> None:
    b = Builder()
    x = b("Reshape", b.linear(b.input("x", [1, T, C]), C, H * D), np.array([1, T, H, D]))
    y = b("Mul", RMS["power"](b, x), b.random(D))
    found = check(b.save(tmp_path / "m.onnx", b("Reshape", b("Transpose", y, perm=[0, 1, 2, 3]), np.array([1, T, H * D]))), strict=True)
    (norm,) = [node for node in found.graph.nodes if node.op == "rms_normalization"]
    assert norm.attrs["group"] == D and norm.params["gamma"].shape == (H * D,) and ops(found) == ["linear", "rms_normalization"]


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_heads_with_norms_of_their_own(tmp_path: Path, op: str) -> None:
    """As StableLM 2 has them: split by heads, normalised by parameters that differ, put together again."""
    b = Builder(opset=23)

    def normalized(x: str) -> str:
        parts = b("Split", x, np.array([1] * H), axis=1, outputs=H)
        return str(b("Concat", *(b(op, part, b.random(D)) for part in parts), axis=1))

    y = attention(b, b.input("x", [1, T, C]), 1, lambda scores: scores, normalized)
    found = check(b.save(tmp_path / "m.onnx", y), strict=True)
    norms = [node for node in found.graph.nodes if node.op.endswith("normalization")]
    assert [node.attrs["group"] for node in norms] == [D, D] and len(ops(found)) == 3 + 2 + 1
    assert all(len(np.unique(node.params["gamma"])) == H * D for node in norms)


def test_channels_of_one_row_that_become_tokens(tmp_path: Path) -> None:
    b = Builder()
    parts = b("Split", b.linear(b.input("x", [1, 1, C]), C, 3 * C), np.array([C] * 3), axis=-1, outputs=3)
    y = b("Concat", *(b("LayerNormalization", part, b.random(C), b.random(C)) for part in parts), axis=1)
    found = check(b.save(tmp_path / "m.onnx", b.linear(y, C, 3)), strict=True)
    assert ops(found)[-2:] == ["concat_rows", "linear"]


# ---- rotary embeddings ----


def angles(rotary: int, interleaved: bool) -> tuple[np.ndarray, np.ndarray]:
    phase = np.arange(T)[:, None] * 0.7 ** np.arange(rotary // 2)
    phase = np.repeat(phase, 2, axis=1) if interleaved else np.concatenate([phase, phase], axis=1)
    return np.cos(phase), np.sin(phase)


def turned(b: Builder, x: str, size: int, interleaved: bool) -> str:
    """[-x2, x1] of the last axis."""
    if interleaved:
        first = b("Slice", x, np.array([0]), np.array([size]), np.array([-1]), np.array([2]))
        second = b("Slice", x, np.array([1]), np.array([size]), np.array([-1]), np.array([2]))
        parts = [b("Unsqueeze", part, np.array([-1])) for part in (b("Neg", second), first)]
        return str(b("Reshape", b("Concat", *parts, axis=-1), np.array([1, H, T, size])))
    first, second = b("Split", x, np.array([size // 2, size // 2]), axis=-1, outputs=2)
    return str(b("Concat", b("Neg", second), first, axis=-1))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary", [D, D // 2])
@pytest.mark.parametrize("swapped", [False, True])
def test_rotary(tmp_path: Path, rotary: int, interleaved: bool, swapped: bool) -> None:
    b = Builder()
    x = b("Transpose", b("Reshape", b.linear(b.input("x", [1, T, C]), C, H * D), np.array([1, T, H, D])), perm=[0, 2, 1, 3])
    cos, sin = angles(rotary, interleaved)
    part, rest = b("Split", x, np.array([rotary, D - rotary]), axis=-1, outputs=2) if rotary < D else (x, "")
    terms = [b("Mul", part, cos), b("Mul", turned(b, part, rotary, interleaved), sin)]
    y = b("Add", *(terms[::-1] if swapped else terms))
    y = b("Concat", y, rest, axis=-1) if rest else y
    y = b("Reshape", b("Transpose", y, perm=[0, 2, 1, 3]), np.array([1, T, H * D]))
    found = check(b.save(tmp_path / "m.onnx", b.linear(y, H * D, 3)), strict=True)
    (node,) = [node for node in found.graph.nodes if node.op == "rotary"]
    assert ops(found) == ["linear", "rotary", "linear"]
    assert node.attrs == {"num_heads": H, "rotary_dims": rotary, "interleaved": interleaved}
    np.testing.assert_allclose(node.params["cos"], cos[:, ::2] if interleaved else cos[:, : rotary // 2], atol=1e-6)


@pytest.mark.parametrize("norm", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("rotary", [D, D // 2])
def test_rotary_of_pairs_behind_a_norm(tmp_path: Path, norm: str, rotary: int) -> None:
    """Both of a pair made on their own from heads with a norm, whose gains are none of the angles'; as Cohere has them."""
    b = Builder(opset=23)
    heads = b("Reshape", b.linear(b.input("x", [1, T, C]), C, H * D), np.array([1, T, H, D]))
    x = b("Transpose", b(norm, heads, b.random(D)), perm=[0, 2, 1, 3])
    part, rest = b("Split", x, np.array([rotary, D - rotary]), axis=-1, outputs=2) if rotary < D else (x, "")
    cos, sin = (table[:, ::2] for table in angles(rotary, True))
    even, odd = (b("Slice", part, *(np.array([n]) for n in (first, rotary, 3, 2))) for first in (0, 1))
    pair = b("Sub", b("Mul", even, cos), b("Mul", odd, sin)), b("Add", b("Mul", even, sin), b("Mul", odd, cos))
    y = b("Reshape", b("Concat", *(b("Unsqueeze", one, np.array([4])) for one in pair), axis=-1), np.array([1, H, T, rotary]))
    y = b("Concat", y, rest, axis=-1) if rest else y
    y = b("Reshape", b("Transpose", y, perm=[0, 2, 1, 3]), np.array([1, T, H * D]))
    found = check(b.save(tmp_path / "m.onnx", b.linear(y, H * D, 3)), strict=True)
    assert [op.split("_")[-1] for op in ops(found)] == ["linear", "normalization", "rotary", "linear"]


@pytest.mark.parametrize("first", [1, 2])
def test_tokens_that_are_not_turned(tmp_path: Path, first: int) -> None:
    """Class and register tokens in front, as DINOv3 has them, and others behind: the whole is turned, they by no angle."""
    b = Builder()
    x = b("Transpose", b("Reshape", b.linear(b.input("x", [1, T, C]), C, H * D), np.array([1, T, H, D])), perm=[0, 2, 1, 3])
    left, middle, right = b("Split", x, np.array([first, T - 3, 3 - first]), axis=2, outputs=3)
    cos, sin = (table[: T - 3] for table in angles(D, False))
    first_half, second_half = b("Split", middle, np.array([D // 2, D // 2]), axis=-1, outputs=2)
    middle = b("Add", b("Mul", middle, cos), b("Mul", b("Concat", b("Neg", second_half), first_half, axis=-1), sin))
    y = b("Reshape", b("Transpose", b("Concat", left, middle, right, axis=2), perm=[0, 2, 1, 3]), np.array([1, T, H * D]))
    found = check(b.save(tmp_path / "m.onnx", b.linear(y, H * D, 3)), strict=True)
    assert ops(found) == ["linear", "rotary", "linear"]
    (node,) = [node for node in found.graph.nodes if node.op == "rotary"]
    still = [*range(first), *range(first + T - 3, T)]
    assert np.all(node.params["cos"][still] == 1) and np.all(node.params["sin"][still] == 0) and np.any(node.params["sin"] != 0)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotary", [D, D // 2])
@pytest.mark.parametrize("cached", [False, True])
def test_rotary_operator_with_positions_from_an_input(tmp_path: Path, rotary: int, interleaved: int, cached: bool) -> None:
    """The host gathers cosines and sines from constant caches, or computes them from the positions."""
    b = Builder(opset=23)
    positions, rates = b.input("positions", [1, T], TensorProto.INT64), 0.7 ** np.arange(rotary // 2)
    angles = np.outer(np.arange(40), rates)
    if cached:
        tables = [np.cos(angles), np.sin(angles), positions]
    else:
        phase = b("Mul", b("Cast", b("Unsqueeze", positions, np.array([2])), to=TensorProto.FLOAT), rates[None, None])
        tables = [b("Cos", phase), b("Sin", phase)]
    x = b.linear(b.input("x", [1, T, C]), C, H * D)
    y = b("RotaryEmbedding", x, *tables, interleaved=interleaved, num_heads=H, rotary_embedding_dim=0 if rotary == D else rotary)
    found = check(b.save(tmp_path / "m.onnx", b.linear(y, H * D, 3)))
    assert found.leading is not None and found.trailing is None


def test_rotary_operator_with_angles_from_the_device_is_refused(tmp_path: Path) -> None:
    b = Builder(opset=23)
    x = b.input("x", [1, T, C])
    y = b("RotaryEmbedding", b.linear(x, C, H * D), b.linear(x, C, D // 2), b.linear(x, C, D // 2), num_heads=H, name="turn")
    with pytest.raises(UnsupportedError, match=r"turn.*constant or made by the host"):
        import_model(b.save(tmp_path / "m.onnx", b.linear(y, H * D, 3)))


def test_what_only_looks_like_a_rotation_is_none() -> None:
    columns = np.array([[0, 1, 2, 3], [2, 3, 0, 1]])
    cos, sin = np.cos([0.3, 0.4]), np.sin([0.3, 0.4])
    factors = np.stack([np.tile(cos, 2), np.concatenate([-sin, sin])])[:, None]
    assert rotation(Mix("x", columns, factors), 5) is not None
    assert rotation(Mix("x", columns, np.abs(factors)), 5) is None
    assert rotation(Mix("x", np.array([[0, 1, 2, 3], [2, 3, 1, 0]]), factors), 5) is None
    assert rotation(Mix("x", columns, factors * np.array([1, 1, 2, 1])), 5) is None


# ---- attention ----


def attention(b: Builder, x: str, groups: int, change: Callable[[str], str], prepare: Callable[[str], str] = str) -> str:
    """Heads of `groups` runs of tokens; `change` is applied to the scores, `prepare` to queries and keys [groups, H, T, D]."""
    q, k, v = (
        b("Transpose", b("Reshape", b.linear(x, C, H * D), np.array([groups, T, H, D])), perm=[0, 2, 1, 3]) for _ in range(3)
    )  # fmt: skip
    q, k = prepare(q), prepare(k)
    scores = change(b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])))
    y = b("MatMul", b("Softmax", scores, axis=-1), v)
    return str(b("Reshape", b("Transpose", y, perm=[0, 2, 1, 3]), np.array([groups, T, H * D])))


def test_windows_with_masks_of_their_own(tmp_path: Path) -> None:
    b = Builder()
    mask = np.where(b.rng.random((3, 1, T, T)) < 0.3, -100.0, 0.0)
    mask[2] = mask[0]
    bias = b.rng.standard_normal((H, T, T))
    y = attention(b, b.input("x", [3, T, C]), 3, lambda scores: b("Add", b("Add", scores, bias), mask))
    found = check(b.save(tmp_path / "m.onnx", y), strict=True)
    nodes = [node for node in found.graph.nodes if node.op == "attention"]
    assert sorted(node.attrs["groups"] for node in nodes) == [1, 2] and all(node.attrs["bias_heads"] == H for node in nodes)


def test_soft_cap(tmp_path: Path) -> None:
    b = Builder()
    y = attention(b, b.input("x", [1, T, C]), 1, lambda scores: b("Mul", b("Tanh", b("Div", b("Mul", scores, 0.25), 50.0)), 50.0))
    found = import_model(b.save(tmp_path / "m.onnx", y))
    (node,) = [node for node in found.graph.nodes if node.op == "attention"]
    assert node.attrs["softcap"] == pytest.approx(50.0) and node.attrs["scale"] == pytest.approx(0.25)


# ---- convolutions on the device ----


def picture(b: Builder, channels: int = 16) -> str:
    return str(b("Conv", b.input("x", ["n", 3, 6, 8]), b.random(channels, 3, 1, 1)))


@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "groups", "expected"),
    [
        ((3, 3), [1, 1], [1, 1, 1, 1], 1, ["linear", "patches", "linear"]),
        ((3, 2), [2, 1], [1, 0, 1, 1], 1, ["linear", "patches", "linear"]),
        ((3, 3), [2, 2], [1, 1, 1, 1], 16, ["linear", "patches", "depthwise"]),
        ((2, 2), [2, 2], [0, 0, 0, 0], 4, ["linear", "patches", "linear"]),
        ((1, 1), [2, 2], [0, 0, 0, 0], 1, ["linear", "gather_rows", "linear"]),
    ],
)
def test_convolution(
    tmp_path: Path, kernel: tuple[int, int], strides: list[int], pads: list[int], groups: int, expected: list[str]
) -> None:  # fmt: skip
    b = Builder()
    y = b("Conv", picture(b), b.random(16, 16 // groups, *kernel), b.random(16), strides=strides, pads=pads, group=groups)
    found = check(b.save(tmp_path / "m.onnx", y), strict=True)
    assert ops(found) == expected


def test_convolution_along_tokens(tmp_path: Path) -> None:
    b = Builder()
    y = b("Conv", b.input("x", ["n", 4, 9]), b.random(8, 4, 3), pads=[1, 1])
    y = b("Conv", b("Relu", y), b.random(6, 8, 3), b.random(6), pads=[2, 2], strides=[2], dilations=[2])
    found = check(b.save(tmp_path / "m.onnx", b.linear(b("Transpose", y, perm=[0, 2, 1]), 6, 3)))
    assert ops(found) == ["linear", "unary", "patches", "linear", "linear"]


@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 0, 1], [0, 0, 2, -1, 0, 0, 1, 0], [0, 0, 0, 3, 0, 0, 0, 0]])
def test_padding(tmp_path: Path, pads: list[int]) -> None:
    b = Builder()
    found = check(b.save(tmp_path / "m.onnx", b("Relu", b("Pad", b("Relu", picture(b)), np.array(pads)))), strict=True)
    assert "patches" in ops(found)


def test_infinite_numbers_are_not_expected(tmp_path: Path) -> None:
    b = Builder()
    y = b.linear(b.input("x", [1, T, C]), C, C)
    some = b("ReduceMax", b("Cast", b("IsInf", y), to=6), keepdims=0)
    limit = b("Where", b("Cast", some, to=9), 64504.0, 65504.0)
    found = check(b.save(tmp_path / "m.onnx", b.linear(b("Clip", y, b("Neg", limit), limit), C, C)), strict=True)
    assert set(ops(found)) == {"linear"}


def test_average_pool(tmp_path: Path) -> None:
    b = Builder()
    found = check(b.save(tmp_path / "m.onnx", b("AveragePool", picture(b), kernel_shape=[2, 2], strides=[2, 2])), strict=True)
    assert ops(found) == ["linear", "patches", "depthwise"]


def test_channels_side_by_side(tmp_path: Path) -> None:
    b = Builder()
    x = picture(b)
    y = b("Relu", b("Concat", b("Relu", x), b("Gelu", x) if b.opset >= 20 else b("Tanh", x), axis=1))
    found = check(b.save(tmp_path / "m.onnx", y), strict=True)
    assert "concat_channels" in ops(found)


def test_patches_merged_four_by_four_tokens(tmp_path: Path) -> None:
    b = Builder()
    x = b("Reshape", b.linear(b.input("x", [1, 16, C]), C, 16), np.array([1, 4, 4, 16]))
    parts = [
        b("Slice", x, np.array([row, column]), np.array([4, 4]), np.array([1, 2]), np.array([2, 2])) for column in (0, 1) for row in (0, 1)
    ]
    y = b("LayerNormalization", b("Reshape", b("Concat", *parts, axis=-1), np.array([1, 4, 64])), b.random(64), b.random(64))
    found = check(b.save(tmp_path / "m.onnx", b.linear(y, 64, 3)), strict=True)
    assert "concat_channels" in ops(found) and ops(found)[-2:] == ["layer_normalization", "linear"]
