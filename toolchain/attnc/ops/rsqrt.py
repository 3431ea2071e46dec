"""rsqrt: 1/sqrt(v) of positive integers as mantissa * 2**-(17 + exponent). Mirrors attnc/rsqrt.hpp.

Method   v = m * 4**exponent with m in [1, 4), truncated to 24 fraction bits; a start value from a ROM of 384 segments of 1/128
         (12 fraction bits), then one Newton step y(3 - m*y*y)/2, rounded half up to 17 bits.
Error    relative, below 2**-16: 6.5e-6 from the step (1.5 e^2, e up to 2.1e-3), 2**-17 from the rounding. A ROM of 96 segments
         would leave 9e-5 after one step.
"""

from __future__ import annotations

import numpy as np

from attnc.fixedpoint import Int64, bit_length, clamp, shift_round_half_up
from attnc.kernels.ports import IntType, Table

SEGMENT_BITS = 7
SEGMENTS = 3 << SEGMENT_BITS
START_BITS = 12
FRACTION_BITS = 24
MANTISSA_BITS = 17


def _start_values() -> tuple[int, ...]:
    """Per segment [a, b) the value with equal relative errors at both ends: 2 / (sqrt(a) + sqrt(b))."""
    edges = np.sqrt(1 + np.arange(SEGMENTS + 1) / (1 << SEGMENT_BITS))
    return tuple(int(v) for v in np.rint((1 << START_BITS) * 2 / (edges[:-1] + edges[1:])))


RSQRT_TABLE = Table("rsqrt_start", IntType(START_BITS, signed=False), _start_values())


def rsqrt(v: Int64) -> tuple[Int64, Int64]:
    """Mantissa in [2**16, 2**17) and exponent for each v in [1, 2**62)."""
    exponent = (bit_length(v) - 1) >> 1
    left = FRACTION_BITS - 2 * exponent
    m = np.where(left >= 0, v << np.maximum(left, 0), v >> np.maximum(-left, 0))
    start = np.asarray(RSQRT_TABLE.values, np.int64)[(m >> (FRACTION_BITS - SEGMENT_BITS)) - (1 << SEGMENT_BITS)]
    scaled = m * start * start
    correction = ((np.int64(3) << 48) - scaled) >> 24
    result = shift_round_half_up(start * correction, START_BITS + FRACTION_BITS + 1 - MANTISSA_BITS)
    return clamp(result, 1 << (MANTISSA_BITS - 1), (1 << MANTISSA_BITS) - 1), exponent
