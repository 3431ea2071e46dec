"""top_experts: the k channels of each row that hold most: the experts of a token.

Shapes   x [R, E], attribute k of 1 to E; y [R, k], the largest first; of equal ones the lowest channel comes first, as in TopK of ONNX.
Scales   x one per tensor; y holds numbers of channels, s16 of scale 1.
Rounding none: integers of x are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.errors import UnsupportedError
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.kernels.top_experts import TOP_EXPERTS
from attnc.ops.base import Operator, scalar_scale
from attnc.ops.requantize import activation

NUMBERS = TensorType(16, True, np.asarray(1.0))
"""Of values that hold numbers of experts, or of rows."""


def in_one_tile(node: Node, ctx: Lowering, channels: int) -> None:
    """Raise `UnsupportedError` where a vector does not hold `channels` channels."""
    if channels > ctx.design.lanes:
        source = node.source[-1] if node.source else node.name
        raise UnsupportedError(source, node.op, f"{channels} experts of a token need {channels} lanes, the design has {ctx.design.lanes}")


class TopExperts(Operator):
    """Choice of experts."""

    name = "top_experts"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[R, k]."""
        rows, experts = inputs[0]
        if not 1 <= node.attrs["k"] <= experts:
            raise GraphError(f"node {node.name!r} (top_experts): needs k of 1 to {experts}, found {node.attrs['k']}")
        return rows, node.attrs["k"]

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Channels in order of size."""
        order = np.argsort(-inputs[0], axis=-1, kind="stable")
        return order[..., : node.attrs["k"]].astype(np.float64)

    def fixed_output_type(self, node: Node, inputs: Sequence[TensorType]) -> TensorType:
        """Numbers."""
        return NUMBERS

    def least_lanes(self, node: Node) -> int:
        """The experts of a token lie in one vector."""
        return int(node.attrs["k"])

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One scale: integers are in the order of what they stand for."""
        where = f"node {node.name!r} (top_experts)"
        scalar_scale(activation(inputs[0], where), where)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """The same on integers."""
        return self.reference(node, [inputs[0].astype(np.int64)]).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        x, y, k = node.inputs[0], node.output, node.attrs["k"]
        in_one_tile(node, ctx, k)
        tiles, channels = ctx.tiles(x), ctx.graph.value(x).shape[1]
        sizes = (("L", ctx.design.lanes), ("TILES_MAX", tiles), ("ROWS_MAX", ctx.design.rows))
        kernel = KernelCall(network=TOP_EXPERTS, template_args=(("XT", IntType(16)), ("YT", IntType(16)), *sizes))
        scalars = {"tiles": tiles, "channels": channels, "k": k}
        return [
            Call(node.name, kernel, (ctx.walk(x, row, rows), ctx.walk(y, row, rows)), {"rows": rows, **scalars})
            for row, rows in ctx.row_blocks(x)
        ]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane two comparisons of 16 bits and of a number, and a choice of 32 bits on the way to the largest; vectors of picks.
        """
        lanes = kernel.arg("L")
        return Resources(lut=90 * lanes + 400, ff=110 * lanes + 500)
