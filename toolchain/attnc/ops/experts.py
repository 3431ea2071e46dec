"""experts: the linear layers of all experts, each over the rows that an entry of the queue gives it.

Shapes   x [R, K], queue [Q, 3] as `expert_queue` gives it; weight [E, N, K], bias [E, N], y [R, N]: rows [first, first + count) of an entry
         are x . weight[expert]^T + bias[expert].
Scales, weights, rounding, zero and widths as `linear`, expert by expert, all with weights of one format; y has one scale for all experts.
Engines  "dsp". The packed weights of experts follow each other, so where those of one begin is a multiple of its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.design import LinearNumbers, Numbers
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator
from attnc.ops.expert_order import ENTRY
from attnc.ops.linear import Linear, check_groups, dsp_calls, dsp_layout, dsp_words
from attnc.ops.linear_weights import EXPERTS
from attnc.ops.packing import payload
from attnc.ops.top_experts import NUMBERS

LINEAR = Linear()


class Experts(Operator):
    """Matrix products of which a row takes one."""

    name = EXPERTS
    routes = True

    def expert(self, node: Node, number: int) -> Node:
        """The linear layer of one."""
        params = {name: array[number] for name, array in node.params.items()}
        return Node(node.name, LINEAR.name, node.inputs[:1], node.output, {**node.attrs}, params, node.source)

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[R, N]."""
        _, n, k = node.params["weight"].shape
        if inputs[0][1] != k or node.params["bias"].shape != node.params["weight"].shape[:2] or inputs[1][1] != ENTRY:
            found = f"bias {node.params['bias'].shape} on {inputs[0]} and queue {inputs[1]}"
            raise GraphError(f"node {node.name!r} (experts): weight {node.params['weight'].shape} with {found}")
        return inputs[0][0], n

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Entry by entry."""
        x, (_, n, _) = inputs[0], node.params["weight"].shape
        result = np.zeros((*x.shape[:2], n), x.dtype)
        for sample, rows, one in self._entries(node, inputs[1]):
            result[sample, rows] = LINEAR.reference(one, [x[sample : sample + 1, rows]])[0]
        return result

    def _entries(self, node: Node, queue: Array) -> Iterator[tuple[int, slice, Node]]:
        """Every (sample, rows, linear layer)."""
        layers = [self.expert(node, number) for number in range(len(node.params["weight"]))]
        for sample, entries in enumerate(queue.astype(np.int64).tolist()):
            yield from ((sample, slice(first, first + count), layers[expert]) for expert, first, count in entries if count)

    def engines(self, node: Node) -> tuple[str, ...]:
        """Multipliers."""
        return ("dsp",)

    def operand_bits(self, node: Node, index: int) -> int:
        """The multipliers take bytes, or two of them one after the other."""
        return LINEAR.operand_bits(node, index) if index == 0 else 16

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """The queue holds numbers."""
        return NUMBERS if index == 1 else None

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Expert by expert; the accumulator serves all."""
        layers = [self.expert(node, number) for number in range(len(node.params["weight"]))]
        for layer in layers:
            LINEAR.quantize(layer, inputs[:1], output)
        node.params = {name: np.stack([layer.params[name] for layer in layers]) for name in layers[0].params}
        node.attrs["engine"], node.attrs["input_bytes"] = "dsp", layers[0].attrs["input_bytes"]
        for name in ("acc_bits", "weight_magnitude", "largest_weight"):
            node.attrs[name] = max(layer.attrs[name] for layer in layers)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Entry by entry."""
        x, (_, n, _) = inputs[0], node.params["weight"].shape
        result = np.zeros((*x.shape[:2], n), output.dtype)
        for sample, rows, one in self._entries(node, inputs[1]):
            result[sample, rows] = LINEAR.golden(one, [x[sample : sample + 1, rows]], types[:1], output)[0]
        return result

    def numbers(self, node: Node) -> type[Numbers]:
        """Those of the engine of linear layers."""
        return LinearNumbers

    def macs_per_cycle(self, kernel: KernelCall) -> int:
        """Those of the engine of linear layers."""
        return LINEAR.macs_per_cycle(kernel)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """The calls of one linear layer, whose weights begin where those of the entry's expert do."""
        one, count = self.expert(node, 0), len(node.params["weight"])
        check_groups(one, ctx)
        layout = dsp_layout(one, ctx)
        words = dsp_words(one, ctx, layout)
        filling = bytes(-words % 2 * ctx.design.lanes)  # each expert begins at an even word

        def pack() -> Iterator[bytes]:
            for number in range(count):
                yield b"".join(payload(self.expert(node, number), layout)) + filling

        return dsp_calls(one, ctx, layout, ctx.expert_words(layout.key(node), pack, words, words + words % 2))

    def logic(self, kernel: KernelCall) -> Resources:
        """Those of the shared kernel."""
        return LINEAR.logic(kernel)
