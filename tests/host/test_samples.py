"""The one rule of how arrays hold samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc_host import AcceleratorError
from attnc_host.samples import Array, stack, unstack

F32 = np.dtype(np.float32)
SHAPES = [(1, 4), (2, 4), (4,), (1,), (), (1, 4, 0, 2), (1, 1, 4)]


@dataclass(frozen=True)
class Input:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype = F32


def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
def test_every_way_to_give_samples_means_the_same(shape: tuple[int, ...], count: int) -> None:
    spec, samples = Input("x", shape), numbers(count, *shape)
    ways = [samples]
    ways += [samples.reshape(count, *shape[1:])] if shape[:1] == (1,) else []
    ways += [samples[0]] if count == 1 else []
    for given_array in ways:
        found = stack({"x": given_array}, [spec])
        assert found.count == count
        np.testing.assert_array_equal(found.arrays["x"], samples)
        np.testing.assert_array_equal(stack(found.arrays, [spec]).arrays["x"], samples)
        back = unstack(spec, found.arrays["x"], found.framed)
        np.testing.assert_array_equal(stack({"x": back}, [spec]).arrays["x"], samples)
        if shape[:1] != (1,):
            np.testing.assert_array_equal(back, given_array)


@pytest.mark.parametrize(
    ("shape", "given_shape", "wanted"),
    [
        ((1, 4), (3, 5), "[samples, 4] or [samples, 1, 4]"),
        ((1, 4), (4,), "[samples, 4] or [samples, 1, 4]"),
        ((2, 4), (3, 4), "[2, 4] or [samples, 2, 4]"),
        ((), (3, 1), "[] or [samples]"),
        ((4,), (3, 5), "[4] or [samples, 4]"),
        ((1, 2, 3), (5, 4, 1, 2, 3), "[samples, 2, 3] or [samples, 1, 2, 3]"),
    ],
)
def test_other_shapes(shape: tuple[int, ...], given_shape: tuple[int, ...], wanted: str) -> None:
    with pytest.raises(AcceleratorError) as caught:
        stack({"x": np.zeros(given_shape)}, [Input("x", shape)])
    assert str(caught.value) == f"input 'x': needed shape {wanted}, found {list(given_shape)}"


def test_one_sample_serves_all_others() -> None:
    specs = [Input("x", (1, 2)), Input("mask", (3, 3)), Input("scale", ()), Input("b", (1, 4))]
    found = stack({"x": np.ones((5, 2)), "mask": np.eye(3), "scale": np.float32(2), "b": np.ones((1, 4))}, specs)
    assert found.count == 5 and {name: a.shape[0] for name, a in found.arrays.items()} == {"x": 5, "mask": 1, "scale": 1, "b": 1}
    assert found.all("mask").shape == (5, 3, 3) and not found.framed
    part = found.part(3, 4)
    assert part.count == 2 and part.all("x").shape == (2, 1, 2) and part.all("b").shape == (2, 1, 4)
    with pytest.raises(AcceleratorError, match=r"same number of samples, or one that serves all, found \{'x': 5, 'b': 2\}"):
        stack({"x": np.ones((5, 2)), "b": np.ones((2, 4))}, [specs[0], specs[3]])
    with pytest.raises(AcceleratorError, match="at least one sample"):
        stack({"x": np.ones((0, 2))}, specs[:1])


KINDS = ["bool", "int8", "uint8", "int32", "int64", "uint64", "float16", "float32", "float64"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(-(2**63), 2**64 - 1), st.booleans())
def test_a_value_arrives_or_is_refused(source: str, target: str, number: int, small: bool) -> None:
    """Whatever converts is the same number afterwards, to the precision of floats."""
    value = number % 3 if small else number
    kind = np.dtype(source)
    if kind.kind in "iu" and not np.iinfo(kind).min <= value <= np.iinfo(kind).max:
        return
    with np.errstate(over="ignore"):
        array = np.array([value]).astype(kind) if kind.kind != "b" else np.array([bool(value % 2)])
    try:
        (found,) = stack({"x": array}, [Input("x", (1,), np.dtype(target))]).arrays["x"].ravel()
    except AcceleratorError:
        assert not (small and kind.kind in "ub" and np.dtype(target).kind in "fiu")
        return
    assert found.dtype == np.dtype(target) and np.isfinite(found)
    if np.dtype(target).kind == "f":
        assert float(found) == pytest.approx(float(array[0]), rel=2e-3)
    else:
        assert int(found) == int(array[0])
