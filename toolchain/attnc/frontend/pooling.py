"""Pooling: means and maxima over windows of a picture, and maxima over tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from attnc.frontend.builder import LayoutError, elements
from attnc.frontend.context import Context
from attnc.frontend.convolution import Window, on_device
from attnc.frontend.tokens import reduce_rows, reduced_axes
from attnc.frontend.values import Array, Const, Index, Shape, Value, View


def max_pool(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """MaxPool: along one axis after the other. A tap outside the picture stands on one of its window that is inside."""
    x, window = _operand(ctx, node, args)
    if any(node.output[1:]):
        ctx.fail(node, "its indices are used, which the device does not keep")
    for axis, (inside, positions) in enumerate(_taps(window, x.shape[2:])):
        if not inside.any(axis=1).all():
            ctx.fail(node, "a window lies outside the picture")
        first = positions[np.arange(len(positions)), inside.argmax(axis=1)]
        x = _largest(ctx, node, x, 2 + axis, np.where(inside, positions, first[:, None]))
    return [x]


def _largest(ctx: Context, node: NodeProto, x: View, axis: int, positions: Index) -> View:
    """The largest of the taps [out, k] along an axis."""
    if positions.shape[1] == 1:
        return View(x.base, x.idx.take(positions[:, 0], axis), x.src)
    taken = View(x.base, x.idx.take(positions, axis), x.src)
    return reduce_rows(ctx, node, "max_rows", taken, [axis + 1], False)


def average_pool(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """AveragePool: a convolution of every channel alone, with a factor for windows that reach beyond the picture; or means of rows."""
    x, window = _operand(ctx, node, args)
    padded = bool(ctx.attributes(node).get("count_include_pad", 0))
    taps, kept = _taps(window, x.shape[2:]), _taps(window, x.shape[2:], padded)
    counts = np.ones(())
    for inside, _ in kept:
        counts = counts[..., None] * inside.sum(axis=1)
    if not counts.all():
        ctx.fail(node, "a window lies outside the picture")
    axes = ctx.builder.natural_axes(x)
    even = all((inside.any(axis=1) & (inside.shape[1] % np.maximum(inside.sum(axis=1), 1) == 0)).all() for inside, _ in taps)
    if axes is not None and 1 not in axes.channels and (even if not padded else all(inside.all() for inside, _ in taps)):
        return [_means(ctx, node, x, taps)]
    count = elements(window.kernel)
    made = on_device(ctx, node, x, np.full((x.shape[1], 1, *window.kernel), 1 / count), x.shape[1], window)
    factor = count / counts
    if np.any(factor != 1):
        made = ctx.elementwise.apply("mul", made, Const(factor), f"{node.output[0]}_mul", (node.name,))
    return [made]


def _means(ctx: Context, node: NodeProto, x: View, taps: Sequence[tuple[Array, Index]]) -> View:
    """Where tokens are the picture: along one axis after the other, with taps inside in place of those outside, each as often."""
    for axis, (inside, positions) in enumerate(taps):
        filled = np.stack([np.resize(row[kept], row.size) for row, kept in zip(positions, inside, strict=True)])
        taken = View(x.base, x.idx.take(filled, 2 + axis), x.src)
        x = taken if filled.shape[1] == 1 else reduce_rows(ctx, node, "mean_rows", taken, [3 + axis], False)
        if filled.shape[1] == 1:
            x = View(x.base, x.idx[(slice(None),) * (3 + axis) + (0,)], x.src)
    return x


def _operand(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> tuple[View, Window]:
    """The picture [N, C, ...] on the device, and the window; with `ceil_mode` it is padded as far as the last positions reach."""
    attributes = ctx.attributes(node)
    assert args[0] is not None
    x = ctx.on_device(ctx.view(args[0]))
    window = Window.of(node, attributes, x.shape[2:], tuple(attributes["kernel_shape"]))
    return x, window.up(x.shape[2:]) if attributes.get("ceil_mode", 0) else window


def _taps(window: Window, size: Shape, padded: bool = False) -> list[tuple[Array, Index]]:
    """Of each axis: which taps [out, k] lie inside the picture (or its padding), and at which pixel they stand."""
    found = []
    for axis, (out, n) in enumerate(zip(window.out(size), size, strict=True)):
        positions = (
            np.arange(out)[:, None] * window.strides[axis] + np.arange(window.kernel[axis]) * window.dilations[axis] - window.pads[axis]
        )
        low, high = (-window.pads[axis], n + window.pads[axis + len(size)]) if padded else (0, n)
        found.append(((positions >= low) & (positions < high), positions))
    return found


# ---- over tokens ----


def reduce_max(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """ReduceMax over rows."""
    assert args[0] is not None
    view = ctx.concrete(args[0])
    axes, keepdims = reduced_axes(ctx, node, args, len(view.shape)), bool(ctx.attributes(node).get("keepdims", 1))
    if isinstance(view, Const):
        return [Const(view.array.max(axis=tuple(axes), keepdims=keepdims))]
    return [view if not axes else _reduced(ctx, node, view, axes, keepdims)]


def global_max(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """GlobalMaxPool."""
    assert args[0] is not None
    view = ctx.on_device(ctx.view(args[0]))
    return [_reduced(ctx, node, view, list(range(2, len(view.shape))), True)]


def _reduced(ctx: Context, node: NodeProto, view: View, axes: list[int], keepdims: bool) -> View:
    try:
        return reduce_rows(ctx, node, "max_rows", view, axes, keepdims)
    except LayoutError as error:
        ctx.fail(node, f"a maximum is supported over rows (tokens): {error}")
