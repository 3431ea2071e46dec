"""concat_channels: the channels of all operands side by side, each brought to the scale of the output.

Shapes   x_i [R, C_i], y [R, sum C_i]; the lanes divide every C_i but the last, so that each operand keeps its tiles.
Scales, rounding, error and widths as `requantize`, per operand: an operand with the scale of y is copied exactly.
Calls    one per operand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from attnc.arrays import Shape
from attnc.ir import GraphError, Node
from attnc.kernels.call import Call
from attnc.kernels.lowering import Lowering
from attnc.ops.concat import Concat
from attnc.ops.requantize import rescale_call


class ConcatChannels(Concat):
    """Tensors side by side along the channels."""

    name = "concat_channels"
    axis = 2

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[R, sum of the channels]."""
        if len({rows for rows, _ in inputs}) != 1:
            raise GraphError(f"node {node.name!r} (concat_channels): needs one number of rows, found {[rows for rows, _ in inputs]}")
        return inputs[0][0], sum(channels for _, channels in inputs)

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """A tile belongs to one operand."""
        return math.gcd(*(channels for _, channels in inputs[:-1]))

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per operand."""
        calls, tile = [], 0
        for i, name in enumerate(node.inputs):
            rows, tiles = ctx.graph.value(name).shape[0], ctx.tiles(name)
            walks = (ctx.walk(name), ctx.walk(node.output, 0, rows, tile, tiles))
            calls.append(rescale_call(node, ctx, walks, rows, f".{i}", channels=ctx.graph.value(name).shape[1]))
            tile += tiles
        return calls
