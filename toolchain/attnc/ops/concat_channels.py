"""concat_channels: the channels of all operands side by side, each brought to the scale of the output.

Shapes   x_i [R, C_i], y [R, sum C_i]; the lanes divide every C_i but the last, so that each operand keeps its tiles.
Scales, rounding, error and widths as `requantize`, per operand: an operand with the scale of y is copied exactly.
Calls    one per operand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from attnc.fixedpoint import requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.ops.base import Array, Call, KernelCall, Lowering, Operator, Resources, Shape
from attnc.ops.requantize import rescale_call, rescale_factors, rescale_resources


class ConcatChannels(Operator):
    """Tensors side by side along the channels."""

    name = "concat_channels"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[R, sum of the channels]."""
        if len({rows for rows, _ in inputs}) != 1:
            raise GraphError(f"node {node.name!r} (concat_channels): needs one number of rows, found {[rows for rows, _ in inputs]}")
        return inputs[0][0], sum(channels for _, channels in inputs)

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """A tile belongs to one operand."""
        return math.gcd(*(channels for _, channels in inputs[:-1]))

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Concatenation; constants repeat for every sample."""
        samples = max(x.shape[0] for x in inputs)
        return np.concatenate([np.broadcast_to(x, (samples, *x.shape[1:])) for x in inputs], axis=2)

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Factors per operand."""
        node.params = {}
        for i, type_ in enumerate(inputs):
            multiplier, shift = rescale_factors(type_, output, f"node {node.name!r} (concat_channels): operand {i}")
            node.params |= {f"multiplier.{i}": multiplier, f"shift.{i}": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of every operand."""
        p = node.params
        parts = [requantize(x, p[f"multiplier.{i}"], p[f"shift.{i}"], *output.range) for i, x in enumerate(inputs)]
        return self.reference(node, parts).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per operand."""
        calls, tile = [], 0
        for i, name in enumerate(node.inputs):
            rows, tiles = ctx.graph.value(name).shape[0], ctx.tiles(name)
            walks = (ctx.walk(name), ctx.walk(node.output, 0, rows, tile, tiles))
            calls.append(rescale_call(node, ctx, walks, rows, f".{i}", channels=ctx.graph.value(name).shape[1]))
            tile += tiles
        return calls

    def resources(self, kernel: KernelCall) -> Resources:
        """Those of the shared kernel."""
        return rescale_resources(kernel)
