"""depthwise: y = requantize(sum of the taps of x, each times a weight per channel, + bias): a convolution of every channel alone.

Shapes   x [R, taps*width] as `patches` makes it, weight [C, taps], bias [C], y [R, C], C <= width. Attributes taps, width.
Types    x bytes, or 16 bits where attrs["wide_operands"] = (0,), with one scale and no zero point; weights symmetric per channel, bias
         in units of the accumulator, y one scale or one per channel.
Error    the weights' rounding; the accumulator is exact, one rounding to y.
Rounding requantize (half up), saturation to the range of y.
Widths   |acc| <= sum over taps |w[c,j]| * |x|max + |bias[c]|, from the weights themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import bits_for, check_bits, quantize_half_even, quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.depthwise import DEPTHWISE
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator, Widening, product_bits, scalar_scale
from attnc.ops.requantize import byte_planes, wide_products

WEIGHT_LIMIT = 127
RECORD_PLANES = 8


class Depthwise(Operator):
    """A weighted sum of taps, channel by channel."""

    name = "depthwise"
    per_channel_output = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[R, C]."""
        channels, taps = node.params["weight"].shape
        rows, width = inputs[0][0], node.attrs["width"]
        if inputs[0][1] != taps * width or channels > width or node.params["bias"].shape != (channels,):
            raise GraphError(
                f"node {node.name!r} (depthwise): weight {channels}x{taps}, bias {node.params['bias'].shape} and taps of {width} channels "
                f"do not fit an input of {inputs[0]}"
            )
        return rows, channels

    def operand_bits(self, node: Node, index: int) -> int:
        """A byte, or 16 bits where attrs["wide_operands"] names the operand: weights are bytes."""
        return 16 if index in node.attrs.get("wide_operands", ()) else 8

    def widenings(self, node: Node, inputs: Sequence[Shape]) -> list[Widening]:
        """Of 16 bits, a product has a DSP for itself."""
        return [Widening("input", (0,), inputs[0][0] * node.params["weight"].size)]

    def takes_zero_point(self, node: Node, index: int) -> bool:
        """The multipliers take bytes, and a number less its zero point may need 9 bits."""
        return False

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """A tile belongs to one tap."""
        return int(node.attrs["width"])

    def _taps(self, node: Node, x: Array) -> Array:
        """[samples, R, taps, C]."""
        channels, taps = node.params["weight"].shape
        return x.reshape(*x.shape[:2], taps, node.attrs["width"])[..., :channels]

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """In float."""
        result: Array = (self._taps(node, inputs[0]) * node.params["weight"].T).sum(axis=2) + node.params["bias"]
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Weights symmetric per channel; bias in units of the accumulator."""
        where = f"node {node.name!r} (depthwise)"
        bits = self.operand_bits(node, 0)
        if inputs[0].bits > bits or not inputs[0].signed or inputs[0].zero_point:
            raise GraphError(f"{where}: needs an input in s{bits}, found {inputs[0].short} with zero point {inputs[0].zero_point}")
        unit, weight, bias = scalar_scale(inputs[0], where), node.params["weight"], np.asarray(node.params["bias"], np.float64)
        peak = np.abs(weight).max(axis=1)
        # A channel of zeros, or one so small that its bias would overflow, gets the finest scale that holds the bias.
        floor = np.maximum(np.abs(bias) / (unit * (1 << 30)), np.finfo(np.float64).tiny * 1e30)
        scale = np.maximum(np.where(peak > 0, peak / WEIGHT_LIMIT, 1.0), floor)
        q = quantize_half_even(weight, scale[:, None], -WEIGHT_LIMIT, WEIGHT_LIMIT)
        q_bias = np.rint(bias / (unit * scale)).astype(np.int64)
        multiplier, shift = quantize_multiplier(unit * scale / np.broadcast_to(output.scale, scale.shape))
        bound = int((np.abs(q).sum(axis=1) * inputs[0].magnitude + np.abs(q_bias)).max())
        node.params = {"weight": q.astype(np.int8), "bias": q_bias, "multiplier": multiplier, "shift": shift}
        node.attrs["acc_bits"] = check_bits(max(bits_for(bound), 32), f"{where}: accumulator", 39)
        product_bits(node, node.attrs["acc_bits"])

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Exact integer sum, then requantize per channel."""
        p = node.params
        acc = (self._taps(node, inputs[0]).astype(np.int64) * p["weight"].T.astype(np.int64)).sum(axis=2) + p["bias"]
        return requantize(acc, p["multiplier"], p["shift"], *output.range).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows; all of them read the same packed weights."""
        x, y, lanes = node.inputs[0], node.output, ctx.design.lanes
        tiles, taps, height = ctx.tiles(y), node.params["weight"].shape[1], ctx.graph.value(x).shape[0]
        words = tiles * (RECORD_PLANES + taps)
        weights = ctx.packed(node.packed, lambda: pack(node, lanes), words)
        kernel = KernelCall(
            network=DEPTHWISE,
            template_args=(
                ("XT", IntType(self.operand_bits(node, 0))),
                ("WT", IntType(8)),
                ("AccT", IntType(node.attrs["acc_bits"])),
                ("YT", IntType(16)),
                ("L", lanes),
                ("TAPS_MAX", taps),
                ("ROWS_MAX", ctx.design.rows),
            ),
        )
        calls = []
        for row, rows in ctx.row_blocks(x):
            source = ctx.through(x, row, (1, tiles, taps, rows), (0, height, node.attrs["width"] // lanes * height))
            scalars = {"rows": rows, "tiles": tiles, "taps": taps, **ctx.bounds(y)}
            macs = rows * node.params["weight"].size
            calls.append(Call(node.name, kernel, (source, weights, ctx.walk(y, row, rows)), scalars, macs))
        return calls

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane half a DSP for the product of bytes or one for inputs of 16 bits, `wide_product` for the multiplier, and a shifter, adder
        and clamp; the buffer of a block of rows, weights and records in registers.
        """
        lanes, acc, taps = (kernel.arg(name) for name in ("L", "AccT", "TAPS_MAX"))
        logic = Resources(
            lut=lanes * (acc + 5 * (acc + 19) + 8 * taps) + 500,
            ff=lanes * (2 * acc + 3 * (acc + 19) + 8 * taps + 64) + 600,
            dsp=lanes / (2 if kernel.arg("XT") <= 8 else 1),
        )
        return logic + wide_products(acc, lanes)


def pack(node: Node, lanes: int) -> bytes:
    """Per tile of channels: bias (4 words), multiplier and shift (4 words), then a word of weights per tap."""
    p = node.params
    record = p["multiplier"] + (p["shift"] << 24)
    parts = [byte_planes(p["bias"], 4, lanes), byte_planes(record, 4, lanes)]
    parts += [byte_planes(p["weight"][:, tap].astype(np.int64), 1, lanes) for tap in range(p["weight"].shape[1])]
    return np.concatenate(parts, axis=1).tobytes()
