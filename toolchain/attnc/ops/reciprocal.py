"""reciprocal: 1/v of positive integers as mantissa * 2**-(17 + exponent), by a table and a Newton step. Mirrors attnc/reciprocal.hpp.

Method   v = m * 2**exponent with m in [1, 2), truncated to 24 fraction bits; a start value from a ROM of 128 segments of 1/128
         (12 fraction bits), then one Newton step y(2 - m*y), rounded half up to 17 bits.
Error    relative, below 2.1e-5: 1.7e-5 from the step (the square of the start's error, which is up to 4.1e-3 with its rounding),
         up to 2**-17 from the rounding, mostly against it. Chords of 64 segments, as many words of ROM, leave 6.0e-5.

`softmax_scale_newton` does what `softmax_scale` of exponential.py does by division: `DIVISIONS` lists both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnc.fixedpoint import Int64, bit_length, clamp, shift_round_half_up
from attnc.kernels.ports import IntType, Table
from attnc.kernels.resources import Resources
from attnc.ops.approximation import Implementation
from attnc.ops.exponential import softmax_scale

SEGMENT_BITS = 7
SEGMENTS = 1 << SEGMENT_BITS
START_BITS = 12
FRACTION_BITS = 24
MANTISSA_BITS = 17


def _start_values() -> tuple[int, ...]:
    """Per segment [a, b) the value with equal relative errors at both ends: 2 / (a + b)."""
    edges = 1 + np.arange(SEGMENTS + 1) / SEGMENTS
    return tuple(int(v) for v in np.rint((1 << START_BITS) * 2 / (edges[:-1] + edges[1:])))


RECIPROCAL_TABLE = Table("reciprocal_start", IntType(START_BITS, signed=False), _start_values())
DIVIDE_TABLE = Table("reciprocal_divide", IntType(1, signed=False), (0,))
"""A ROM of one entry stands for a divider."""


def reciprocal(v: npt.ArrayLike) -> tuple[Int64, Int64]:
    """Mantissa in [2**16, 2**17) and exponent for each v in [1, 2**62)."""
    v = np.asarray(v, np.int64)
    exponent = bit_length(v) - 1
    left = FRACTION_BITS - exponent
    m = np.where(left >= 0, v << np.maximum(left, 0), v >> np.maximum(-left, 0))
    start = np.asarray(RECIPROCAL_TABLE.values, np.int64)[(m >> (FRACTION_BITS - SEGMENT_BITS)) - SEGMENTS]
    correction = ((np.int64(2) << (FRACTION_BITS + START_BITS)) - m * start) >> START_BITS
    result = shift_round_half_up(start * correction, START_BITS + FRACTION_BITS - MANTISSA_BITS)
    return clamp(result, 1 << (MANTISSA_BITS - 1), (1 << MANTISSA_BITS) - 1), exponent


def softmax_scale_newton(total: npt.ArrayLike, multiplier: int, shift: int) -> tuple[Int64, Int64]:
    """(multiplier, shift) that divide by `total` and rescale by multiplier / 2**shift, as `softmax_scale`; relative error 3.6e-5:
    the reciprocal's, and a product rounded half up to 15 to 17 bits."""
    total = np.asarray(total, np.int64)
    mantissa, exponent = reciprocal(np.maximum(total, 1))
    product = shift_round_half_up(multiplier * mantissa, MANTISSA_BITS)
    return np.where(total == 0, 0, product), exponent + shift


@dataclass(frozen=True)
class Division(Implementation):
    """How a row is divided by its sum: the ROM chooses in the kernel. `lane` is what the one divider of an engine takes, `error` is
    relative."""

    rom: Table = DIVIDE_TABLE
    scale: Callable[[npt.ArrayLike, int, int], tuple[Int64, Int64]] = softmax_scale


DIVISIONS: dict[str, Division] = {
    choice.name: choice
    for choice in (
        # A pipelined 33-by-17-bit divider: a subtraction of 18 bits per quotient bit.
        Division("divide", 3.1e-5, 0, Resources(lut=33 * 18, ff=2 * 33 * 18)),
        Division(
            "newton",
            3.6e-5,
            SEGMENTS * START_BITS,
            Resources(lut=2 * START_BITS + 120, ff=260, dsp=3),
            RECIPROCAL_TABLE,
            softmax_scale_newton,
        ),
    )
}
