"""row_absmax: y = max over channels of |x|, one number per row: the dynamic scale of a token.

Shapes   x [R, C], y [R, 1].
Scales   x and y one per tensor each. Calibrated alike they are equal, and y is then exact.
Rounding requantize (half up), saturation at the largest integer of y: |-32768| becomes 32767.
Error    0.5 + |y| * 2**-17 steps of y before saturation; none where the scales are equal.
Widths   17 bits times a multiplier of 17 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import quantize_multiplier, requantize
from attnc.ir import Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.kernels.row_absmax import ROW_ABSMAX
from attnc.ops.base import Operator, scalar_scale
from attnc.ops.requantize import activation, factor_scalars


class RowAbsmax(Operator):
    """Largest magnitude of each row."""

    name = "row_absmax"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[R, 1]."""
        return inputs[0][0], 1

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """max |x|."""
        result: Array = np.abs(inputs[0]).max(axis=-1, keepdims=True)
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """The factor between the scales."""
        where = f"node {node.name!r} (row_absmax)"
        factor = scalar_scale(activation(inputs[0], where), where) / scalar_scale(activation(output, where), where)
        multiplier, shift = quantize_multiplier(factor)
        node.params = {"multiplier": multiplier, "shift": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Exact maximum, then requantize."""
        peak = np.maximum(inputs[0].max(axis=-1, keepdims=True).astype(np.int64), -inputs[0].min(axis=-1, keepdims=True).astype(np.int64))
        return requantize(peak, node.params["multiplier"], node.params["shift"], 0, output.range[1]).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        x, y = node.inputs[0], node.output
        kernel = KernelCall(
            network=ROW_ABSMAX,
            template_args=(("XT", IntType(16)), ("YT", IntType(16)), ("L", ctx.design.lanes), ("ROWS_MAX", ctx.design.rows)),
        )
        scalars = {"tiles": ctx.tiles(x), **factor_scalars(node), "high": ctx.graph.type(y).range[1]}
        return [
            Call(
                node=node.name,
                kernel=kernel,
                walks=(ctx.walk(x, row, rows), ctx.walk(y, row, rows)),
                scalars={"rows": rows, **scalars},
            )
            for row, rows in ctx.row_blocks(x)
        ]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane a negation, a comparison and a selection of 18 bits (one level of the tree); one rescale (DSP, shifter and clamp of
        37 bits).
        """
        lanes = kernel.arg("L")
        return Resources(lut=54 * lanes + 500, ff=60 * lanes + 500, dsp=1)
