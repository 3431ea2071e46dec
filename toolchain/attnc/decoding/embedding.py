"""What the host does with a token before the device sees it, as tables: a row for each token, and one for each position where rows depend
on that. The board then needs no other runtime than arrays.

Requires the part of the model before the device to give each token its own row; ensures the device's inputs are the sum of two rows. Where
positions add nothing, rows are the device's integers; else they are floats, rounded once after the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attnc.arrays import Array
from attnc.errors import UnsupportedError
from attnc.ir import TensorType
from attnc.model import Model
from attnc.quant.samples import Edge

NEAR = 1e-5
"""Of the largest number: how far float32 may be off a sum of two rows."""


@dataclass(frozen=True)
class Embedding:
    """`tokens` [vocabulary, channels]: integers of the device as memory holds them, or float32 where `positions` [length, channels] are
    to be added."""

    tokens: Array
    positions: Array | None

    def rows(self, ids: Array, position: int, type_: TensorType) -> Array:
        """Integers of the device [tokens, channels] for tokens from `position` on."""
        if self.positions is None:
            return type_.from_memory(self.tokens[ids])
        real = self.tokens[ids].astype(np.float64) + self.positions[position : position + len(ids)]
        return type_.quantize(real)


def embedding(model: Model, vocabulary: int) -> Embedding:
    """Those of a decoder over sequences, whose only input is its tokens; its graph is quantized."""
    (feed,), (spec,) = model.feeds, model.inputs
    edge, length = Edge(model), spec.shape[-1]

    def rows(ids: Array) -> Array:
        found = edge.feed({spec.name: ids.reshape(spec.shape).astype(spec.dtype)})
        return next(iter(found.values()))[0]

    still = rows(np.zeros(length, np.int64))
    positions, type_ = still - still[:1], model.graph.type(feed.value)
    moved = bool(np.any(positions))
    rng = np.random.default_rng(0)
    for _ in range(2):
        ids, order = rng.integers(0, vocabulary, length), rng.permutation(length)
        real, near = rows(ids), np.empty_like(positions)
        near[order] = rows(ids[order]) - positions  # a row is that of its token, wherever and among whom it stands
        near += positions
        if not np.allclose(real, near, rtol=0, atol=NEAR * float(np.abs(real).max()) if moved else 0):
            raise UnsupportedError(feed.tensor, "the host's part", "it does not give each token a row of its own, which decoding needs")

    def kept(real: Array) -> Array:
        return real.astype(np.float32) if moved else type_.to_memory(type_.quantize(real))

    tokens = np.concatenate([kept(rows(ids)[:count] - positions[:count]) for ids, count in _all(vocabulary, length)])
    return Embedding(tokens, positions.astype(np.float32) if moved else None)


def _all(vocabulary: int, length: int) -> Iterator[tuple[Array, int]]:
    """Every token, `length` at a time; how many of them count."""
    for start in range(0, vocabulary, length):
        ids = np.arange(start, start + length)
        yield np.minimum(ids, vocabulary - 1), min(length, vocabulary - start)
