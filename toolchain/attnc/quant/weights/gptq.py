"""gptq: columns are rounded one after the other, and the error of each goes to those that are still free (arXiv 2210.17323).

With H the damped gram of the inputs and H^-1 = U^T U (U upper triangular), the error e = (w_j - q_j) / U[j, j] of column j is
repaid by w_l -= e U[j, l] for all l > j. Columns go from the input that matters most to the one that matters least. Scales are
fixed up-front (those of mse): groups of a channel share a unit, which is only known when all of its scales are.
"""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.quant.weights.grid import damped, nearest, snapped, spread
from attnc.quant.weights.mse import best_scales
from attnc.weights import QuantizedWeight, WeightFormat

BLOCK = 128
"""Columns whose corrections are gathered before the rest sees them, as one matrix product."""


def gptq(weight: Array, format: WeightFormat, gram: Array | None, name: str, by_importance: bool = True) -> QuantizedWeight:
    """`weight` [N, K] against `gram` [K, K]; `by_importance` False keeps the columns in their order."""
    assert gram is not None, "the registry asks for it"
    hessian = damped(gram)
    unit, multiplier = snapped(best_scales(weight, format, gram))
    step = spread(unit[:, None] * multiplier, weight.shape[1])
    order = np.argsort(-np.diag(hessian), kind="stable") if by_importance else np.arange(len(hessian))
    q = np.empty(weight.shape, np.int8)
    factor = inverse_factor(hessian[np.ix_(order, order)])
    q[:, order] = _propagate(weight[:, order].T, step[:, order].T, factor, format.limit).T
    return QuantizedWeight(format, q, unit, multiplier)


def inverse_factor(hessian: Array) -> Array:
    """Upper triangular U [K, K] with U^T U = hessian^-1. A hessian that is not definite is damped until it is.

    hessian = R R^T with R upper triangular (a Cholesky factor from the last column up), so U = R^-1.
    """
    k = len(hessian)
    extra = 0.0
    while True:
        try:
            lower = np.linalg.cholesky(hessian[::-1, ::-1] + extra * np.eye(k))
            return np.triu(np.linalg.inv(lower[::-1, ::-1]))
        except np.linalg.LinAlgError:
            extra = max(1e-6, extra * 10)


def _propagate(weight: Array, step: Array, factor: Array, limit: int) -> Array:
    """Integers [K, N] of `weight` and `step` [K, N] (a column of the layer is a row here, contiguous in memory)."""
    left, q = np.array(weight, order="C"), np.empty(weight.shape)
    step = np.ascontiguousarray(step)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = np.empty((stop - start, left.shape[1]))
        for j in range(start, stop):
            q[j] = nearest(left[j], step[j], limit)
            error = (left[j] - step[j] * q[j]) / factor[j, j]
            left[j + 1 : stop] -= np.outer(factor[j, j + 1 : stop], error)
            errors[j - start] = error
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return q
