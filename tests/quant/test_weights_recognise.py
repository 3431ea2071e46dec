"""Weights that lie on a grid already are carried over whole; all others are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc.arrays import Array
from attnc.quant.weights import quantize, recognise
from attnc.weights import WeightFormat

GRIDS = [("ternary", 1), ("int3", 3), ("int4", 7), ("int5", 15), ("int6", 31), ("int8", 127)]


def on_grid(rng: np.random.Generator, limit: int, scale: Array, n: int = 16, k: int = 96) -> tuple[Array, Array]:
    """Integers with both ends of the grid in every row, and their float32 products with `scale`, as a file has them."""
    q = rng.integers(-limit, limit + 1, (n, k))
    q[:, 0], q[:, 1] = limit, 1
    return q, (q.astype(np.float32) * scale.astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize(("name", "limit"), GRIDS)
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_grids_come_back_whole(name: str, limit: int, per: str) -> None:
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.001, 0.1, (16, 1) if per == "channel" else (1, 1))
    q, weight = on_grid(rng, limit, scale)
    found = recognise(weight)
    assert found is not None and found.format == WeightFormat.parse(name)
    assert (found.q == q).all()
    assert (found.dequantize().astype(np.float32) == weight.astype(np.float32)).all()
    if per == "tensor":
        assert (found.unit == found.unit[0]).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([1, 3, 7, 31, 127]), st.integers(0, 2**32 - 1), st.floats(-8, 4))
def test_a_unit_in_the_last_place_is_forgiven(limit: int, seed: int, exponent: float) -> None:
    rng = np.random.default_rng(seed)
    q, weight = on_grid(rng, limit, np.array(10.0**exponent))
    noisy = np.nextafter(weight.astype(np.float32), rng.choice([-np.inf, np.inf], weight.shape).astype(np.float32))
    noisy[q == 0] = 0
    found = recognise(noisy.astype(np.float64))
    assert found is not None and (found.q == q).all()
    np.testing.assert_allclose(found.dequantize(), noisy, rtol=2.0**-21)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(("name", "limit"), [("ternary", 1), ("int4", 7)])
def test_groups_come_back_whole(name: str, limit: int, size: int) -> None:
    rng = np.random.default_rng(size)
    start = quantize(
        "minmax",
        rng.normal(size=(12, 256)) * np.repeat(rng.uniform(0.2, 3, (12, 256 // size)), size, 1),
        WeightFormat.parse(name, size),
        None,
        "x",
    )
    found = recognise(start.dequantize())
    assert found is not None and found.format == start.format
    np.testing.assert_allclose(found.dequantize(), start.dequantize(), rtol=2.0**-22)


@pytest.mark.parametrize("change", [1e-2, 1e-4, 1e-6])
def test_a_single_weight_off_the_grid_is_enough_to_refuse(change: float) -> None:
    rng = np.random.default_rng(1)
    _, weight = on_grid(rng, 7, np.array(0.03))
    assert recognise(weight) is not None
    weight[9, 40] = 0.03 * 5 * (1 + change)
    assert recognise(weight) is None


def test_what_is_not_on_a_grid() -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(8, 64))
    assert recognise(weight) is None
    _, shifted = on_grid(rng, 1, np.array(0.02))
    assert recognise(np.where(shifted == 0, 1e-9, shifted)) is None
    assert recognise(np.repeat(rng.uniform(1, 2, (8, 4)), 32, axis=1) * rng.choice([-1, 0, 1], (8, 128))) is None
    for bad in (np.full((2, 3), np.nan), np.zeros(3), np.zeros((0, 4))):
        assert recognise(bad) is None


def test_zeros_are_ternary() -> None:
    weight = np.zeros((4, 64))
    found = recognise(weight)
    assert found is not None and found.format.name == "ternary" and not found.dequantize().any()
    weight[1, ::3] = -0.25
    found = recognise(weight)
    assert found is not None and (found.dequantize() == weight).all() and found.unit[0] == 1.0


def test_one_wide_row_makes_the_format_wide() -> None:
    rng = np.random.default_rng(4)
    _, weight = on_grid(rng, 1, np.array(0.5))
    weight[3] = rng.integers(-5, 6, 96) * 0.125
    found = recognise(weight)
    assert found is not None and found.format.name == "int4" and (found.dequantize() == weight).all()
