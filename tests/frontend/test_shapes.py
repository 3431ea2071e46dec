"""Dynamic dimensions: what options say, else what samples show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import Builder, C, T
from onnx import TensorProto
from running import check

from attnc.errors import ConfigError, DataError, ModelError
from attnc.frontend import import_model
from attnc.frontend.shapes import pin_shapes

Dims = list[object]


def shapes(dims: dict[str, Dims], pins: dict[str, tuple[int, ...]], samples: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    b = Builder()
    y = [b("Identity", b.input(name, axes)) for name, axes in dims.items()]
    return {spec.name: spec.shape for spec in pin_shapes(b.model(*y), pins, "m.onnx", samples)}


TEXT: dict[str, Dims] = {"ids": ["batch", "seq"], "mask": ["batch", "seq"]}
CACHE: dict[str, Dims] = {"ids": ["n", "t"], "mask": ["n", "past + t"], "past": ["n", 4, "past", 8]}
CASES = [
    (TEXT, {"ids": (8, 16), "mask": (8, 16)}, {"ids": (1, 16), "mask": (1, 16)}),
    (TEXT, {"ids": (8, 1, 16), "mask": (16,)}, {"ids": (1, 16), "mask": (1, 16)}),
    (TEXT, {"ids": (8, 3, 16), "mask": (8, 3, 16)}, {"ids": (3, 16), "mask": (3, 16)}),
    ({"x": [None, None, 4]}, {"x": (8, 5, 4)}, {"x": (1, 5, 4)}),
    ({"x": ["t", "n", 4]}, {"x": (8, 16, 1, 4)}, {"x": (16, 1, 4)}),
    ({"x": ["n", "t", 4], "mask": ["t", "t"]}, {"x": (8, 5, 4), "mask": (5, 5)}, {"x": (1, 5, 4), "mask": (5, 5)}),
    ({"x": ["t", "n", 4], "mask": ["q", "k"]}, {"x": (8, 5, 1, 4), "mask": (5, 5)}, {"x": (5, 1, 4), "mask": (5, 5)}),
    ({"x": [None, None, 4], "mask": [None, None]}, {"x": (8, 5, 1, 4), "mask": (5, 5)}, {"x": (5, 1, 4), "mask": (5, 5)}),
    ({"x": ["t", "n", 4], "mask": ["m", "k"]}, {"x": (8, 5, 1, 4), "mask": (8, 5)}, {"x": (5, 1, 4), "mask": (1, 5)}),
    (CACHE, {"ids": (8, 3), "mask": (8, 3), "past": (8, 4, 0, 8)}, {"ids": (1, 3), "mask": (1, 3), "past": (1, 4, 0, 8)}),
    (CACHE, {"ids": (8, 3), "mask": (8, 5), "past": (8, 4, 2, 8)}, {"ids": (1, 3), "mask": (1, 5), "past": (1, 4, 2, 8)}),
]


@pytest.mark.parametrize(("dims", "samples", "expected"), CASES)
def test_samples_fix_what_is_dynamic(
    dims: dict[str, Dims], samples: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    assert shapes(dims, {}, samples) == expected


def test_options_come_first() -> None:
    assert shapes(TEXT, {"ids": (1, 32)}, {}) == {"ids": (1, 32), "mask": (1, 32)}
    assert shapes({"x": ["a", "b"]}, {"x": (2, 3)}, {"x": (9, 9)}) == {"x": (2, 3)}
    with pytest.raises(DataError, match="'mask': dimension 'seq' is 16 in the calibration data, and 32 elsewhere"):
        shapes(TEXT, {"ids": (1, 32)}, {"ids": (8, 16), "mask": (8, 16)})
    with pytest.raises(DataError, match="'mask': dimension 'seq' is 12 in the calibration data, and 16 elsewhere"):
        shapes(TEXT, {}, {"ids": (8, 16), "mask": (8, 12)})
    with pytest.raises(
        ModelError, match=r"dimension 'seq' \(axis 1\) of input 'ids' is dynamic; fix it with --shape ids=1,128, or give --calib"
    ):
        shapes(TEXT, {}, {"ids": (8, 16, 3, 4)})
    with pytest.raises(ConfigError, match="whole numbers of 0 or more, found -1"):
        shapes(TEXT, {"ids": (1, -1)}, {})


def test_first_axes_that_cannot_all_be_samples() -> None:
    dims: dict[str, Dims] = {"x": ["n", "t", 4], "mask": ["q", "k"]}
    given = {"x": (8, 5, 4), "mask": (5, 5)}
    with pytest.raises(DataError, match=r"taken for samples.*\{'x': 8, 'mask': 5\}; fix one that is no batch, as with --shape mask=5,5"):
        shapes(dims, {}, given)
    assert shapes(dims, {"mask": (5, 5)}, given) == {"x": (1, 5, 4), "mask": (5, 5)}
    assert shapes(dims, {}, {**given, "mask": (1, 5)}) == {"x": (1, 5, 4), "mask": (1, 5)}


def test_a_past_of_length_zero(tmp_path: Path) -> None:
    b = Builder()
    x, past = b.input("x", ["n", T, C]), b.input("past", ["n", "p", C])
    y = b.linear(b("Concat", past, b.linear(x, C, C), axis=1), C, C)
    found = check(b.save(tmp_path / "m.onnx", y), {"past": (1, 0, C)})
    assert {spec.name: spec.shape for spec in found.inputs} == {"x": (1, T, C), "past": (1, 0, C)}
    with pytest.raises(ModelError, match=r"has shape \[0, 5, 8\] with the inputs' shapes: there is nothing to compute"):
        import_model(tmp_path / "m.onnx", {"x": (0, T, C), "past": (0, 0, C)})


def test_samples_of_ints(tmp_path: Path) -> None:
    b = Builder()
    words = b("Gather", b.random(20, C), b.input("ids", ["n", "t"], TensorProto.INT64))
    found = import_model(b.save(tmp_path / "m.onnx", b.linear(words, C, C)), samples={"ids": (8, T), "label": (8,)})
    assert found.outputs[0].shape == (1, T, C) and found.inputs[0].dtype == np.int64


def test_several_flattens_of_one_tensor(tmp_path: Path) -> None:
    """The optimizer makes a shape for each of them."""
    b = Builder()
    x = b("Reshape", b.linear(b.input("x", [1, T, C]), C, C), np.array([T, 1, C]))
    y = b.linear(b("Add", b("Flatten", x, axis=2), b("Relu", b("Flatten", x, axis=2))), C, 3)
    check(b.save(tmp_path / "m.onnx", y), strict=True)
