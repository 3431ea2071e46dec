"""expert_scores: what a row holds at its chosen channels, as it is or divided by the sum of these: the weights of a token's experts.

Shapes   x [R, E], which [R, k] as `top_experts` gives it, attribute `normalise`; y [R, k].
Scales   x one per tensor. With `normalise` y is s16 of 2**-15, dictated; else one per tensor, the factor s_x / s_y.
Method   with `normalise` one integer division per row gives the reciprocal of the sum as 16 to 18 bits and an exponent. A sum that is not
         positive gives zeros.
Rounding the reciprocal and y half up, saturation to the range of y.
Error    0.5 + |y| * 2**-15.8 steps of y before saturation.
Widths   16 bits times 19 bits; a sum of at most 64 numbers has 21 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import MAX_SHIFT, bit_length, clamp, quantize_multiplier, shift_round_half_up
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.expert_scores import EXPERT_SCORES
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import ACTIVATION_BITS, PROBABILITY_BITS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator, scalar_scale
from attnc.ops.requantize import activation, factor_scalars, one_factor, shift_clamp_lane
from attnc.ops.top_experts import NUMBERS, in_one_tile

SUM_BITS = 21


class ExpertScores(Operator):
    """Weights of experts."""

    name = "expert_scores"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of the chosen channels."""
        if inputs[0][0] != inputs[1][0] or inputs[1][1] > inputs[0][1]:
            raise GraphError(f"node {node.name!r} (expert_scores): needs channels of each row of {inputs[0]}, found {inputs[1]}")
        return inputs[1]

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Chosen channels, divided by their sum."""
        found: Array = np.take_along_axis(inputs[0], inputs[1].astype(np.int64), axis=-1)
        total = found.sum(axis=-1, keepdims=True)
        if not node.attrs["normalise"]:
            return found
        return np.divide(found, total, out=np.zeros_like(found), where=np.broadcast_to(total > 0, found.shape))

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """Channels are numbers."""
        return NUMBERS if index == 1 else None

    def fixed_output_type(self, node: Node, inputs: Sequence[TensorType]) -> TensorType | None:
        """s16 of 2**-15 for what adds up to 1."""
        return TensorType(16, True, np.asarray(2.0**-PROBABILITY_BITS)) if node.attrs["normalise"] else None

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """The factor between the scales, or of a share."""
        where = f"node {node.name!r} (expert_scores)"
        if not node.attrs["normalise"]:
            node.params = one_factor(node, inputs[0], output)
            return
        scalar_scale(activation(inputs[0], where), where)
        multiplier, shift = quantize_multiplier(1 / scalar_scale(activation(output, where), where))
        assert shift <= MAX_SHIFT - SUM_BITS
        node.params = {"multiplier": multiplier, "shift": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """One division per row, one multiplication per element."""
        multiplier, shift = (int(node.params[name]) for name in ("multiplier", "shift"))
        found = np.take_along_axis(inputs[0].astype(np.int64), inputs[1].astype(np.int64), axis=-1)
        if not node.attrs["normalise"]:
            return clamp(shift_round_half_up(found * multiplier, shift), *output.range).astype(output.dtype)
        total = found.sum(axis=-1, keepdims=True)
        positive = np.maximum(total, 1)
        left = SUM_BITS - bit_length(positive)
        mantissa = positive << left
        factor = np.where(total > 0, ((multiplier << SUM_BITS) + (mantissa >> 1)) // mantissa, 0)
        return clamp(shift_round_half_up(found * factor, shift + SUM_BITS - left), *output.range).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        (x, which), y = node.inputs, node.output
        k = ctx.graph.value(which).shape[1]
        in_one_tile(node, ctx, k)
        types = tuple((name, IntType(16)) for name in ("XT", "IT", "YT"))
        kernel = KernelCall(network=EXPERT_SCORES, template_args=(*types, ("L", ctx.design.lanes), ("ROWS_MAX", ctx.design.rows)))
        scalars = {"tiles": ctx.tiles(x), "k": k, "normalise": int(node.attrs["normalise"]), **factor_scalars(node), **ctx.bounds(y)}
        return [
            Call(node.name, kernel, tuple(ctx.walk(name, row, rows) for name in (x, which, y)), {"rows": rows, **scalars})
            for row, rows in ctx.row_blocks(x)
        ]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane a choice of any lane of 16 bits (a LUT chooses among four), one DSP (16 by 19 bits), a shifter, adder and clamp; the
        pipelined divider one row of 22 bits per bit of the quotient.
        """
        lanes = kernel.arg("L")
        lane = shift_clamp_lane(36, ACTIVATION_BITS)
        divider = 39 * (SUM_BITS + 1) + SUM_BITS * 7
        chosen = ACTIVATION_BITS * lanes / 3
        return Resources(lut=(lane.lut + chosen) * lanes + divider + 500, ff=(lane.ff + 48) * lanes + 2 * divider + 600, dsp=lanes)
