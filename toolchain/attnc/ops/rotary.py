"""rotary: pairs of channels of every head turned by an angle per position, (a, b) -> (a cos - b sin, b cos + a sin).

Shapes   x, y [G*T, NH*HD]; params cos, sin [T, RD/2], for all heads and groups; attributes num_heads, groups (1), rotary_dims RD (HD: the
         first RD channels of a head are turned, the others pass), interleaved: pairs are channels (2i, 2i+1), else (i, i + RD/2).
Scales   x and y one per tensor. Table s16 with `fraction_bits` fraction bits: 14 while |cos|, |sin| < 2, else as many as fit.
Rounding both products and their sum are exact; requantize half up, saturation to the range of y.
Error    (|a| + |b|) * 2**-(fraction_bits + 1) from the table, |y| * 2**-17 from the multiplier, y.scale / 2; measured by the tests
         beside the rounding of y: 5.8e-5 of the largest |x| with 14 fraction bits, 9.0e-5 with 13.
Widths   two products of 16 by 16 bits: 33 bits, 52 with their multiplier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import quantize_half_even, quantize_multiplier
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import NO_WALK, Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.kernels.rotary import ROTARY
from attnc.ops.base import Operator, product_bits, scalar_scale
from attnc.ops.requantize import activation, factor_scalars, rescaled, wide_products

FRACTION_BITS = 14
ACC_BITS = 33


@dataclass(frozen=True)
class Sizes:
    """Groups, rows per group, heads, channels per head, turned channels of them, and whether pairs are adjacent."""

    groups: int
    rows: int
    heads: int
    head: int
    turned: int
    interleaved: bool

    @classmethod
    def of(cls, node: Node, shape: Shape) -> Sizes:
        """From the attributes and the shape of x."""
        attr = node.attrs
        groups, heads = attr.get("groups", 1), attr["num_heads"]
        head = shape[1] // heads
        return cls(groups, shape[0] // groups, heads, head, attr.get("rotary_dims") or head, bool(attr.get("interleaved", False)))

    def pairs(self) -> tuple[Array, Array]:
        """Channels that come first and second in their pairs."""
        i = np.arange(self.turned // 2)
        return (2 * i, 2 * i + 1) if self.interleaved else (i, i + self.turned // 2)


class Rotary(Operator):
    """Rotary position embedding."""

    name = "rotary"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of the input."""
        sizes, (rows, channels) = Sizes.of(node, inputs[0]), inputs[0]
        where = f"node {node.name!r} (rotary)"
        if rows % sizes.groups or channels % sizes.heads:
            raise GraphError(f"{where}: {sizes.groups} groups and {sizes.heads} heads do not divide an input of {inputs[0]}")
        if sizes.turned % 2 or not 2 <= sizes.turned <= sizes.head:
            raise GraphError(f"{where}: needs an even rotary_dims of 2 to {sizes.head}, found {sizes.turned}")
        tables = [node.params[name].shape for name in ("cos", "sin")] if "cos" in node.params else []
        needed = (node.attrs.get("positions", sizes.rows), sizes.turned // 2)
        if any(shape != needed for shape in tables):
            raise GraphError(f"{where}: needs cos and sin of {needed}, found {tables[0]} and {tables[1]}")
        return inputs[0]

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """In float."""
        x = inputs[0]
        sizes = Sizes.of(node, x.shape[1:])
        cos, sin = (np.asarray(node.params[name])[:, None, :] for name in ("cos", "sin"))
        first, second = sizes.pairs()
        result = x.reshape(x.shape[0], sizes.groups, sizes.rows, sizes.heads, sizes.head).copy()
        a, b = result[..., first], result[..., second]
        result[..., first], result[..., second] = a * cos - b * sin, b * cos + a * sin
        return result.reshape(x.shape)

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """A tile belongs to one head and, where pairs are not adjacent, to one half of its turned channels."""
        sizes = Sizes.of(node, inputs[0])
        return sizes.head if sizes.interleaved else math.gcd(sizes.head, sizes.turned // 2)

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """The table [T, RD] in the order of the channels, and the factor to the output."""
        where = f"node {node.name!r} (rotary)"
        x, y = (scalar_scale(activation(type_, where), where) for type_ in (inputs[0], output))
        cos, sin = (np.asarray(node.params[name], np.float64) for name in ("cos", "sin"))
        peak = max(float(np.abs(cos).max()), float(np.abs(sin).max()))
        bits = FRACTION_BITS
        while peak * (1 << bits) > 32767 and bits:
            bits -= 1
        if peak * (1 << bits) > 32767:
            raise GraphError(f"{where}: needs cosines and sines of at most 32767, found {peak:g}")
        multiplier, shift = quantize_multiplier(x / y / (1 << bits))
        table = {
            name: quantize_half_even(array, 2.0**-bits, -32768, 32767).astype(np.int16) for name, array in (("cos", cos), ("sin", sin))
        }
        node.params = {**table, "multiplier": multiplier, "shift": shift}
        node.attrs["fraction_bits"] = bits
        product_bits(node, ACC_BITS)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Exact rotation by the integers of the table, then requantize."""
        x = inputs[0].astype(np.int64)
        sizes = Sizes.of(node, x.shape[1:])
        cos, sin = (node.params[name].astype(np.int64)[:, None, :] for name in ("cos", "sin"))
        first, second = sizes.pairs()
        acc = x.reshape(x.shape[0], sizes.groups, sizes.rows, sizes.heads, sizes.head) << node.attrs["fraction_bits"]
        parts = x.reshape(acc.shape)
        a, b = parts[..., first], parts[..., second]
        acc[..., first], acc[..., second] = a * cos - b * sin, b * cos + a * sin
        return rescaled(node, acc.reshape(x.shape), output)

    def over_cache(self, node: Node, length: int, rows: int, block: int, branches: int = 1) -> dict[str, Any]:
        """The table has a row for every position; branches all take the same one."""
        return {**node.attrs, "positions": length, **({"branches": branches} if branches > 1 else {})}

    def placed(self, node: Node, position: int, rows: int, prefix: int = 0) -> Node:
        """With the table of these rows."""
        stop = position + (1 if "branches" in node.attrs else rows)
        table = {name: node.params[name][position:stop] for name in ("cos", "sin")}
        attrs = {key: value for key, value in node.attrs.items() if key != "positions"}
        return replace(node, attrs=attrs, params={**node.params, **table})

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per group and block of rows; the table is read once in each and serves all heads."""
        x, y, lanes = node.inputs[0], node.output, ctx.design.lanes
        sizes = Sizes.of(node, ctx.graph.value(x).shape)
        half = 0 if sizes.interleaved else sizes.turned // 2
        if lanes < 2 or sizes.head % lanes or half % lanes:
            raise GraphError(f"node {node.name!r} (rotary): {lanes} lanes must divide heads of {sizes.head} channels and halves of {half}")
        head_tiles, turned_tiles = sizes.head // lanes, math.ceil(sizes.turned / lanes)
        height, words = ctx.height(x), 2 * turned_tiles
        place = (ctx.position(sizes.rows), words) if "positions" in node.attrs else None
        scalars = {"heads": sizes.heads, "head_tiles": head_tiles, "turned_tiles": turned_tiles, "half_tiles": half // lanes}
        scalars |= {"rotary_dims": sizes.turned, "one": 1 << node.attrs["fraction_bits"], **factor_scalars(node), **ctx.bounds(y)}
        step, alike, calls = min(ctx.design.rows, sizes.rows), "branches" in node.attrs, []
        kernel = kernel_of(lanes, turned_tiles, step)
        for group in range(sizes.groups):
            for first in range(0, sizes.rows, step):
                rows, row = min(step, sizes.rows - first), group * sizes.rows + first
                table_rows, table_row = (1, 0) if alike else (rows, first)
                other = NO_WALK
                if half:  # the second half of the turned tiles, then the first
                    tiles = half // lanes
                    strides = (head_tiles * height, -tiles * height, height)
                    other = ctx.through(x, tiles * height + row, (sizes.heads, 2, tiles, rows), strides)
                calls.append(
                    Call(
                        node=node.name,
                        kernel=kernel,
                        walks=(
                            ctx.walk(x, row, rows),
                            other,
                            ctx.packed(node.packed, lambda: pack(node, sizes, lanes), words * table_rows, words * table_row, place),
                            ctx.walk(y, row, rows),
                        ),
                        scalars={"rows": rows, "table_rows": table_rows, **scalars},
                    )
                )
        return calls

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane two DSPs for the products, `wide_product` of 33 bits, and an adder, a shifter and a clamp of 52 bits with
        the choice of the partner.
        """
        lanes = kernel.arg("L")
        return Resources(lut=360 * lanes + 400, ff=330 * lanes + 500, dsp=2 * lanes) + wide_products(33, lanes)


def kernel_of(lanes: int, turned_tiles: int, rows: int) -> KernelCall:
    """The kernel that turns `rows` rows at a time."""
    return KernelCall(
        network=ROTARY,
        template_args=(
            ("XT", IntType(16)),
            ("YT", IntType(16)),
            ("TILES_MAX", turned_tiles),
            ("ROWS_MAX", rows),
            ("L", lanes),
        ),
    )


def pack(node: Node, sizes: Sizes, lanes: int) -> bytes:
    """The table in the order of the hardware: per row and turned tile the low, then the high bytes of its channels; 0 beyond them."""
    tiles, rows = math.ceil(sizes.turned / lanes), node.params["cos"].shape[0]
    table = np.zeros((rows, tiles * lanes), np.int64)
    first, second = sizes.pairs()
    table[:, first], table[:, second] = node.params["cos"], node.params["sin"]
    planes = (table.reshape(rows, tiles, 1, lanes) >> np.array([0, 8])[:, None]) & 0xFF
    return planes.astype(np.uint8).tobytes()
