"""Instance and group normalisation: over tokens, of every channel alone or of several together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from attnc.errors import ModelError
from attnc.frontend.builder import TRANSPOSED, LayoutError
from attnc.frontend.context import Context
from attnc.frontend.layout import identity
from attnc.frontend.values import Array, Base, Const, Index, Sources, Value, View, merge


def instance_normalization(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """InstanceNormalization: every channel [N, C, ...] over all that follows it."""
    x = _operand(ctx, args)
    items = x.idx.reshape(x.shape[0] * x.shape[1], -1)
    return [_affine(ctx, node, _normalised(ctx, node, x, items), args, x.shape[1])]


def group_normalization(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """GroupNormalization: `num_groups` runs of channels [N, C, ...], each with all that follows it."""
    x, groups = _operand(ctx, args), int(ctx.attributes(node)["num_groups"])
    items = x.idx.reshape(x.shape[0] * groups, -1)
    return [_affine(ctx, node, _normalised(ctx, node, x, items), args, x.shape[1])]


def _operand(ctx: Context, args: Sequence[Value | None]) -> View:
    """The first operand, on the device."""
    assert args[0] is not None
    return ctx.on_device(ctx.view(args[0]))


def _affine(ctx: Context, node: NodeProto, x: View, args: Sequence[Value | None], channels: int) -> View:
    """Factors and offsets of the channels."""
    for op, given, neutral in (("mul", args[1], 1.0), ("add", args[2], 0.0)):
        if not isinstance(given, Const):
            ctx.fail(node, "its scale and bias must be constant")
        if given.array.shape != (channels,):
            raise ModelError(
                f"node {node.name!r} ({node.op_type}): {channels} channels and a scale of {list(given.array.shape)} do not fit"
            )
        array = given.array.astype(np.float64)
        if np.any(array != neutral):
            shaped = Const(array.reshape(-1, *[1] * (len(x.shape) - 2)))
            try:
                x = ctx.elementwise.apply(op, x, shaped, f"{node.output[0]}_{op}", (node.name,))
            except LayoutError as error:
                ctx.fail(node, str(error))
    return x


def _normalised(ctx: Context, node: NodeProto, x: View, items: Index) -> View:
    """`x` with each of the `items` [L, n], elements of its base, normalised."""
    attrs, src = {"epsilon": float(ctx.attributes(node).get("epsilon", 1e-5))}, merge(x.src, (node.name,))
    rows, columns = items // x.base.channels, items % x.base.channels
    try:
        if not np.any(columns != columns[:, :1]):
            return _by_channel(ctx, node, x, items, attrs, src)
        return _by_block(ctx, node, x, rows, columns, attrs, src)
    except LayoutError as error:
        ctx.fail(node, f"what it normalises together is no block of rows and channels: {error}")


def _norm(ctx: Context, node: NodeProto, source: str, attrs: dict[str, Any], src: Sources) -> Base:
    rows, channels = ctx.builder.graph.value(source).shape
    params = {"gamma": np.ones(channels), "beta": np.zeros(channels)}
    return ctx.builder.node("layer_normalization", [source], (rows, channels), node.output[0], src, attrs, params)


def _by_channel(ctx: Context, node: NodeProto, x: View, items: Index, attrs: dict[str, Any], src: Sources) -> View:
    """Channels become rows, are normalised, and become channels again where all are of the same rows."""
    made = _norm(ctx, node, ctx.builder.matrix(x.base, items, src), attrs, src)
    rows = items // x.base.channels
    if np.any(rows != rows[:1]):
        return View(made, identity(x.shape))
    back = ctx.builder.transposed(made, src)
    return View(back, identity((items.shape[1], items.shape[0])).T.reshape(x.shape))


def _by_block(
    ctx: Context, node: NodeProto, x: View, rows: Index, columns: Index, attrs: dict[str, Any], src: Sources
) -> View:  # fmt: skip
    """Each item is all elements of a run of rows and a run of channels."""
    runs, spans = (_sets(part) for part in (rows, columns))
    if runs is None or spans is None or runs.shape[1] * spans.shape[1] != rows.shape[1]:
        raise LayoutError(TRANSPOSED)
    if np.unique(np.sort(rows * x.base.channels + columns, axis=1), axis=0).size != runs.size * spans.size:
        raise LayoutError(TRANSPOSED)
    target = runs.ravel()[:, None] * x.base.channels + spans.ravel()
    attrs = {**attrs, "rows_together": runs.shape[1], "group": spans.shape[1]}
    made = _norm(ctx, node, ctx.builder.matrix(x.base, target, src), attrs, src)
    return View(made, _places(x.idx, target, made.channels))


def _sets(numbers: Index) -> Index | None:
    """The different sets of numbers among items [L, n], sorted and of one size, as [sets, size]; None where they overlap or differ."""
    each = {tuple(np.unique(item).tolist()) for item in numbers}
    sizes = {len(one) for one in each}
    found = np.array(sorted(each)) if len(sizes) == 1 else None
    return found if found is not None and np.unique(found).size == found.size else None


def _places(idx: Index, target: Index, channels: int) -> Index:
    """Where the elements of a view are in a matrix that holds the elements `target` of its base."""
    flat: Array = target.ravel()
    order = np.argsort(flat)
    found: Index = order[np.searchsorted(flat[order], idx)]
    return found
