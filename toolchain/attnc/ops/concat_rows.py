"""concat_rows: the rows of all operands, one below the other, each brought to the scale of the output.

Shapes   x_i [R_i, C], y [sum R_i, C].
Scales, rounding, error and widths as `requantize`, per operand: an operand with the scale of y is copied exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.fixedpoint import requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.ops.base import Array, Call, KernelCall, Lowering, Operator, Resources, Shape
from attnc.ops.requantize import rescale_call, rescale_factors, rescale_resources


class ConcatRows(Operator):
    """Tensors stacked along the rows."""

    name = "concat_rows"
    per_channel_output = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[sum of the rows, C]."""
        if len({channels for _, channels in inputs}) != 1:
            raise GraphError(f"node {node.name!r} (concat_rows): needs one number of channels, found {[c for _, c in inputs]}")
        return sum(rows for rows, _ in inputs), inputs[0][1]

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Concatenation; constants repeat for every sample."""
        samples = max(x.shape[0] for x in inputs)
        return np.concatenate([np.broadcast_to(x, (samples, *x.shape[1:])) for x in inputs], axis=1)

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Factors per operand."""
        node.params = {}
        for i, type_ in enumerate(inputs):
            multiplier, shift = rescale_factors(type_, output, f"node {node.name!r} (concat_rows): operand {i}")
            node.params |= {f"multiplier.{i}": multiplier, f"shift.{i}": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of every operand."""
        p = node.params
        parts = [requantize(x, p[f"multiplier.{i}"], p[f"shift.{i}"], *output.range) for i, x in enumerate(inputs)]
        return self.reference(node, parts).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per operand."""
        calls, start = [], 0
        for i, name in enumerate(node.inputs):
            rows = ctx.graph.value(name).shape[0]
            calls.append(rescale_call(node, ctx, (ctx.walk(name), ctx.walk(node.output, start, rows)), rows, f".{i}"))
            start += rows
        return calls

    def resources(self, kernel: KernelCall) -> Resources:
        """Those of the shared kernel."""
        return rescale_resources(kernel)
