"""Widths of the numbers that kernels hand on, and sizes of their records: what headers, golden and packing agree on."""

from __future__ import annotations

from attnc.fixedpoint import MULTIPLIER_BITS

PROBABILITY_BITS = 15
"""1.0 is 2**15: a probability takes 16 bits, unsigned."""
SCORE_BITS = 24
SCORE_FRACTION_BITS = 10
SHIFT_BITS = 6
QUOTIENT_BITS = MULTIPLIER_BITS + 1
"""Of the quotient of a division by a sum of probabilities."""
RECORD_BYTES = 8
"""Bias, multiplier and shift of an output channel of a product."""
ACTIVATION_BITS = 16
"""Of the elements of streams between kernels."""
