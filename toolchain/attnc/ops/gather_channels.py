"""gather_channels: y[r, c] = x[r, index[r mod P, c]], brought to the scale of the output.

Shapes   x [R, C], parameter index [P, N] of numbers in [0, C), P divides R; y [R, N]. With P = 1 all rows take the same channels.
Scales   one per tensor each; the factor is s_x / s_y.
Rounding requantize: half up, saturation to the range of y; equal scales give an exact copy.
Error    0.5 + |y| * 2**-17 steps of y before saturation; none where the scales are equal.
Widths   16 bits times a multiplier of 17 bits; indices of 16 bits.
Memory   indices lie among the weights, in the order of use: 2 bytes for each element of a period. Nodes with equal ones share them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.gather_channels import GATHER_CHANNELS, INDEX_BYTES
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator
from attnc.ops.requantize import factor_scalars, one_factor, rescaled

NOTHING = 65535
READS = 4
"""Elements per cycle, at most: each reads a copy of its own of the rows."""


class GatherChannels(Operator):
    """Chosen channels of every row."""

    name = "gather_channels"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[R, N]."""
        (rows, channels), index = inputs[0], node.params["index"]
        if index.ndim != 2 or not index.size or rows % index.shape[0]:
            raise GraphError(f"node {node.name!r} (gather_channels): needs indices [P, N] with P dividing {rows}, found {index.shape}")
        if index.min() < 0 or index.max() >= channels or channels >= NOTHING:
            raise GraphError(f"node {node.name!r} (gather_channels): needs channels in [0, {channels}), found up to {index.max()}")
        return rows, int(index.shape[1])

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return len(node.params["index"]) == 1

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """The channels of each row."""
        x, index = inputs[0], np.asarray(node.params["index"], np.int64)
        period = x.reshape(x.shape[0], -1, index.shape[0], x.shape[2])
        result: Array = np.take_along_axis(period, index[None, None], axis=3).reshape(*x.shape[:2], -1)
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One multiplier."""
        node.params = {"index": np.asarray(node.params["index"], np.int64), **one_factor(node, inputs[0], output)}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of the channels."""
        picked = self.reference(node, inputs)
        return rescaled(node, picked, output)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        x, y, index, lanes = node.inputs[0], node.output, node.params["index"], ctx.design.lanes
        reads, period = min(READS, lanes), index.shape[0]
        kernel = KernelCall(
            network=GATHER_CHANNELS,
            template_args=(
                ("XT", IntType(16)),
                ("YT", IntType(16)),
                ("L", lanes),
                ("READS", reads),
                ("TILES_MAX", ctx.tiles(x)),
                ("ROWS_MAX", ctx.design.rows),
            ),
        )
        digest = hashlib.sha256(index.tobytes() + repr(index.shape).encode()).hexdigest()[:16]
        own = {"tiles": ctx.tiles(x), "out_tiles": ctx.tiles(y), "shared": int(period == 1), **factor_scalars(node), **ctx.bounds(y)}
        calls = []
        for row, rows in ctx.row_blocks(x):
            which = (row + np.arange(1 if period == 1 else rows)) % period

            def pack(which: Array = which) -> bytes:
                return pack_indices(index[which], lanes)

            words = ctx.packed(f"index.{digest}.{which[0]}+{len(which)}", pack, INDEX_BYTES * ctx.tiles(y) * len(which))
            calls.append(Call(node.name, kernel, (ctx.walk(x, row, rows), words, ctx.walk(y, row, rows)), {"rows": rows, **own}))
        return calls

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per element that is read at a time the choice of a lane (a LUT chooses among four), one DSP and a shifter, adder and clamp of 35
        bits; indices and a vector in registers.
        """
        lanes, reads = kernel.arg("L"), kernel.arg("READS")
        chosen = (ACTIVATION_BITS + 16) * (lanes + 2) / 3
        return Resources(lut=(200 + chosen) * reads + 16 * lanes + 500, ff=130 * reads + 32 * lanes + 500, dsp=reads)


def pack_indices(index: Array, lanes: int) -> bytes:
    """[rows, N] as words in (tile, row) order, low bytes before high ones; nothing beyond N."""
    rows, count = index.shape
    tiles = -(-count // lanes)
    padded = np.full((rows, tiles * lanes), NOTHING, np.int64)
    padded[:, :count] = index
    moved = padded.reshape(rows, tiles, lanes).transpose(1, 0, 2)
    return np.stack([moved & 255, moved >> 8], axis=2).astype(np.uint8).tobytes()
