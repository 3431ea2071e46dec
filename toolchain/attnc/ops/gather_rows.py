"""gather_rows: y = x[rows] for a fixed list of rows, brought to the scale of the output.

Shapes   x [R, C], attribute rows: n numbers in [0, R); y [n, C].
Scales, rounding, error and widths as `requantize`: equal scales give an exact copy.
Calls    one per pattern of up to three nested runs (`row_patterns`): a slice, a strided slice or a row of windows takes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnc.arrays import Array, Shape
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator
from attnc.ops.requantize import rescale_call, rescale_factors, rescale_resources, rescaled


@dataclass(frozen=True)
class Pattern:
    """Rows start + i*strides[0] + j*strides[1] + k for i, j, k below counts[0], counts[1], counts[2]."""

    start: int
    counts: tuple[int, int, int]
    strides: tuple[int, int]

    @property
    def size(self) -> int:
        """Rows in it."""
        return self.counts[0] * self.counts[1] * self.counts[2]


def _repeats(rows: Sequence[int], position: int, size: int) -> tuple[int, int]:
    """How often the block of `size` rows at `position` follows itself, each time moved by the same stride: (count, stride)."""
    block = rows[position : position + size]
    nxt = rows[position + size : position + 2 * size]
    if len(nxt) < size:
        return 1, 0
    stride, count = nxt[0] - block[0], 1
    while True:
        at = position + count * size
        if [row - count * stride for row in rows[at : at + size]] != list(block):
            return count, stride if count > 1 else 0
        count += 1


def row_patterns(rows: Sequence[int]) -> list[Pattern]:
    """Cut a list of rows into patterns, greedily from the front."""
    patterns, position = [], 0
    while position < len(rows):
        run = 1
        while position + run < len(rows) and rows[position + run] == rows[position] + run:
            run += 1
        inner, inner_stride = _repeats(rows, position, run)
        outer, outer_stride = _repeats(rows, position, run * inner)
        patterns.append(Pattern(rows[position], (outer, inner, run), (outer_stride, inner_stride)))
        position += patterns[-1].size
    return patterns


class GatherRows(Operator):
    """Chosen rows of a tensor."""

    name = "gather_rows"
    per_channel_output = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[n, C]."""
        rows = node.attrs["rows"]
        if not rows or min(rows) < 0 or max(rows) >= inputs[0][0]:
            raise GraphError(f"node {node.name!r} (gather_rows): needs rows in [0, {inputs[0][0]}), found {tuple(rows)[:8]}")
        return len(rows), inputs[0][1]

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """x[rows]."""
        result: Array = inputs[0][:, list(node.attrs["rows"])]
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Factors per channel or one for all."""
        multiplier, shift = rescale_factors(inputs[0], output, f"node {node.name!r} (gather_rows)")
        node.params = {"multiplier": multiplier, "shift": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of the rows."""
        rows = self.reference(node, inputs)
        return rescaled(node, rows, output)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per pattern."""
        x, calls, done = node.inputs[0], [], 0
        height = ctx.graph.value(x).shape[0]
        for pattern in row_patterns(node.attrs["rows"]):
            counts, strides = (ctx.tiles(x), *pattern.counts), (height, *pattern.strides)
            source = ctx.through(x, pattern.start, counts, strides)
            target = ctx.walk(node.output, done, pattern.size)
            calls.append(rescale_call(node, ctx, (source, target), pattern.size))
            done += pattern.size
        return calls

    def logic(self, kernel: KernelCall) -> Resources:
        """Those of the shared kernel."""
        return rescale_resources(kernel)
