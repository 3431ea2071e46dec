"""mse: per group the scale with the least squared error of its weights, each weighted by how much its input matters.

A grid of -1, 0, 1 is solved exactly: whatever the scale s, the weights that round to +-1 are those of magnitude above s/2, so the
best set is one of the prefixes of the sorted magnitudes. Finer grids are searched over clipping points, then scale and rounding
alternate (the best scale for given integers is a least-squares fit), which never increases the error.
"""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.quant.weights.grid import TINY, blocks, grouped, importance, on_grid
from attnc.weights import QuantizedWeight, WeightFormat

CLIPS = np.geomspace(0.1, 1.0, 48)
"""Clipping points that are tried, as parts of the largest magnitude."""
REFITS = 4


def mse(weight: Array, format: WeightFormat, gram: Array | None, name: str) -> QuantizedWeight:
    """`weight` [N, K] with the scales of `best_scales`, weighted by the diagonal of `gram` [K, K]."""
    return on_grid(weight, format, best_scales(weight, format, gram))


def best_scales(weight: Array, format: WeightFormat, gram: Array | None) -> Array:
    """Scale per group [N, groups] that minimises sum_k gram[k, k] (w_k - s q_k)^2, before snapping."""
    groups = np.abs(grouped(weight, format))
    n, count, size = groups.shape
    counts = np.broadcast_to(grouped(importance(gram, weight.shape[1]), format), groups.shape).reshape(-1, size)
    flat = groups.reshape(-1, size)
    peak = flat.max(axis=1)
    usable = np.where(peak < TINY, 1.0, peak)
    search = _ternary_scale if format.limit == 1 else _searched_scale
    found = np.empty(len(flat))
    for rows in blocks(len(flat), size):
        found[rows] = search(flat[rows] / usable[rows, None], counts[rows], format.limit)
    return (found * np.where(peak < TINY, 0.0, peak)).reshape(n, count)


def _ternary_scale(magnitude: Array, counts: Array, limit: int) -> Array:
    """Of [M, size]: with the k largest at +-1, s = sum c m / sum c and the error falls by (sum c m)^2 / sum c."""
    order = np.argsort(-magnitude, axis=1, kind="stable")
    counts = np.take_along_axis(counts, order, axis=1)
    total = np.cumsum(counts * np.take_along_axis(magnitude, order, axis=1), axis=1)
    size = np.cumsum(counts, axis=1)
    best = np.argmax(total * total / size, axis=1)[:, None]
    return (np.take_along_axis(total, best, axis=1) / np.take_along_axis(size, best, axis=1))[:, 0]


def _searched_scale(magnitude: Array, counts: Array, limit: int) -> Array:
    """Of [M, size], the largest magnitude 1: the best clipping point, then REFITS alternations."""
    m, c = magnitude.astype(np.float32), counts.astype(np.float32)
    best, least = np.full(len(m), 1 / limit), np.full(len(m), np.inf)
    for clip in CLIPS[::-1]:
        error = _errors(m, c, np.full(len(m), clip / limit), limit)[0]
        better = error < least
        best, least = np.where(better, clip / limit, best), np.where(better, error, least)
    candidate = best
    for _ in range(REFITS):
        _, q = _errors(m, c, candidate, limit)
        weight = np.einsum("ij,ij,ij->i", c, q, q).astype(np.float64)
        fitted = np.einsum("ij,ij,ij->i", c, q, m).astype(np.float64) / np.where(weight > 0, weight, 1.0)
        candidate = np.where(fitted > 0, fitted, candidate)
        error = _errors(m, c, candidate, limit)[0]
        better = error < least
        best, least = np.where(better, candidate, best), np.where(better, error, least)
    return best


def _errors(magnitude: Array, counts: Array, scale: Array, limit: int) -> tuple[Array, Array]:
    """Weighted squared error per group [M], and the integers [M, size], of non-negative weights."""
    s = scale.astype(np.float32)[:, None]
    q = np.minimum(np.rint(magnitude * (1 / s)), np.float32(limit))
    noise = q * s - magnitude
    return np.einsum("ij,ij,ij->i", counts, noise, noise), q
