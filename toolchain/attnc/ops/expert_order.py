"""expert_order: where each pair of a token and one of its experts lies when all are sorted by expert, those of one expert by token.
expert_queue: the experts that have pairs, each with the place of its first one and their number.

Shapes   x [R, k] as `top_experts` gives it, attribute `experts`: E. expert_order: y [R, k], each of 0 to R*k - 1 once. expert_queue:
         y [min(E, R*k), 3]: expert, first place, pairs; behind the last expert that has any, zeros.
Scales   numbers, s16 of scale 1: R*k is at most 32767.
Rounding none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from attnc.arrays import Array, Shape
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.expert_order import EXPERT_ORDER
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator
from attnc.ops.top_experts import NUMBERS, in_one_tile

ENTRY = 3
"""Numbers of an entry of the queue."""


class _Sorted(Operator):
    """What both give away of the sort."""

    queue: ClassVar[bool]
    routes = True

    def _check(self, node: Node, inputs: Sequence[Shape]) -> int:
        pairs, most = inputs[0][0] * inputs[0][1], NUMBERS.range[1]
        if pairs > most:
            raise GraphError(f"node {node.name!r} ({node.op}): needs at most {most} pairs of token and expert, found {pairs}")
        return pairs

    def fixed_operand_type(self, node: Node, index: int) -> TensorType:
        """Numbers."""
        return NUMBERS

    def fixed_output_type(self, node: Node, inputs: Sequence[TensorType]) -> TensorType:
        """Numbers."""
        return NUMBERS

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Nothing has a scale."""

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """The same."""
        return self.reference(node, inputs).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """One call: all pairs meet."""
        x, y = node.inputs[0], node.output
        rows, k = ctx.graph.value(x).shape
        in_one_tile(node, ctx, max(k, ENTRY))
        experts, entries = node.attrs["experts"], ctx.graph.value(y).shape[0] if self.queue else 0
        sizes = (("L", ctx.design.lanes), ("ROWS_MAX", rows), ("EXPERTS_MAX", experts))
        kernel = KernelCall(network=EXPERT_ORDER, template_args=(("XT", IntType(16)), ("YT", IntType(16)), *sizes))
        scalars = {"rows": rows, "k": k, "experts": experts, "queue": int(self.queue), "entries": entries}
        return [Call(node.name, kernel, (ctx.walk(x), ctx.walk(y)), scalars)]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Two counters of 15 bits per expert, each chosen among all (a LUT chooses among four) and written alone.
        """
        experts = kernel.arg("EXPERTS_MAX")
        return Resources(lut=2 * 28 * experts + 400, ff=2 * 15 * experts + 400)


class ExpertOrder(_Sorted):
    """Places of pairs."""

    name = "expert_order"
    queue = False

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of the pairs."""
        self._check(node, inputs)
        return inputs[0]

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """The inverse of a stable sort."""
        samples, rows, k = inputs[0].shape
        order = np.argsort(inputs[0].reshape(samples, rows * k), axis=-1, kind="stable")
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.arange(rows * k)[None], axis=-1)
        return places.reshape(samples, rows, k).astype(np.float64)


class ExpertQueue(_Sorted):
    """Experts that have pairs."""

    name = "expert_queue"
    queue = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """An entry for each expert that may have any."""
        return min(node.attrs["experts"], self._check(node, inputs)), ENTRY

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Counted."""
        experts, (entries, _) = node.attrs["experts"], self.shape(node, [inputs[0].shape[1:]])
        result = np.zeros((len(inputs[0]), entries, ENTRY))
        for queue, chosen in zip(result, inputs[0].astype(np.int64), strict=True):
            counts = np.bincount(chosen.ravel(), minlength=experts)
            found = counts.nonzero()[0]
            queue[: len(found)] = np.stack([found, (np.cumsum(counts) - counts)[found], counts[found]], axis=1)
        return result
