"""minmax, mse and absmean against their definitions, and what all quantizers do with odd input."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attnc.arrays import Array
from attnc.errors import ConfigError, DataError
from attnc.quant.weights import QUANTIZERS, default_quantizer, find_quantizer, output_error, quantize
from attnc.quant.weights.mse import best_scales
from attnc.weights import WeightFormat
from correlated import gram, layer, loss

FORMATS = ("int8", "int6", "int5", "int4", "int3", "int2", "ternary", "binary2", "binary3", "binary4")
PAIRS = [
    (name, format, size)
    for name, quantizer in QUANTIZERS.items()
    for format in FORMATS
    for size in (0, 32)
    if WeightFormat.parse(format).kind in quantizer.kinds and not (name == "absmean_tensor" and size)
]
ALL = pytest.mark.parametrize(("name", "format", "size"), PAIRS, ids=lambda value: str(value))


@ALL
def test_integers_are_on_the_grid_and_nothing_is_lost_afterwards(name: str, format: str, size: int) -> None:
    weight, inputs = layer()
    f = WeightFormat.parse(format, size)
    found = quantize(name, weight, f, gram(inputs), "layer")
    groups = 64 // size if size else 1
    assert found.format == f and found.q.dtype == np.int8
    assert found.q.shape == ((f.bits, 24, 64) if f.kind == "binary" else (24, 64))
    assert found.multiplier.shape == ((f.bits, 24, groups) if f.kind == "binary" else (24, groups))
    assert found.multiplier.min() >= 1 and found.multiplier.max() <= 255 and (found.unit > 0).all()
    assert set(np.unique(found.q)) <= ({-1, 1} if f.kind == "binary" else set(range(-f.limit, f.limit + 1)))
    error = output_error(weight, found, gram(inputs))
    assert error == pytest.approx(np.sqrt(loss(inputs, weight, found.dequantize()) / loss(inputs, weight, np.zeros_like(weight))))
    assert error < {8: 0.02, 6: 0.06, 5: 0.12, 4: 0.25, 3: 0.5, 2: 1.0}[f.bits]


@ALL
def test_odd_weights_have_a_defined_result(name: str, format: str, size: int) -> None:
    weight, inputs = layer()
    weight[3] = 0
    weight[5, :32] = 0
    weight[7] = 1e-320
    dead = inputs.copy()
    dead[:, [0, 9]] = 0
    f = WeightFormat.parse(format, size)
    for metric in (gram(dead), np.zeros((64, 64)), gram(dead[:3])):
        found = quantize(name, weight, f, metric, "layer")
        real = found.dequantize()
        assert np.isfinite(real).all() and np.isfinite(found.unit).all()
        assert not real[[3, 7]].any()
        if f.kind != "binary":
            if name != "absmean_tensor":
                np.testing.assert_allclose(found.scale[3], 1.0)
            assert not found.q[3].any()
        # gptq and quantease may repay errors of other columns in a group of zeros.
        if size and name not in ("gptq", "quantease"):
            assert not real[5, :32].any()


@ALL
def test_bad_input_is_refused_by_name(name: str, format: str, size: int) -> None:
    weight, inputs = layer()
    f, metric = WeightFormat.parse(format, size), gram(inputs)
    for bad in (np.nan, np.inf):
        broken = weight.copy()
        broken[2, 5] = bad
        with pytest.raises(DataError, match=r"encoder\.up.*contains (nan|inf).*\[2, 5\]"):
            quantize(name, broken, f, metric, "encoder.up")
    with pytest.raises(DataError, match=r"encoder\.up.*needed a matrix"):
        quantize(name, weight[0], f, metric, "encoder.up")
    with pytest.raises(DataError, match=r"encoder\.up.*64x64, found shape \[3, 3\]"):
        quantize(name, weight, f, np.eye(3), "encoder.up")
    with pytest.raises(DataError, match=r"encoder\.up.*NaN"):
        quantize(name, weight, f, np.full((64, 64), np.nan), "encoder.up")
    with pytest.raises(DataError, match=r"encoder\.up.*negative diagonal"):
        quantize(name, weight, f, -metric, "encoder.up")
    if size:
        with pytest.raises(ConfigError, match=r"encoder\.up.*group_size 32 does not divide its 40 inputs.*group_size 0"):
            quantize(name, weight[:, :40], f, None, "encoder.up")


def test_formats_and_quantizers_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="absmean cannot make int4 weights; needed one of minmax, mse, gptq, quantease"):
        find_quantizer("absmean", WeightFormat.parse("int4"))
    with pytest.raises(ConfigError, match="gptq cannot make binary3 weights; needed one of quantease, binary"):
        find_quantizer("gptq", WeightFormat.parse("binary3"))
    with pytest.raises(ConfigError, match=r"found 'gtpq' \(did you mean gptq\?\)"):
        find_quantizer("gtpq", WeightFormat.parse("int4"))
    with pytest.raises(ConfigError, match="absmean_tensor needs group_size 0, found 32"):
        quantize("absmean_tensor", np.ones((2, 64)), WeightFormat.parse("ternary", 32), None, "x")
    for name in ("gptq", "quantease"):
        with pytest.raises(ConfigError, match="'x': this quantizer needs the gram"):
            quantize(name, np.ones((2, 64)), WeightFormat.parse("int4"), None, "x")
    for format in FORMATS:
        find_quantizer(default_quantizer(WeightFormat.parse(format), calibrated=False)[0], WeightFormat.parse(format))
        assert default_quantizer(WeightFormat.parse(format))[0] == "quantease"


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (3, 32), elements=st.floats(-(2.0**100), 2.0**100, width=32)), st.sampled_from(PAIRS))
def test_any_finite_weight(weight: Array, pair: tuple[str, str, int]) -> None:
    found = quantize(pair[0], weight.astype(np.float64), WeightFormat.parse(*pair[1:]), np.eye(32), "x")
    assert np.isfinite(found.dequantize()).all()
    assert np.abs(found.dequantize()).max() <= 2.01 * np.abs(weight).max() + 1e-30


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (4, 16), elements=st.floats(-10, 10).map(lambda x: round(x, 6))), st.sampled_from([8, 4, 3]))
def test_minmax_is_its_formula(weight: Array, bits: int) -> None:
    weight[0, 0] = 5.0
    limit = 2 ** (bits - 1) - 1
    found = quantize("minmax", weight, WeightFormat("integer", bits), None, "x")
    peak = np.abs(weight).max(axis=1)
    scale = np.where(peak == 0, 1.0, peak / limit)
    np.testing.assert_allclose(found.scale[:, 0], scale, rtol=1e-12)
    assert (np.abs(found.dequantize() - weight) <= scale[:, None] * (0.5 + 1e-9)).all()


def test_absmean_is_its_formula() -> None:
    weight, _ = layer()
    for name, scale in (("absmean", np.abs(weight).mean(axis=1)), ("absmean_tensor", np.full(24, np.abs(weight).mean()))):
        found = quantize(name, weight, WeightFormat.parse("ternary"), None, "x")
        np.testing.assert_allclose(found.unit, scale)
        assert (found.q == np.clip(np.rint(weight / scale[:, None]), -1, 1)).all()


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, (2, 5), elements=st.floats(-4, 4).map(lambda x: round(x, 3))),
    arrays(np.float64, 5, elements=st.sampled_from([0.1, 1.0, 7.0])),
)
def test_ternary_mse_is_the_best_of_all(weight: Array, importance: Array) -> None:
    weight[:, 0] += 5
    metric = np.diag(importance)
    scale = best_scales(weight, WeightFormat.parse("ternary"), metric)
    counts = importance / importance.mean() + 0.01
    codes = np.array([code for code in product((-1, 0, 1), repeat=5) if any(code)])
    for row, found in zip(weight, scale[:, 0], strict=True):
        fitted = np.maximum((codes * counts * row).sum(axis=1) / (codes**2 * counts).sum(axis=1), 0)
        best = (counts * (row - fitted[:, None] * codes) ** 2).sum(axis=1).min()
        own = (counts * (row - found * np.clip(np.rint(row / found), -1, 1)) ** 2).sum()
        assert own == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("format", ["int8", "int4", "int3", "ternary"])
@pytest.mark.parametrize("heavy", [False, True])
def test_mse_beats_minmax_and_a_dense_search(format: str, heavy: bool) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_t(3, (16, 128)) if heavy else rng.normal(size=(16, 128))
    f = WeightFormat.parse(format)
    error = np.square(weight - quantize("mse", weight, f, None, "x").dequantize()).sum(axis=1)
    plain = np.square(weight - quantize("minmax", weight, f, None, "x").dequantize()).sum(axis=1)
    assert (error <= plain * (1 + 1e-6)).all()
    peak = np.abs(weight).max(axis=1)
    dense = np.full(16, np.inf)
    for part in np.linspace(0.05, 1.0, 1500):
        s = (peak * part / f.limit)[:, None]
        dense = np.minimum(dense, np.square(weight - s * np.clip(np.rint(weight / s), -f.limit, f.limit)).sum(axis=1))
    assert error.sum() <= dense.sum() * 1.02


def test_mse_minds_what_matters() -> None:
    weight, inputs = layer()
    inputs[:, :8] *= 20
    metric, f = gram(inputs), WeightFormat.parse("int3")
    plain, minding = (quantize("mse", weight, f, g, "x").dequantize() for g in (None, metric))
    diagonal = np.diag(metric)
    assert (diagonal * (weight - minding) ** 2).sum() < 0.9 * (diagonal * (weight - plain) ** 2).sum()


@pytest.mark.slow
def test_large_layers_take_seconds() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4096, 1536))
    start = time.process_time()
    quantize("mse", weight, WeightFormat.parse("ternary"), None, "x")
    assert time.process_time() - start < 10
    weight, inputs = rng.normal(size=(1536, 384)), rng.normal(size=(1000, 384))
    start = time.process_time()
    quantize("quantease", weight, WeightFormat.parse("int4", 64), gram(inputs), "x")
    assert time.process_time() - start < 10
