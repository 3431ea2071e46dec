"""The base-2 exponential and the reciprocal that `softmax` and `attention` share; mirrors attnc/exponential.hpp name for name.

Scores are integers t in the log2 domain with FRACTION_BITS = 10 fractional bits: a float score x is t = x * log2(e) * 2**10, so
that exp(x - max) = 2**(-(m - t) / 2**10) and the whole part of the exponent is a shift.
Errors (measured by tests/ops/test_softmax.py over the whole domain): exp2_negative at most 8.5e-5 absolute (chord of 32 segments 5.9e-5,
ROM and result rounded to 2**-15); softmax_scale at most 3.1e-5 relative.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from attnc.errors import OverflowRiskError
from attnc.fixedpoint import MULTIPLIER_BITS, Int64, bit_length, clamp, quantize_multiplier, requantize, shift_round_half_up
from attnc.ops.base import IntType, Table

FRACTION_BITS = 10
SEGMENT_BITS = 5
PROBABILITY_BITS = 15
"""1.0 is 2**15: a probability takes 16 bits, unsigned."""
SCORE_BITS = 24
SCORE_LIMIT = (1 << (SCORE_BITS - 1)) - 1
"""Scores saturate to +-SCORE_LIMIT, that is +-8192 in log2 units."""
MAX_TERMS = 1 << 16
MAX_SUM_SHIFT = 16
LOG2_E = math.log2(math.e)


def exp2_values() -> tuple[int, ...]:
    """2**(-i/32) for i = 0..32 with 15 fractional bits."""
    segments = 1 << SEGMENT_BITS
    return tuple(math.floor(2.0 ** (PROBABILITY_BITS - i / segments) + 0.5) for i in range(segments + 1))


EXP2_ROM = Table("exp2_rom", IntType(16, signed=False), exp2_values())
_ROM = np.array(EXP2_ROM.values, np.int64)


def exp2_negative(d: npt.ArrayLike) -> Int64:
    """2**(-d / 2**FRACTION_BITS) with 15 fractional bits, d >= 0; chords between the entries of the ROM, one rounding (half up).

    0 where the whole part of the exponent is 16 or more.
    """
    d = np.asarray(d, np.int64)
    rest_bits = FRACTION_BITS - SEGMENT_BITS
    whole = d >> FRACTION_BITS
    segment = (d >> rest_bits) & ((1 << SEGMENT_BITS) - 1)
    rest = d & ((1 << rest_bits) - 1)
    high = _ROM[segment]
    chord = (high << rest_bits) - (high - _ROM[segment + 1]) * rest
    return np.where(whole > PROBABILITY_BITS, 0, shift_round_half_up(chord, rest_bits + (whole & PROBABILITY_BITS)))


def softmax_scale(total: npt.ArrayLike, multiplier: int, shift: int) -> tuple[Int64, Int64]:
    """(multiplier, shift) that divide by `total` and rescale by multiplier / 2**shift in one requantize.

    `total` is a sum of probabilities: 0 (nothing to divide; the multiplier becomes 0) or in [2**15, 2**31]. It is rounded to a 16-bit
    mantissa; the quotient multiplier * 2**15 / mantissa is rounded half up and has 15 to 17 bits.
    """
    total = np.asarray(total, np.int64)
    exponent = np.maximum(bit_length(total) - (PROBABILITY_BITS + 1), 0)
    mantissa = shift_round_half_up(total, exponent)
    quotient = ((multiplier << PROBABILITY_BITS) + (mantissa >> 1)) // np.maximum(mantissa, 1)
    return np.where(total == 0, 0, quotient), PROBABILITY_BITS + exponent + shift


def score_multiplier(factor: float) -> tuple[int, int]:
    """(multiplier, shift) from accumulated integers to t, for natural-unit scores of `factor` per integer; a negative factor is allowed.

    A step of one integer is limited to 127 log2 units: beyond, all but the largest scores have probability 0 anyway.
    """
    multiplier, shift = quantize_multiplier(min(abs(factor) * LOG2_E * (1 << FRACTION_BITS), (1 << MULTIPLIER_BITS) - 1.0))
    return int(math.copysign(1, factor)) * int(multiplier), int(shift)


def output_multiplier(factor: float) -> tuple[int, int]:
    """(multiplier, shift) for `softmax_scale`; a factor too small to give anything but zeros becomes 0."""
    multiplier, shift = (int(x) for x in quantize_multiplier(factor))
    return (multiplier, shift) if shift <= 62 - PROBABILITY_BITS - MAX_SUM_SHIFT else (0, 0)


def scores(acc: npt.ArrayLike, multiplier: int, shift: int) -> Int64:
    """t of accumulated integers, rounded half up, saturated to +-SCORE_LIMIT."""
    return requantize(acc, multiplier, shift, -SCORE_LIMIT, SCORE_LIMIT)


def normalise(acc: npt.ArrayLike, total: npt.ArrayLike, multiplier: int, shift: int, low: int, high: int) -> Int64:
    """clamp(acc / total * multiplier / 2**shift), rounded half up."""
    row_multiplier, row_shift = softmax_scale(total, multiplier, shift)
    return clamp(shift_round_half_up(np.asarray(acc, np.int64) * row_multiplier, row_shift), low, high)


def sum_bits(terms: int, where: str) -> int:
    """Unsigned width of a sum of `terms` probabilities."""
    if terms > MAX_TERMS:
        raise OverflowRiskError(f"{where}: a softmax over {terms} values, at most {MAX_TERMS} are supported")
    return (terms << PROBABILITY_BITS).bit_length()
