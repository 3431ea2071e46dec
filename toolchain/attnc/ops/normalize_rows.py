"""normalize_rows: y = x / peak row by row, in [-1, 1]: a token brought to its own scale.

Shapes   x [R, C], peak [R, 1] as `row_absmax` gives it, y [R, C]. A row whose peak is 0 becomes 0.
Scales   x and peak one per tensor; y is s8 of 1/127, whatever was calibrated, or with attribute `limit` integers up to that, of 1/limit.
Method   per row the reciprocal of the peak as an integer of 15 to 18 bits and an exponent, by one integer division; then one
         multiplication per element.
Rounding the reciprocal and y half up, y saturated to +-127 (or the limit).
Error    0.5 + |y| * 2**-15.8 steps of y before saturation: 2**-17 each from the multiplier and the reciprocal, rounded up.
Widths   16 bits times 19 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import MAX_SHIFT, Int64, bit_length, bits_for, clamp, quantize_multiplier, shift_round_half_up
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.normalize_rows import NORMALIZE_ROWS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator, scalar_scale
from attnc.ops.requantize import activation, factor_scalars, shift_clamps

LIMIT = 127
PEAK_BITS = 15


def reciprocal(peak: Int64, multiplier: int, shift: int) -> tuple[Int64, Int64]:
    """(factor, shift) of multiplier / 2**shift / peak for each peak in [1, 2**15); factor 0 for a peak that is not positive."""
    positive = np.maximum(peak, 1)
    left = PEAK_BITS - bit_length(positive)
    mantissa = positive << left
    factor = ((multiplier << PEAK_BITS) + (mantissa >> 1)) // mantissa
    return np.where(peak > 0, factor, 0), shift + PEAK_BITS - left


def _limit(node: Node) -> int:
    return int(node.attrs.get("limit", LIMIT))


class NormalizeRows(Operator):
    """Division of each row by its peak."""

    name = "normalize_rows"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of x."""
        if inputs[1] != (inputs[0][0], 1):
            raise GraphError(f"node {node.name!r} (normalize_rows): needs a peak per row of {inputs[0]}, found {inputs[1]}")
        return inputs[0]

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """x / peak, 0 where the peak is 0."""
        x, peak = inputs
        return np.divide(x, peak, out=np.zeros_like(x), where=np.broadcast_to(peak > 0, x.shape))

    def output_bits(self, node: Node) -> int:
        """As many as the limit takes: bytes, if there is no other."""
        return bits_for(_limit(node))

    def fixed_output_type(self, node: Node, inputs: Sequence[TensorType]) -> TensorType:
        """s8 of 1/127, if there is no other limit."""
        return TensorType(self.output_bits(node), True, np.asarray(1 / _limit(node)))

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """The factor between the scales, for a peak of 1."""
        where = f"node {node.name!r} (normalize_rows)"
        x, peak, y = (scalar_scale(activation(type_, where), where) for type_ in (*inputs, output))
        multiplier, shift = quantize_multiplier(x / (peak * y))
        if shift > MAX_SHIFT - PEAK_BITS:  # too small to give anything but zeros
            multiplier, shift = np.int64(0), np.int64(0)
        node.params = {"multiplier": multiplier, "shift": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """One division per row, one multiplication per element."""
        p, limit = node.params, _limit(node)
        factor, shift = reciprocal(inputs[1].astype(np.int64), int(p["multiplier"]), int(p["shift"]))
        return clamp(shift_round_half_up(inputs[0].astype(np.int64) * factor, shift), -limit, limit).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        (x, peak), y = node.inputs, node.output
        kernel = KernelCall(
            network=NORMALIZE_ROWS,
            template_args=(
                ("XT", IntType(16)),
                ("PeakT", IntType(16)),
                ("YT", IntType(16)),
                ("L", ctx.design.lanes),
                ("ROWS_MAX", ctx.design.rows),
            ),
        )
        scalars = {"tiles": ctx.tiles(x), **factor_scalars(node), "limit": _limit(node)}
        return [
            Call(
                node=node.name,
                kernel=kernel,
                walks=(ctx.walk(x, row, rows), ctx.walk(peak, row, rows), ctx.walk(y, row, rows)),
                scalars={"rows": rows, **scalars},
            )
            for row, rows in ctx.row_blocks(x)
        ]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane one DSP (16 by 19 bits), and `shift_clamp` from 36 to 8 bits; the pipelined divider one row of 16 bits per bit of
        the quotient, with a priority encoder and a shifter in front; factor and shift of every row.
        """
        lanes = kernel.arg("L")
        divider = 33 * 16 + PEAK_BITS * 6
        rest = Resources(lut=divider + 400, ff=40 * lanes + 2 * divider + 500, dsp=lanes)
        return shift_clamps(36, LIMIT.bit_length() + 1, lanes) + rest
