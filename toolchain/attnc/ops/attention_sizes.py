"""Sizes and masks of attention, and how its work is cut: what golden and the lowering to either kernel share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import bits_for, check_bits
from attnc.ir import GraphError, Node
from attnc.kernels.design import AttentionNumbers, EngineDesign
from attnc.kernels.numbers import PROBABILITY_BITS, SCORE_BITS
from attnc.ops.base import product_bits
from attnc.ops.exponential import sum_bits

SCORE_EXCLUDED = -(1 << (SCORE_BITS + 1))
CHUNK = 1 << 16
"""Scores that golden and reference hold at a time: bounds their memory, and in doubles half a megabyte stays in a core's cache."""
PIPELINE = 12
"""Cycles to fill and drain a loop that is not merged with the one around it."""
UNLIMITED = 1 << 18
"""An extent that reaches beyond any key."""
TWO_PASS_BITS = 3 << 19
"""`passes` = "auto" takes two passes while what they keep per key (`two_pass_bits`) fits this many bits: 43 blocks of 36 Kbit, a
third of the block RAM of a KV260."""
ACC_BITS = 44
"""Bits of the largest accumulator besides its sign."""
RESIDENT = 64
"""Queries that a call is taken to serve where the design is not known yet."""


@dataclass(frozen=True)
class Mask:
    """Query i stands at key `offset` + i and may look at keys from `before` before it to `after` after it. Behind the first `prefix` keys
    it looks at every one of `branches` alone, the i-th of them."""

    offset: int = 0
    before: int = UNLIMITED
    after: int = UNLIMITED
    prefix: int = 0
    branches: int = 1

    @classmethod
    def of(cls, node: Node, queries: int, keys: int) -> Mask:
        """From the attributes `causal`, `window` (left, right; -1: no limit), `offset` (by default the last query stands at the last key),
        `prefix` and `branches`."""
        left, right = node.attrs.get("window", (-1, -1))
        after = 0 if node.attrs.get("causal", False) else UNLIMITED if right < 0 else int(right)
        place, before = int(node.attrs.get("offset", keys - queries)), UNLIMITED if left < 0 else int(left)
        return cls(place, before, after, int(node.attrs.get("prefix", 0)), int(node.attrs.get("branches", 1)))

    @property
    def limited(self) -> bool:
        """Whether it leaves any key out."""
        return min(self.before, self.after) < UNLIMITED or self.branches > 1

    def allowed(self, queries: int, keys: int) -> Array | None:
        """[queries, keys] booleans; None where nothing is left out."""
        if not self.limited:
            return None
        key, query = np.arange(keys), np.arange(queries)[:, None]
        distance, own = key - (self.offset + query), (key - self.prefix - query) % self.branches == 0
        return (distance >= -self.before) & (distance <= self.after) & (own | (key < self.prefix))

    def keys(self, row: int, rows: int, keys: int) -> tuple[int, int]:
        """[first, stop) of the keys that queries [row, row + rows) may look at; at least one, which may then be a wrong one."""
        position = self.offset + row
        first = min(max(position - self.before, 0), keys - 1)
        return first, min(max(position + rows + self.after, first + 1), keys)

    def blocks(self, row: int, rows: int, keys: int, count: int) -> list[tuple[int, int, int]]:
        """(queries, first key, stop) of the blocks of `count` queries of a call, exactly as `keys_within` of the kernels."""
        starts = range(row, row + rows, count)
        return [(min(count, row + rows - at), *self.keys(at, min(count, row + rows - at), keys)) for at in starts]


@dataclass(frozen=True)
class Sizes:
    """Groups, queries and keys per group, heads, channels per head, heads and rows of the table of biases (0 and 0 without one), the mask,
    how many channels make the bias where there is no table, and whether the keys are those of a cache (then `keys` are all that it has
    place for, and the queries stand at its end). Where that is a ring, `ring` are the queries of the largest block.
    `by_distance`: the kernel makes the bias from how far keys are. `branches`: queries are of so many, all at the same position."""

    groups: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head: int
    value: int
    bias_heads: int
    bias_rows: int
    mask: Mask = Mask()
    channels: int = 0
    cached: bool = False
    ring: int = 0
    by_distance: bool = False
    branches: int = 1

    @classmethod
    def of(cls, node: Node, shapes: Sequence[Shape]) -> Sizes:
        """From the attributes and the shapes of the operands."""
        attr = node.attrs
        groups, heads, kv_heads = attr.get("groups", 1), attr["num_heads"], attr["num_kv_heads"]
        (q_rows, q_channels), (k_rows, _), (_, v_channels) = shapes[:3]
        bias_heads, bias_rows = (attr.get("bias_heads", 1), attr.get("bias_rows", 1)) if len(shapes) > 3 else (0, 0)
        queries, keys = q_rows // groups, attr.get("cached", k_rows // groups)
        channels = (q_channels // heads, v_channels // kv_heads)
        distance = bool(attr.get("by_distance", False))
        factors = node.params["bias_queries"].shape[-1] if "bias_queries" in node.params and not distance else 0
        mask, cached, ring = Mask.of(node, queries, keys), "cached" in attr, attr.get("ring", 0)
        found = cls(groups, queries, keys, heads, kv_heads, *channels, bias_heads, bias_rows, mask, factors, cached, ring, distance)
        return replace(found, branches=attr.get("branches", 1))

    @property
    def sharing(self) -> int:
        """Heads that share keys and values."""
        return self.heads // self.kv_heads

    def expected(self) -> list[Shape]:
        """Shapes of the operands that fit these sizes."""
        k_rows = self.groups * (self.queries if self.cached else self.keys)
        q = (self.groups * self.queries, self.heads * self.head)
        shapes = [q, (k_rows, self.kv_heads * self.head), (k_rows, self.kv_heads * self.value)]
        return shapes + ([(self.bias_heads * self.bias_rows, self.keys)] if self.bias_heads else [])

    def valid(self) -> bool:
        """Whether head and bias counts fit together."""
        return (
            min(self.queries, self.keys, self.head, self.value) > 0
            and self.heads % self.kv_heads == 0
            and self.bias_heads in (0, 1, self.heads)
            and self.bias_rows in (0, 1, self.queries)
        )


def check_attributes(node: Node) -> None:
    """Refuse attributes that no kernel understands."""
    attr, where = node.attrs, f"node {node.name!r} (attention)"
    lanes, step = attr.get("kv_lanes", 1), attr.get("key_step", 1)
    window = attr.get("window", (-1, -1))
    if attr.get("passes", "auto") not in ("auto", 1, 2):
        raise GraphError(f'{where}: needs passes of 1, 2 or "auto", found {attr["passes"]!r}')
    if lanes not in (1, 2, 4, 8) or step < 1 or step % lanes:
        raise GraphError(f"{where}: needs kv_lanes of 1, 2, 4 or 8 that divide key_step, found {lanes} and {attr.get('key_step')}")
    if len(window) != 2 or min(window) < -1:
        raise GraphError(f"{where}: needs a window (left, right) of at least 0 each, or -1 for no limit, found {window}")
    if not attr.get("softcap", 0.0) >= 0:
        raise GraphError(f"{where}: needs a softcap above 0, or 0 for none, found {attr['softcap']}")
    if abs(attr.get("offset", 0)) > 1 << 17:
        raise GraphError(f"{where}: needs an offset of at most {1 << 17}, found {attr['offset']}")


def widths_of(node: Node) -> tuple[int, int]:
    """Bits of queries and keys, and of values: 8, or 16 where attrs["wide_operands"] names them."""
    wide = node.attrs.get("wide_operands", ())
    return 16 if 0 in wide or 1 in wide else 8, 16 if 2 in wide else 8


def two_pass_bits(node: Node, sizes: Sizes) -> int:
    """Bits that the two-pass kernel keeps on chip for the keys of a head: keys, values, row of scores, probabilities, bias. Keys, values
    and biases that differ among heads take as much again, for the head that loads meanwhile."""
    keys = min(sizes.keys, sizes.mask.before + sizes.mask.after + RESIDENT)
    bias = 16 * (sizes.channels or min(sizes.bias_rows, RESIDENT))
    qk_bits, v_bits = widths_of(node)
    return keys * (qk_bits * sizes.head + v_bits * sizes.value + 4 * (SCORE_BITS + 2 + PROBABILITY_BITS + 1) + bias)


def passes_of(node: Node, sizes: Sizes) -> int:
    """1 or 2: as the attribute `passes` says, else by what two passes would keep on chip; keys are split over lanes in one pass only."""
    asked = node.attrs.get("passes", "auto")
    if node.attrs.get("kv_lanes", 1) > 1 and asked == 2:
        raise GraphError(f"node {node.name!r} (attention): kv_lanes need passes of 1, found 2")
    if asked in (1, 2):
        return int(asked)
    return 1 if node.attrs.get("kv_lanes", 1) > 1 or two_pass_bits(node, sizes) > TWO_PASS_BITS else 2


def key_blocks(keys: int, step: int = 0) -> tuple[int, int]:
    """(number of blocks, keys from one to the next) of the one-pass kernel; the last block takes what is left and is the longest.

    Every block is as long as the last one in memory, so the step (a multiple of 32 from 128 on) is the one that loads least.
    """
    if step:
        return max(1, keys // step), step
    if keys <= 256:
        return 1, max(keys, 1)
    return min(((keys // s, s) for s in range(128, 257, 32)), key=lambda c: c[0] * (keys - c[1] * (c[0] - 1) + 4 * PIPELINE))


def output_shape(sizes: Sizes, inputs: Sequence[Array]) -> tuple[int, int, int]:
    """[samples, G*T, NH*HDV]."""
    return max(x.shape[0] for x in inputs), sizes.groups * sizes.queries, sizes.heads * sizes.value


Heads = tuple[Array, Array, Array, Array, "Array | None"]


def heads_of(sizes: Sizes, inputs: Sequence[Array], result: Array) -> Iterator[Heads]:
    """(out, q, k, v, bias), some samples and heads of keys at a time: [samples, groups, heads of keys, heads that share one (or 1), rows,
    channels]. `out` is a view of `result`."""
    samples, kv = result.shape[0], sizes.kv_heads

    def split(x: Array, groups: int, heads: int, sharing: int) -> Array:
        return x.reshape(samples, groups, -1, heads, sharing, x.shape[-1] // (heads * sharing)).transpose(0, 1, 3, 4, 2, 5)

    q, k, v, *biases = (np.broadcast_to(x, (samples, *x.shape[1:])) for x in inputs)
    q, k, v = split(q, sizes.groups, kv, sizes.sharing), split(k, sizes.groups, kv, 1), split(v, sizes.groups, kv, 1)
    out = split(result, sizes.groups, kv, sizes.sharing)
    shared = sizes.bias_heads <= 1
    bias = [b.reshape(samples, 1, *((1, 1) if shared else (kv, sizes.sharing)), sizes.bias_rows, sizes.keys) for b in biases]
    scores = sizes.groups * sizes.queries * sizes.keys * sizes.sharing
    heads, step = max(1, CHUNK // scores), max(1, CHUNK // (scores * kv))
    for at in range(0, samples, step):
        for head in range(0, kv, heads):
            part = (slice(at, at + step), slice(None), slice(head, head + heads))
            yield out[part], q[part], k[part], v[part], (bias[0][part[:1] if shared else part] if bias else None)


def weighted_bound(keys: int, v_bits: int) -> int:
    """Largest magnitude of a sum of p * v."""
    return keys << (PROBABILITY_BITS + v_bits - 1)


def widths(node: Node, sizes: Sizes) -> tuple[int, int, int]:
    """Bits of a score's accumulator, of a sum of probabilities (unsigned) and of a weighted sum, checked."""
    where = f"node {node.name!r} (attention)"
    qk_bits, v_bits = widths_of(node)
    score = check_bits(bits_for(sizes.head << 2 * (qk_bits - 1)), f"{where}: accumulator of scores", ACC_BITS)
    acc = check_bits(bits_for(weighted_bound(sizes.keys, v_bits)), f"{where}: weighted sum", ACC_BITS)
    product_bits(node, score)
    product_bits(node, acc)
    return score, sum_bits(sizes.keys, where), acc


def query_blocks(queries: int, engine: EngineDesign[AttentionNumbers], unit: int = 1) -> list[tuple[int, int]]:
    """(first, count) of blocks of at most as many queries as the engine takes rows, of about equal length and full in its P queries; where
    engines run at the same time those of the nodes around (`Lowering.row_blocks`), so that each waits for one of these and one waits for
    it. All but the last end behind a multiple of `unit` queries, of which the engine takes as many rows at least."""
    rows, at_once = engine.rows, engine.numbers.queries
    count = math.ceil(queries / rows)
    equal = min(rows, math.ceil(math.ceil(queries / count) / at_once) * at_once)
    step = equal if engine.design.parallel == 1 else rows
    step = step // unit * unit if step < queries else step
    return [(row, min(step, queries - row)) for row in range(0, queries, step)]
