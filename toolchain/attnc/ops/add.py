"""add: y = a + b, brought to the scale of the output with one rounding.

Shapes   a, b [R, C], or either [1, C], which is then added to every row; y [R, C].
Scales   one per tensor each. Factors s_a/s_y and s_b/s_y share the shift for which the larger one has 17 bits.
Rounding half up once, saturation to the range of y.
Error    0.5 + (|a| + |b|) * 2**-(shift + 1) steps of y before saturation; with s16 operands at the scale of y, below 1.
         Operands at the scale of y are added exactly.
Widths   two products of 16 by 17 bits, their sum and a rounding bit: 36.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.add import ADDITION
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.mul import MULTIPLICATION, PAIRED
from attnc.kernels.network import Network
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator, scalar_scale
from attnc.ops.requantize import activation, shift_clamps


def broadcast_shape(node: Node, inputs: Sequence[Shape]) -> Shape:
    """Shape of an elementwise result; one operand may have a single row."""
    (rows_a, channels_a), (rows_b, channels_b) = inputs
    if channels_a != channels_b or (rows_a != rows_b and 1 not in (rows_a, rows_b)):
        raise GraphError(f"node {node.name!r} ({node.op}): needs equal shapes, or one row, found {inputs[0]} and {inputs[1]}")
    return max(rows_a, rows_b), channels_a


def elementwise_calls(node: Node, ctx: Lowering, network: Network, factors: Mapping[str, int]) -> list[Call]:
    """A call of a network per block of rows, for two operands. One of a single row comes second, else the one that is made first: so what
    a chain hands on comes through the same port in all of them. `factors` are the scalars that belong to the operands; where each has a
    multiplier they follow the operands. A mul by a single row makes its factors beforehand."""
    a, b = node.inputs
    height = {name: ctx.graph.value(name).shape[0] for name in (a, b)}
    scalars = dict(factors)
    last = next((other.output for other in reversed(ctx.graph.nodes) if other.output in (a, b)), a)
    if height[a] < height[b] or (height[a] == height[b] and last == b):
        a, b = b, a
        if network is ADDITION:
            scalars |= {"multiplier_a": factors["multiplier_b"], "multiplier_b": factors["multiplier_a"]}
    tiles, broadcast, lanes = ctx.tiles(a), height[b] < height[a], ctx.design.lanes
    kernel = KernelCall(
        network=network,
        template_args=(
            ("AT", IntType(16)),
            ("BT", IntType(16)),
            ("YT", IntType(16)),
            ("L", lanes),
            *([(PAIRED, int(not broadcast))] if network is MULTIPLICATION else []),
        ),
    )
    scalars |= {"tiles": tiles, "broadcast": int(broadcast), **ctx.bounds(node.output)}
    calls = []
    for row, rows in ctx.row_blocks(a):
        walks = (ctx.walk(a, row, rows), ctx.walk(b) if broadcast else ctx.walk(b, row, rows), ctx.walk(node.output, row, rows))
        calls.append(Call(node.name, kernel, walks, {"rows": rows, **scalars}))
    return calls


class Add(Operator):
    """Elementwise sum."""

    name = "add"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """The taller operand's."""
        return broadcast_shape(node, inputs)

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """a + b."""
        result: Array = inputs[0] + inputs[1]
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Two multipliers and their shift."""
        where = f"node {node.name!r} (add)"
        unit = scalar_scale(activation(output, where), where)
        reals = np.array([scalar_scale(activation(x, where), where) / unit for x in inputs])
        largest, shift = quantize_multiplier(reals.max())
        multiplier = np.rint(np.ldexp(reals, int(shift))).astype(np.int64)
        node.params = {"multiplier": multiplier if largest else np.zeros(2, np.int64), "shift": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Both products, one rounding."""
        a, b = (x.astype(np.float64) * float(m) for x, m in zip(inputs, node.params["multiplier"], strict=True))
        return requantize(a + b, 1, node.params["shift"], *output.range, output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        multiplier_a, multiplier_b = map(int, node.params["multiplier"])
        factors = {"multiplier_a": multiplier_a, "multiplier_b": multiplier_b, "shift": int(node.params["shift"])}
        return elementwise_calls(node, ctx, ADDITION, factors)

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane two DSPs (the second adds its product to the first's), and `shift_clamp` from 36 to 16 bits.
        """
        lanes = kernel.arg("L")
        return shift_clamps(36, ACTIVATION_BITS, lanes) + Resources(lut=250, ff=40 * lanes + 350, dsp=2 * lanes)
