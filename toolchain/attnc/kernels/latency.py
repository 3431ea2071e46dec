"""Cycles from operands to results of what an iteration does, in register stages at 250 to 300 MHz: the parts of `Loop.depth`.

None is measured: each is what the primitive needs with the registers that a tool puts there at such a clock.
"""

from __future__ import annotations

READ = WRITE = 1
"""A FIFO, or a register that chooses."""
BRAM = 2
"""Address to data of a block memory with an output register."""
LUTRAM = 1
MULTIPLY = 3
"""A DSP48E2 with its input, product and output registers."""
WIDE_MULTIPLY = 5
"""A product of two or four DSPs in a cascade."""
TREE = 5
"""Adding up to 32 lanes, one level of additions per stage."""
ADD = SHIFT = CLAMP = COMPARE = 1
REQUANTIZE = WIDE_MULTIPLY + ADD + SHIFT + CLAMP
EXP2 = ADD + BRAM + MULTIPLY + SHIFT
"""A subtraction, a ROM of chords, a product, a shift."""
DIVIDE = 36
"""A pipelined divider: a bit of the quotient per stage, and its rounding."""
MEMORY = 1
"""To or from the adapter of a memory port; what the memory takes comes on top."""

READ_LATENCY = 60
"""From a request of memory to its first word (about 200 ns through an HP port at 250 MHz)."""
WRITE_RESPONSE = 30
"""From the last word written to the answer."""
