"""What a memory inside a kernel takes."""

from __future__ import annotations

import math

from attnc.ops.base import Resources

LUTRAM_DEPTH = 64
"""Up to this depth a memory is distributed RAM: a LUT holds 64 bits of a single-port memory (UG574)."""


def storage(depth: int, width: int, banks: int = 1) -> Resources:
    """A memory of `banks` times `depth` words of `width` bits: LUTs where it is shallow, else blocks of 18 Kbit (halves of a
    36-Kbit block), each 512 x 36, 1024 x 18 or 2048 x 9 (UG573)."""
    if depth <= LUTRAM_DEPTH:
        return Resources(lut=banks * width * math.ceil(depth / LUTRAM_DEPTH), ff=banks * width)
    halves = min(math.ceil(depth / words) * math.ceil(width / bits) for words, bits in ((512, 36), (1024, 18), (2048, 9)))
    return Resources(bram36=banks * halves / 2)


def wide_storage(depth: int, width: int, banks: int, uram: bool) -> Resources:
    """Deep memories in URAM, 4096 x 72 bits each (UG573), where the device has it and they fill at least an eighth of one."""
    if not uram or depth < 512:
        return storage(depth, width, banks)
    return Resources(uram=banks * math.ceil(depth / 4096) * math.ceil(width / 72))
