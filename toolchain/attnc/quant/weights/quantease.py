"""quantease: cyclic coordinate descent on ||X W^T - X Q^T||^2 (arXiv 2309.01885).

With S the damped gram of the inputs, the best value of column j while all others stay is
b_j = q_j + [(W - Q) S]_j / S[j, j], and the best grid point is the one nearest to it: no step can increase the loss. Starts from the
integers of gptq or those of mse, whichever lose less, so that the result is never worse than either; their common scales stay. Planes
of -1 and 1 start from the codes and scales of binary; their grid points are the signed sums of the scales.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from attnc.arrays import Array
from attnc.quant.weights.binary import binary
from attnc.quant.weights.gptq import gptq
from attnc.quant.weights.grid import damped, nearest, output_error, spread
from attnc.quant.weights.mse import mse
from attnc.weights import QuantizedWeight, WeightFormat

SWEEPS = 20
BLOCK = 64
"""Columns whose changes are gathered before the rest sees them, as one matrix product."""
ENOUGH = 1e-3
"""A sweep that lowers the loss by less than this part ends the descent."""

Rounding = Callable[[int, Array], Array]
"""Column j and real values [N] to the grid points [N] nearest to them."""


def quantease(weight: Array, format: WeightFormat, gram: Array | None, name: str) -> QuantizedWeight:
    """`weight` [N, K] against `gram` [K, K]."""
    assert gram is not None, "the registry asks for it"
    metric = damped(gram)
    methods = (binary,) if format.kind == "binary" else (gptq, mse)
    start = min((method(weight, format, gram, name) for method in methods), key=lambda found: output_error(weight, found, metric))
    if format.kind == "binary":
        grid = _PlaneGrid(start.scale, weight.shape[1])
        real, _ = descend(weight, start.dequantize(), grid.nearest, metric)
        q = grid.planes(real)
    else:
        step = spread(start.scale, weight.shape[1])
        real, _ = descend(weight, start.dequantize(), even_grid(step, format.limit), metric)
        q = np.rint(real / step).astype(np.int8)
    return QuantizedWeight(format, q, start.unit, start.multiplier)


def even_grid(step: Array, limit: int) -> Rounding:
    """Multiples of `step` [N, K] up to `limit`."""
    step = np.ascontiguousarray(step.T)
    return lambda j, value: nearest(value, step[j], limit) * step[j]


class _PlaneGrid:
    """Signed sums of the scales [planes, N, groups] of K columns."""

    def __init__(self, scale: Array, columns: int) -> None:
        self.size = columns // scale.shape[-1]
        self.signs = np.array(list(product((-1, 1), repeat=len(scale))), np.int8)
        levels = np.einsum("lp,png->gln", self.signs, scale)
        self.order = np.argsort(levels, axis=1, kind="stable")
        self.levels = np.take_along_axis(levels, self.order, axis=1)
        self.borders = (self.levels[:, 1:] + self.levels[:, :-1]) / 2

    def _index(self, j: int, value: Array) -> Array:
        return (value > self.borders[j // self.size]).sum(axis=0)[None]

    def nearest(self, j: int, value: Array) -> Array:
        """As `Rounding`."""
        return np.take_along_axis(self.levels[j // self.size], self._index(j, value), axis=0)[0]

    def planes(self, real: Array) -> Array:
        """The signs [planes, N, K] of grid points [N, K]."""
        codes = [np.take_along_axis(self.order[j // self.size], self._index(j, value), axis=0)[0] for j, value in enumerate(real.T)]
        return np.ascontiguousarray(self.signs[np.stack(codes, axis=1)].transpose(2, 0, 1))


def descend(weight: Array, start: Array, rounding: Rounding, gram: Array, sweeps: int = SWEEPS) -> tuple[Array, list[float]]:
    """Grid points Q [N, K] after at most `sweeps` sweeps from `start`, and the loss tr((W - Q) S (W - Q)^T) before and after each."""
    target, q = np.ascontiguousarray(weight.T), np.array(start.T, order="C")
    pull = gram @ (target - q)
    losses = [float(((target - q) * pull).sum())]
    for _ in range(sweeps):
        before = q.copy()
        _sweep(q, rounding, gram, pull)
        if np.array_equal(before, q):
            break
        pull = gram @ (target - q)
        losses.append(float(((target - q) * pull).sum()))
        if losses[-1] > losses[-2] * (1 - ENOUGH):
            break
    return np.ascontiguousarray(q.T), losses


def _sweep(q: Array, rounding: Rounding, gram: Array, pull: Array) -> None:
    """One pass over the columns; `q` and `pull` = S (W - Q)^T are [K, N] and change in place."""
    for start in range(0, len(q), BLOCK):
        block = slice(start, min(start + BLOCK, len(q)))
        local, before = pull[block], q[block].copy()
        for j in range(block.start, block.stop):
            best = rounding(j, q[j] + pull[j] / gram[j, j])
            local -= np.outer(gram[block, j], best - q[j])
            q[j] = best
        moved = q[block] - before
        pull[: block.start] -= gram[: block.start, block] @ moved
        pull[block.stop :] -= gram[block.stop :, block] @ moved
