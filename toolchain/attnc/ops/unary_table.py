"""unary, implementation "table": all 256 values of a function of 8-bit inputs, from the weight memory.

Functions every one.
Scales   x s8 of any scale and zero point; y one per tensor. The table belongs to the scales, so one engine serves every layer and every
         function.
Method   y = table[(x + 128) modulo 256]; the table is loaded before the rows pass, one value per cycle.
Rounding f(x) / scale of y half up, saturation to the range of y, done in float64 when the model is compiled.
Error    0 before the rounding to y: 0.5 steps of y in all.
"""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.fixedpoint import Int64, clamp
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.kernels.unary_table import UNARY_TABLE
from attnc.ops.approximation import Implementation, times
from attnc.ops.base import scalar_scale
from attnc.ops.functions import Function
from attnc.ops.requantize import activation
from attnc.ops.unary_method import Method, every

ENTRIES = 256
ENTRY_BITS = 16


class TableOf256(Method):
    """A table of all inputs."""

    name = "table"
    network = UNARY_TABLE

    def implementation(self, function: Function) -> Implementation | None:
        """Exact."""
        return Implementation(self.name, 0.0, ENTRIES * ENTRY_BITS, _lane())

    def accepts(self, function: Function, x: TensorType) -> bool:
        """Bytes."""
        return x.bits <= 8

    def quantize(self, node: Node, function: Function, x: TensorType, output: TensorType) -> None:
        """All values, each where its integer modulo 256 says."""
        where = self.where(node)
        if activation(x, where).bits > 8:
            raise GraphError(f"{where}: needs inputs of 8 bits, found {x.short}")
        activation(output, where)
        q, (low, high) = every(x), output.range
        real = function(q * scalar_scale(x, where)) / scalar_scale(output, where)
        table = np.zeros(ENTRIES, np.int64)
        table[_entry(q)] = clamp(np.floor(np.clip(real, low, high) + 0.5).astype(np.int64), low, high)
        node.params = {"table": table}

    def golden(self, node: Node, function: Function, x: Int64, output: TensorType) -> Int64:
        """A lookup."""
        result: Int64 = node.params["table"].astype(np.int64)[_entry(x)]
        return result

    def evaluate(self, function: Function, x: Int64, fraction_bits: int) -> Array:
        """The function itself: only the output rounds."""
        return function(x * 2.0**-fraction_bits)

    def lower(self, node: Node, function: Function, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        x, y, lanes = node.inputs[0], node.output, ctx.design.lanes
        tiles, channels = ctx.tiles(x), ctx.graph.value(x).shape[1]

        def pack() -> bytes:
            return node.params["table"].astype("<i2").tobytes()

        kernel = KernelCall(
            network=self.network,
            template_args=(("XT", IntType(ACTIVATION_BITS)), ("YT", IntType(ACTIVATION_BITS)), ("L", lanes)),
        )
        words = ctx.packed(node.packed, pack, 2 * ENTRIES // lanes)
        calls = []
        for row, rows in ctx.row_blocks(x):
            walks = (ctx.walk(x, row, rows), words, ctx.walk(y, row, rows))
            calls.append(Call(node.name, kernel, walks, {"rows": rows, "tiles": tiles, "channels": channels}))
        return calls

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run."""
        return times(Resources(lut=ENTRY_BITS, ff=2 * ENTRY_BITS), kernel.arg("L")) + Resources(lut=300, ff=400)


def _entry(x: Int64) -> Int64:
    """Where the table has the value of an integer: of any 256 that follow each other, no two lie in one place."""
    return (x + 128) % ENTRIES


def _lane() -> Resources:
    """Per lane a copy of the table in distributed RAM (64 bits per LUT), the selection of one of four LUTs, and registers."""
    return Resources(lut=ENTRY_BITS * (ENTRIES / 64 + 1), ff=3 * ENTRY_BITS)
