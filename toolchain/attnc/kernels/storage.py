"""What a memory inside a kernel takes, in each kind of memory that the device has."""

from __future__ import annotations

import math
from dataclasses import replace

from attnc.kernels.resources import Memory, Resources

LUTRAM_DEPTH = 64
"""Up to this depth a memory is distributed RAM unless the schedule says otherwise: a LUT holds 64 bits of a single-port memory (UG574)."""
KINDS = ("lutram", "bram", "uram")


def usual_kind(memory: Memory) -> str:
    """Where a memory lies when nothing is short."""
    return memory.kind or ("lutram" if memory.depth <= LUTRAM_DEPTH else "bram")


def memory_cost(memory: Memory, kind: str) -> Resources:
    """A memory in LUTs (64 bits each, and a register per output bit), in blocks of 18 Kbit (halves of a 36-Kbit block, each
    512 x 36, 1024 x 18 or 2048 x 9, UG573), or in URAM (4096 x 72, UG573; the width is what is wasted, so it suits deep ones)."""
    depth, width, banks = memory.depth, memory.width, memory.banks
    if kind == "lutram":
        return Resources(lut=banks * width * math.ceil(depth / LUTRAM_DEPTH), ff=banks * width)
    if kind == "uram":
        return Resources(uram=banks * math.ceil(depth / 4096) * math.ceil(width / 72))
    halves = min(math.ceil(depth / words) * math.ceil(width / bits) for words, bits in ((512, 36), (1024, 18), (2048, 9)))
    return Resources(bram36=banks * halves / 2)


def stored(memory: Memory) -> Resources:
    """A memory in its usual kind; the planner may place one with a name elsewhere."""
    cost = memory_cost(memory, usual_kind(memory))
    return replace(cost, memories=(memory,)) if memory.name else cost


def storage(depth: int, width: int, banks: int = 1) -> Resources:
    """A memory of `banks` times `depth` words of `width` bits in its usual kind."""
    return stored(Memory("", depth, width, banks))


SHALLOW = 32
"""Elements that a FIFO of shift registers holds."""


def fifo(bits: int, depth: int = SHALLOW) -> Resources:
    """A FIFO of up to 32 elements is shift registers, a LUT per bit, or per 2 bits of up to 16 elements (UG574); a deeper one lies in block
    memory, between counters."""
    if depth <= SHALLOW:
        return Resources(lut=bits if depth > SHALLOW // 2 else math.ceil(bits / 2), ff=bits)
    return Resources(lut=60, ff=60) + memory_cost(Memory("", depth, bits), "bram")
