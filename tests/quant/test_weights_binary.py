"""Binary coding: errors that never increase, and the best of all codes where all can be tried."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attnc.arrays import Array
from attnc.quant.weights import output_error, quantize
from attnc.quant.weights.binary import alternate, best_scales, patterns
from attnc.weights import WeightFormat
from correlated import gram, layer


def error(magnitude: Array, counts: Array, scales: Array) -> Array:
    """Least weighted squared error per group with these scales."""
    levels = scales @ np.array(list(product((-1, 1), repeat=scales.shape[1]))).T
    return (counts * np.square(magnitude[:, :, None] - levels[:, None, :]).min(axis=2)).sum(axis=1)


def best_of_all(magnitude: Array, counts: Array, planes: int) -> float:
    """Of one group [size]: least-squares scales for every choice of codes."""
    codes = np.array(list(product((-1.0, 1.0), repeat=planes)))
    choices = np.array(list(product(range(len(codes)), repeat=len(magnitude))))
    b = codes[choices]
    normal = np.einsum("j,cjp,cjq->cpq", counts, b, b)
    right = np.einsum("j,j,cjp->cp", counts, magnitude, b)
    scales = np.einsum("cpq,cq->cp", np.linalg.pinv(normal, hermitian=True), right)
    return float((counts * magnitude**2).sum() - (scales * right).sum(axis=1).max())


def test_patterns_are_half_of_all_codes() -> None:
    for planes in (2, 3, 4):
        both = np.concatenate([patterns(planes), -patterns(planes)])
        assert (patterns(planes)[:, 0] == 1).all()
        assert len({tuple(row) for row in both}) == 1 << planes


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.float64, 5, elements=st.floats(0, 1).map(lambda x: round(x, 3))),
    arrays(np.float64, 5, elements=st.sampled_from([0.2, 1.0, 3.0])),
)
def test_two_planes_are_the_best_of_all(magnitude: Array, counts: Array) -> None:
    found = error(magnitude[None], counts[None], best_scales(magnitude[None], counts[None], 2))[0]
    assert found == pytest.approx(best_of_all(magnitude, counts, 2), abs=1e-9)


def test_three_planes_are_nearly_always_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    magnitude, counts = np.abs(rng.normal(size=(40, 4))), np.ones((40, 4))
    found = error(magnitude, counts, best_scales(magnitude, counts, 3))
    best = np.array([best_of_all(m, c, 3) for m, c in zip(magnitude, counts, strict=True)])
    energy = np.square(magnitude).sum(axis=1)
    assert (found >= best - 1e-9).all()
    assert np.mean(found <= best + 0.01 * energy) >= 0.9


@pytest.mark.parametrize("planes", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_error_never_increases(planes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    magnitude, counts = np.abs(rng.normal(size=(50, 64))), rng.uniform(0.1, 3.0, (50, 64))
    start = rng.uniform(0, 1, (50, planes))
    start[0] = 0.3
    found, errors = alternate(magnitude, counts, start)
    assert len(errors) > 3
    for before, after in pairwise(errors):
        assert (after <= before * (1 + 1e-9)).all()
    np.testing.assert_allclose(errors[0], error(magnitude, counts, start), rtol=1e-9)
    np.testing.assert_allclose(errors[-1], error(magnitude, counts, found), rtol=1e-9)
    assert errors[-1].sum() < 0.9 * errors[0].sum()


@pytest.mark.parametrize("size", [0, 32])
def test_more_planes_are_better_and_better_than_an_even_grid(size: int) -> None:
    weight, _ = layer(n=48, k=128)
    found = [output_error(weight, quantize("binary", weight, WeightFormat.parse(f"binary{p}", size), None, "x")) for p in (2, 3, 4)]
    assert found[0] > 1.6 * found[1] > 1.6 * 1.6 * found[2]
    assert found[2] < output_error(weight, quantize("mse", weight, WeightFormat.parse("int4", size), None, "x"))


def test_planes_that_exist_are_found() -> None:
    rng = np.random.default_rng(3)
    scales = np.array([0.8, 0.25])
    weight = (rng.choice([-1, 1], (6, 64, 2)) * scales).sum(axis=2)
    found = quantize("binary", weight, WeightFormat.parse("binary2"), None, "x")
    np.testing.assert_allclose(found.dequantize(), weight, atol=0.8 / 255)


def test_it_minds_what_matters() -> None:
    weight, inputs = layer()
    inputs[:, :8] *= 20
    metric, f = gram(inputs), WeightFormat.parse("binary2")
    diagonal = np.diag(metric)
    plain, minding = (quantize("binary", weight, f, g, "x").dequantize() for g in (None, metric))
    assert (diagonal * (weight - minding) ** 2).sum() < 0.9 * (diagonal * (weight - plain) ** 2).sum()
