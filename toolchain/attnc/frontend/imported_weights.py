"""Weights that arrived as integers are multiplied as such: their integers and scales, found again in the layers that read them.

On its way the frontend may split, merge, transpose and scale a weight, so each row (or block of a row) finds its scale by the fact that it
divides the row into integers: one of the file's scales, or, where a constant was multiplied in, the largest that does so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from attnc.frontend.quantized_model import Quantized, QuantizedConstant, weight_names, written
from attnc.frontend.values import Array
from attnc.ir import Node
from attnc.weights import GROUP_MULTIPLIER_BITS, GROUP_SIZES, WeightFormat

TOLERANCE = 3e-5
"""Distance of weight / scale from an integer: 2**-24 relative for float32, times 2**8 for the largest integers."""
LARGEST_MULTIPLE = 255
"""Integers of 8 bits without their zero point."""
MOST_SCALES = 1 << 14
"""So many of the file's scales are tried on a row."""
LOW, HIGH = -128, 127
STEPS = 9
"""Steps that are tried where a row has integers beyond 8 bits."""


def impose_weight(node: Node, found: Quantized) -> None:
    """Integers and scales of a linear whose weight arrived quantized; where the device cannot have them it is quantized again, and the
    report says so."""
    products = tuple(name for name in node.source if written(name, found.products) in found.products)
    candidates = [constant for constant in weight_names(found, products) if constant.q.ndim > 1]
    if not candidates:
        return
    weight = np.asarray(node.params["weight"], np.float64)
    size = group_size(candidates, weight.shape[1])
    rows = _rows(weight, size)
    q, scale, exact = _match(rows, candidates)
    if q is None:
        found.changed.append(
            f"{node.name}: weight {candidates[0].name!r} {_why(candidates)}; it is quantized again, to the format of --weights"
        )
        return
    q, scale, moved = _within_bytes(q, scale)
    if moved:
        found.changed.append(f"{node.name}: weight {candidates[0].name!r} has integers of 9 bits without its zero point: {moved} of "
                             f"{q.size} move by a step or less, or are cut off, whichever errs less")  # fmt: skip
    n, k = weight.shape
    q = q.reshape(n, -1)[:, :k]
    unit, multiplier, error = _units(scale.reshape(n, -1))
    node.params |= {"weight_q": q.astype(np.int8), "weight_unit": unit, "weight_multiplier": multiplier}
    name = format_of(q, max(constant.bits for constant in candidates)).name
    node.attrs.update(weights=name, group_size=size, quantizer="imported", lossless=True)
    scales = "as imported" if exact else "recovered from the folded weight"
    found.weights.append({
        "node": node.name, "tensors": [constant.name for constant in candidates], "format": name, "group_size": size,
        "shape": list(q.shape), "scales": f"{scales}, within {100 * error:.1g} % of a channel's largest" if error else scales,
    })  # fmt: skip


def impose_experts(node: Node, found: Quantized) -> None:
    """Integers and scales of the layers of all experts."""
    experts, n, k = node.params["weight"].shape
    rows = replace(node, params={"weight": node.params["weight"].reshape(-1, k)}, attrs={})
    impose_weight(rows, found)
    if "weight_q" not in rows.params:
        return
    node.params |= {name: rows.params[name].reshape(experts, n, *rows.params[name].shape[1:])
                    for name in ("weight_q", "weight_unit", "weight_multiplier")}  # fmt: skip
    node.attrs.update(rows.attrs)


def _why(candidates: Sequence[QuantizedConstant]) -> str:
    """What keeps a layer from the integers of the file."""
    low, high = min(int(c.q.min()) for c in candidates), max(int(c.q.max()) for c in candidates)
    if max(-low, high) > LARGEST_MULTIPLE:
        return f"has integers from {low} to {high} without its zero point: needed 8 bits"
    return "has scales that do not run along output channels: needed one per tensor, per output channel or per block of inputs"


def group_size(candidates: Sequence[QuantizedConstant], k: int) -> int:
    """Weights of the k of a row that share a scale: 0 for all of them."""
    blocks = [constant.block for constant in candidates if 0 < constant.block < min(k, constant.q.shape[constant.axis])]
    fitting = [size for size in GROUP_SIZES if all(block % size == 0 for block in blocks)]
    return max(fitting) if blocks and fitting else 0


def _rows(weight: Array, size: int) -> Array:
    """The weight [N, K] as rows that have one scale each, the last of a channel filled up with zeros."""
    if not size:
        return weight
    return np.pad(weight, ((0, 0), (0, -weight.shape[1] % size))).reshape(-1, size)


def format_of(q: Array, bits: int) -> WeightFormat:
    """The narrowest format of at least `bits` bits that holds the integers, the lowest of its bits among them."""
    low, high = int(q.min(initial=0)), int(q.max(initial=0))
    if bits <= 2 and max(-low, high) <= 1:
        return WeightFormat.parse("ternary")
    formats = map(WeightFormat.parse, ("int2", "int3", "int4", "int5", "int6", "int8"))
    return next(f for f in formats if f.bits == 8 or (f.bits >= bits and f.limit >= max(high, -low - 1)))


def _match(weight: Array, candidates: Sequence[QuantizedConstant]) -> tuple[Array | None, Array, bool]:
    """Integers [N, K] of rows, scale [N], and whether every scale is one of the candidates' own."""
    n = weight.shape[0]
    unit, done = np.zeros(n), np.zeros(n, bool)
    aligned = [c.scale for c in candidates if not c.block and c.scale.size in (1, n)]
    aligned += [turned for c in candidates if c.block and c.scale.size == n for turned in (c.scale, c.scale.swapaxes(-1, -2))]
    for scale in aligned:
        scale = np.broadcast_to(scale.reshape(-1), n)
        fits = ~done & _divides(weight, scale)
        unit[fits], done = scale[fits], done | fits
    scales = np.unique(np.concatenate([constant.scale.reshape(-1) for constant in candidates]))
    for scale in scales if not done.all() and len(scales) <= MOST_SCALES and not any(c.block for c in candidates) else ():
        rows = np.flatnonzero(~done)
        fits = rows[_divides(weight[rows], np.full(rows.size, scale))]
        unit[fits], done[fits] = scale, True
        if done.all():
            break
    exact = bool(done.all())
    if not exact:
        rest = _largest_steps(weight[~done], max(_peak(constant) for constant in candidates))
        if not rest.all():
            return None, unit, False
        unit[~done] = rest
    return np.rint(weight / unit[:, None]).astype(np.int64), unit, exact


def _peak(constant: QuantizedConstant) -> int:
    return min(int(np.abs(constant.q).max(initial=1)), LARGEST_MULTIPLE)


def _divides(weight: Array, scale: Array) -> Array:
    """Rows that are integers of at most 9 bits times their scale."""
    ratio = weight / scale[:, None]
    nearest = np.rint(ratio)
    return np.asarray((np.abs(ratio - nearest) <= TOLERANCE).all(axis=1) & (np.abs(nearest) <= LARGEST_MULTIPLE).all(axis=1))


def _largest_steps(rows: Array, most: int) -> Array:
    """Of each row the largest scale that makes integers of at most `most` of it, refined by least squares: 0 where there is none."""
    peak = np.abs(rows).max(axis=1, initial=0.0)
    found = np.where(peak == 0, 1.0, 0.0)
    for multiple in range(1, most + 1):
        left = np.flatnonzero(found == 0)
        left = left[_divides(rows[left], peak[left] / multiple)]
        q = np.rint(rows[left] * (multiple / peak[left])[:, None])
        found[left] = (rows[left] * q).sum(axis=1) / np.square(q).sum(axis=1)
    return found


def _within_bytes(q: Array, scale: Array) -> tuple[Array, Array, int]:
    """Rows of 9 bits in 8: with the step between their own and one that cuts nothing off that errs least; how many integers moved."""
    wide = np.flatnonzero((q.max(axis=1) > HIGH) | (q.min(axis=1) < LOW))
    if not wide.size:
        return q, scale, 0
    rows, best = q[wide].astype(np.float64), np.full(wide.size, np.inf)
    q, scale, moved = q.copy(), scale.copy(), 0
    widest, factors = np.abs(rows).max(axis=1) / HIGH, np.ones(wide.size)
    for share in np.linspace(0, 1, STEPS):
        factor = 1 + share * (widest - 1)
        error = np.square(_rounded(rows, factor) * factor[:, None] - rows).sum(axis=1)
        factors, best = np.where(error < best, factor, factors), np.minimum(error, best)
    made = _rounded(rows, factors)
    moved = int((np.abs(made * factors[:, None] - rows) > TOLERANCE).sum())
    q[wide], scale[wide] = made.astype(np.int64), scale[wide] * factors
    return q, scale, moved


def _rounded(rows: Array, factor: Array) -> Array:
    return np.clip(np.rint(rows / factor[:, None]), LOW, HIGH)


def _units(scale: Array) -> tuple[Array, Array, float]:
    """Scales [N, groups] as unit [N] times whole multipliers [N, groups] of 8 bits, and their largest error, relative to the largest
    scale of their channel and at most 2**-8: the unit is the one that errs least."""
    if scale.shape[1] == 1:
        return scale[:, 0].copy(), np.ones(scale.shape, np.int64), 0.0
    largest, top = scale.max(axis=1), (1 << GROUP_MULTIPLIER_BITS) - 1
    best, unit = np.full(len(scale), np.inf), largest / top
    for multiple in range((top + 1) // 2, top + 1):
        tried = largest / multiple
        error = np.square(np.rint(scale / tried[:, None]) * tried[:, None] - scale).sum(axis=1)
        unit, best = np.where(error < best, tried, unit), np.minimum(error, best)
    multiplier = np.minimum(np.rint(scale / unit[:, None]), top)
    return unit, multiplier.astype(np.int64), float((np.abs(multiplier * unit[:, None] - scale) / largest[:, None]).max())
