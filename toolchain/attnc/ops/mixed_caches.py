"""Caches of two precisions, as golden and reference see them: attention reads what it is given in bytes, or what is left of that in 4 bits.

A sequence is cut into chunks of `cache_chunk` tokens. A query sees keys and values of the first chunk, of the chunk before its own and of
its own in bytes, those of all others in 4 bits: which it is depends on the places of query and key alone, so any blocks give the same.
Where it looks at a window of tokens, which no first one stays in, those of the first chunk are as others.
Keys have 16 steps of a byte for one of 4 bits. Values are 4 bits times the largest magnitude of their token, a byte, over 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from attnc.arrays import Array
from attnc.fixedpoint import clamp, quantize_multiplier, shift_round_half_up
from attnc.ir import Node, TensorType
from attnc.ops.normalize_rows import reciprocal

LOW_BITS = 4
STEP = 16
"""Steps of a byte that are one of 4 bits."""
LIMIT, PEAK = 7, 127
SEVENTH = 9362
"""2**16 / 7."""


def low_type(type_: TensorType) -> TensorType:
    """Of the elements of 4 bits that keys and values of this type become."""
    return TensorType(LOW_BITS, True, type_.scale * STEP)


def in_4_bits(q: Array) -> Array:
    """Bytes that went through 4 bits: rounded half up to a multiple of 16, from -8 to 7 of them."""
    codes = np.clip((q.astype(np.int16) + STEP // 2) >> 4, -8, 7)
    return (codes * STEP).astype(q.dtype)


def by_token(q: Array) -> Array:
    """Bytes [..., tokens, channels] that went through 4 bits with a scale for each token: c * peak / 7, rounded half up, where row_absmax
    makes the peak, at most 127, and normalize_rows c."""
    wide = q.astype(np.int64)
    peak = np.minimum(np.abs(wide).max(axis=-1, keepdims=True), PEAK)
    factor, shift = reciprocal(peak, *map(int, quantize_multiplier(LIMIT)))
    codes = clamp(shift_round_half_up(wide * factor, shift), -LIMIT, LIMIT)
    # (peak * SEVENTH + 128) >> 8 is 256 peak / 7 but for 0.52, and what it does to the product less than 1/14, the least from a tie.
    return shift_round_half_up(codes * shift_round_half_up(peak * SEVENTH, 8), 8).astype(q.dtype)


def operands_seen(node: Node, queries: int, operands: Sequence[Array], low: Sequence[Array]) -> Iterator[tuple[slice, list[Array]]]:
    """Queries that see the same, and the `operands` [..., keys, channels] that they see; `low` are these in 4 bits, and the last query
    stands at the last key."""
    size, keys, window = node.attrs.get("cache_chunk", 0), operands[0].shape[-2], node.attrs.get("cache_window", 0)
    if not size:
        yield slice(None), list(operands)
        return
    chunk, first = np.arange(keys) // size, keys - queries
    for own in range(first // size, (keys - 1) // size + 1):
        rows = slice(max(own * size - first, 0), min((own + 1) * size, keys) - first)
        near = ((chunk == 0) & (not window) | (chunk >= own - 1))[:, np.newaxis]
        yield rows, [np.where(near, high, less) for high, less in zip(operands, low, strict=True)]
