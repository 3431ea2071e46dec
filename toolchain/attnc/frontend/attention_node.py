"""The attention node: probabilities times values, in whatever layout queries, keys, values and biases can be had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from attnc.errors import ModelError
from attnc.frontend.attention import canonical, spread
from attnc.frontend.builder import TRANSPOSED, LayoutError
from attnc.frontend.context import MASKED, Context
from attnc.frontend.layout import Grid, identity, sort_into_grid
from attnc.frontend.values import Array, Const, Index, Scores, Sources, Value, View, merge, reindex


def attend(ctx: Context, node: NodeProto, scores: Scores, value: Value) -> View:
    """Probabilities times values [..., Tk, DV]."""
    v = ctx.view(value)
    if len(v.shape) < 2 or v.shape[-2] != scores.shape[-1]:
        raise ModelError(f"node {node.name!r} ({node.op_type}): shapes {list(scores.shape)} and {list(v.shape)} do not fit")
    lead = tuple(np.broadcast_shapes(scores.lead.shape, v.shape[:-2]))
    scores = canonical(replace(scores, lead=np.broadcast_to(scores.lead, lead)))
    items = View(v.base, spread(v.idx, lead), v.src)
    src = merge(scores.src, v.src, (node.name,))
    try:
        flat = _emit(ctx, node, scores, items, src)
    except LayoutError as error:
        ctx.fail(node, f"the operands of this attention do not lie in memory as heads side by side along channels: {error}")
    return View(flat.base, flat.idx.reshape(*lead, *flat.shape[-2:]), flat.src)


def _emit(ctx: Context, node: NodeProto, scores: Scores, v: View, src: Sources) -> View:
    """The attention node; the result has shape [L, T, DV]."""
    q, k = scores.q, scores.k
    grid = _grid(q, k, v)
    masks = _masks(scores, grid)
    if masks.max(initial=0) > 0:
        return _apart(ctx, node, scores, v, src, [grid.item[masks == which].ravel() for which in range(masks.max() + 1)])
    groups, heads = grid.groups, grid.heads
    kv_heads = _kv_heads(grid, k, v)
    shared = Grid(grid.item[:, :: heads // kv_heads])
    names = [_merged(ctx, view, which, src) for view, which in ((q, grid), (k, shared), (v, shared))]
    attrs: dict[str, Any] = {"num_heads": heads, "num_kv_heads": kv_heads, "groups": groups, "scale": float(scores.scale)}
    if scores.cap is not None:
        attrs |= {"softcap": float(scores.cap), "scale": float(scores.scale * scores.cap)}
    if scores.computed is not None:
        name, extra = _computed_bias(ctx, node, scores, grid, src)
        names.append(name)
        attrs.update(extra, guarded=scores.guarded)
    elif scores.bias is not None:
        name, extra = _bias(ctx, node, scores, grid)
        if name:
            names.append(name)
            attrs.update(extra, guarded=scores.guarded)
    t, dv = q.shape[1], v.shape[2]
    base = ctx.builder.node("attention", names, (groups * t, heads * dv), node.output[0], src, attrs)
    idx = np.empty((q.shape[0], t, dv), np.int64)
    idx[grid.item] = identity((groups, t, heads, dv)).transpose(0, 2, 1, 3)
    return View(base, idx)


def _masks(scores: Scores, grid: Grid) -> Index:
    """Number [groups] of the bias of each group: groups with equal biases have equal numbers."""
    if scores.bias is None or scores.bias.shape[0] == 1:
        return np.zeros(grid.groups, np.int64)
    array = scores.bias.array if isinstance(scores.bias, Const) else scores.bias.idx
    return np.unique(array[grid.item].reshape(grid.groups, -1), axis=0, return_inverse=True)[1].reshape(-1)


def _apart(ctx: Context, node: NodeProto, scores: Scores, v: View, src: Sources, parts: Sequence[Index]) -> View:
    """Groups with different biases (shifted windows at the edges of a picture) as attentions of their own; `parts` are items."""
    names, rows, channels = [], 0, 0
    idx = np.empty((scores.q.shape[0], scores.q.shape[1], v.shape[2]), np.int64)
    for items in parts:

        def pick(x: Array, items: Index = items) -> Array:
            return x[items]

        q, k, value = (View(view.base, view.idx[items], view.src) for view in (scores.q, scores.k, v))
        bias = scores.bias if scores.bias is None else reindex(scores.bias, pick)
        computed = scores.computed
        if computed is not None and computed.shape[0] > 1:
            computed = View(computed.base, computed.idx[items], computed.src)
        part = replace(scores, q=q, k=k, bias=bias, computed=computed, lead=identity((len(items),)))
        made = _emit(ctx, node, part, value, src)
        names.append(made.base.name)
        idx[items] = made.idx + rows * made.base.channels
        rows, channels = rows + made.base.rows, made.base.channels
    return View(ctx.builder.node("concat_rows", names, (rows, channels), node.output[0], src), idx)


def _merged(ctx: Context, view: View, grid: Grid, src: Sources) -> str:
    """Items [L, T, D] as a matrix [G*T, heads*D]."""
    target = view.idx[grid.item].transpose(0, 2, 1, 3)
    g, t, h, d = target.shape
    return ctx.builder.matrix(view.base, target.reshape(g * t, h * d), merge(view.src, src))


def _keys(view: View) -> tuple[Index, Index] | None:
    """Rows [L, T] and channels [L, D] that the items of a view show; None for a tensor of the host, which may lie in any way."""
    if not view.base.device:
        return None
    rows, columns = view.idx // view.base.channels, view.idx % view.base.channels
    if np.any(rows != rows[:, :, :1]) or np.any(columns != columns[:, :1]):
        raise LayoutError(TRANSPOSED)
    return rows[:, :, 0], columns[:, 0]


def _grid(q: View, k: View, v: View) -> Grid:
    """Which items are groups (other rows) and which are heads (other channels)."""
    keys = [found for found in map(_keys, (k, v, q)) if found is not None]
    items = q.shape[0]
    if not keys:
        return Grid(np.arange(items)[None, :])
    grid = sort_into_grid(np.hstack([rows for rows, _ in keys]), np.hstack([columns for _, columns in keys]))
    if grid is None:
        if len(keys) == 3 or items == 0:
            raise LayoutError(TRANSPOSED)
        return Grid(np.arange(items)[None, :])
    return grid


def _kv_heads(grid: Grid, k: View, v: View) -> int:
    """How many heads keys and values really have: consecutive query heads may share them."""
    heads = grid.heads
    first = np.hstack([k.idx[grid.item[0]].reshape(heads, -1), v.idx[grid.item[0]].reshape(heads, -1)])
    _, which = np.unique(first, axis=0, return_inverse=True)
    which = which.reshape(-1)
    count = int(which.max()) + 1
    if heads % count or k.base.device != v.base.device:
        return heads
    runs = which.reshape(count, heads // count)
    return count if np.array_equal(runs, np.broadcast_to(runs[:, :1], runs.shape)) else heads


def _bias(ctx: Context, node: NodeProto, scores: Scores, grid: Grid) -> tuple[str, dict[str, int]]:
    """The bias as [BH*BT, Tk]; no name if it is zero everywhere."""
    bias = scores.bias
    assert bias is not None
    array = _by_head(scores, grid, bias.array if isinstance(bias, Const) else bias.idx)
    matrix = array.reshape(-1, array.shape[-1])
    attrs = {"bias_heads": int(array.shape[0]), "bias_rows": int(array.shape[1])}
    if isinstance(bias, Const):
        return ("", {}) if not np.any(matrix) else (ctx.builder.constant(matrix, f"{node.output[0]}_bias"), attrs)
    return ctx.builder.feed(bias.base.name, matrix), attrs


def _by_head(scores: Scores, grid: Grid, array: Array) -> Array:
    """Biases [L or 1, T or 1, Tk or 1] as [BH, BT, Tk], with 1 for heads and for queries that all have the same."""
    array = array[grid.item[0]] if array.shape[0] > 1 else array
    array = array[:1] if not np.any(array != array[:1]) else array
    array = array[:, :1] if not np.any(array != array[:, :1]) else array
    return np.broadcast_to(array, (*array.shape[:2], scores.k.shape[1]))


def _computed_bias(ctx: Context, node: NodeProto, scores: Scores, grid: Grid, src: Sources) -> tuple[str, dict[str, int]]:
    """The bias that the device computes as [BH*BT, Tk], with the mask of the host or of the model on it."""
    computed, mask = scores.computed, scores.bias
    assert computed is not None
    if computed.shape[0] > 1 and np.any(computed.idx[grid.item] != computed.idx[grid.item[:1]]):
        ctx.fail(node, "a bias of attention that the device computes differs between groups of tokens (windows)")
    numbers = _by_head(scores, grid, computed.idx)
    masked: Array = np.zeros((1, 1, scores.k.shape[1]))
    if mask is not None:
        masked = _by_head(scores, grid, mask.array if isinstance(mask, Const) else mask.idx)
    heads, rows, keys = np.broadcast_shapes(numbers.shape, masked.shape)
    numbers = np.broadcast_to(numbers, (heads, rows, keys))
    if isinstance(mask, Const):  # of keys that are left out, another number of the same query will do
        kept = np.broadcast_to(masked > MASKED, numbers.shape)
        numbers = np.where(kept, numbers, np.take_along_axis(numbers, kept.argmax(axis=2)[..., None], axis=2))
    matrix = ctx.builder.matrix(computed.base, numbers.reshape(-1, keys), merge(computed.src, src))
    if masked.shape[0] > 1:
        masked = np.broadcast_to(masked, (heads, rows, keys))
    flat = masked.reshape(-1, keys)
    name = ctx.builder.feed(mask.base.name, flat) if isinstance(mask, View) else ctx.builder.constant(flat, f"{node.output[0]}_mask")
    attrs = {"gain": float(scores.gain), "guarded": scores.guarded}
    made = ctx.builder.node("mask_bias", [matrix, name], (heads * rows, keys), f"{node.output[0]}_bias", src, attrs)
    return made.name, {"bias_heads": heads, "bias_rows": rows}
