"""scale_rows: y = x * peak + bias: what a linear layer made of normalized rows, brought back to the scale of its tokens.

Shapes   x [R, C], peak [R, 1], bias [C], y [R, C].
Scales   one per tensor each; the factor s_x * s_peak / s_y is an integer of 17 bits over 2**shift, with shift in 8 to 36; a factor above
         2**9, which one unit of x * peak would turn into 512 steps of y, is limited to that. The bias has 8 fraction bits, in steps of y.
Rounding x * peak * multiplier is exact; it is rounded half up to 8 fraction bits, and with the bias half up to y, which saturates.
Error    0.5 + 2**-8 + |x * peak| * 2**-(shift + 1) steps of y before saturation; the last term is at most max(|y| * 2**-17, 2**-7). A bias
         beyond 2**22 steps of y saturates there.
Widths   16, 16 and 17 bits multiplied: 50 with sign and rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import MULTIPLIER_BITS, clamp, quantize_half_even, quantize_multiplier, shift_round_half_up
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.kernels.scale_rows import SCALE_ROWS
from attnc.ops.base import Operator, scalar_scale
from attnc.ops.requantize import activation, byte_planes, wide_products

MAX_SHIFT = 36
FRACTION = 8
BIAS_LIMIT = (1 << 30) - 1
RECORD_PLANES = 4
ACC_BITS = 2 * ACTIVATION_BITS + MULTIPLIER_BITS + 1


class ScaleRows(Operator):
    """Multiplication of each row by a number of its own, and a bias per channel."""

    name = "scale_rows"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of x."""
        (rows, channels), peak = inputs
        if peak != (rows, 1) or node.params["bias"].shape != (channels,):
            raise GraphError(f"node {node.name!r} (scale_rows): peak {peak} and bias {node.params['bias'].shape} on input {inputs[0]}")
        return rows, channels

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """x * peak + bias."""
        result: Array = inputs[0] * inputs[1] + node.params["bias"].astype(inputs[0].dtype)
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Factor and bias."""
        where = f"node {node.name!r} (scale_rows)"
        x, peak, y = (scalar_scale(activation(type_, where), where) for type_ in (*inputs, output))
        multiplier, shift = quantize_multiplier(min(x * peak / y, ((1 << MULTIPLIER_BITS) - 1) / (1 << FRACTION)))
        if shift > MAX_SHIFT or not multiplier:
            multiplier, shift = np.rint(np.ldexp(x * peak / y, MAX_SHIFT)).astype(np.int64), np.int64(MAX_SHIFT)
        bias = quantize_half_even(node.params["bias"], y / (1 << FRACTION), -BIAS_LIMIT, BIAS_LIMIT)
        node.params = {"multiplier": multiplier, "shift": shift, "bias": bias}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Exact product, rounded to the fraction bits of the bias, added, rounded."""
        p = node.params
        product = inputs[0].astype(np.int64) * (inputs[1].astype(np.int64) * p["multiplier"])
        acc = shift_round_half_up(product, p["shift"] - FRACTION) + p["bias"]
        return clamp(shift_round_half_up(acc, FRACTION), *output.range).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        (x, peak), y = node.inputs, node.output
        lanes, tiles, p = ctx.design.lanes, ctx.tiles(x), node.params

        def pack() -> bytes:
            return byte_planes(p["bias"] + (1 << (FRACTION - 1)), RECORD_PLANES, lanes).tobytes()

        words = ctx.packed(node.packed, pack, tiles * RECORD_PLANES)
        kernel = KernelCall(
            network=SCALE_ROWS,
            template_args=(
                ("XT", IntType(16)),
                ("PeakT", IntType(16)),
                ("AccT", IntType(ACC_BITS)),
                ("YT", IntType(16)),
                ("L", lanes),
                ("ROWS_MAX", ctx.design.rows),
            ),
        )
        scalars = {"tiles": tiles, "multiplier": int(p["multiplier"]), "shift": int(p["shift"]) - FRACTION, **ctx.bounds(y)}
        return [
            Call(
                node=node.name,
                kernel=kernel,
                walks=(ctx.walk(x, row, rows), ctx.walk(peak, row, rows), words, ctx.walk(y, row, rows)),
                scalars={"rows": rows, **scalars},
            )
            for row, rows in ctx.row_blocks(x)
        ]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane `wide_product` of a factor of 33 bits and 16 bits, and a shifter, one adder and a clamp of the width of the product; two
        records of 32 bits in registers; one DSP for the factors, and their memory.
        """
        lanes, acc = kernel.arg("L"), kernel.arg("AccT")
        factor = ACTIVATION_BITS + MULTIPLIER_BITS
        logic = Resources(lut=5 * acc * lanes + 400, ff=(64 + 3 * acc) * lanes + 500, dsp=1)
        return logic + wide_products(factor, lanes, ACTIVATION_BITS)
