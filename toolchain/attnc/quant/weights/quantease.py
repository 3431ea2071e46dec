"""quantease: cyclic coordinate descent on ||X W^T - X Q^T||^2 (arXiv 2309.01885).

With S the damped gram of the inputs, the best value of column j while all others stay is
b_j = q_j + [(W - Q) S]_j / S[j, j], and the best grid point is the one nearest to it: no step can increase the loss. Every row starts
from the integers of gptq or those of mse, whichever lose less, so that the result is never worse than either; their common scales stay.
Planes of -1 and 1 start from the codes and scales of binary; their grid points are the signed sums of the scales.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from attnc.arrays import Array
from attnc.quant.weights.binary import binary
from attnc.quant.weights.gptq import feed_back
from attnc.quant.weights.grid import damped, nearest, snapped, spread
from attnc.quant.weights.mse import best_scales
from attnc.weights import QuantizedWeight, WeightFormat

SWEEPS = 20
BLOCK = 32
"""Columns that see the changes of all others as one matrix product, and those among themselves one by one."""
ENOUGH = 1e-3
"""A sweep that lowers the loss by less than this part ends the descent."""

Rounding = Callable[[int, Array], Array]
"""Column j and real values [N] to the grid points [N] nearest to them."""


def quantease(weight: Array, format: WeightFormat, gram: Array | None, name: str) -> QuantizedWeight:
    """`weight` [N, K] against `gram` [K, K]."""
    assert gram is not None, "the registry asks for it"
    metric = damped(gram)
    if format.kind == "binary":
        start = binary(weight, format, gram, name)
        grid = _PlaneGrid(start.scale, weight.shape[1])
        real, _ = descend(weight, start.dequantize(), grid.nearest, metric)
        return QuantizedWeight(format, grid.planes(real), start.unit, start.multiplier)
    unit, multiplier = snapped(best_scales(weight, format, gram))
    step = spread(unit[:, None] * multiplier, weight.shape[1])
    real, _ = descend(weight, _better_start(weight, step, format.limit, metric), even_grid(step, format.limit), metric)
    return QuantizedWeight(format, np.rint(real / step).astype(np.int8), unit, multiplier)


def _better_start(weight: Array, step: Array, limit: int, metric: Array) -> Array:
    """Grid points [N, K] of `step` [N, K]: in every row those of gptq, or the nearest ones where these lose less."""
    repaid, plain = step * feed_back(weight, step, limit, metric), step * nearest(weight, step, limit)
    losses = [np.einsum("nk,nk->n", weight - real, (weight - real) @ metric) for real in (repaid, plain)]
    return np.where((losses[0] <= losses[1])[:, None], repaid, plain)


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
    q, error = np.array(start.T, order="C"), np.subtract(weight.T, start.T, order="C")
    losses = [float((error * (gram @ error)).sum())]
    for _ in range(sweeps):
        gain = _sweep(q, error, rounding, gram)
        if not gain > 0:
            break
        losses.append(losses[-1] - gain)
        if losses[-1] > losses[-2] * (1 - ENOUGH):
            break
    return np.ascontiguousarray(q.T), losses


def _sweep(q: Array, error: Array, rounding: Rounding, gram: Array) -> float:
    """One pass over the columns, and what it took off the loss; `q` and `error` = (W - Q)^T are [K, N] and change in place.

    A block of columns sees the changes of all others in one matrix product, and those of its own columns one by one."""
    gain = 0.0
    for start in range(0, len(q), BLOCK):
        block = slice(start, min(start + BLOCK, len(q)))
        pull, moved = gram[block] @ error, np.empty((block.stop - start, q.shape[1]))
        for j in range(start, block.stop):
            own = pull[j - start] - gram[j, start:j] @ moved[: j - start]
            best = rounding(j, q[j] + own / gram[j, j])
            change = moved[j - start] = best - q[j]
            gain += float((change * (2 * own - gram[j, j] * change)).sum())
            q[j] = best
        error[block] -= moved
    return gain
