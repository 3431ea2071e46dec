"""Rotary embeddings with tables of cosines and sines [positions, pairs]."""

from __future__ import annotations

import numpy as np

from attnc.frontend.fused.spelling import Spelling


def rotary_embedding(s: Spelling) -> None:
    """Of [B, T, C] or [B, heads, T, D]; positions are [B, T], or the first one of all rows."""
    x, positions, cos, sin = (s.given(index) for index in range(4))
    if s.attribute("is_packed_batching", 0):
        s.refuse("samples of several lengths packed behind each other (is_packed_batching) are not supported")
    if float(s.attribute("scale", 1.0)) not in (0.0, 1.0):
        s.refuse("a scale of its own is not supported")
    shape, pairs = s.shape(x), s.shape(cos)[-1]
    flat = len(shape) == 3
    heads = int(s.attribute("num_heads", 0)) or (shape[-1] // (2 * pairs) if flat else shape[1])
    tokens = shape[1] if flat else shape[2]
    if len(s.shape(positions)) < 2:
        positions = s("Add", positions, np.arange(tokens)[None])
    split = s("Transpose", s("Reshape", x, np.array([0, 0, heads, shape[-1] // heads])), perm=[0, 2, 1, 3]) if flat else x
    size = shape[-1] // heads if flat else shape[-1]
    dims = int(s.attribute("rotary_embedding_dim", 0)) or 2 * pairs
    turned = rotate(s, split, size, (s("Gather", cos, positions), s("Gather", sin, positions)), dims, bool(s.attribute("interleaved", 0)))
    s.result(0, s("Reshape", s("Transpose", turned, perm=[0, 2, 1, 3]), np.array([0, 0, shape[-1]])) if flat else turned)


def rotate(s: Spelling, x: str, size: int, angles: tuple[str, str], dims: int, interleaved: bool) -> str:
    """x [B, heads, T, size] with the first `dims` channels turned by the angles whose cosines and sines [B, T, dims / 2] are given.

    Written as x c + p d, where p are the channels of x with the two of each pair exchanged: each of its own cosine, and of a sine that
    is negative for the first of a pair; a channel that passes has 1 and 0.
    """
    pairs = dims // 2
    first = np.arange(0, dims, 2) if interleaved else np.arange(pairs)
    second = first + (1 if interleaved else pairs)
    partner = np.arange(size)
    partner[first], partner[second] = second, first
    own = np.full(size, pairs)
    own[first] = own[second] = np.arange(pairs)
    sign = np.zeros(size, np.float32)
    sign[first], sign[second] = -1, 1
    cos, sin = (_spread(s, table, own, pairs) for table in angles)
    passing = np.where(sign == 0, 1, 0).astype(np.float32)
    cos = s("Add", s("Mul", cos, np.abs(sign)), passing) if dims < size else cos
    exchanged = s("Gather", x, partner, axis=-1)
    return s("Add", s("Mul", x, cos), s("Mul", exchanged, s("Mul", sin, sign)))


def _spread(s: Spelling, table: str, own: np.ndarray, pairs: int) -> str:
    """[B, T, pairs] as [B, 1, T, size]; where a channel passes, any number."""
    return s("Gather", s("Unsqueeze", table, np.array([1])), np.minimum(own, pairs - 1), axis=-1)
