"""The bias of attention in integers: masks and position biases alike, in units of the scores."""

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
BIAS_UNIT = math.log(2) / (1 << FRACTION_BITS)
DEFAULT_BIAS_SHIFT = 3
MAX_BIAS_SHIFT = 7
LARGEST_BIAS = 32767 * BIAS_UNIT * (1 << DEFAULT_BIAS_SHIFT)
"""In natural units, of a constant: 177. Beyond, values saturate."""


def bias_type(shift: int) -> TensorType:
    """s16 in units of 2**shift scores."""
    return TensorType(16, True, np.asarray(BIAS_UNIT * (1 << shift)))


def bias_shift(real: Array) -> int:
    """The attribute `bias_shift` for a constant bias: the finest unit that holds its allowed values, at most DEFAULT_BIAS_SHIFT.

    Beyond that (+-LARGEST_BIAS) values saturate: a probability that far below another is 0 anyway.
    """
    allowed = real[np.isfinite(real) & (real > EXCLUDED_BELOW)]
    peak = float(np.abs(allowed).max(initial=0.0))
    return next((b for b in range(DEFAULT_BIAS_SHIFT) if peak <= 32767 * BIAS_UNIT * (1 << b)), DEFAULT_BIAS_SHIFT)


def quantize_bias(real: Array, type_: TensorType) -> Array:
    """Float bias to integers: at most -1e4 becomes -32768 (excluded), all else is rounded and saturates at +-32767; NaN becomes 0."""
    excluded = np.asarray(real) <= EXCLUDED_BELOW
    q = np.maximum(type_.quantize(np.where(excluded, 0, real)), BIAS_EXCLUDED + 1)
    return np.where(excluded, BIAS_EXCLUDED, q).astype(type_.dtype)


def shift_of(type_: TensorType, where: str) -> int:
    """The bias shift that a type stands for."""
    shift = round(math.log2(scalar_scale(type_, where) / BIAS_UNIT))
    expected = bias_type(min(max(shift, 0), MAX_BIAS_SHIFT))
    if type_.short != "s16" or not math.isclose(float(type_.scale), float(expected.scale), rel_tol=1e-9):
        found = f"{type_.short} of {float(type_.scale):g}"
        raise GraphError(f"{where}: needs a bias in s16 of {BIAS_UNIT:g} * 2**(0..{MAX_BIAS_SHIFT}), found {found}")
    return shift
