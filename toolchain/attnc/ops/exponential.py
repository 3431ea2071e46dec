"""The base-2 exponential and the reciprocal that `softmax` and `attention` share; mirrors attnc/exponential.hpp name for name.

Scores are integers t in the log2 domain with FRACTION_BITS = 10 fractional bits: a float score x is t = x * log2(e) * 2**10, so
that exp(x - max) = 2**(-(m - t) / 2**10) and the whole part of the exponent is a shift.
The exponential has several implementations, `EXP2`; each is a ROM, and the size of the ROM says how it is used:
    chord4, chord8, chord16, chord32   5, 9, 17 or 33 values of 2**(-f), straight lines between them
    table        2**(-f) for all 1024 f
    polynomial   coefficients a, b of 1 - f*(b - a*f), a quadratic as in I-BERT, with constants that keep 2**0 = 1
    log2         an offset: powers of two alone, with exponents of 4 bits as in SOLE
Errors (measured by tests/ops/test_exponential.py over the whole domain): `EXP2[name].error`, chord32 at most 8.5e-5 absolute (chord
5.9e-5, ROM and result rounded to 2**-15); softmax_scale at most 3.1e-5 relative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from attnc.errors import OverflowRiskError
from attnc.fixedpoint import MULTIPLIER_BITS, Int64, bit_length, quantize_multiplier, requantize, shift_round_half_up
from attnc.kernels.numbers import PROBABILITY_BITS, SCORE_BITS, SCORE_FRACTION_BITS
from attnc.kernels.ports import IntType, Table
from attnc.kernels.resources import Resources
from attnc.ops.approximation import Implementation

FRACTION_BITS = SCORE_FRACTION_BITS
SEGMENT_BITS = 5
SCORE_LIMIT = (1 << (SCORE_BITS - 1)) - 1
"""Scores saturate to +-SCORE_LIMIT, that is +-8192 in log2 units."""
MAX_TERMS = 1 << 16
MAX_SUM_SHIFT = 16
LOG2_E = math.log2(math.e)
ERROR_TARGET = 2.0**-13
"""Error of an exponential that "auto" accepts: a third of what rounding the scores may do."""


def exp2_values(segment_bits: int = SEGMENT_BITS) -> tuple[int, ...]:
    """2**(-i/segments) for i = 0..segments with 15 fractional bits."""
    segments = 1 << segment_bits
    return tuple(math.floor(2.0 ** (PROBABILITY_BITS - i / segments) + 0.5) for i in range(segments + 1))


def _rom(name: str, values: tuple[int, ...]) -> Table:
    return Table(name, IntType(16, signed=False), values)


EXP2_ROM = _rom("exp2_rom", exp2_values())
LOG2_OFFSET = 599
"""Fractions above 0.415, where 2**(-f) passes 3/4, count as the next power of two."""
POLYNOMIAL = tuple(round(value * (1 << PROBABILITY_BITS)) for value in (0.176, 0.6745))


@dataclass(frozen=True)
class Exp2(Implementation):
    """An implementation of `exp2_negative`: its ROM is the template argument of whatever kernel uses it."""

    rom: Table = EXP2_ROM


def _chord(segment_bits: int, error: float) -> Exp2:
    """Two reads of the ROM (half as many LUTs up to 32 entries), a product of the rest and the drop, and a shifter."""
    values, rest = exp2_values(segment_bits), FRACTION_BITS - segment_bits
    name = f"exp2_chord{1 << segment_bits}" if segment_bits != SEGMENT_BITS else EXP2_ROM.name
    lane = Resources(lut=(32 if len(values) > 32 else 16) + 0.8 * rest * (PROBABILITY_BITS - segment_bits) + 60, ff=60)
    return Exp2(f"chord{1 << segment_bits}", error, 16 * len(values), lane, _rom(name, values))


EXP2: dict[str, Exp2] = {
    choice.name: choice
    for choice in (
        _chord(2, 3.5e-3),
        _chord(3, 9.2e-4),
        _chord(4, 2.5e-4),
        _chord(5, 8.5e-5),
        Exp2(
            "table", 2.4e-5, 16 << FRACTION_BITS, Resources(lut=60, ff=60, bram36=0.5), _rom("exp2_table", exp2_values(FRACTION_BITS)[:-1])
        ),
        Exp2("polynomial", 1.7e-3, 32, Resources(lut=100, ff=120, dsp=2), _rom("exp2_polynomial", POLYNOMIAL)),
        Exp2("log2", 0.25, 16, Resources(lut=30, ff=40), _rom("exp2_log2", (LOG2_OFFSET,))),
    )
}
"""The implementations. `error` is the largest absolute error, of an exponential of at most 1."""


def exp2_of(rom: Table | str) -> Exp2:
    """The implementation that a ROM, or the name of one, belongs to."""
    name = rom if isinstance(rom, str) else rom.name
    return next(choice for choice in EXP2.values() if choice.rom.name == name)


def _fraction_power(values: Int64, whole: Int64, fraction: Int64) -> Int64:
    """2**-(whole + fraction / 2**10) with 15 fractional bits, whole in [0, 15]; one rounding."""
    if values.size == 1:
        return (np.int64(1) << PROBABILITY_BITS) >> (whole + ((fraction + values[0]) >> FRACTION_BITS))
    if values.size == 2:
        inner = (values[1] << FRACTION_BITS) - values[0] * fraction
        drop = inner * fraction
        return shift_round_half_up((np.int64(1) << (PROBABILITY_BITS + 2 * FRACTION_BITS)) - drop, 2 * FRACTION_BITS + whole)
    if values.size == 1 << FRACTION_BITS:
        return shift_round_half_up(values[fraction], whole)
    rest_bits = FRACTION_BITS - (values.size - 1).bit_length() + 1
    segment, rest = fraction >> rest_bits, fraction & ((1 << rest_bits) - 1)
    high = values[segment]
    return shift_round_half_up((high << rest_bits) - (high - values[segment + 1]) * rest, rest_bits + whole)


def exp2_negative(d: npt.ArrayLike, rom: Table = EXP2_ROM) -> Int64:
    """2**(-d / 2**FRACTION_BITS) with 15 fractional bits, d >= 0, by the implementation that `rom` belongs to; rounded half up, once.

    0 where the whole part of the exponent is 16 or more. Never increases with d, and is 2**15 for d = 0.
    """
    return _every_exp2(rom.name).take(np.asarray(d), mode="clip")


@cache
def _every_exp2(name: str) -> Int64:
    """`exp2_negative` of every d up to the first that gives 0: a look-up is several times faster than the steps below."""
    d = np.arange((PROBABILITY_BITS + 1) << FRACTION_BITS)
    values = np.array(exp2_of(name).rom.values, np.int64)
    return np.append(_fraction_power(values, d >> FRACTION_BITS, d & ((1 << FRACTION_BITS) - 1)), 0)


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
    return requantize(acc, row_multiplier, row_shift, low, high)


def sum_bits(terms: int, where: str) -> int:
    """Unsigned width of a sum of `terms` probabilities."""
    if terms > MAX_TERMS:
        raise OverflowRiskError(f"{where}: a softmax over {terms} values, at most {MAX_TERMS} are supported")
    return (terms << PROBABILITY_BITS).bit_length()
