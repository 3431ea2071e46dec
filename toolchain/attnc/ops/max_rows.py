"""max_rows: the largest of the rows of each group, channel by channel.

Shapes   x [G*T, C], attribute groups = G; y [G, C].
Scales   x and y one per tensor; the factor is s_x / s_y.
Rounding the comparison is exact; requantize half up, saturation to the range of y; equal scales give an exact copy.
Error    0.5 + |y| * 2**-17 steps of y before saturation.
Widths   16 bits times a multiplier of 17 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnc.arrays import Array, Shape
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.max_rows import MAX_ROWS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator
from attnc.ops.requantize import factor_scalars, one_factor, rescaled


class MaxRows(Operator):
    """Max pooling over rows that follow each other."""

    name = "max_rows"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[G, C]."""
        groups, (rows, channels) = node.attrs["groups"], inputs[0]
        if groups < 1 or rows % groups or not rows:
            raise GraphError(f"node {node.name!r} (max_rows): needs rows that {groups} groups divide, found {rows}")
        return groups, channels

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Largest over T."""
        samples, rows, channels = inputs[0].shape
        groups = node.attrs["groups"]
        result: Array = inputs[0].reshape(samples, groups, rows // groups, channels).max(axis=2)
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One multiplier."""
        node.params = one_factor(node, inputs[0], output)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of the largest."""
        largest = self.reference(node, inputs)
        return rescaled(node, largest, output)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """One call: tiles follow each other in memory, so they are groups as well."""
        x, y, groups = node.inputs[0], node.output, node.attrs["groups"]
        kernel = KernelCall(network=MAX_ROWS, template_args=(("XT", IntType(16)), ("YT", IntType(16)), ("L", ctx.design.lanes)))
        rows = ctx.graph.value(x).shape[0] // groups
        scalars = {"groups": ctx.tiles(x) * groups, "rows": rows, **factor_scalars(node), **ctx.bounds(y)}
        return [Call(node.name, kernel, (ctx.walk(x), ctx.walk(y)), scalars)]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane a comparison and a choice of 16 bits, one DSP and a shifter, adder and clamp of 35 bits.
        """
        lanes = kernel.arg("L")
        return Resources(lut=206 * lanes + 200, ff=142 * lanes + 300, dsp=lanes)
