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
from attnc.kernels.call import NO_WALK, Call, Walk
from attnc.kernels.design import Design
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import Table
from attnc.kernels.resources import Resources
from attnc.ops.attention_channels import PORT as CHANNELS_PORT
from attnc.ops.attention_channels import bias_cycles, channel_resources, factor_walk
from attnc.ops.attention_sizes import PIPELINE, SCORE_EXCLUDED, Sizes, key_blocks, query_blocks
from attnc.ops.attention_two_pass import bias_scalars, bias_sizes, ports_of, score_factors, shared_resources, types_and_tiles
from attnc.ops.exponential import FRACTION_BITS, PROBABILITY_BITS, SCORE_BITS, exp2_negative
from attnc.ops.softmax import DIVISION_LATENCY
from attnc.ops.storage import storage

FUNCTION = "attnc::attention_one_pass"
MAX_RESCALE = 62
WHOLE_EXCLUDED = SCORE_EXCLUDED >> FRACTION_BITS
"""The maximum of a query that has not seen a key yet."""
SPARE = 1
"""A sum of a query with any allowed key is at least 2**(15 - SPARE): its largest p is above 1/2."""


def one_pass(t: Array, v: Array, lanes: int, step: int, exp2: Table) -> tuple[Int64, Int64]:
    """Scores [..., T, Tk] and values [..., Tk, HDV] to weighted sums [..., T, HDV] and sums of probabilities [..., T, 1]; `exp2` as of
    `EXP2`."""
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
            acc[..., lane, :] = rescaled + matmul(p, values, 1 << (PROBABILITY_BITS + 7))
    shift = np.minimum(largest.max(axis=-1, keepdims=True) - largest, MAX_RESCALE)
    merged = shift_round_half_up(total, shift).sum(axis=-1, keepdims=True)
    return shift_round_half_up(acc, shift[..., None]).sum(axis=-2), merged


def lower_one_pass(node: Node, sizes: Sizes, ctx: Lowering) -> list[Call]:
    """A call per group, block of queries, and head of keys: the heads that share it see its keys one after the other."""
    attr, lanes, blocks = node.attrs, ctx.design.lanes, query_blocks(sizes.queries, ctx.design)
    count, step = key_blocks(sizes.keys, attr.get("key_step", 0))
    if sizes.bias_heads and count > 1 and step % lanes:
        raise GraphError(f"node {node.name!r} (attention): {lanes} lanes must divide a key_step of {step} where there is a bias")
    block_keys, s = sizes.keys - step * (count - 1), attr.get("kv_lanes", 1)
    if s > lanes:
        raise GraphError(f"node {node.name!r} (attention): needs at most {lanes} kv_lanes, as many as lanes, found {s}")
    kernel = kernel_of(node, sizes, ctx.design, max(rows for _, rows in blocks), block_keys)
    low, high = ctx.graph.type(node.output).range
    calls = []
    for row, rows in blocks:
        first_key, stop_key = sizes.mask.keys(row, rows, sizes.keys)
        first, last = min(first_key // step, count - 1), min((stop_key - 1) // step, count - 1)
        keys = (sizes.keys if last + 1 == count else (last + 1) * step) - first * step
        steps = key_steps(sizes, ctx.design, s, (row, rows), (first, last + 1), step, first * step + keys)
        counts = (sizes.sharing, rows, keys, block_keys, step, last + 1 - first, sizes.head // lanes, sizes.value // lanes)
        place = (sizes.mask.offset + row - first * step, sizes.mask.before, sizes.mask.after)
        bias = bias_scalars(node, sizes, rows)
        factors = (attr["output_multiplier"], attr["output_shift"])
        pairs = sizes.mask.blocks(row, rows, sizes.keys, ctx.design.queries)
        cycles = cycles_of(sizes, ctx.design, rows, block_keys, steps)
        macs = sizes.sharing * (sizes.head + sizes.value) * sum(n * (stop - start) for n, start, stop in pairs)
        for group in range(sizes.groups):
            for head in range(sizes.kv_heads):
                calls.append(
                    Call(
                        node=node.name,
                        kernel=kernel,
                        walks=walks_of(node, sizes, ctx, (group, head, row, rows), (first, last + 1 - first, step, block_keys)),
                        scalars=(*counts, *place, *score_factors(node), *bias, *factors, low, high),
                        cycles=dict(cycles),
                        macs=macs,
                    )
                )
    return calls


def key_steps(sizes: Sizes, design: Design, lanes: int, queries: tuple[int, int], blocks: tuple[int, int], step: int, keys: int) -> Array:
    """Steps of `lanes` keys [blocks of keys, blocks of queries] that a call takes for one head, exactly as `key_steps` of the kernel."""
    ranges = np.array([pair[1:] for pair in sizes.mask.blocks(*queries, sizes.keys, design.queries)])
    starts = np.arange(*blocks)[:, None] * step
    ends = np.where(np.arange(*blocks)[:, None] + 1 == blocks[1], keys, starts + step)
    first, stop = np.maximum(ranges[:, 0], starts), np.minimum(ranges[:, 1], ends)
    return np.where(first < stop, -(-(stop - starts) // lanes) - (first - starts) // lanes, 0)


def kernel_of(node: Node, sizes: Sizes, design: Design, rows: int, block_keys: int) -> KernelCall:
    """The engine that serves `rows` queries past which blocks of `block_keys` keys stream."""
    return KernelCall(
        header="attnc/attention_one_pass.hpp",
        function=FUNCTION,
        template_args=(
            *types_and_tiles(node, sizes, design),
            ("BLOCK_MAX", block_keys),
            ("ROWS_MAX", rows),
            *bias_sizes(sizes, design, rows),
            ("L", design.lanes),
            ("P", design.queries),
            ("S", node.attrs.get("kv_lanes", 1)),
        ),
        ports=ports_of(node),
        scalars=(
            *("heads", "rows", "keys", "block_keys", "key_step", "key_blocks", "qk_tiles", "v_tiles", "position", "before", "after"),
            *("score_multiplier", "score_shift", "cap_multiplier", "cap_shift", "bias_heads", "bias_rows", "bias_shift"),
            *("bias_channels", "output_multiplier", "output_shift", "low", "high"),
        ),
        fixed=("S",),  # another number of lanes would give other results
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


def cycles_of(sizes: Sizes, design: Design, rows: int, block_keys: int, steps: Array) -> dict[str, int]:
    """Cycles from the start of a call until each process is done, were no other slower; `steps` as of `key_steps`.

    Per block of keys a process computes while the next block is loaded.
    """
    heads, blocks, p = sizes.sharing, math.ceil(rows / design.queries), design.queries
    qk_tiles, v_tiles = sizes.head // design.lanes, sizes.value // design.lanes
    fill = np.where(steps > 0, PIPELINE, 1)
    per_tile = 2 * p + 3 * PIPELINE
    first = block_keys * qk_tiles + rows * qk_tiles + int(steps[0, 0]) * qk_tiles + 2 * PIPELINE
    scored = np.maximum((steps * qk_tiles + fill).sum(axis=1), block_keys * qk_tiles).sum()
    weighted = np.maximum((v_tiles * np.where(steps > 0, steps + per_tile, 0) + 1).sum(axis=1), block_keys * v_tiles).sum()
    online = (steps + 2 * fill).sum() + blocks * PIPELINE
    bias_words = 2 * steps.shape[0] * math.ceil(block_keys / design.lanes) * min(sizes.bias_rows, rows)
    last = DIVISION_LATENCY + blocks * p * v_tiles + v_tiles * rows + 2 * PIPELINE
    done = first + heads * int(weighted + blocks * v_tiles * per_tile)
    table = heads * int(bias_words + (steps + fill).sum()) if sizes.bias_heads else 0
    made = heads * bias_cycles(sizes, design, rows, steps.shape[0] * block_keys, int((steps + fill).sum())) if sizes.channels else 0
    return {
        "bias": table + made,
        "scores": block_keys * qk_tiles + heads * (rows * qk_tiles + int(scored)),
        "maximum": first + heads * int(online),
        "exponential": first + heads * int(online),
        "weighted": done,
        "normalise": done + last,
    }


def one_pass_resources(kernel: KernelCall) -> Resources:
    """Memories: two blocks of keys and of values (a bank per lane of keys), queries and biases (a bank per query), outputs, scores and
    probabilities of a block, and maxima, sums and weighted sums of all resident queries. A shifter of AccT per lane of keys and of
    channels and one of SumT per query and lane of keys rescale; sums of p . v are set by them, so LUTs add them up, not the
    multipliers."""
    names = ("L", "P", "S", "HEAD_TILES_MAX", "VALUE_TILES_MAX", "BLOCK_MAX", "ROWS_MAX", "BIAS_ROWS_MAX", "SumT", "AccT")
    lanes, p, s, qk_tiles, v_tiles, keys, rows, bias_rows, total, acc = (kernel.arg(name) for name in names)
    blocks, steps = math.ceil(rows / p), math.ceil(keys / s)
    memories = [
        (2 * s, qk_tiles * steps, 8 * lanes),
        (2 * s, v_tiles * steps, 8 * lanes),
        (1, 2 * v_tiles * rows, 16 * lanes),
        (p, qk_tiles * blocks, 8 * lanes),
        (1, steps + 3, (SCORE_BITS + 2) * p * s),
        (1, steps, (PROBABILITY_BITS + 1) * p * s),
        (1, blocks, (SCORE_BITS + 2 - FRACTION_BITS + total) * p * s),
        (1, v_tiles * blocks * p, acc * s * lanes),
        (1, 16, lanes * acc),
    ]
    shifters = 4 * acc * s * lanes + 4 * total * p * s + 40 * p * s
    adders = p * s * lanes * acc
    logic = shared_resources(kernel, p * s, p * s) + Resources(lut=shifters + adders + 800, ff=2 * adders + 2 * acc * s * lanes + 1000)
    if CHANNELS_PORT in kernel.ports:
        logic = logic + channel_resources(kernel, rows, keys, p, s)
    else:
        logic = logic + Resources(lut=5 * lanes * p * s)
        memories.append((p, math.ceil(keys / lanes) * math.ceil(bias_rows / p), 16 * lanes))
    return sum((storage(depth, width, banks) for banks, depth, width in memories), logic)
