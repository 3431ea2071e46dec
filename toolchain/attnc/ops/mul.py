"""mul: y = requantize(a * b), elementwise.

Shapes   a, b [R, C], or either [1, C], which then multiplies every row; y [R, C].
Scales   one per tensor each; the factor is s_a * s_b / s_y.
Rounding the product is exact; requantize half up, saturation to the range of y.
Error    0.5 + |y| * 2**-17 steps of y before saturation.
Widths   32 bits for a product, 51 with its multiplier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import MULTIPLIER_BITS, quantize_multiplier
from attnc.ir import Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.mul import MULTIPLICATION, PAIRED
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.resources import Resources
from attnc.ops.add import broadcast_shape, elementwise_calls
from attnc.ops.base import Operator, product_bits, scalar_scale
from attnc.ops.requantize import activation, factor_scalars, rescaled, shift_clamps, wide_products


class Mul(Operator):
    """Elementwise product."""

    name = "mul"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """The taller operand's."""
        return broadcast_shape(node, inputs)

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """a * b."""
        result: Array = inputs[0] * inputs[1]
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One multiplier."""
        where = f"node {node.name!r} (mul)"
        a, b, y = (scalar_scale(activation(type_, where), where) for type_ in (*inputs, output))
        multiplier, shift = quantize_multiplier(a * b / y)
        product_bits(node, 2 * ACTIVATION_BITS)
        node.params = {"multiplier": multiplier, "shift": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Exact product, then requantize."""
        product = inputs[0].astype(np.int64) * inputs[1].astype(np.int64)
        return rescaled(node, product, output)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        return elementwise_calls(node, ctx, MULTIPLICATION, factor_scalars(node))

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane `shift_clamp` from 51 to 16 bits, and `wide_product` of the multiplier and the product of both operands, which takes a DSP
        of its own; where one operand is always a row, of the other operand and a factor: one DSP makes the factors, the next tile's
        while one passes (two sets in registers, half a LUT per bit to choose from them, and half a LUT per bit of b to choose a lane).
        """
        lanes = kernel.arg("L")
        logic = shift_clamps(51, ACTIVATION_BITS, lanes) + Resources(lut=250, ff=90 * lanes + 350)
        if kernel.arg(PAIRED):
            return logic + wide_products(2 * ACTIVATION_BITS, lanes) + Resources(dsp=lanes)
        bits = ACTIVATION_BITS + MULTIPLIER_BITS
        made = Resources(lut=bits / 2 * lanes + ACTIVATION_BITS * lanes / 2 + 60, ff=(2 * bits + ACTIVATION_BITS) * lanes + 60, dsp=1)
        return logic + wide_products(bits, lanes, ACTIVATION_BITS) + made
