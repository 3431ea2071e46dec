"""gptq and quantease: what each promises."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.quant.weights import quantize
from attnc.quant.weights.gptq import gptq, lower_factor
from attnc.quant.weights.grid import damped, spread
from attnc.quant.weights.quantease import descend, even_grid
from attnc.weights import WeightFormat
from correlated import gram, layer, loss

FORMATS = [("int8", 0), ("int4", 32), ("int3", 0), ("ternary", 0), ("ternary", 32)]
SIZES = pytest.mark.parametrize(("format", "size"), FORMATS)


def metric_loss(weight: Array, found: Array, metric: Array) -> float:
    noise = weight - found
    return float((noise * (noise @ metric)).sum())


@SIZES
@pytest.mark.parametrize("name", ["gptq", "quantease"])
def test_identity_hessian_is_plain_rounding(name: str, format: str, size: int) -> None:
    weight, _ = layer(k=160)
    f = WeightFormat.parse(format, size)
    found, plain = quantize(name, weight, f, np.eye(160), "x"), quantize("mse", weight, f, None, "x")
    assert (found.q == plain.q).all()
    np.testing.assert_array_equal(found.scale, plain.scale)


def test_an_indefinite_hessian_is_damped_until_it_is_definite() -> None:
    hessian = np.ones((8, 8)) - 0.1 * np.eye(8)
    factor = lower_factor(hessian)
    assert np.isfinite(factor).all() and (np.diag(factor) > 0).all()
    extra = factor @ factor.T - hessian
    np.testing.assert_allclose(extra, extra[0, 0] * np.eye(8), atol=1e-12)


@pytest.mark.parametrize("by_importance", [False, True])
def test_gptq_equals_its_textbook(by_importance: bool) -> None:
    """Column by column with the inverse of what is left of the Hessian, which is updated by elimination (OBQ)."""
    weight, inputs = layer(n=5, k=160)
    metric = gram(inputs)
    found = gptq(weight, WeightFormat.parse("int4", 32), metric, "x", by_importance)
    step = spread(found.scale, 160)
    hessian = damped(metric)
    order = np.argsort(-np.diag(hessian), kind="stable") if by_importance else np.arange(160)
    inverse, left, q = np.linalg.inv(hessian), weight.copy(), np.zeros_like(weight)
    for j in order:
        q[:, j] = np.clip(np.rint(left[:, j] / step[:, j]), -7, 7)
        left -= np.outer((left[:, j] - q[:, j] * step[:, j]) / inverse[j, j], inverse[j])
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    assert (q != found.q).mean() < 0.002


@SIZES
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_they_beat_plain_rounding_on_correlated_inputs(format: str, size: int, seed: int) -> None:
    weight, inputs = layer(seed=seed)
    f, metric = WeightFormat.parse(format, size), gram(inputs)
    plain, by_gptq, by_quantease = (
        loss(inputs, weight, quantize(name, weight, f, metric, "x").dequantize()) for name in ("mse", "gptq", "quantease")
    )
    assert by_gptq < 0.8 * plain
    assert by_quantease < 0.8 * plain


@SIZES
def test_quantease_is_never_worse_than_where_it_starts(format: str, size: int) -> None:
    weight, inputs = layer()
    f, metric = WeightFormat.parse(format, size), gram(inputs)
    found = {
        name: metric_loss(weight, quantize(name, weight, f, metric, "x").dequantize(), damped(metric))
        for name in ("mse", "gptq", "quantease")
    }
    assert found["quantease"] <= min(found.values()) * (1 + 1e-12)


@SIZES
@pytest.mark.parametrize("start", ["minmax", "mse", "zero", "random"])
def test_quantease_loss_never_increases(format: str, size: int, start: str) -> None:
    weight, inputs = layer(k=160)
    f, metric = WeightFormat.parse(format, size), damped(gram(inputs))
    base = quantize("minmax" if start == "minmax" else "mse", weight, f, metric, "x")
    q = {"zero": np.zeros_like(base.q), "random": np.random.default_rng(0).integers(-f.limit, f.limit + 1, base.q.shape)}.get(start, base.q)
    step = spread(base.scale, 160)
    found, losses = descend(weight, q * step, even_grid(step, f.limit), metric)
    assert len(losses) > 2
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses))
    assert losses[-1] == pytest.approx(metric_loss(weight, found, metric))


def test_quantease_stops_where_no_single_weight_can_improve() -> None:
    weight, inputs = layer(n=6, k=32)
    f, metric = WeightFormat.parse("int3"), damped(gram(inputs))
    start = quantize("mse", weight, f, metric, "x")
    real, losses = start.dequantize(), [np.inf, 0.0]
    while len(losses) > 1:
        real, losses = descend(weight, real, even_grid(spread(start.scale, 32), f.limit), metric)
    own = ((weight - real) @ metric * (weight - real)).sum(axis=1)
    for j in range(32):
        for level in range(-f.limit, f.limit + 1):
            changed = real.copy()
            changed[:, j] = level * start.unit
            noise = weight - changed
            assert ((noise @ metric * noise).sum(axis=1) >= own - 1e-12).all()


@pytest.mark.parametrize("planes", [2, 3, 4])
@pytest.mark.parametrize("size", [0, 32])
def test_quantease_moves_codes_of_planes(planes: int, size: int) -> None:
    weight, inputs = layer()
    f, metric = WeightFormat("binary", planes, size), gram(inputs)
    start, found = (quantize(name, weight, f, metric, "x") for name in ("binary", "quantease"))
    np.testing.assert_array_equal(found.scale, start.scale)
    assert loss(inputs, weight, found.dequantize()) < 0.8 * loss(inputs, weight, start.dequantize())
    still = quantize("quantease", weight, f, np.eye(64), "x")
    np.testing.assert_allclose(still.dequantize(), quantize("binary", weight, f, None, "x").dequantize(), atol=1e-12)


def test_dead_inputs_are_rounded_like_any_other() -> None:
    weight, inputs = layer()
    inputs[:, 5] = 0
    for name in ("gptq", "quantease"):
        found = quantize(name, weight, WeightFormat.parse("int8"), gram(inputs), "x")
        assert (found.q[:, 5] == quantize("mse", weight, WeightFormat.parse("int8"), gram(inputs), "x").q[:, 5]).all()
