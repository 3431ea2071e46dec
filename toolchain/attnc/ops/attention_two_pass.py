"""attention with a row buffer: lowering to attnc/attention.hpp, its cycles and resources. Its integers are in attention.py."""

from __future__ import annotations

import math
from itertools import product

from attnc.arrays import Array
from attnc.fixedpoint import matmul
from attnc.ir import Graph, Node
from attnc.kernels.attention import ATTENTION, ATTENTION_CHANNELS
from attnc.kernels.call import NO_WALK, POSITION, PREFIX, Call, Moves, Walk, filled_to, place_in, steps_of_prefix, steps_to
from attnc.kernels.chunks import Affine, Chunks
from attnc.kernels.design import KEY_PORTS, AttentionNumbers, EngineDesign
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import PROBABILITY_BITS, QUOTIENT_BITS, SCORE_BITS
from attnc.kernels.ports import IntType, Table
from attnc.kernels.resources import Resources
from attnc.kernels.storage import storage
from attnc.ops.approximation import times
from attnc.ops.attention_channels import channel_logic, channel_steps, factor_walk, per_step, scale_walk
from attnc.ops.attention_sizes import SCORE_EXCLUDED, UNLIMITED, Sizes, query_blocks, weighted_bound, widths, widths_of
from attnc.ops.exponential import EXP2, exp2_negative, exp2_of
from attnc.ops.reciprocal import DIVISIONS
from attnc.ops.requantize import wide_products
from attnc.ops.softcap import NO_SOFTCAP, SOFTCAP_ROM
from attnc.ops.softmax import DIVISION_LATENCY, normaliser_luts

SERIAL_DIVIDER = Resources(lut=90, ff=120)
"""A subtracter and two shift registers."""
RANGES = Resources(lut=5 * 9 * 32, ff=5 * 6 * 32)
"""Five processes that each find the range of keys of the next block: nine adders and comparisons of 32 bits; two ranges and what the block
behind them reaches are held."""


ONE_BRANCH = {"prefix": 0, "branches": 1}
"""Scalars of a call whose keys are of one sequence."""


def two_pass(t: Array, v: Array, v_bits: int, exp2: Table) -> tuple[Array, Array]:
    """Scores [..., T, Tk] and values of `v_bits` to weighted sums [..., T, HDV] and sums of probabilities [..., T, 1]; `exp2` as of
    `EXP2`."""
    p = exp2_negative(t.max(axis=-1, keepdims=True) - t, exp2)
    p[t == SCORE_EXCLUDED] = 0
    return matmul(p, v, weighted_bound(1, v_bits)), p.sum(axis=-1, keepdims=True)


def keys_of(sizes: Sizes, lanes: int, row: int, rows: int) -> tuple[int, int]:
    """(first, count) of the keys that a call loads: those its queries may look at, from a whole word of the bias on."""
    first, stop = sizes.mask.keys(row, rows, sizes.keys)
    first = first // lanes * lanes
    return first, stop - first


def lower_two_pass(node: Node, sizes: Sizes, ctx: Lowering) -> list[Call]:
    """A call per block of queries; each serves all heads and groups."""
    if sizes.branches > 1:
        return _of_branches(node, sizes, ctx)
    if sizes.cached:
        return _over_cache(node, sizes, ctx)
    engine = ctx.engine(node, AttentionNumbers)
    lanes, blocks = engine.lanes, query_blocks(sizes.queries, engine)
    held = max(keys_of(sizes, lanes, *block)[1] for block in blocks)
    kernel = kernel_of(node, sizes, engine, max(rows for _, rows in blocks), held)
    mask, calls = sizes.mask, []
    # Words of factors cannot start again for the next group: there a call serves one group.
    spans = [(group, 1) for group in range(sizes.groups)] if sizes.channels else [(0, sizes.groups)]
    heads = spans[0][1] * sizes.heads
    fixed = {"heads": heads, "kv_heads": spans[0][1] * sizes.kv_heads, "heads_per_kv": sizes.sharing}
    for (row, rows), span in product(blocks, spans):
        first, keys = keys_of(sizes, lanes, row, rows)
        pairs = mask.blocks(row, rows, sizes.keys, engine.numbers.queries)
        scored = sum(stop - start for _, start, stop in pairs)
        paced = sum(max(stop - start, engine.numbers.queries) for _, start, stop in pairs)
        counts = {"keys": keys, "key_steps": keys, "scored": scored, "paced": paced, "position": mask.offset + row - first}
        looks = {"before": mask.before, "after": mask.after, "window": UNLIMITED, "ring": 0, **ONE_BRANCH}
        macs = heads * (sizes.head + sizes.value)
        calls.append(
            Call(
                node=node.name,
                kernel=kernel,
                walks=walks_of(node, sizes, ctx, (row, rows), (first, keys), span),
                scalars=fixed | counts | looks | shared_scalars(node, sizes, ctx, rows),
                macs=macs * sum(count * (stop - start) for count, start, stop in pairs),
            )
        )
    return calls


def _over_cache(node: Node, sizes: Sizes, ctx: Lowering) -> list[Call]:
    """The same where keys lie in a cache: those up to the last query of a call. Of a ring it goes through all rows that were ever written,
    in whatever order they lie there: neither maxima nor sums depend on it. A window leaves keys out by how far back they are, so that
    every count follows from registers by a factor; keys are counted from the first one of the chunks that it reaches into, in caches of two
    precisions."""
    engine, macs = ctx.engine(node, AttentionNumbers), sizes.heads * (sizes.head + sizes.value)
    queries, at_once = engine.numbers.queries, keys_at_once(ctx.graph, engine)
    blocks = query_blocks(sizes.queries, engine, at_once)
    chunks = Chunks(node.attrs.get("cache_chunk", 1), node.attrs.get("cache_window", 0))
    most = min(sizes.keys, (chunks.window + 1) * chunks.size) if chunks.window else sizes.keys
    kernel = kernel_of(node, sizes, engine, max(rows for _, rows in blocks), most, at_once)
    ring, calls = sizes.keys if sizes.ring else 0, []
    start = ring - sizes.queries if ring else ctx.position(sizes.queries)
    limit = ring - sizes.ring if ring else 0
    skipped = chunks.at(Affine(0, chunks.skipped), start)
    behind: Moves = ((POSITION, 1), *((name, -each) for name, each in chunks.skipped))
    place, length = (((place_in(ring).name, 1),), ((filled_to(limit).name, 1),)) if ring else (behind, behind)
    for row, rows in blocks:
        keys, parts = ring or start + row + rows - skipped, math.ceil(rows / queries)
        # What a block of a call's queries looks at ends with its last one, but in a ring.
        ends = [min(queries, rows - at) + at - rows for at in range(0, rows, queries)]
        scored = parts * keys + (0 if ring else sum(ends))
        counts = {"keys": keys, "position": start + row - skipped}
        # Steps of keys follow from a register of their own; a query alone goes through these.
        register, more = steps_to(sizes.ring if ring else row + rows, at_once, limit)
        stepwise = at_once > 1
        steps = register.at(limit if ring else start) + more - skipped // at_once if stepwise else keys
        by = ((register.name, 1), *((name, -each // at_once) for name, each in chunks.skipped)) if stepwise else length
        grows = tuple((name, at_once * each) for name, each in by)
        pairs, counted = (steps, by) if stepwise and rows == 1 else (scored, length)
        counts |= {"key_steps": steps, "scored": pairs}
        # At least so many as leave, at every position.
        counts["paced"] = pairs + parts * ((kernel.arg("Q") if stepwise and rows == 1 else queries) - 1)
        calls.append(
            Call(
                node=node.name,
                kernel=kernel,
                walks=walks_of(node, sizes, ctx, (row, rows), (skipped, steps * at_once), (0, 1), chunks.skipped, grows),
                scalars={
                    **{"heads": sizes.heads, "kv_heads": sizes.kv_heads, "heads_per_kv": sizes.sharing},
                    **{"before": UNLIMITED, "after": UNLIMITED if ring else 0, "window": sizes.mask.before, "ring": ring},
                    **ONE_BRANCH,
                    **counts,
                    **shared_scalars(node, sizes, ctx, rows),
                },
                macs=macs * rows * keys,
                slopes={
                    **{"position": place, "keys": length, "key_steps": by},
                    **dict.fromkeys(("scored", "paced"), tuple((name, parts * each) for name, each in counted)),
                },
                more_macs=tuple((name, macs * rows * each) for name, each in length),
                derived=(*chunks.reach, *((register,) if stepwise else ())),
            )
        )
    return calls


def _of_branches(node: Node, sizes: Sizes, ctx: Lowering) -> list[Call]:
    """The same where queries are the tokens of branches at the same position: all go through all keys, those of the prefix and, behind
    them, of every branch in turn, and each leaves out those of the others."""
    engine, macs = ctx.engine(node, AttentionNumbers), sizes.heads * (sizes.head + sizes.value)
    queries, at_once = engine.numbers.queries, keys_at_once(ctx.graph, engine)
    blocks = query_blocks(sizes.queries, engine, at_once)
    kernel = kernel_of(node, sizes, engine, max(rows for _, rows in blocks), sizes.keys, at_once)
    more, shared, calls = sizes.branches, sizes.keys - sizes.branches, []
    length: Moves = ((POSITION, more), (PREFIX, 1 - more))
    register = steps_of_prefix(at_once)
    steps, by = sizes.keys, length
    if at_once > 1:
        steps, by = register.at(shared) + more // at_once, ((register.name, 1), (POSITION, more // at_once), (PREFIX, -more // at_once))
    for row, rows in blocks:
        alone, parts = rows == 1 and at_once > 1, math.ceil(rows / queries)
        scored = parts * (steps if alone else sizes.keys)
        counted = tuple((name, parts * factor) for name, factor in (by if alone else length))
        grows = tuple((name, at_once * factor) for name, factor in by)
        calls.append(
            Call(
                node=node.name,
                kernel=kernel,
                walks=walks_of(node, sizes, ctx, (row, rows), (0, steps * at_once), (0, 1), (), grows),
                scalars={
                    **{"heads": sizes.heads, "kv_heads": sizes.kv_heads, "heads_per_kv": sizes.sharing},
                    **{"before": UNLIMITED, "after": UNLIMITED, "window": UNLIMITED, "ring": 0, "prefix": shared, "branches": more},
                    **{"keys": sizes.keys, "position": row, "key_steps": steps, "scored": scored},
                    "paced": scored + parts * ((kernel.arg("Q") if alone else queries) - 1),
                    **shared_scalars(node, sizes, ctx, rows),
                },
                macs=macs * rows * sizes.keys,
                slopes={
                    **{"prefix": ((PREFIX, 1),), "keys": length, "key_steps": by},
                    **dict.fromkeys(("scored", "paced"), counted),
                },
                more_macs=tuple((name, macs * rows * factor) for name, factor in length),
                derived=(register,) if at_once > 1 else (),
            )
        )
    return calls


def keys_at_once(graph: Graph, engine: EngineDesign[AttentionNumbers]) -> int:
    """Keys that the engine takes per cycle of a cache. A block of rows loads whole steps of them: what follows its own last key may not be
    what a later block is about to store, so that blocks end where steps do, and are as long as one at least. Tokens of
    branches come in whole steps, and so do chunks of caches of two precisions."""
    most = 1 << (engine.rows.bit_length() - 1)
    branches = max((value.held.branches for value in graph.values.values() if value.held is not None), default=1)
    found = min(engine.numbers.keys, engine.numbers.queries, KEY_PORTS[-1] * engine.design.beat, most)
    return math.gcd(min(found, branches) if branches > 1 else found, *graph.chunks)


def groups_of(sizes: Sizes, engine: EngineDesign[AttentionNumbers]) -> int:
    """Groups of queries for which scores, biases and exponentials are made one after the other while q . k takes its tiles: a power of
    two."""
    tiles = sizes.head // engine.lanes
    groups = min(engine.numbers.queries, 1 << (tiles.bit_length() - 1))
    while groups > 1 and channel_steps(sizes, engine.lanes, groups) > max(tiles, channel_steps(sizes, engine.lanes)):
        groups //= 2
    return groups


def shortest_block(sizes: Sizes, engine: EngineDesign[AttentionNumbers]) -> int:
    """Cycles of the block of queries that is done first."""
    queries = engine.numbers.queries
    calls = (sizes.mask.blocks(*block, sizes.keys, queries) for block in query_blocks(sizes.queries, engine))
    keys = min(stop - start for call in calls for _, start, stop in call)
    return max(keys * sizes.head, max(keys, queries) * sizes.value) // engine.lanes


def fast_division(sizes: Sizes, engine: EngineDesign[AttentionNumbers], groups: int) -> bool:
    """Whether a pipelined divider is needed: subtracters, one for each query of a group, take a cycle per bit and group."""
    queries, serial = engine.numbers.queries, groups * QUOTIENT_BITS
    return queries // groups > QUOTIENT_BITS or serial > max(shortest_block(sizes, engine), queries + DIVISION_LATENCY)


def shared_scalars(node: Node, sizes: Sizes, ctx: Lowering, rows: int) -> dict[str, int]:
    """Of a call of either kernel for so many queries: sizes, the factors of the accumulator, the cap, the bias and the output."""
    attr = node.attrs
    return {
        "rows": rows,
        "qk_tiles": sizes.head // ctx.design.lanes,
        "v_tiles": sizes.value // ctx.design.lanes,
        "score_multiplier": attr["score_multiplier"],
        "score_shift": attr["score_shift"],
        "cap_multiplier": attr.get("cap_multiplier", 0),
        "cap_shift": attr.get("cap_shift", 0),
        "bias_heads": sizes.heads if sizes.channels or sizes.by_distance else sizes.bias_heads,
        "bias_rows": min(sizes.bias_rows, rows),
        "bias_shift": attr["bias_shift"] if sizes.bias_heads or sizes.channels or sizes.by_distance else 0,
        "bias_channels": sizes.channels,
        "output_multiplier": attr["output_multiplier"],
        "output_shift": attr["output_shift"],
        **ctx.bounds(node.output),
    }


def types_and_tiles(node: Node, sizes: Sizes, lanes: int) -> tuple[tuple[str, IntType | int | Table], ...]:
    """The template arguments with which both kernels begin."""
    (score, total, acc), (qk_bits, v_bits) = widths(node, sizes), widths_of(node)
    return (
        ("XT", IntType(qk_bits)),
        ("VT", IntType(v_bits)),
        ("BiasT", IntType(16)),
        ("ScoreT", IntType(score)),
        ("SumT", IntType(total, signed=False)),
        ("AccT", IntType(acc)),
        ("YT", IntType(16)),
        ("Exp2", EXP2[node.attrs["implementation"]].rom),
        ("Cap", SOFTCAP_ROM if node.attrs.get("softcap") else NO_SOFTCAP),
        ("HEAD_TILES_MAX", sizes.head // lanes),
        ("VALUE_TILES_MAX", sizes.value // lanes),
    )


def bias_sizes(sizes: Sizes, lanes: int, rows: int, groups: int = 1) -> tuple[tuple[str, int], ...]:
    """The template arguments that say how a bias is made."""
    return (
        ("BIAS_ROWS_MAX", rows if sizes.channels or sizes.by_distance else max(1, min(sizes.bias_rows, rows))),
        ("CHANNELS_MAX", max(1, sizes.channels)),
        ("PER_STEP", per_step(sizes, lanes, groups)),
    )


def kernel_of(node: Node, sizes: Sizes, engine: EngineDesign[AttentionNumbers], rows: int, keys: int, at_once: int = 1) -> KernelCall:
    """The engine that serves `rows` queries and `keys` keys at a time, `at_once` of them per cycle where a query is alone."""
    groups = groups_of(sizes, engine)
    return KernelCall(
        network=ATTENTION_CHANNELS if node.attrs.get("bias_by") == "channels" else ATTENTION,
        template_args=(
            *types_and_tiles(node, sizes, engine.lanes),
            ("KEYS_MAX", keys),
            ("ROWS_MAX", rows),
            *bias_sizes(sizes, engine.lanes, rows, groups),
            ("BIAS_BUFFERS", 2 if sizes.bias_heads > 1 else 1),
            ("MASKED", 3 if sizes.branches > 1 else 2 if sizes.cached and sizes.mask.before < UNLIMITED else int(sizes.mask.limited)),
            ("FAST_DIVIDE", int(fast_division(sizes, engine, groups))),
            ("L", engine.lanes),
            ("P", engine.numbers.queries),
            ("Q", engine.numbers.queries // groups),
            ("S", at_once),
            ("N", max(at_once // engine.design.beat, 1)),
        ),
        engine=engine.name,
    )


def walks_of(
    node: Node,
    sizes: Sizes,
    ctx: Lowering,
    queries: tuple[int, int],
    keys: tuple[int, int],
    span: tuple[int, int],
    moves: Moves = (),
    grows: Moves = (),
) -> tuple[Walk, ...]:
    """q, k, v, bias, y for the (first, count) queries and keys of the (first, count) groups of `span`: group, tile of channels (so head
    after head), row. The first of the keys of a cache moves, and they grow, with registers."""

    def grouped(name: str, per_group: int, first: int, count: int) -> Walk:
        counts, strides = (1, span[1], ctx.tiles(name), count), (0, per_group, ctx.height(name))
        if sizes.cached and name in low:
            return ctx.mixed(name, node.attrs.get("cache_window", 0), count, grows, *low[name])
        if sizes.cached and name in (k, v):
            return ctx.whole(name, first, counts, strides, moves, grows)
        return ctx.through(name, span[0] * per_group + first, counts, strides)

    q, k, v = node.inputs[:3]
    low: dict[str, tuple[str, ...]] = node.attrs.get("low", {})
    bias = NO_WALK
    if sizes.channels:
        bias = factor_walk(node, ctx, range(sizes.heads), queries, [keys])
    elif sizes.by_distance:
        bias = scale_walk(node, ctx, sizes.heads)
    elif sizes.bias_heads:
        name = node.inputs[3]
        height, rows = ctx.graph.value(name).shape[0], min(sizes.bias_rows, queries[1])
        # A bias of one head is loaded once; one per head is loaded for each head of each group.
        tiles = math.ceil(keys[1] / ctx.design.lanes)
        counts = (sizes.groups if sizes.bias_heads > 1 else 1, sizes.bias_heads, tiles, rows)
        first = (queries[0] if sizes.bias_rows > 1 else 0) + keys[0] // ctx.design.lanes * height
        bias = ctx.through(name, first, counts, (0, sizes.bias_rows, height))
    return (
        grouped(q, sizes.queries, *queries),
        grouped(k, sizes.keys, *keys),
        grouped(v, sizes.keys, *keys),
        bias,
        grouped(node.output, sizes.queries, *queries),
    )


def shared_logic(kernel: KernelCall, columns: int, softmax: int) -> Resources:
    """Multipliers for `columns` pairs of a query and a key; scores, maximum and exponential of `softmax` of them at a time; divider,
    rescaling of outputs and control, of either kernel, without memories; see Attention.resources."""
    lanes, score, total, acc = (kernel.arg(name) for name in ("L", "ScoreT", "SumT", "AccT"))
    normaliser, tables = normaliser_luts(total), dict(kernel.template_args)
    cap, exp2 = tables["Cap"] is SOFTCAP_ROM, tables["Exp2"]
    assert isinstance(exp2, Table)
    paired = kernel.arg("P") > 1 and kernel.arg("XT") <= 8
    adders = 8 if kernel.arg("XT") <= 8 else math.ceil(score / 4)
    rescale = wide_products(score, softmax) + Resources(dsp=3 * softmax if cap else 0) + wide_products(acc, lanes)
    logic = Resources(
        lut=adders * columns * lanes + softmax * (120 + (160 if cap else 0)) + 80 * (softmax + lanes) + normaliser + 3460 - RANGES.lut,
        ff=10 * columns * lanes + softmax * 228 + 80 * lanes + 2 * normaliser + 4720 - RANGES.ff,
        dsp=columns * lanes // (2 if paired else 1) + columns * lanes,
    )
    logic = logic + rescale
    caps = storage(len(SOFTCAP_ROM.values), SOFTCAP_ROM.type.bits, banks=softmax) if cap else Resources()
    if tables.get("MASKED", 1):
        logic = logic + RANGES
    divider = DIVISIONS["divide"].lane if tables.get("FAST_DIVIDE", 1) else times(SERIAL_DIVIDER, kernel.arg("Q"))
    return logic + times(exp2_of(exp2).lane, softmax) + caps + divider


def _alone_logic(kernel: KernelCall) -> Resources:
    """What lets lanes share a query: of keys and of values each the choice of one of those that come together, four to a LUT, and whether
    lanes get that one or their own; whether the multipliers get the query; the sums of lanes; and of a lane whose softmax goes on its key,
    and its part in a maximum and a sum of all."""
    at_once, lanes, q = (kernel.arg(name) for name in ("S", "L", "Q"))
    if at_once == 1:
        return Resources()
    bits = (kernel.arg("XT") + kernel.arg("VT")) * lanes
    choices = bits * math.ceil(at_once / 4) + bits * at_once // 2 + kernel.arg("XT") * lanes // 2
    sums = (at_once - 1) * lanes * kernel.arg("AccT")
    each = 64 + SCORE_BITS + 2 + kernel.arg("SumT")
    return Resources(lut=choices + sums + q * each, ff=bits * at_once + q * each)


def two_pass_logic(kernel: KernelCall) -> Resources:
    """Beside what both kernels share: the choice of a probability from its two memories; registers of sums on their way out and of scores,
    maxima, sums and probabilities of the groups of queries, a LUT for every bit and four of what it is chosen from; five LUTs per lane
    for that of a bias, of a query whose softmax goes on at a time or one for all where it is a single row."""
    lanes, p, q = (kernel.arg(name) for name in ("L", "P", "Q"))
    score, total, acc = (kernel.arg(name) for name in ("ScoreT", "SumT", "AccT"))
    groups, probability, t = p // q, PROBABILITY_BITS + 1, SCORE_BITS + 2
    held = score + 2 * t + total
    logic = Resources(
        lut=probability * p + lanes * acc * math.ceil(p / 4) + (q * held * math.ceil(groups / 4) if groups > 1 else 0),
        ff=p * lanes * acc + (p - q) * (held + probability),
    )
    if kernel.arg("MASKED") == 2:  # how far back a key is, around a ring, and whether that is within the window
        logic = logic + Resources(lut=96 * q, ff=64 * q)
    logic = logic + _alone_logic(kernel)
    if kernel.arg("MASKED") == 3:  # whether a key is of the prefix, and whose branch it is
        logic = logic + Resources(lut=64 * q, ff=48 * q)
    channels = kernel.network is ATTENTION_CHANNELS
    bias = channel_logic(kernel, q) if channels else Resources(lut=5 * lanes * kernel.names.B)
    return bias + logic + shared_logic(kernel, p, q)
