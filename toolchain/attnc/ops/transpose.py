"""transpose: y = x with rows and channels exchanged, brought to the scale of the output.

Shapes   x [R, C], y [C, R].
Scales   one per tensor each; the factor is s_x / s_y.
Rounding requantize: half up, saturation to the range of y; equal scales give an exact copy.
Error    0.5 + |y| * 2**-17 steps of y before saturation; none where the scales are equal.
Widths   16 bits times a multiplier of 17 bits.
Calls    one for all whole tiles of rows, one for the rows that are left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.ir import Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.kernels.transpose import TRANSPOSE
from attnc.ops.base import Operator
from attnc.ops.requantize import factor_scalars, one_factor, rescaled


class Transpose(Operator):
    """Exchange of rows and channels."""

    name = "transpose"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[C, R]."""
        rows, channels = inputs[0]
        return channels, rows

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """The transpose of each sample."""
        return np.ascontiguousarray(inputs[0].swapaxes(1, 2))

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One multiplier."""
        node.params = one_factor(node, inputs[0], output)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of the transpose."""
        moved = self.reference(node, inputs)
        return rescaled(node, moved, output)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A tile of rows becomes a tile of channels."""
        x, y, lanes = node.inputs[0], node.output, ctx.design.lanes
        height, channels = ctx.graph.value(x).shape
        tiles, (whole, rest) = ctx.tiles(x), divmod(height, lanes)
        kernel = KernelCall(network=TRANSPOSE, template_args=(("XT", IntType(16)), ("YT", IntType(16)), ("L", lanes)))
        own = {"tiles": tiles, "channels": channels, **factor_scalars(node), **ctx.bounds(y)}
        calls = []
        for first, blocks, rows in ((0, whole, lanes), (whole, 1, rest)):
            if blocks and rows:
                source = ctx.through(x, first * lanes, (1, blocks, tiles, rows), (0, lanes, height))
                target = ctx.walk(y, 0, channels, first, blocks)
                calls.append(Call(node.name, kernel, (source, target), own | {"blocks": blocks, "rows": rows}))
        return calls

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Two squares in registers; per lane the choice of one of 2 * L elements (a LUT chooses among four), one DSP and a shifter, adder and
        clamp of 35 bits.
        """
        lanes = kernel.arg("L")
        chosen = ACTIVATION_BITS * (2 * lanes + 2) / 3
        return Resources(lut=(180 + chosen) * lanes + 300, ff=(110 + 2 * ACTIVATION_BITS * lanes) * lanes + 300, dsp=lanes)
