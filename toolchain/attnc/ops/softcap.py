"""Soft-capping of attention scores, cap * tanh(score / cap), in integers; mirrors attnc/softcap.hpp name for name.

The accumulator is rescaled to u = score / cap with SOFTCAP_BITS = 17 fractional bits, saturated to +-8; tanh is odd and linear between
steps of 1/64 (chords of a ROM of 513 values with 16 fractional bits); the chord is exact and rescaled once to the log2 domain.
Error: tanh at most SOFTCAP_ERROR = 3.2e-5 (chord 2.4e-5, ROM 7.6e-6), so cap * 3.2e-5 in natural units; u adds cap * 2**-18, the
result half a unit of t.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from attnc.fixedpoint import MULTIPLIER_BITS, Int64, quantize_multiplier, requantize
from attnc.kernels.ports import IntType, Table
from attnc.ops.exponential import FRACTION_BITS, LOG2_E, SCORE_LIMIT

SOFTCAP_BITS = 17
SOFTCAP_LIMIT_BITS = 3
SOFTCAP_SEGMENT_BITS = 6
SOFTCAP_VALUE_BITS = 16
SOFTCAP_LIMIT = (1 << (SOFTCAP_BITS + SOFTCAP_LIMIT_BITS)) - 1
SOFTCAP_ERROR = 3.2e-5
REST_BITS = SOFTCAP_BITS - SOFTCAP_SEGMENT_BITS


def softcap_values() -> tuple[int, ...]:
    """tanh(i / 64) for i = 0..512 with 16 fractional bits."""
    segments = np.arange((1 << (SOFTCAP_LIMIT_BITS + SOFTCAP_SEGMENT_BITS)) + 1)
    return tuple(int(x) for x in np.floor(np.tanh(segments / (1 << SOFTCAP_SEGMENT_BITS)) * (1 << SOFTCAP_VALUE_BITS) + 0.5))


SOFTCAP_ROM = Table("softcap_rom", IntType(SOFTCAP_VALUE_BITS + 1, signed=False), softcap_values())
NO_SOFTCAP = Table("no_softcap", IntType(8), (0,))
"""Stands for the ROM in engines that cap nothing."""
_ROM = np.array(SOFTCAP_ROM.values, np.int64)


def argument_multiplier(factor: float, cap: float) -> tuple[int, int]:
    """(multiplier, shift) from accumulated integers to u, for natural-unit scores of `factor` per integer."""
    multiplier, shift = quantize_multiplier(min(abs(factor) / cap * (1 << SOFTCAP_BITS), (1 << MULTIPLIER_BITS) - 1.0))
    return int(math.copysign(1, factor)) * int(multiplier), int(shift)


def cap_multiplier(cap: float) -> tuple[int, int]:
    """(multiplier, shift) from the chord to t."""
    multiplier, shift = quantize_multiplier(cap * LOG2_E * 2.0 ** (FRACTION_BITS - SOFTCAP_VALUE_BITS - REST_BITS))
    return int(multiplier), int(shift)


def softcap_argument(acc: npt.ArrayLike, multiplier: int, shift: int) -> Int64:
    """u of accumulated integers, rounded half up, saturated."""
    return requantize(acc, multiplier, shift, -SOFTCAP_LIMIT, SOFTCAP_LIMIT)


def softcap(u: npt.ArrayLike, multiplier: int, shift: int) -> Int64:
    """t = cap * tanh(u), rounded half up once."""
    u = np.asarray(u, np.int64)
    magnitude = np.abs(u)
    segment, rest = magnitude >> REST_BITS, magnitude & ((1 << REST_BITS) - 1)
    low = _ROM[segment]
    chord = (low << REST_BITS) + (_ROM[segment + 1] - low) * rest
    return requantize(np.where(u < 0, -chord, chord), multiplier, shift, -SCORE_LIMIT, SCORE_LIMIT)
