"""Operators along tokens: concatenation, means, softmax over channels, batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from onnx import NodeProto, helper

from attnc.errors import UnsupportedError
from attnc.frontend import mixing, normalization
from attnc.frontend.attention import softmax as softmax_of_scores
from attnc.frontend.builder import TRANSPOSED, LayoutError
from attnc.frontend.columns import are_columns_apart
from attnc.frontend.context import Context
from attnc.frontend.layout import Axes, axes_of, identity, sort_into_grid
from attnc.frontend.products import linear
from attnc.frontend.reindexing import integers
from attnc.frontend.rotary import is_rotated_apart
from attnc.frontend.values import (
    Array,
    Const,
    Index,
    Poly,
    ScoreRows,
    Scores,
    Test,
    TurnedScores,
    Unary,
    Value,
    View,
    WeighedTokens,
    merge,
    reindex,
)


def concat(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Concatenation along rows or channels; parts of one value are put together again for nothing."""
    values = [value for value in args if value is not None]
    rank = len(getattr(values[0], "shape", ()))
    axis = int(ctx.attributes(node)["axis"]) % max(rank, 1)
    together = _of_one_base(ctx, node, values, axis)
    if together is not None:
        return [together]
    parts = [ctx.concrete(value) for value in values]
    parts = [part for part in parts if part.shape[axis]]
    try:
        return [_concat(ctx, node, parts, axis)]
    except LayoutError as error:
        ctx.fail(node, str(error))


def _of_one_base(ctx: Context, node: NodeProto, values: Sequence[Value], axis: int) -> Value | None:
    """All parts show one base, perhaps scaled (as in rotary embeddings: [-x2, x1])."""
    found = [ctx.affine(value) for value in values]
    parts = [part for part in found if part is not None]
    if len(parts) < len(values) or len({part[0].base for part in parts}) != 1:
        return None
    src = merge(*(view.src for view, _, _ in parts), (node.name,))
    result = View(parts[0][0].base, np.concatenate([view.idx for view, _, _ in parts], axis), src)
    for op, which, neutral in (("mul", 1, 1.0), ("add", 2, 0.0)):
        amounts = [np.full(part[0].shape, part[which]) for part in parts]
        whole = np.concatenate(amounts, axis)
        if np.any(whole != neutral):
            try:
                result = ctx.elementwise.apply(op, result, Const(whole), f"{node.output[0]}_{op}", (node.name,))
            except LayoutError as error:
                ctx.fail(node, str(error))
    return result


def _concat(ctx: Context, node: NodeProto, parts: Sequence[View | Const], axis: int) -> View | Const:
    """Parts of different bases, in the layout of those on the device."""
    src = merge(*(part.src for part in parts), (node.name,))
    if len(parts) == 1:
        return parts[0]
    rank = len(parts[0].shape)
    axes = _common_axes(parts, rank)
    if axis not in axes.channels and _channels_apart(ctx, parts, axis):
        axes = Axes(tuple(row for row in axes.rows if row != axis), tuple(sorted((*axes.channels, axis))))
    names, targets = [], []
    for part in parts:
        matrix = axes.matrix(part.array if isinstance(part, Const) else part.idx)
        names.append(ctx.builder.constant(matrix) if isinstance(part, Const) else ctx.builder.matrix(part.base, matrix, part.src))
        targets.append(matrix.shape)
    shape = tuple(sum(part.shape[axis] for part in parts) if i == axis else size for i, size in enumerate(parts[0].shape))
    if axis in axes.channels:
        rows, channels = targets[0][0], sum(columns for _, columns in targets)
        base = ctx.builder.node("concat_columns", names, (rows, channels), node.output[0], src)
        firsts = np.cumsum([0, *(columns for _, columns in targets)])
        pieces = [identity((rows, channels))[:, first : first + n] for first, (_, n) in zip(firsts, targets, strict=False)]
    else:
        rows, channels = sum(height for height, _ in targets), targets[0][1]
        base = ctx.builder.node("concat_rows", names, (rows, channels), node.output[0], src)
        firsts = np.cumsum([0, *(height for height, _ in targets)])
        pieces = [identity((rows, channels))[first : first + n] for first, (n, _) in zip(firsts, targets, strict=False)]
    idx = np.concatenate([axes.restore(piece, part.shape) for piece, part in zip(pieces, parts, strict=True)], axis)
    assert idx.shape == shape
    return View(base, idx)


def _channels_apart(ctx: Context, parts: Sequence[View | Const], axis: int) -> bool:
    """Channels of one tensor on a new axis, which could run along rows or channels, and belong side by side: the two halves of a rotary
    embedding, or heads that were each normalised on their own."""
    views = [part for part in parts if isinstance(part, View) and part.base.device and part.shape[axis] == 1]
    names = [view.base.name for view in views]
    return len(views) == len(parts) and (is_rotated_apart(ctx.builder.graph, names) or are_columns_apart(ctx.builder.graph, names))


def _common_axes(parts: Sequence[View | Const], rank: int) -> Axes:
    """Axes along channels: those of the parts on the device, else the last one."""
    channels: set[int] = set()
    fixed: set[int] = set()
    for part in parts:
        if isinstance(part, View) and part.base.device:
            axes = axes_of(part.idx, part.base.channels)
            if axes is None:
                raise LayoutError(TRANSPOSED)
            channels |= {axis for axis in axes.channels if part.shape[axis] > 1}
            fixed |= {axis for axis in axes.rows if part.shape[axis] > 1}
    if not channels and rank - 1 not in fixed:
        channels = {rank - 1}
    return Axes(tuple(axis for axis in range(rank) if axis not in channels), tuple(sorted(channels)))


def reduced_axes(ctx: Context, node: NodeProto, args: Sequence[Value | None], rank: int) -> list[int]:
    """Axes of a reduction, from an attribute or an operand."""
    attributes = ctx.attributes(node)
    axes = integers(ctx, node, args, 1)
    axes = list(attributes["axes"]) if axes is None and "axes" in attributes else axes
    if not axes:
        return [] if attributes.get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def reduce_mean(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """ReduceMean and ReduceSum: over channels a step of a normalisation, over rows a mean."""
    value = args[0]
    assert value is not None
    if isinstance(value, (Scores, Test)):
        value = ctx.concrete(value)
    rank = len(getattr(value, "shape", ()))
    axes = reduced_axes(ctx, node, args, rank)
    keepdims = bool(ctx.attributes(node).get("keepdims", 1))
    total = node.op_type == "ReduceSum"
    if isinstance(value, WeighedTokens) and axes:
        count = int(np.prod([value.shape[axis] for axis in axes], dtype=np.int64))
        try:
            return [mixing.total(ctx, node, value, axes, keepdims, 1.0 if total else 1 / count)]
        except UnsupportedError:
            value = ctx.concrete(value)
    if axes == [rank - 1] and (isinstance(value, (Poly, Unary)) or (isinstance(value, View) and _along_channels(value))):
        found = normalization.reduce_mean(node, value, keepdims, total, None)
        if found is None and isinstance(value, Unary):
            root, made = normalization.root_of(value), ctx.concrete(value)
            if _along_channels(made):
                found = normalization.reduce_mean(node, made, keepdims, total, None)
            if found is not None:
                found.root = root
        if found is not None:
            if isinstance(value, View):
                found.fallback = partial(_mean_rows, ctx, node, value, axes, keepdims, total)
            return [found]
    view = ctx.concrete(value)
    if isinstance(view, Const):
        function = np.sum if total else np.mean
        return [Const(function(view.array, axis=tuple(axes), keepdims=keepdims))]
    if not axes:
        return [view]
    return [_mean_rows(ctx, node, view, axes, keepdims, total)]


def reduce_l2(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """ReduceL2 over channels: a step of a normalisation to unit length."""
    assert args[0] is not None
    view = ctx.concrete(args[0])
    rank = len(view.shape)
    axes = reduced_axes(ctx, node, args, rank)
    keepdims = bool(ctx.attributes(node).get("keepdims", 1))
    if isinstance(view, Const):
        return [Const(np.sqrt(np.sum(np.square(view.array), axis=tuple(axes), keepdims=keepdims)))]
    if axes != [rank - 1]:
        ctx.fail(node, f"lengths over axes {axes} are not supported, only over the last one")
    return [normalization.length(node, view, keepdims)]


def _along_channels(value: Value) -> bool:
    """Whether the last axis of a view lies along channels."""
    if not isinstance(value, View) or not value.base.device or not value.shape or value.shape[-1] == 1:
        return False
    rows = value.idx // value.base.channels
    return not np.any(rows != rows[..., :1])


def _mean_rows(ctx: Context, node: NodeProto, view: View, axes: list[int], keepdims: bool, total: bool) -> View:
    """Mean, or sum, over axes that run along rows or along channels."""
    count = int(np.prod([view.shape[axis] for axis in axes], dtype=np.int64))
    try:
        return reduce_rows(ctx, node, "mean_rows", view, axes, keepdims, float(count) if total else 1.0)
    except LayoutError:
        pass
    moved = View(view.base, np.moveaxis(view.idx, axes, range(-len(axes), 0)), view.src)
    flat = reindex(moved, lambda x: x.reshape(*x.shape[: x.ndim - len(axes)], -1))
    assert isinstance(flat, View)
    found = linear(ctx, node, flat, np.full((count, 1), 1.0 if total else 1 / count))
    shape = [1 if axis in axes else size for axis, size in enumerate(view.shape) if keepdims or axis not in axes]
    result = reindex(found, lambda x: x.reshape(shape))
    assert isinstance(result, View)
    return result


def reduce_rows(ctx: Context, node: NodeProto, op: str, view: View, axes: list[int], keepdims: bool, factor: float = 1.0) -> View:
    """`op` over axes that run along rows, times a factor; raises `LayoutError`."""
    kept = [axis for axis in range(len(view.shape)) if axis not in axes]
    moved = view.idx.transpose([*kept, *axes])
    shape = [view.shape[axis] for axis in kept]
    items = moved.reshape(int(np.prod(shape, dtype=np.int64)), -1)
    count = items.shape[1]
    channels = view.base.channels
    rows, columns = items // channels, items % channels
    grid = None if np.any(columns != columns[:, :1]) else sort_into_grid(rows, columns[:, :1])
    if grid is None:
        raise LayoutError(TRANSPOSED)
    src = merge(view.src, (node.name,))
    target = items[grid.item].transpose(0, 2, 1).reshape(grid.groups * count, grid.heads)
    name = ctx.builder.matrix(view.base, target, src)
    base = ctx.builder.node(op, [name], (grid.groups, grid.heads), node.output[0], src, {"groups": grid.groups})
    idx = np.empty(items.shape[0], np.int64)
    idx[grid.item] = identity((grid.groups, grid.heads))
    out = idx.reshape([1 if axis in axes else size for axis, size in enumerate(view.shape)] if keepdims else shape)
    result = View(base, out)
    if factor != 1:
        return ctx.elementwise.apply("mul", result, Const(np.array(factor)), f"{node.output[0]}_sum", (node.name,))
    return result


def global_average(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """GlobalAveragePool."""
    assert args[0] is not None
    view = ctx.view(args[0])
    return [_mean_rows(ctx, node, ctx.on_device(view), list(range(2, len(view.shape))), True, False)]


def softmax(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Softmax of attention scores, or over channels."""
    value = args[0]
    assert value is not None
    if isinstance(value, TurnedScores):
        return [_softmax_of_turned(ctx, node, value)]
    if isinstance(value, ScoreRows) or (isinstance(value, Scores) and value.fallback is None):
        return [softmax_of_scores(ctx, node, value)]
    if isinstance(value, Scores):
        probabilities = softmax_of_scores(ctx, node, value)
        assert isinstance(probabilities, Scores)
        inner = value.fallback
        assert inner is not None
        probabilities.fallback = lambda: _softmax(ctx, node, inner())
        return [probabilities]
    view = ctx.view(value)
    axis = int(ctx.attributes(node).get("axis", -1)) % len(view.shape)
    return [mixing.over_tokens(ctx, node, view, axis, lambda: _softmax(ctx, node, view)) or _softmax(ctx, node, view)]


def _softmax_of_turned(ctx: Context, node: NodeProto, value: TurnedScores) -> Value:
    """Over the axis where the last one of the scores has gone."""
    axis = value.order[int(ctx.attributes(node).get("axis", -1))]
    inner = helper.make_node("Softmax", node.input, node.output, node.name, axis=axis)
    made = softmax_of_scores(ctx, inner, value.scores)
    assert isinstance(made, Scores)
    return TurnedScores(made, value.order, made.src)


def _softmax(ctx: Context, node: NodeProto, view: View) -> View:
    axis = int(ctx.attributes(node).get("axis", -1))
    moved = np.moveaxis(view.idx, axis, -1)
    src = merge(view.src, (node.name,))
    try:
        name = ctx.builder.matrix(view.base, moved.reshape(-1, moved.shape[-1]), src)
    except LayoutError as error:
        beside = _softmaxes(ctx, node, view, moved)
        if beside is None:
            ctx.fail(node, f"softmax over an axis that does not lie along channels: {error}")
        return View(beside.base, np.moveaxis(beside.idx, -1, axis), beside.src)
    rows, channels = ctx.builder.graph.value(name).shape
    base = ctx.builder.node("softmax", [name], (rows, channels), node.output[0], src)
    return View(base, np.moveaxis(identity(moved.shape), -1, axis))


def _softmaxes(ctx: Context, node: NodeProto, view: View, moved: Index) -> View | None:
    """Of several runs of channels of every row, side by side; `moved` [..., n] has the axis last. None where they lie otherwise."""
    items = moved.reshape(-1, moved.shape[-1])
    rows, columns = items // view.base.channels, items % view.base.channels
    grid = None if np.any(rows != rows[:, :1]) or not view.base.device else sort_into_grid(rows[:, :1], columns)
    if grid is None or grid.heads == 1:
        return None
    src, size, names = merge(view.src, (node.name,)), items.shape[1], []
    for head in range(grid.heads):
        name = ctx.builder.matrix(view.base, items[grid.item[:, head]], src)
        names.append(ctx.builder.node("softmax", [name], (grid.groups, size), node.output[0], src).name)
    base = ctx.builder.node("concat_columns", names, (grid.groups, grid.heads * size), node.output[0], src)
    idx = np.empty(items.shape, np.int64)
    idx[grid.item] = identity((grid.groups, grid.heads, size))
    return View(base, idx.reshape(moved.shape), src)


def batch_normalization(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Inference: a factor and an offset per channel."""
    attributes = ctx.attributes(node)
    if attributes.get("training_mode", 0) or any(node.output[1:]):
        ctx.fail(node, "training mode is not supported")
    assert args[0] is not None
    view = ctx.view(args[0])
    parameters: list[Array] = []
    for index in range(1, 5):
        given = args[index]
        if not isinstance(given, Const):
            ctx.fail(node, f"operand {index} must be constant")
        parameters.append(given.array.astype(np.float64).reshape(-1, *[1] * (len(view.shape) - 2)))
    gamma, beta, mean, variance = parameters
    factor = gamma / np.sqrt(variance + float(attributes.get("epsilon", 1e-5)))
    try:
        scaled = ctx.elementwise.apply("mul", view, Const(factor), f"{node.output[0]}_mul", (node.name,))
        return [ctx.elementwise.apply("add", scaled, Const(beta - mean * factor), node.output[0], (node.name,))]
    except LayoutError as error:
        ctx.fail(node, str(error))
