"""attention in one pass over the keys: its integers, lowering to attnc/attention_one_pass.hpp, cycles and resources.

Per query and lane of keys (key j belongs to lane j % kv_lanes), block after block of keys, m a whole number of log2 units:
    m' = max(m, ceil(max t)), l' = l / 2**(m' - m) + sum p, o' = o / 2**(m' - m) + sum p * v, p = exp2_negative(m' - t).
In the end all lanes are rescaled to the largest m and added. Every rescale is a right shift, rounded half up. Blocks are counted from the
first key of the sequence (`key_blocks`), so results depend on neither the design nor the mask's cut of the work.
"""

from __future__ import annotations

import math

import numpy as np

from attnc.arrays import Array
from attnc.fixedpoint import Int64, matmul, shift_round_half_up
from attnc.ir import GraphError, Node
from attnc.kernels.attention_one_pass import ATTENTION_ONE_PASS, ATTENTION_ONE_PASS_CHANNELS
from attnc.kernels.call import NO_WALK, Call, Walk
from attnc.kernels.design import AttentionNumbers, EngineDesign
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import Table
from attnc.kernels.resources import Resources
from attnc.ops.attention_channels import channel_logic, factor_walk
from attnc.ops.attention_sizes import SCORE_EXCLUDED, Sizes, key_blocks, query_blocks, weighted_bound
from attnc.ops.attention_two_pass import bias_sizes, shared_logic, shared_scalars, types_and_tiles
from attnc.ops.exponential import FRACTION_BITS, exp2_negative

ONE_PASS = (ATTENTION_ONE_PASS, ATTENTION_ONE_PASS_CHANNELS)
MAX_RESCALE = 62
WHOLE_EXCLUDED = SCORE_EXCLUDED >> FRACTION_BITS
"""The maximum of a query that has not seen a key yet."""
SPARE = 1
"""A sum of a query with any allowed key is at least 2**(15 - SPARE): its largest p is above 1/2."""


def one_pass(t: Array, v: Array, v_bits: int, lanes: int, step: int, exp2: Table) -> tuple[Int64, Int64]:
    """Scores [..., T, Tk] and values [..., Tk, HDV] of `v_bits` to weighted sums [..., T, HDV] and sums of probabilities [..., T, 1];
    `exp2` as of `EXP2`."""
    shape = (*t.shape[:-1], lanes)
    largest = np.full(shape, WHOLE_EXCLUDED, np.int64)
    total = np.zeros(shape, np.int64)
    acc = np.zeros((*shape, v.shape[-1]), np.int64)
    count, step = key_blocks(t.shape[-1], step)
    for block in range(count):
        stop = t.shape[-1] if block + 1 == count else (block + 1) * step
        for lane in range(lanes):
            first = block * step + (lane - block * step) % lanes
            if first >= stop:
                continue
            part, values = t[..., first:stop:lanes], v[..., first:stop:lanes, :]
            before = largest[..., lane]
            grown = np.maximum(before, (part.max(axis=-1) + (1 << FRACTION_BITS) - 1) >> FRACTION_BITS)
            shift = np.minimum(grown - before, MAX_RESCALE)
            p = exp2_negative((grown << FRACTION_BITS)[..., None] - part, exp2)
            p[part == SCORE_EXCLUDED] = 0
            largest[..., lane] = grown
            total[..., lane] = shift_round_half_up(total[..., lane], shift) + p.sum(axis=-1)
            rescaled = shift_round_half_up(acc[..., lane, :], shift[..., None])
            acc[..., lane, :] = rescaled + matmul(p, values, weighted_bound(1, v_bits))
    shift = np.minimum(largest.max(axis=-1, keepdims=True) - largest, MAX_RESCALE)
    merged = shift_round_half_up(total, shift).sum(axis=-1, keepdims=True)
    return shift_round_half_up(acc, shift[..., None]).sum(axis=-2), merged


def lower_one_pass(node: Node, sizes: Sizes, ctx: Lowering) -> list[Call]:
    """A call per group, block of queries, and head of keys: the heads that share it see its keys one after the other."""
    engine = ctx.engine(node, AttentionNumbers)
    attr, lanes, blocks = node.attrs, engine.lanes, query_blocks(sizes.queries, engine)
    count, step = key_blocks(sizes.keys, attr.get("key_step", 0))
    if sizes.bias_heads and count > 1 and step % lanes:
        raise GraphError(f"node {node.name!r} (attention): {lanes} lanes must divide a key_step of {step} where there is a bias")
    block_keys, s = sizes.keys - step * (count - 1), attr.get("kv_lanes", 1)
    if s > lanes:
        raise GraphError(f"node {node.name!r} (attention): needs at most {lanes} kv_lanes, as many as lanes, found {s}")
    kernel = kernel_of(node, sizes, engine, max(rows for _, rows in blocks), block_keys)
    calls = []
    for row, rows in blocks:
        first_key, stop_key = sizes.mask.keys(row, rows, sizes.keys)
        first, last = min(first_key // step, count - 1), min((stop_key - 1) // step, count - 1)
        keys = (sizes.keys if last + 1 == count else (last + 1) * step) - first * step
        scalars = {"heads": sizes.sharing, "keys": keys, "block_keys": block_keys, "key_step": step, "key_blocks": last + 1 - first}
        scalars |= {"position": sizes.mask.offset + row - first * step, "before": sizes.mask.before, "after": sizes.mask.after}
        scalars |= shared_scalars(node, sizes, ctx, rows)
        pairs = sizes.mask.blocks(row, rows, sizes.keys, engine.numbers.queries)
        macs = sizes.sharing * (sizes.head + sizes.value) * sum(n * (stop - start) for n, start, stop in pairs)
        for group in range(sizes.groups):
            for head in range(sizes.kv_heads):
                calls.append(
                    Call(
                        node=node.name,
                        kernel=kernel,
                        walks=walks_of(node, sizes, ctx, (group, head, row, rows), (first, last + 1 - first, step, block_keys)),
                        scalars=scalars,
                        macs=macs,
                    )
                )
    return calls


def kernel_of(node: Node, sizes: Sizes, engine: EngineDesign[AttentionNumbers], rows: int, block_keys: int) -> KernelCall:
    """The engine that serves `rows` queries past which blocks of `block_keys` keys stream."""
    return KernelCall(
        network=ATTENTION_ONE_PASS_CHANNELS if node.attrs.get("bias_by") == "channels" else ATTENTION_ONE_PASS,
        template_args=(
            *types_and_tiles(node, sizes, engine.lanes),
            ("BLOCK_MAX", block_keys),
            ("ROWS_MAX", rows),
            *bias_sizes(sizes, engine.lanes, rows),
            ("L", engine.lanes),
            ("P", engine.numbers.queries),
            ("S", node.attrs.get("kv_lanes", 1)),
        ),
        fixed=("S",),  # another number of lanes would give other results
        engine=engine.name,
    )


def walks_of(
    node: Node, sizes: Sizes, ctx: Lowering, where: tuple[int, int, int, int], blocks: tuple[int, int, int, int]
) -> tuple[Walk, ...]:
    """q, k, v, bias, y of (group, head of keys, first query, queries) and (first, count, step, length) of the blocks of keys."""
    group, head, row, rows = where
    first, count, step, length = blocks
    lanes, sharing = ctx.design.lanes, sizes.sharing

    def queries(name: str, tiles: int) -> Walk:
        return ctx.walk(name, group * sizes.queries + row, rows, head * sharing * tiles, sharing * tiles)

    def keys(name: str, tiles: int) -> Walk:
        height = ctx.graph.value(name).shape[0]
        at = head * tiles * height + group * sizes.keys + first * step
        return ctx.through(name, at, (sharing, count, tiles, length), (0, step, height))

    bias = NO_WALK
    if sizes.channels:
        key_blocks = [((first + block) * step, length) for block in range(count)]
        bias = factor_walk(node, ctx, range(head * sharing, (head + 1) * sharing), (row, rows), key_blocks)
    elif sizes.bias_heads:
        name = node.inputs[3]
        height = ctx.graph.value(name).shape[0]
        per_head = sizes.bias_rows if sizes.bias_heads > 1 else 0
        at = head * sharing * per_head + (row if sizes.bias_rows > 1 else 0) + first * step // lanes * height
        counts = (sharing, count, math.ceil(length / lanes), min(sizes.bias_rows, rows))
        bias = ctx.through(name, at, counts, (per_head, step // lanes * height, height))
    q, k, v = node.inputs[:3]
    qk_tiles, v_tiles = sizes.head // lanes, sizes.value // lanes
    return queries(q, qk_tiles), keys(k, qk_tiles), keys(v, v_tiles), bias, queries(node.output, v_tiles)


def one_pass_logic(kernel: KernelCall) -> Resources:
    """Beside what both kernels share: a shifter of AccT per lane of keys and of channels and one of SumT per query and lane of keys, which
    rescale; sums of p . v are set by them, so LUTs add them up, not the multipliers."""
    lanes, p, s, total, acc = (kernel.arg(name) for name in ("L", "P", "S", "SumT", "AccT"))
    shifters = 4 * acc * s * lanes + 4 * total * p * s + 40 * p * s
    adders = p * s * lanes * acc
    logic = Resources(lut=shifters + adders + 800, ff=2 * adders + 2 * acc * s * lanes + 1000)
    channels = kernel.network is ATTENTION_ONE_PASS_CHANNELS
    return shared_logic(kernel, p * s, p * s) + logic + (channel_logic(kernel, p, s) if channels else Resources(lut=5 * lanes * p * s))
