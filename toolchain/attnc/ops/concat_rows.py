"""concat_rows: the rows of all operands, one below the other, each brought to the scale of the output.

Shapes   x_i [R_i, C], y [sum R_i, C].
Scales, rounding, error and widths as `requantize`, per operand: an operand with the scale of y is copied exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnc.arrays import Shape
from attnc.ir import GraphError, Node
from attnc.kernels.call import Call
from attnc.kernels.lowering import Lowering
from attnc.ops.concat import Concat
from attnc.ops.requantize import rescale_call


class ConcatRows(Concat):
    """Tensors stacked along the rows."""

    name = "concat_rows"
    axis = 1
    per_channel_output = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[sum of the rows, C]."""
        if len({channels for _, channels in inputs}) != 1:
            raise GraphError(f"node {node.name!r} (concat_rows): needs one number of channels, found {[c for _, c in inputs]}")
        return sum(rows for rows, _ in inputs), inputs[0][1]

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per operand."""
        calls, start = [], 0
        for i, name in enumerate(node.inputs):
            rows = ctx.graph.value(name).shape[0]
            calls.append(rescale_call(node, ctx, (ctx.walk(name), ctx.walk(node.output, start, rows)), rows, f".{i}"))
            start += rows
        return calls
