"""combine: what the k experts of a token made of it, each times its score, added up.

Shapes   x [R*k, C], places and scores [R, k], attribute `scale`; y [R, C], y[r] = scale * sum over j of scores[r, j] * x[places[r, j]].
Scales   one per tensor each; the factor is scale * s_x * s_scores / s_y.
Rounding the sum is exact; requantize once: half up, saturation to the range of y.
Error    0.5 + |y| * 2**-17 steps of y before saturation.
Widths   |acc| <= k * |x|max * |scores|max, checked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import bits_for, check_bits, quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.combine import COMBINE
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator, product_bits, scalar_scale
from attnc.ops.requantize import activation, factor_scalars, shift_clamp_lane, wide_products
from attnc.ops.top_experts import NUMBERS, in_one_tile


class Combine(Operator):
    """Sum over the experts of a token."""

    name = "combine"
    routes = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[R, C]."""
        (pairs, channels), places, scores = inputs
        if places != scores or pairs != places[0] * places[1]:
            raise GraphError(f"node {node.name!r} (combine): needs a place and a score of each of {pairs} rows, found {places}, {scores}")
        return places[0], channels

    def _chosen(self, x: Array, places: Array) -> Array:
        """[samples, R, k, C]."""
        samples, rows, k = places.shape
        at = places.astype(np.int64).reshape(samples, rows * k, 1)
        return np.take_along_axis(x, at, axis=1).reshape(samples, rows, k, x.shape[2])

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """The weighted sum."""
        x, places, scores = inputs
        result: Array = (self._chosen(x, places) * scores[..., None]).sum(axis=2) * node.attrs.get("scale", 1.0)
        return result

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """Places are numbers."""
        return NUMBERS if index == 1 else None

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One multiplier, and the width of the sum."""
        where = f"node {node.name!r} (combine)"
        unit = scalar_scale(activation(inputs[0], where), where) * scalar_scale(activation(inputs[2], where), where)
        multiplier, shift = quantize_multiplier(unit * node.attrs.get("scale", 1.0) / scalar_scale(activation(output, where), where))
        node.params = {"multiplier": multiplier, "shift": shift}
        bound = node.attrs["k"] * inputs[0].magnitude * inputs[2].magnitude
        node.attrs["acc_bits"] = check_bits(bits_for(bound), f"{where}: sum")
        product_bits(node, node.attrs["acc_bits"])

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Exact sum, one rounding."""
        x, places, scores = inputs
        acc = (self._chosen(x.astype(np.int64), places) * scores.astype(np.int64)[..., None]).sum(axis=2)
        return requantize(acc, node.params["multiplier"], node.params["shift"], *output.range, output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """One call: a row may come from anywhere."""
        (x, places, scores), y = node.inputs, node.output
        rows, k = ctx.graph.value(places).shape
        in_one_tile(node, ctx, k)
        types = (("XT", IntType(16)), ("IT", IntType(16)), ("ST", IntType(16)), ("AccT", IntType(node.attrs["acc_bits"])))
        sizes = (("YT", IntType(16)), ("L", ctx.design.lanes), ("ROWS_MAX", rows), ("PAIRS_MAX", rows * k))
        kernel = KernelCall(network=COMBINE, template_args=(*types, *sizes))
        scalars = {"rows": rows, "k": k, "tiles": ctx.tiles(x), **factor_scalars(node), **ctx.bounds(y)}
        return [Call(node.name, kernel, tuple(map(ctx.walk, (x, places, scores, y))), scalars)]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane one DSP for the product and its sum, `wide_product` for the factor, a shifter, adder and clamp.
        """
        lanes, acc = kernel.arg("L"), kernel.arg("AccT")
        lane = shift_clamp_lane(acc + 19, ACTIVATION_BITS)
        logic = Resources(lut=(lane.lut + acc) * lanes + 500, ff=(lane.ff + 2 * acc) * lanes + 500, dsp=lanes)
        return logic + wide_products(acc, lanes)
