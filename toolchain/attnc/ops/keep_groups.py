"""keep_groups: what a row holds in its best groups of channels, and 0 in the others: the experts of groups that are chosen first.

Shapes   x, y [R, E]; attributes `groups` G, which divides E into runs of E / G channels, `kept` of 1 to G and `best`, 1 or 2 (at most
         E / G): a group is worth its largest channel, or the sum of its two largest. Of equal groups the lowest comes first.
Scales   one per tensor each; the factor is s_x / s_y.
Rounding integers of x are compared; requantize: half up, saturation to the range of y.
Error    0.5 + |y| * 2**-17 steps of y before saturation.
Widths   a worth has 17 bits; 16 bits times a multiplier of 17 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.keep_groups import KEEP_GROUPS, WORTH_BITS
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator
from attnc.ops.requantize import factor_scalars, one_factor, rescaled

BESTS = (1, 2)


class KeepGroups(Operator):
    """Choice of groups of experts."""

    name = "keep_groups"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of the operand."""
        groups, kept, best = (node.attrs[key] for key in ("groups", "kept", "best"))
        channels = inputs[0][1]
        if groups < 1 or channels % groups or not 1 <= kept <= groups or best not in BESTS or best > channels // groups:
            found = f"{kept} of {groups} groups of {channels} channels by the sum of their {best} largest"
            raise GraphError(f"node {node.name!r} (keep_groups): needs some of equal groups by their largest channel or two, found {found}")
        return inputs[0]

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Zeros in all but the best groups."""
        grouped = inputs[0].reshape(*inputs[0].shape[:2], node.attrs["groups"], -1)
        worth = np.sort(grouped, axis=-1)[..., -node.attrs["best"] :].sum(axis=-1)
        order = np.argsort(-worth, axis=-1, kind="stable")[..., : node.attrs["kept"]]
        kept = np.zeros(worth.shape, bool)
        np.put_along_axis(kept, order, True, axis=-1)
        result: Array = np.where(kept[..., None], grouped, grouped.dtype.type(0)).reshape(inputs[0].shape)
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """One multiplier."""
        node.params = one_factor(node, inputs[0], output)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of what is kept."""
        return rescaled(node, self.reference(node, [inputs[0].astype(np.int64)]), output)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        x, y, groups = node.inputs[0], node.output, node.attrs["groups"]
        tiles, channels = ctx.tiles(x), ctx.graph.value(x).shape[1]
        sizes = (
            ("L", ctx.design.lanes),
            ("TILES_MAX", tiles),
            ("ROWS_MAX", ctx.design.rows),
            ("GROUPS_MAX", 1 << (groups - 1).bit_length()),
        )
        kernel = KernelCall(network=KEEP_GROUPS, template_args=(("XT", IntType(16)), ("YT", IntType(16)), *sizes))
        scalars = {"tiles": tiles, "channels": channels, "groups": groups, "size": channels // groups, "kept": node.attrs["kept"],
                   "best": node.attrs["best"], **factor_scalars(node), **ctx.bounds(y)}  # fmt: skip
        return [
            Call(node.name, kernel, (ctx.walk(x, row, rows), ctx.walk(y, row, rows)), {"rows": rows, **scalars})
            for row, rows in ctx.row_blocks(x)
        ]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane one DSP, a shifter, adder and clamp of 35 bits, counters of 16 bits and a choice among groups (a LUT chooses among four); a
        choice of a lane of 16 bits; per group a comparison of 18 bits for each that ranks, and registers.
        """
        lanes, groups = kernel.arg("L"), kernel.arg("GROUPS_MAX")
        lut = (230 + groups / 3) * lanes + 16 * lanes / 3 + 2 * WORTH_BITS * groups + 600
        return Resources(lut=lut, ff=190 * lanes + 3 * WORTH_BITS * groups + 600, dsp=lanes)
