"""mask_bias: a bias of attention that the device computes, with a mask or bias of the host or of the model added: y = gain * x + mask.

Shapes   x [R, Tk], mask [P, Tk], P divides R: row r takes row r mod P of the mask; y [R, Tk]. Attribute `gain`, 1 by default.
Types    x one scale; mask and y biases of attention (attention_bias.py): s16 in units of 2**bias_shift scores, where -32768 excludes a key
         and -32767 takes the place of its score. Attribute `bias_shift`, by default that of attention.
Rounding requantize of x to the unit, half up; the sum saturates to +-32766, and a mask below that passes as it is.
Error    half a unit and |x| * 2**-17 before saturation, beside what the mask was rounded by.
Widths   16 bits times a multiplier of 17 bits; a sum of 18 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.mask_bias import MASK_BIAS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.attention_bias import BIAS_LIMIT, DEFAULT_BIAS_SHIFT, bias_type, dequantize_bias, quantize_bias
from attnc.ops.base import Operator, scalar_scale
from attnc.ops.requantize import activation, factor_scalars


class MaskBias(Operator):
    """The bias of attention from what the device computes and a mask."""

    name = "mask_bias"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of x."""
        (rows, keys), (period, masked) = inputs
        if keys != masked or rows % period:
            raise GraphError(f"node {node.name!r} (mask_bias): needs a mask of {keys} keys whose rows divide {rows}, found {inputs[1]}")
        return rows, keys

    def fixed_output_type(self, node: Node, inputs: Sequence[TensorType]) -> TensorType:
        """A bias of attention."""
        return bias_type(node.attrs.get("bias_shift", DEFAULT_BIAS_SHIFT))

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """The mask has the type of the output."""
        return self.fixed_output_type(node, []) if index == 1 else None

    def quantize_operand(self, node: Node, index: int, real: Array, type_: TensorType) -> Array:
        """A constant operand in integers."""
        return quantize_bias(real, type_) if index == 1 else type_.quantize(real)

    def dequantize_operand(self, node: Node, index: int, q: Array, type_: TensorType) -> Array:
        """What the integers stand for."""
        return dequantize_bias(q, type_) if index == 1 else type_.dequantize(q)

    def excludes(self, node: Node, index: int) -> bool:
        """The mask."""
        return index == 1

    def allows_nothing(self, node: Node, index: int) -> bool:
        """Zeros where the model guards against the NaN that a softmax over no key is."""
        return bool(node.attrs.get("guarded", False))

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """The sum."""
        x, mask = inputs
        period = x.reshape(x.shape[0], -1, *mask.shape[1:])
        result: Array = (period * node.attrs.get("gain", 1.0) + mask[:, None]).reshape(x.shape)
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One multiplier."""
        where = f"node {node.name!r} (mask_bias)"
        x, y = scalar_scale(activation(inputs[0], where), where), scalar_scale(output, where)
        if inputs[1].short != "s16" or scalar_scale(inputs[1], where) != y:
            raise GraphError(f"{where}: needs a mask of the type of its output, found {inputs[1].short} of {float(inputs[1].scale):g}")
        multiplier, shift = quantize_multiplier(abs(node.attrs.get("gain", 1.0)) * x / y)
        multiplier = -multiplier if node.attrs.get("gain", 1.0) < 0 else multiplier
        node.params = {"multiplier": multiplier, "shift": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize, sum, saturation."""
        x, mask = inputs[0], inputs[1].astype(np.int64)
        bias = requantize(x, node.params["multiplier"], node.params["shift"], -2 * BIAS_LIMIT, 2 * BIAS_LIMIT).astype(np.int64)
        whole = np.broadcast_to(mask[:, None], (x.shape[0], x.shape[1] // mask.shape[1], *mask.shape[1:])).reshape(x.shape)
        return np.where(whole < -BIAS_LIMIT, whole, np.clip(bias + whole, -BIAS_LIMIT, BIAS_LIMIT)).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of the rows of a mask, or of x where the mask is one row."""
        (x, mask), y, tiles = node.inputs, node.output, ctx.tiles(node.output)
        height, period = ctx.graph.value(x).shape[0], ctx.graph.value(mask).shape[0]
        args = (("XT", IntType(16)), ("MT", IntType(16)), ("YT", IntType(16)), ("L", ctx.design.lanes))
        kernel = KernelCall(network=MASK_BIAS, template_args=args)
        scalars = {"tiles": tiles, **factor_scalars(node)}
        calls = []
        for first in range(0, height, height if period == 1 else period):
            for row, rows in ctx.row_blocks(x if period == 1 else mask):
                masked = ctx.walk(mask, row, rows) if period > 1 else ctx.through(mask, 0, (1, tiles, rows, 1), (0, 1, 0))
                walks = (ctx.walk(x, first + row, rows), masked, ctx.walk(y, first + row, rows))
                calls.append(Call(node.name, kernel, walks, {"rows": rows, **scalars}))
        return calls

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane one DSP, a shifter, adder and clamp of 35 bits, and a sum, a clamp and a choice of 18 bits.
        """
        lanes = kernel.arg("L")
        return Resources(lut=250 * lanes + 250, ff=160 * lanes + 350, dsp=lanes)
