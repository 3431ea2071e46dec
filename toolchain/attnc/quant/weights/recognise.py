"""recognise: weights that already lie on a grid, say because they were trained there, are carried over without loss.

A float file holds scale * integer, rounded to float32. A row is on a grid when some integer j <= 127 makes its largest magnitude j
steps and every weight a whole number of steps, to within TOLERANCE of itself; the smallest such j is taken. One scale for a tensor
is the case where all rows have the same. Groups within a row are found where their scales are 8-bit multiples of one unit.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from attnc.arrays import Array
from attnc.weights import GROUP_MULTIPLIER_BITS, GROUP_SIZES, QuantizedWeight, WeightFormat

TOLERANCE = 2.0**-21
"""A unit in the last place of float32 (at most 2**-23) for the weight, one for the largest weight, from which the step is read, and what
rounding to float32 cost both."""
BITS = (3, 4, 5, 6, 8)
SAMPLE = 64
BLOCK_ELEMENTS = 1 << 20
"""Elements that are looked at together: a large matrix never lies in memory in doubles."""


def recognise(weight: Array) -> QuantizedWeight | None:
    """`weight` [N, K] in the narrowest format that holds it without loss, or None. Scales per channel are preferred to groups."""
    if weight.ndim != 2 or weight.size == 0:
        return None
    rows = max(1, BLOCK_ELEMENTS // weight.shape[1])
    if len(weight) <= rows:
        return _recognised(weight)
    parts = [weight[start : start + rows] for start in range(0, len(weight), rows)]
    first = _recognised(parts[0])
    if first is None:
        return None
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        others = list(pool.map(_recognised, parts[1:]))
    found = [first, *(part for part in others if part is not None)]
    if len(found) < len(parts):
        return None
    if len({(part.format.group_size, part.multiplier.shape[1]) for part in found}) > 1:
        return _recognised(weight)
    format = max((part.format for part in found), key=lambda format: format.limit)
    return QuantizedWeight(format, *(np.concatenate([getattr(part, name) for part in found]) for name in ("q", "unit", "multiplier")))


def _recognised(weight: Array) -> QuantizedWeight | None:
    weight = np.ascontiguousarray(weight, np.float64)
    if not np.isfinite(weight).all():
        return None
    steps = _row_steps(weight)
    if steps is not None:
        return _carried(weight, 0, steps, np.ones((len(steps), 1), np.int64))
    for size in sorted(GROUP_SIZES[1:], reverse=True):  # so few weights as the first has lie on a grid by chance
        if weight.shape[1] % size == 0 and weight.shape[1] > size:
            found = _grouped(weight, size)
            if found is not None:
                return found
    return None


def _grouped(weight: Array, size: int) -> QuantizedWeight | None:
    n, k = weight.shape
    steps = _row_steps(weight.reshape(-1, size))
    if steps is None:
        return None
    empty = ~weight.reshape(n, -1, size).any(axis=2)
    common = _common_unit(np.where(empty, 0.0, steps.reshape(n, k // size)))
    return None if common is None else _carried(weight, size, *common)


def _carried(weight: Array, group_size: int, unit: Array, multiplier: Array) -> QuantizedWeight | None:
    """The weight in steps of unit * multiplier, if it comes back whole."""
    step = np.repeat(unit[:, None] * multiplier, weight.shape[1] // multiplier.shape[1], axis=1)
    q = np.rint(weight / step)
    limit = int(np.abs(q).max())
    if limit > 127 or not _close(q * step, weight).all():
        return None
    bits = next(bits for bits in BITS if limit < 1 << (bits - 1))
    format = WeightFormat("ternary", 2, group_size) if limit <= 1 else WeightFormat("integer", bits, group_size)
    return QuantizedWeight(format, q.astype(np.int8), unit, multiplier)


def _close(found: Array, weight: Array) -> Array:
    """Equal to within TOLERANCE of the weight; zero only to zero."""
    close: Array = np.abs(found - weight) <= TOLERANCE * np.abs(weight)
    return close


def _row_steps(weight: Array) -> Array | None:
    """The step of every row of [rows, K], 1 for a row of zeros; None as soon as a row has none."""
    peak = np.abs(weight).max(axis=1)
    if not _has_steps(weight[:8], peak[:8]).all():
        return None
    divisor = _has_steps(weight, peak)
    if not divisor.all():
        return None
    step = np.where(peak > 0, peak / divisor, 1.0)
    return _refined(weight, step)


def _has_steps(weight: Array, peak: Array) -> Array:
    """Smallest j in 1 to 127 for which every weight of a row is a multiple of peak / j; 0 where there is none, 1 for zeros."""
    found = np.where(peak > 0, 0, 1)
    columns = np.linspace(0, weight.shape[1] - 1, min(SAMPLE, weight.shape[1])).astype(int)
    sample = weight[:, columns]
    for divisor in range(1, 128):
        left = np.flatnonzero(found == 0)
        step = peak[left, None] / divisor
        left = left[_close(np.rint(sample[left] / step) * step, sample[left]).all(axis=1)]
        step = peak[left, None] / divisor
        found[left[_close(np.rint(weight[left] / step) * step, weight[left]).all(axis=1)]] = divisor
    return found


def _refined(weight: Array, step: Array) -> Array:
    """The step that training had: read off a weight whose integer is a power of two, where rounding to float32 leaves it as it
    was, or the least-squares fit where that gives more of the row's weights to the bit."""
    q = np.rint(weight / step[:, None])
    square = (q * q).sum(axis=1)
    fitted = np.where(square > 0, (weight * q).sum(axis=1) / np.where(square > 0, square, 1.0), 1.0)
    power: Array = np.isin(np.abs(q), (1, 2, 4, 8, 16, 32, 64))
    rows, first = np.arange(len(q)), power.argmax(axis=1)
    exact = np.where(power.any(axis=1), weight[rows, first] / np.where(power[rows, first], q[rows, first], 1.0), fitted)
    exact_hits, fitted_hits = (((s[:, None] * q).astype(np.float32) == weight.astype(np.float32)).sum(axis=1) for s in (exact, fitted))
    return np.where(exact_hits >= fitted_hits, exact, fitted)


def _common_unit(steps: Array) -> tuple[Array, Array] | None:
    """Steps [N, groups] (0: a group of zeros) as unit [N] * multiplier, multipliers from 1 to 255; None where there is no unit."""
    largest = steps.max(axis=1)
    top = (1 << GROUP_MULTIPLIER_BITS) - 1
    units = np.zeros(len(steps))
    for divisor in range(1, top + 1):
        left = np.flatnonzero((units == 0) & (largest > 0))
        unit = largest[left] / divisor
        whole = _close(np.rint(steps[left] / unit[:, None]) * unit[:, None], steps[left]).all(axis=1)
        units[left[whole]] = unit[whole]
    if (units[largest > 0] == 0).any():
        return None
    unit = np.where(largest > 0, units, 1.0)
    return unit, np.clip(np.rint(steps / unit[:, None]), 1, top).astype(np.int64)
