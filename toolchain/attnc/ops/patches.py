"""patches: pixels around each position side by side along channels, zeros outside the picture: a convolution's input as rows.

Shapes   x [N*H*W, C], N pictures of H x W pixels; y [N*OH*OW, taps*width], width >= C. Attributes count (N), size (H, W), out (OH, OW),
         strides (SY, SX), taps: (dy, dx) of each tap, width. Row (n, oy, ox), channel j*width + c of y is
         x[(n, oy*SY + dy_j, ox*SX + dx_j), c], and 0 where that lies outside the picture or c >= C.
Scales   one per tensor each; the factor is s_x / s_y.
Rounding requantize: half up, saturation to the range of y; equal scales give an exact copy.
Error    0.5 + |y| * 2**-17 steps of y before saturation; none where the scales are equal.
Widths   16 bits times a multiplier of 17 bits.
Calls    one per tap and picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import NO_WALK, Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.patches import PATCHES
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator
from attnc.ops.requantize import factor_scalars, one_factor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Output positions [first, last) along one axis at which a tap lies inside the picture, and the first pixel that it reads."""

    first: int
    last: int
    start: int

    @classmethod
    def of(cls, offset: int, stride: int, size: int, out: int) -> Window:
        """The tap at `offset`: position o reads pixel o * stride + offset."""
        first = min(max(0, -(offset // stride)), out)
        last = min(max(first, (size - 1 - offset) // stride + 1), out)
        return cls(first, last, first * stride + offset)

    @property
    def count(self) -> int:
        """Positions."""
        return self.last - self.first


class Patches(Operator):
    """Rows of a picture as rows of patches."""

    name = "patches"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[N*OH*OW, taps*width]."""
        attr, (rows, channels) = node.attrs, inputs[0]
        (height, width), (out_height, out_width) = attr["size"], attr["out"]
        if rows != attr["count"] * height * width or attr["width"] < channels or not attr["taps"] or min(attr["strides"]) < 1:
            raise GraphError(
                f"node {node.name!r} (patches): {attr['count']} pictures of {height} x {width} and taps of {attr['width']} channels "
                f"do not fit an input of {rows} x {channels}"
            )
        return attr["count"] * out_height * out_width, len(attr["taps"]) * attr["width"]

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """The pixels, zeros outside."""
        attr, x = node.attrs, inputs[0]
        samples, channels = x.shape[0], x.shape[2]
        picture = x.reshape(samples, attr["count"], *attr["size"], channels)
        result = np.zeros((samples, attr["count"], *attr["out"], len(attr["taps"]), attr["width"]), x.dtype)
        for tap, (rows, columns) in enumerate(windows(node)):
            (sy, sx) = attr["strides"]
            ys, xs = rows.start + sy * np.arange(rows.count), columns.start + sx * np.arange(columns.count)
            result[:, :, rows.first : rows.last, columns.first : columns.last, tap, :channels] = picture[:, :, ys][:, :, :, xs]
        return result.reshape(samples, -1, len(attr["taps"]) * attr["width"])

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """A tile belongs to one tap."""
        return int(node.attrs["width"])

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One multiplier."""
        node.params = one_factor(node, inputs[0], output)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of the pixels."""
        pixels = requantize(inputs[0], node.params["multiplier"], node.params["shift"], *output.range)
        return self.reference(node, [pixels]).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per tap and picture: the loader reads the pixels that exist, the kernel puts the zeros between them."""
        x, y, attr = node.inputs[0], node.output, node.attrs
        lanes, height = ctx.design.lanes, ctx.graph.value(x).shape[0]
        (sy, sx), (_, width), (out_height, out_width) = attr["strides"], attr["size"], attr["out"]
        tiles, used, out = attr["width"] // lanes, ctx.tiles(x), out_height * out_width
        kernel = KernelCall(
            network=PATCHES,
            template_args=(("XT", IntType(16)), ("YT", IntType(16)), ("L", lanes)),
        )
        own = {"tiles": tiles, "used": used, "height": out_height, "width": out_width, **factor_scalars(node), **ctx.bounds(y)}
        calls = []
        for picture in range(attr["count"]):
            for tap, (rows, columns) in enumerate(windows(node)):
                first = (picture * attr["size"][0] + rows.start) * width + columns.start
                inner = (1, columns.count) if sx == 1 else (columns.count, 1)
                source = ctx.through(x, first, (used, rows.count, *inner), (height, sy * width, sx))
                if not rows.count or not columns.count:
                    source = NO_WALK
                target = ctx.walk(y, picture * out, out, tap * tiles, tiles)
                window = {"top": rows.first, "bottom": rows.last, "left": columns.first, "right": columns.last}
                calls.append(Call(node.name, kernel, (source, target), own | window))
        return calls

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane one DSP and a shifter, adder and clamp of 35 bits; counters and comparisons for the window.
        """
        lanes = kernel.arg("L")
        return Resources(lut=180 * lanes + 600, ff=110 * lanes + 600, dsp=lanes)


def windows(node: Node) -> list[tuple[Window, Window]]:
    """Along rows and columns of the picture, for each tap."""
    attr = node.attrs
    (sy, sx), (height, width), (out_height, out_width) = attr["strides"], attr["size"], attr["out"]
    return [(Window.of(dy, sy, height, out_height), Window.of(dx, sx, width, out_width)) for dy, dx in attr["taps"]]
