"""dispatch: each row of x goes to its k places: the tokens, expert by expert.

Shapes   x [R, C], places [R, k] as `expert_order` gives it; y [R*k, C], y[places[r, j]] = x[r].
Scales   one per tensor each; the factor is s_x / s_y.
Rounding requantize: half up, saturation to the range of y; equal scales give an exact copy.
Error    0.5 + |y| * 2**-17 steps of y before saturation; none where the scales are equal.
Widths   16 bits times a multiplier of 17 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.dispatch import DISPATCH
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator
from attnc.ops.requantize import factor_scalars, one_factor, rescaled
from attnc.ops.top_experts import NUMBERS, in_one_tile


class Dispatch(Operator):
    """Rows to their places."""

    name = "dispatch"
    routes = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[R*k, C]."""
        (rows, channels), places = inputs
        if places[0] != rows:
            raise GraphError(f"node {node.name!r} (dispatch): needs places of each of {rows} rows, found {places}")
        return rows * places[1], channels

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Rows in their order."""
        x, places = inputs[0], inputs[1].astype(np.int64)
        samples, rows, k = places.shape
        result = np.empty((samples, rows * k, x.shape[2]), x.dtype)
        np.put_along_axis(result, places.reshape(samples, rows * k, 1), np.repeat(x, k, axis=1), axis=1)
        return result

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """Places are numbers."""
        return NUMBERS if index == 1 else None

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One multiplier."""
        node.params = one_factor(node, inputs[0], output)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of the rows."""
        return rescaled(node, self.reference(node, inputs), output)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """One call: a row may go anywhere."""
        (x, places), y = node.inputs, node.output
        rows, k = ctx.graph.value(places).shape
        in_one_tile(node, ctx, k)
        types = tuple((name, IntType(16)) for name in ("XT", "IT", "YT"))
        sizes = (("L", ctx.design.lanes), ("ROWS_MAX", rows), ("PAIRS_MAX", rows * k))
        kernel = KernelCall(network=DISPATCH, template_args=(*types, *sizes))
        scalars = {"rows": rows, "k": k, "tiles": ctx.tiles(x), **factor_scalars(node), **ctx.bounds(y)}
        return [Call(node.name, kernel, (ctx.walk(x), ctx.walk(places), ctx.walk(y)), scalars)]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane one DSP and a shifter, adder and clamp of 35 bits.
        """
        lanes = kernel.arg("L")
        return Resources(lut=190 * lanes + 400, ff=140 * lanes + 400, dsp=lanes)
