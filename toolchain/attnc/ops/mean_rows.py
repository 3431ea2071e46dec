"""mean_rows: the mean over the rows of each group.

Shapes   x [G*T, C], attribute groups = G; y [G, C].
Scales   x and y one per tensor; the division by T lies in the factor s_x / (s_y * T).
Rounding the sum is exact; requantize half up, saturation to the range of y.
Error    0.5 + |y| * 2**-17 steps of y before saturation.
Widths   |acc| <= T * |x|max.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnc.arrays import Array, Shape
from attnc.fixedpoint import bits_for, check_bits, quantize_multiplier
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.mean_rows import MEAN_ROWS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator, product_bits, scalar_scale
from attnc.ops.requantize import activation, factor_scalars, rescaled, wide_products


class MeanRows(Operator):
    """Mean pooling over tokens."""

    name = "mean_rows"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[G, C]; notes T as the attribute `length`, which quantization needs."""
        groups, (rows, channels) = node.attrs["groups"], inputs[0]
        if groups < 1 or rows % groups or not rows:
            raise GraphError(f"node {node.name!r} (mean_rows): needs rows that {groups} groups divide, found {rows}")
        node.attrs["length"] = rows // groups
        return groups, channels

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Mean over T."""
        samples, rows, channels = inputs[0].shape
        groups = node.attrs["groups"]
        result: Array = inputs[0].reshape(samples, groups, rows // groups, channels).mean(axis=2)
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Multiplier with 1/T in it, and the width of the sum."""
        where, length = f"node {node.name!r} (mean_rows)", node.attrs["length"]
        x = activation(inputs[0], where)
        activation(output, where)
        bits = check_bits(bits_for(length * x.magnitude), f"{where}: sum", 43)
        multiplier, shift = quantize_multiplier(scalar_scale(x, where) / (scalar_scale(output, where) * length))
        product_bits(node, bits)
        node.attrs["acc_bits"] = bits
        node.params = {"multiplier": multiplier, "shift": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Exact sum, then requantize."""
        samples, rows, channels = inputs[0].shape
        groups = node.attrs["groups"]
        acc = inputs[0].astype("int64").reshape(samples, groups, rows // groups, channels).sum(axis=2)
        return rescaled(node, acc, output)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """One call: tiles follow each other in memory, so they are groups as well."""
        x, y = node.inputs[0], node.output
        lanes, groups = ctx.design.lanes, ctx.tiles(x) * node.attrs["groups"]
        kernel = KernelCall(
            network=MEAN_ROWS,
            template_args=(("XT", IntType(16)), ("AccT", IntType(max(node.attrs["acc_bits"], 16))), ("YT", IntType(16)), ("L", lanes)),
        )
        scalars = {"groups": groups, "rows": node.attrs["length"], **factor_scalars(node), **ctx.bounds(y)}
        return [Call(node.name, kernel, (ctx.walk(x), ctx.walk(y)), scalars)]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane an accumulator, `wide_product`, and a shifter, adder and clamp of its width plus 19 bits.
        """
        lanes, acc = kernel.arg("L"), kernel.arg("AccT")
        logic = Resources(lut=lanes * (acc + 5 * (acc + 19)) + 200, ff=lanes * (2 * acc + 3 * (acc + 19)) + 300)
        return logic + wide_products(acc, lanes)
