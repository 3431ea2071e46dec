"""binary: weights as a sum of planes of -1 and 1, each with a scale, by alternating least squares (LUT-GEMM, arXiv 2206.09557).

Codes for given scales are the nearest of the 2^planes sums; scales for given codes are a least-squares fit. Neither step can increase
the error. Two planes are solved exactly: magnitudes then take one of two levels, and the best split is one of the sorted magnitudes.
More planes start from several places (planes fitted one after the other; an even grid, clipped by more or less), the best end wins.
Only magnitudes are coded, as the sums come in pairs of opposite sign. Errors are weighted by the diagonal of the gram.
"""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.quant.weights.grid import TINY, blocks, grouped, importance, snapped, spread
from attnc.weights import QuantizedWeight, WeightFormat

ITERATIONS = 15
CLIPS = (1.0, 0.7, 0.45)
"""Starts: even grids that reach this part of the largest magnitude."""


def binary(weight: Array, format: WeightFormat, gram: Array | None, name: str) -> QuantizedWeight:
    """`weight` [N, K] in `format.bits` planes; `gram` [K, K] weights the error of each input by its diagonal."""
    groups = np.abs(grouped(weight, format))
    n, count, size = groups.shape
    counts = np.broadcast_to(grouped(importance(gram, weight.shape[1]), format), groups.shape).reshape(-1, size)
    flat = groups.reshape(-1, size)
    peak = flat.max(axis=1)
    usable = np.where(peak < TINY, 1.0, peak)
    scales = np.empty((len(flat), format.bits))
    for rows in blocks(len(flat), size):
        scales[rows] = best_scales(flat[rows] / usable[rows, None], counts[rows], format.bits)
    scales *= np.where(peak < TINY, 0.0, peak)[:, None]
    return _coded(weight, format, scales.reshape(n, count, format.bits).transpose(2, 0, 1))


def _coded(weight: Array, format: WeightFormat, scale: Array) -> QuantizedWeight:
    """Snap `scale` [planes, N, groups], then give every weight its nearest code on what is left."""
    planes, n, count = scale.shape
    unit, flat = snapped(scale.transpose(1, 2, 0).reshape(n, count * planes))
    multiplier = flat.reshape(n, count, planes).transpose(2, 0, 1).copy()
    _silence(scale, multiplier)
    signs = patterns(planes)
    q = np.empty((planes, *weight.shape), np.int8)
    for rows in blocks(*weight.shape):
        levels = np.einsum("lp,png->lng", signs, unit[rows, None] * multiplier[:, rows])
        codes, least = np.zeros(weight[rows].shape, np.int64), np.full(weight[rows].shape, np.inf)
        for code, level in enumerate(spread(levels, weight.shape[1]), 1):
            for side in (1, -1):
                error = np.abs(weight[rows] - side * level)
                better = error < least
                codes, least = np.where(better, side * code, codes), np.where(better, error, least)
        q[:, rows] = (np.sign(codes)[..., None] * signs[np.abs(codes) - 1]).transpose(2, 0, 1)
    return QuantizedWeight(format, q, unit, multiplier)


def _silence(scale: Array, multiplier: Array) -> None:
    """Groups of zeros get scales whose signed sum can be 0: 1, 1 or 2, 1, 1 or 1, 1, 1, 1."""
    zero = (scale < TINY).all(axis=0)
    multiplier[:, zero] = 1
    multiplier[0, zero] += scale.shape[0] % 2


def patterns(planes: int) -> Array:
    """Signs [2^(planes-1), planes] of all codes whose first plane is +1; the others are their opposites."""
    index = np.arange(1 << (planes - 1))
    bits = [np.ones(len(index)), *(1.0 - 2 * ((index >> (planes - 2 - p)) & 1) for p in range(planes - 1))]
    return np.stack(bits, axis=1)


def best_scales(magnitude: Array, counts: Array, planes: int) -> Array:
    """Scales [M, planes], largest first, of magnitudes [M, size] with errors weighted by `counts` [M, size]."""
    if planes == 2:
        return _two_planes(magnitude, counts)
    powers = np.exp2(np.arange(planes)[::-1])
    peak = magnitude.max(axis=1, keepdims=True)
    starts = [clip * peak * powers / powers.sum() for clip in CLIPS]
    starts.append(_one_by_one(magnitude, counts, planes))
    best, least = starts[0], np.full(len(magnitude), np.inf)
    for start in starts:
        found, errors = alternate(magnitude, counts, start)
        better = errors[-1] < least
        best, least = np.where(better[:, None], found, best), np.where(better, errors[-1], least)
    return -np.sort(-np.abs(best), axis=1)


def _two_planes(magnitude: Array, counts: Array) -> Array:
    """The exact solution [M, 2]: with the k largest magnitudes at one level and the rest at another, each level is its mean and
    the error falls by (sum c m)^2 / sum c of either part."""
    order = np.argsort(-magnitude, axis=1, kind="stable")
    counts = np.take_along_axis(counts, order, axis=1)
    total = np.cumsum(counts * np.take_along_axis(magnitude, order, axis=1), axis=1)
    size = np.cumsum(counts, axis=1)
    rest_total, rest_size = total[:, -1:] - total, size[:, -1:] - size
    rest = np.where(rest_size > 1e-12 * size[:, -1:], rest_size, np.inf)
    best = np.argmax(total * total / size + rest_total * rest_total / rest, axis=1)[:, None]
    high = np.take_along_axis(total / size, best, axis=1)
    low = np.where(best < magnitude.shape[1] - 1, np.take_along_axis(rest_total / rest, best, axis=1), high)
    return np.concatenate([(high + low) / 2, np.maximum(high - low, 0) / 2], axis=1)


def _one_by_one(magnitude: Array, counts: Array, planes: int) -> Array:
    """Greedy start [M, planes]: each plane takes the mean magnitude of what the planes before it left."""
    left, scales = magnitude, []
    total = counts.sum(axis=1)
    for _ in range(planes):
        scales.append((counts * np.abs(left)).sum(axis=1) / total)
        left = np.abs(left) - scales[-1][:, None]
    return np.stack(scales, axis=1)


def alternate(magnitude: Array, counts: Array, scales: Array, iterations: int = ITERATIONS) -> tuple[Array, list[Array]]:
    """Scales [M, planes] after alternating from `scales`, and the weighted squared error [M] before and after each round."""
    signs = patterns(scales.shape[1])
    energy = (counts * magnitude * magnitude).sum(axis=1)
    errors: list[Array] = []
    for _ in range(iterations):
        normal, right = _normal_equations(magnitude, counts, scales, signs)
        errors.append(_error(energy, normal, right, scales))
        ridge = 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(scales.shape[1])
        fitted = np.linalg.solve(normal + ridge, right[..., None])[..., 0]
        # A singular fit (two planes equal) may be no better through rounding alone: then the scales stay.
        better = _error(energy, normal, right, fitted) < errors[-1]
        if not better.any():
            break
        scales = np.where(better[:, None], fitted, scales)
    normal, right = _normal_equations(magnitude, counts, scales, signs)
    errors.append(_error(energy, normal, right, scales))
    return scales, errors


def _error(energy: Array, normal: Array, right: Array, scales: Array) -> Array:
    """sum c (m - scales . signs)^2 per group, from the normal equations."""
    return energy - 2 * (scales * right).sum(axis=1) + np.einsum("mp,mpq,mq->m", scales, normal, scales)


def _normal_equations(magnitude: Array, counts: Array, scales: Array, signs: Array) -> tuple[Array, Array]:
    """With every magnitude at its nearest level |scales . signs|: sum c b b^T [M, planes, planes] and sum c m b [M, planes]."""
    rows, codes = len(magnitude), len(signs)
    level = scales @ signs.T
    order = np.argsort(np.abs(level), axis=1)
    high = np.take_along_axis(np.abs(level), order, axis=1)
    index = np.zeros(magnitude.shape, np.int64)
    for border in range(codes - 1):
        index += magnitude > ((high[:, border] + high[:, border + 1]) / 2)[:, None]
    cell = (index + codes * np.arange(rows)[:, None]).ravel()
    size = np.bincount(cell, counts.ravel(), rows * codes).reshape(rows, codes)
    total = np.bincount(cell, (counts * magnitude).ravel(), rows * codes).reshape(rows, codes)
    # Codes of each row from its lowest level up; a negative level stands for its opposite code.
    b = signs[order] * np.where(np.take_along_axis(level, order, axis=1) < 0, -1.0, 1.0)[..., None]
    return np.einsum("ml,mlp,mlq->mpq", size, b, b), np.einsum("ml,mlp->mp", total, b)
