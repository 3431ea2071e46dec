"""The bias of attention in integers: masks and position biases alike, in units of the scores.

Softmax does not see what a query adds to all of its keys, so a row whose largest number is beyond the range of the integers has that number
taken off: keys that are all masked by the same -1e4 are weighed by their scores, as in float. From UNIFORM_BELOW on float32 has lost the
scores in the sum, and the keys with the largest bias share the row evenly. A row of minus infinities alone has no key at all.
"""

from __future__ import annotations

import math

import numpy as np

from attnc.arrays import Array
from attnc.ir import GraphError, TensorType
from attnc.ops.base import scalar_scale
from attnc.ops.exponential import FRACTION_BITS

EXCLUDED_BELOW = -1e4
"""A float bias at or below this excludes its key."""
BIAS_EXCLUDED = -32768
BIAS_UNIFORM = -32767
"""In place of a score that does not count: 0, whatever q . k is."""
BIAS_LIMIT = 32766
"""Largest magnitude of a number; beyond, values saturate."""
UNIFORM_BELOW = -(2.0**23)
"""Where the steps of float32 reach 1. Sums of a score and a bias round to multiples of the step: from -1e6 to -1e8 that is neither
nothing nor everything, and this is where the two meet."""
BIAS_UNIT = math.log(2) / (1 << FRACTION_BITS)
DEFAULT_BIAS_SHIFT = 3
MAX_BIAS_SHIFT = 7
LARGEST_BIAS = BIAS_LIMIT * BIAS_UNIT * (1 << DEFAULT_BIAS_SHIFT)
"""In natural units, of a constant: 177."""


def bias_type(shift: int) -> TensorType:
    """s16 in units of 2**shift scores."""
    return TensorType(16, True, np.asarray(BIAS_UNIT * (1 << shift)))


def lowered(real: Array, limit: float) -> Array:
    """Biases [..., keys] without the largest of their row where that is beyond +-limit."""
    peak = real.max(axis=-1, keepdims=True)
    beyond = np.isfinite(peak) & (np.abs(peak) > limit)
    return real - np.where(beyond, peak, 0.0) if beyond.any() else real


def bias_shift(real: Array) -> int:
    """The attribute `bias_shift` for a constant bias, `lowered`: the finest unit that holds its allowed values, at most DEFAULT_BIAS_SHIFT.

    Beyond that (+-LARGEST_BIAS) values saturate: a probability that far below another is 0 anyway.
    """
    allowed = real[np.isfinite(real) & (real > EXCLUDED_BELOW)]
    peak = float(np.abs(allowed).max(initial=0.0))
    return next((b for b in range(DEFAULT_BIAS_SHIFT) if peak <= BIAS_LIMIT * BIAS_UNIT * (1 << b)), DEFAULT_BIAS_SHIFT)


def quantize_bias(real: Array, type_: TensorType) -> Array:
    """Float bias [..., keys] to integers; NaN becomes 0. Mirrored by `attnc_host.boundary.quantize_excluded`."""
    real = np.where(np.isnan(real), 0.0, real)
    numbers, peak = lowered(real, BIAS_LIMIT * scalar_scale(type_, "bias")), real.max(axis=-1, keepdims=True)
    uniform = np.isfinite(peak) & (peak <= UNIFORM_BELOW)
    excluded = (numbers <= EXCLUDED_BELOW) | (uniform & (real < peak))
    q = np.maximum(type_.quantize(np.where(excluded, 0, numbers)), -BIAS_LIMIT)
    return np.where(excluded, BIAS_EXCLUDED, np.where(uniform, BIAS_UNIFORM, q)).astype(type_.dtype)


def dequantize_bias(q: Array, type_: TensorType) -> Array:
    """What the integers of a bias stand for: minus infinity, and the lowest number of float32 where scores do not count."""
    real = np.where(q == BIAS_UNIFORM, float(np.finfo(np.float32).min), type_.dequantize(q))
    return np.where(q == BIAS_EXCLUDED, -np.inf, real)


def shift_of(type_: TensorType, where: str) -> int:
    """The bias shift that a type stands for."""
    shift = round(math.log2(scalar_scale(type_, where) / BIAS_UNIT))
    expected = bias_type(min(max(shift, 0), MAX_BIAS_SHIFT))
    if type_.short != "s16" or not math.isclose(float(type_.scale), float(expected.scale), rel_tol=1e-9):
        found = f"{type_.short} of {float(type_.scale):g}"
        raise GraphError(f"{where}: needs a bias in s16 of {BIAS_UNIT:g} * 2**(0..{MAX_BIAS_SHIFT}), found {found}")
    return shift
