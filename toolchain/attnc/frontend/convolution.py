"""Convolutions: patches become rows and their elements channels, on the host for inputs of the model, else on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from attnc.errors import ModelError
from attnc.frontend.builder import TAP_WIDTH, LayoutError, elements, scalar
from attnc.frontend.columns import MIN_LANES
from attnc.frontend.context import Context
from attnc.frontend.layout import Axes, identity
from attnc.frontend.pointwise import step
from attnc.frontend.products import MAX_DENSE, flat_linear
from attnc.frontend.reindexing import padding, rearrange
from attnc.frontend.values import Array, Const, Index, Shape, Value, View, merge, reindex


@dataclass(frozen=True)
class Window:
    """Sizes of a convolution along each axis of the picture."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: Shape
    """All starts, then all ends."""

    @classmethod
    def of(cls, node: NodeProto, attributes: dict[str, object], size: Shape, kernel: Shape) -> Window:
        """From the attributes of a node."""

        def given(name: str, default: list[int]) -> Shape:
            value = attributes.get(name, default)
            assert isinstance(value, list)
            return tuple(int(number) for number in value)

        rank = len(kernel)
        strides, dilations, pads = given("strides", [1] * rank), given("dilations", [1] * rank), given("pads", [0] * (2 * rank))
        auto = attributes.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
            missing = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(size, strides, reach, strict=True)]
            low, high = [m // 2 for m in missing], [m - m // 2 for m in missing]
            pads = (*low, *high) if auto == "SAME_UPPER" else (*high, *low)
        elif auto == "VALID":
            pads = (0,) * (2 * rank)
        if len(size) != rank or not len(strides) == len(dilations) == rank == len(pads) // 2:
            raise ModelError(f"node {node.name!r} ({node.op_type}): a picture of {list(size)} and a kernel of {list(kernel)} do not fit")
        return cls(kernel, strides, dilations, pads)

    @property
    def point(self) -> bool:
        """Whether every output depends on one pixel."""
        return not any(self.pads) and all(size == 1 for size in self.kernel)

    def plane(self) -> Window:
        """A window along one axis as one of two."""
        if len(self.kernel) == 2:
            return self
        (low, high) = self.pads
        return Window((1, *self.kernel), (1, *self.strides), (1, *self.dilations), (0, low, 0, high))

    def up(self, size: Shape) -> Window:
        """With the positions that begin inside the picture, or the padding before it, and reach beyond its end."""
        rank, pads = len(self.kernel), list(self.pads)
        for axis, n in enumerate(size):
            reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            span = n + self.pads[axis] + self.pads[axis + rank] - reach
            last = -(-span // self.strides[axis])
            if last * self.strides[axis] >= n + self.pads[axis]:
                last -= 1
            pads[axis + rank] += max(last * self.strides[axis] - span, 0)
        return replace(self, pads=tuple(pads))

    def out(self, size: Shape) -> Shape:
        """Size of the result."""
        rank = len(self.kernel)
        return tuple(
            (n + self.pads[i] + self.pads[i + rank] - (self.kernel[i] - 1) * self.dilations[i] - 1) // self.strides[i] + 1
            for i, n in enumerate(size)
        )


def conv(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Conv."""
    attributes = ctx.attributes(node)
    assert args[0] is not None
    if not isinstance(args[1], Const):
        ctx.fail(node, "its weight must be constant")
    x, weight = ctx.view(args[0]), args[1].array.astype(np.float64)
    rank = weight.ndim - 2
    if len(x.shape) != rank + 2 or rank < 1:
        raise ModelError(f"node {node.name!r} (Conv): input {list(x.shape)} and weight {list(weight.shape)} do not fit")
    window = Window.of(node, attributes, x.shape[2:], weight.shape[2:])
    groups = int(attributes.get("group", 1))
    if weight.shape[1] * groups != x.shape[1] or weight.shape[0] % groups:
        raise ModelError(f"node {node.name!r} (Conv): {x.shape[1]} channels, weight {list(weight.shape)} and {groups} groups do not fit")
    if x.base.device and not (window.point and groups == 1):
        result: Value = on_device(ctx, node, x, weight, groups, window)
    else:
        result = _on_host(ctx, node, x, dense_groups(ctx, node, weight, groups), window)
    bias = args[2] if len(args) > 2 else None
    if bias is not None:
        if not isinstance(bias, Const):
            ctx.fail(node, "its bias must be constant")
        result = step(ctx, node, "Add", result, Const(bias.array.reshape(-1, *[1] * rank)))
    return [result]


def pad(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Pad: zeros around one or two axes that lie along rows; less than nothing is cut off."""
    value = args[0]
    assert value is not None
    amounts = padding(ctx, node, args, len(getattr(value, "shape", ())))
    padded = tuple(axis for axis, amount in enumerate(amounts) if max(amount) > 0)
    if not padded:
        return rearrange(ctx, node, args)
    fill, mode = args[2] if len(args) > 2 else None, ctx.attributes(node).get("mode", "constant")
    if mode in ("edge", "reflect", "wrap"):
        return [_repeated(ctx, node, value, amounts, mode)]
    if mode != "constant" or (fill is not None and scalar(fill) != 0):
        ctx.fail(node, "a tensor on the device can be padded with zeros only")
    x = ctx.on_device(ctx.view(value))
    axes = ctx.builder.natural_axes(x)
    if axes is None or len(padded) > 2 or any(axis in axes.channels for axis in padded):
        ctx.fail(node, f"a tensor on the device can be padded along one or two axes of rows only, not by {amounts}")
    axes = Axes((*(axis for axis in axes.rows if axis not in padded), *padded), axes.channels)
    try:
        source = ctx.builder.matrix(x.base, axes.matrix(x.idx), x.src)
    except LayoutError as error:
        ctx.fail(node, str(error))
    rows, channels = ctx.builder.graph.value(source).shape
    if channels % MIN_LANES:
        ctx.fail(node, f"a tensor of {channels} channels on the device; only multiples of {MIN_LANES} can be padded")
    low = [max(amount[0], 0) for amount in amounts]
    shape = tuple(size + low[axis] + max(amounts[axis][1], 0) for axis, size in enumerate(x.shape))
    size, out, tap = (_plane(sizes, padded, missing) for sizes, missing in ((x.shape, 1), (shape, 1), (tuple(low), 0)))
    count = rows // elements(size)
    attrs = {"count": count, "size": size, "out": out, "strides": (1, 1), "taps": (tuple(-n for n in tap),), "width": channels}
    src = merge(x.src, (node.name,))
    base = ctx.builder.node("patches", [source], (count * elements(out), channels), node.output[0], src, attrs)
    idx = axes.restore(identity((base.rows, base.channels)), shape)
    cut = tuple(slice(max(-first, 0), n + min(last, 0)) for (first, last), n in zip(amounts, shape, strict=True))
    return [View(base, idx[cut])]


def _repeated(ctx: Context, node: NodeProto, value: Value, amounts: list[tuple[int, int]], mode: Any) -> View | Const:
    """Elements around a tensor that are others of its own; less than none is cut off."""
    more = [(max(low, 0), max(high, 0)) for low, high in amounts]

    def move(x: Array) -> Array:
        wide = np.pad(x, more, mode=mode)
        return wide[tuple(slice(max(-low, 0), n + min(high, 0)) for (low, high), n in zip(amounts, wide.shape, strict=True))]

    return reindex(ctx.concrete(value), move, (node.name,))


def _plane(sizes: Shape, axes: Shape, missing: int) -> Shape:
    """Sizes along two axes, `missing` along the first where there is only one."""
    return (*[missing] * (2 - len(axes)), *(sizes[axis] for axis in axes))


# ---- on the device ----


def on_device(ctx: Context, node: NodeProto, x: View, weight: Array, groups: int, window: Window) -> View:
    """`patches`, then a linear, or `depthwise` where every channel is alone."""
    if len(window.kernel) > 2 or any(pad < 0 for pad in window.pads):
        ctx.fail(node, f"a convolution over {len(window.kernel)} axes with padding {list(window.pads)} of a tensor on the device")
    shape = x.shape
    size = shape[2:] if len(shape) == 4 else (1, shape[2])
    idx, window = x.idx.reshape(*shape[:2], *size), window.plane()
    out = window.out(size)
    target = idx.transpose(0, 2, 3, 1).reshape(-1, shape[1])
    src = merge(x.src, (node.name,))
    try:
        source = ctx.builder.matrix(x.base, target, src)
    except LayoutError as error:
        ctx.fail(node, str(error))
    taps = [(y * window.dilations[0] - window.pads[0], x * window.dilations[1] - window.pads[1]) for y, x in np.ndindex(*window.kernel)]
    width = -(-shape[1] // TAP_WIDTH) * TAP_WIDTH
    attrs = {"count": shape[0], "size": size, "out": out, "strides": window.strides, "taps": tuple(taps), "width": width}
    rows, channels = shape[0] * elements(out), weight.shape[0]
    patches = ctx.builder.node("patches", [source], (rows, len(taps) * width), f"{node.output[0]}_patches", src, attrs)
    if groups == shape[1] == channels:
        params = {"weight": weight.reshape(channels, len(taps)), "bias": np.zeros(channels)}
        made = ctx.builder.node("depthwise", [patches.name], (rows, channels), node.output[0], src, {"width": width}, params)
    else:
        spread = np.zeros((channels, len(taps), width))
        spread[:, :, : shape[1]] = dense_groups(ctx, node, weight, groups).reshape(channels, shape[1], len(taps)).swapaxes(1, 2)
        view = ctx.builder.whole(patches)
        made = ctx.linear(view, view.idx, spread.reshape(channels, -1), node.output[0], src)
    moved = identity((shape[0], *out, channels)).transpose(0, 3, 1, 2)
    return View(made, moved.reshape(*moved.shape[:2], *(out if len(shape) == 4 else out[1:])))


# ---- on the host ----


def _on_host(ctx: Context, node: NodeProto, x: View, weight: Array, window: Window) -> View:
    """Patches as rows of an input, which the host gathers; also kernels of one pixel anywhere."""
    padded = _padded(ctx, node, x, window)
    target, lead = _patches(padded.idx, window)
    flat = flat_linear(ctx, node, View(padded.base, target, padded.src), weight.reshape(weight.shape[0], -1))
    return View(flat.base, np.moveaxis(flat.idx.reshape(*lead, weight.shape[0]), -1, 1))


def _padded(ctx: Context, node: NodeProto, x: View, window: Window) -> View:
    """The input with zeros around it, which any type holds: one that a quantized model gave the input stays."""
    pads, rank = window.pads, len(window.kernel)
    if not any(pads):
        return x
    if any(pad < 0 for pad in pads):
        ctx.fail(node, f"a convolution with padding {list(pads)}")
    shape = [*x.shape[:2], *(size + pads[axis] + pads[axis + rank] for axis, size in enumerate(x.shape[2:]))]
    amounts = Const(np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64))
    made = ctx.host_node("Pad", [x, amounts], shape, (node.name,))
    return View(replace(made.base, imposed=x.base.imposed), made.idx, made.src)


def dense_groups(ctx: Context, node: NodeProto, weight: Array, groups: int) -> Array:
    """A grouped weight [O, I/g, ...] as [O, I, ...] with zeros."""
    out, inner = weight.shape[:2]
    if groups == 1:
        return weight
    if weight.size * groups > MAX_DENSE:
        ctx.fail(node, f"a convolution in {groups} groups would need a weight of {weight.size * groups} elements")
    dense = np.zeros((groups, out // groups, groups, *weight.shape[1:]))
    dense[np.arange(groups), :, np.arange(groups)] = weight.reshape(groups, out // groups, *weight.shape[1:])
    return dense.reshape(out, inner * groups, *weight.shape[2:])


def _patches(idx: Index, window: Window) -> tuple[Index, Shape]:
    """Index of all patches [B * prod(out), I * prod(kernel)], and (B, *out)."""
    rank = len(window.kernel)
    reach = tuple((size - 1) * dilation + 1 for size, dilation in zip(window.kernel, window.dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(idx, reach, tuple(range(2, idx.ndim)))
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in window.strides), *(slice(None, None, d) for d in window.dilations))
    moved = windows[steps].transpose(0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
    lead = tuple(moved.shape[: 1 + rank])
    return moved.reshape(elements(lead), -1), lead
