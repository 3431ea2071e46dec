"""gptq: columns are rounded one after the other, and the error of each goes to those that are still free (arXiv 2210.17323).

With H = L L^T the damped gram of the inputs, a row's loss is sum_j (sum_{k >= j} L[k, j] e_k)^2 over its errors e = w - q. From the last
column to the first, w_j plus what the errors of the columns behind it ask for, sum_{k > j} L[k, j] / L[j, j] e_k, is rounded: Babai's
nearest plane, which makes the same integers as the propagation of errors through the inverse of H (arXiv 2507.18553) and inverts nothing.
Columns go from the input that matters most to the one that matters least. Scales are fixed up-front (those of mse): groups of a
channel share a unit, which is only known when all of its scales are.
"""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.quant.weights.grid import damped, nearest, snapped, spread
from attnc.quant.weights.mse import best_scales
from attnc.weights import QuantizedWeight, WeightFormat

BLOCK = 32
"""Columns that take the errors behind them as one matrix product, and those among themselves one by one."""


def gptq(weight: Array, format: WeightFormat, gram: Array | None, name: str, by_importance: bool = True) -> QuantizedWeight:
    """`weight` [N, K] against `gram` [K, K]; `by_importance` False keeps the columns in their order."""
    assert gram is not None, "the registry asks for it"
    unit, multiplier = snapped(best_scales(weight, format, gram))
    step = spread(unit[:, None] * multiplier, weight.shape[1])
    return QuantizedWeight(format, feed_back(weight, step, format.limit, damped(gram), by_importance), unit, multiplier)


def feed_back(weight: Array, step: Array, limit: int, hessian: Array, by_importance: bool = True) -> Array:
    """Integers [N, K] (int8) of `weight` on the grid of `step` [N, K], against `hessian` [K, K]."""
    importance = np.diag(hessian)
    order = np.argsort(-importance, kind="stable")[::-1] if by_importance else np.arange(len(hessian))[::-1]
    q = np.empty(weight.shape, np.int8)
    factor = lower_factor(hessian[np.ix_(order, order)])
    q[:, order] = _nearest_plane(weight[:, order].T, step[:, order].T, factor, limit).T
    return q


def lower_factor(hessian: Array) -> Array:
    """Lower triangular L [K, K] with L L^T = hessian. A hessian that is not definite is damped until it is."""
    extra = 0.0
    while True:
        try:
            return np.linalg.cholesky(hessian + extra * np.eye(len(hessian)))
        except np.linalg.LinAlgError:
            extra = max(1e-6, extra * 10)


def _nearest_plane(weight: Array, step: Array, factor: Array, limit: int) -> Array:
    """Integers [K, N] of `weight` and `step` [K, N] (a column of the layer is a row here, contiguous in memory), last row first."""
    weight, step = np.ascontiguousarray(weight), np.ascontiguousarray(step)
    repay = np.ascontiguousarray((factor / np.diag(factor)).T)
    q, errors = np.empty(weight.shape), np.empty(weight.shape)
    for stop in range(len(weight), 0, -BLOCK):
        start = max(stop - BLOCK, 0)
        wanted = weight[start:stop] + repay[start:stop, stop:] @ errors[stop:]
        for j in range(stop - 1, start - 1, -1):
            q[j] = nearest(wanted[j - start] + repay[j, j + 1 : stop] @ errors[j + 1 : stop], step[j], limit)
            errors[j] = weight[j] - step[j] * q[j]
    return q
