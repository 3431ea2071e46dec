"""The look-up engine of the linear operator: lowering to attnc/lookup_linear.hpp, cycles and resources.

Sizes    T tables at a time (a multiple of the lanes), Q output channels at a time, G activations per table: 3 or 5 for ternary
         weights (TLMM), 4 for planes of integer and binary weights.
Cycles   a visit of a chunk of T/L*G tiles takes the longer of its columns (Q channels and a plane each) and of building the next
         tables (T/L*G tiles to fetch, an entry per cycle); a group of weights that ends inside a chunk costs another visit. The codes
         of the next block arrive meanwhile, a word per cycle.
Source   TeLLMe (arXiv 2510.15926) for tables in distributed RAM, a copy per column, and weights in URAM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from attnc.fixedpoint import bits_for
from attnc.ir import GraphError, Node
from attnc.kernels.call import Call
from attnc.kernels.design import EngineDesign, LookupNumbers
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lookup_linear import CODE_BITS, PLANE_LOOKUP, TABLE_SIZE, TERNARY_LOOKUP
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.linear_weights import weight_format, weight_shape
from attnc.ops.packing import Layout, payload
from attnc.ops.requantize import DSP_PORT, wide_products

PLANE_TILES = 4


@dataclass(frozen=True)
class Plan:
    """How one node is cut: `blocks` of layout.steps * layout.columns channels, `visits` of chunks of `tables` per row."""

    layout: Layout
    tables: int
    planes: int
    binary: bool
    blocks: int
    chunks: int
    visits: int
    group_tiles: int

    @property
    def columns(self) -> int:
        """Cycles that a visit looks up."""
        return self.layout.steps * self.planes


def plan(node: Node, engine: EngineDesign[LookupNumbers], k_tiles: int, n_tiles: int) -> Plan:
    """Blocks as long as the buffer allows, all of the same length."""
    format_, lanes, numbers = weight_format(node), engine.lanes, engine.numbers
    if numbers.group not in (3, 5):
        raise GraphError(f"design: ternary tables take 3 or 5 activations, found {numbers.group}")
    ternary = format_.kind == "ternary"
    group, planes = (numbers.group, 1) if ternary else (PLANE_TILES, format_.bits)
    tables, columns = math.ceil(numbers.tables / lanes) * lanes, math.ceil(numbers.columns / lanes) * lanes
    wide = tables // lanes * group
    chunks, steps = math.ceil(k_tiles / wide), math.ceil(n_tiles * lanes / columns)
    blocks = math.ceil(steps / max(1, numbers.depth // (chunks * planes)))
    scales = _scales(node)
    group_tiles = format_.group_size // lanes if scales and format_.group_size else k_tiles
    visits = len({*range(0, k_tiles, wide), *range(0, k_tiles, group_tiles)})
    coding: Literal["ternary", "planes"] = "ternary" if ternary else "planes"
    bits = CODE_BITS[group] if ternary else planes
    layout = Layout(lanes, columns, math.ceil(steps / blocks), coding, bits, group, scales)
    return Plan(layout, tables, planes, format_.kind == "binary", math.ceil(steps / layout.steps), chunks, visits, group_tiles)


def _scales(node: Node) -> int:
    """Multipliers per channel: groups, times planes."""
    found = node.params.get("group_multiplier")
    if found is None:
        return 0
    return int(found.shape[-1] * (found.shape[0] if found.ndim == 3 else 1))


def calls(node: Node, ctx: Lowering) -> list[Call]:
    """A call per block of rows; all of them read the same packed weights."""
    x, y = node.inputs[0], node.output
    k_tiles, n_tiles = ctx.tiles(x), ctx.tiles(y)
    engine = ctx.engine(node, LookupNumbers)
    cut = plan(node, engine, k_tiles, n_tiles)
    layout = cut.layout
    words = layout.total_words(ctx.graph.value(y).shape[1], k_tiles)
    weights = ctx.packed(layout.key(node), lambda: payload(node, layout), words)
    kernel = _kernel(node, engine, cut, k_tiles)
    scalars = {"k_tiles": k_tiles, "n_tiles": n_tiles, "steps": layout.steps, "planes": cut.planes, "both_signs": int(cut.binary)}
    scalars |= {"group_tiles": cut.group_tiles, "scales": layout.scales, "visits": cut.visits, **ctx.bounds(y)}
    result = []
    for row, rows in ctx.row_blocks(x, engine.rows):
        result.append(
            Call(
                node=node.name,
                kernel=kernel,
                walks=(ctx.walk(x, row, rows, raw=True), weights, ctx.walk(y, row, rows)),
                scalars={"rows": rows, **scalars},
                macs=rows * math.prod(weight_shape(node)),
            )
        )
    return result


def _kernel(node: Node, engine: EngineDesign[LookupNumbers], cut: Plan, k_tiles: int) -> KernelCall:
    layout, group_weights = cut.layout, min(cut.group_tiles, k_tiles) * cut.layout.lanes
    return KernelCall(
        network=TERNARY_LOOKUP if layout.coding == "ternary" else PLANE_LOOKUP,
        template_args=(
            ("XT", IntType(8)),
            ("PartT", IntType(bits_for(128 * group_weights))),
            ("AccT", IntType(node.attrs["acc_bits"])),
            ("YT", IntType(16)),
            ("L", layout.lanes),
            ("G", layout.group),
            ("T", cut.tables),
            ("Q", layout.columns),
            ("K_TILES_MAX", k_tiles),
            ("ROWS_MAX", engine.rows),
            ("COLUMNS_MAX", cut.columns),
            ("STEPS_MAX", layout.steps),
            ("DEPTH_MAX", cut.columns * cut.chunks),
            ("SCALES_MAX", layout.steps * layout.scales),
        ),
        engine=engine.name,
    )


def logic(kernel: KernelCall) -> Resources:
    """Estimate, derived from the structure of the kernel and not from a synthesis run.

    Tables   T * Q copies, both halves in one memory of 2 * size entries of 9 + ceil(log2 G) bits: simple dual port, 7 bits of 64 or
             14 bits of 32 entries from 8 LUTs (UG574), and a 2:1 selection per bit for every further 64 entries.
    Adders   per column a tree of T entries, three operands to an adder: about T/2 * (entry + 3) LUTs; then its part, shift and sum.
    Build    T times (G - 1) adders and G selections of 0, x or -x; T/L*G fetched vectors in registers.
    DSP      `wide_product` per rescaled lane; per column one for multipliers of groups, two where the accumulator is wider than 27 bits.
    """
    lanes, g, t, q, acc, part, scales = (kernel.arg(name) for name in ("L", "G", "T", "Q", "AccT", "PartT", "SCALES_MAX"))
    entry, deep = 9 + math.ceil(math.log2(g)), 2 * TABLE_SIZE[g]
    copy = math.ceil(8 * entry / 14) if deep <= 32 else math.ceil(8 * entry / 7) * math.ceil(deep / 64)
    select = entry * (math.ceil(deep / 64) - 1)
    found = Resources(
        lut=t * q * (copy + select) + q * (t / 2 * (entry + 3) + part + 3 * acc) + t * g * (entry + 8) + 80 * lanes + 2500,
        ff=t * q * entry + q * (t / 3 * (entry + 3) + part + 2 * acc) + t * g * 8 + t * entry + 8 * 8 * lanes + 80 * lanes + 3000,
        dsp=(q * (1 if acc <= DSP_PORT else 2) if scales else 0),
    )
    return found + wide_products(acc, lanes)
