"""Caches of two precisions, as golden and reference see them: attention reads what it is given in bytes, or what is left of that in 4 bits.

A sequence is cut into chunks of `cache_chunk` tokens. A query sees keys and values of the first chunk, of the chunk before its own and of
its own in bytes, those of all others in 4 bits: which it is depends on the places of query and key alone, so any blocks give the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from attnc.arrays import Array
from attnc.ir import Node, TensorType

LOW_BITS = 4
STEP = 16
"""Steps of a byte that are one of 4 bits."""


def low_type(type_: TensorType) -> TensorType:
    """Of the elements of 4 bits that keys and values of this type become."""
    return TensorType(LOW_BITS, True, type_.scale * STEP)


def in_4_bits(q: Array) -> Array:
    """Bytes that went through 4 bits: rounded half up to a multiple of 16, from -8 to 7 of them."""
    codes = np.clip((q.astype(np.int16) + STEP // 2) >> 4, -8, 7)
    return (codes * STEP).astype(q.dtype)


def operands_seen(node: Node, queries: int, operands: Sequence[Array], low: Sequence[Array]) -> Iterator[tuple[slice, list[Array]]]:
    """Queries that see the same, and the `operands` [..., keys, channels] that they see; `low` are these in 4 bits, and the last query
    stands at the last key."""
    size, keys = node.attrs.get("cache_chunk", 0), operands[0].shape[-2]
    if not size:
        yield slice(None), list(operands)
        return
    chunk, first = np.arange(keys) // size, keys - queries
    for own in range(first // size, (keys - 1) // size + 1):
        rows = slice(max(own * size - first, 0), min((own + 1) * size, keys) - first)
        near = ((chunk == 0) | (chunk >= own - 1))[:, np.newaxis]
        yield rows, [np.where(near, high, less) for high, less in zip(operands, low, strict=True)]
