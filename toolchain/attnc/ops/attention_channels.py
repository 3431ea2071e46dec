"""The bias of attention as channels: factors of queries and of keys in place of a table; mirrors attnc/attention_channels.hpp.

    bias[h, i, j] = (sum over c of queries[h, i, c] * keys[h, j, c]) * multiplier[h] / 2**shift[h], in units of 2**bias_shift scores
Shapes   params of the node: bias_queries [BH, T, R] and bias_keys [BH, Tk, R], s16 of at most 32766; bias_multiplier and
         bias_product_shift [BH]; `bias` [BH*T, Tk], the exact float table, for the reference alone. BH is 1 or NH.
Rounding one requantize (half up) to the unit, saturated to +-32766.
Widths   sum: 31 bits and one per doubling of R, at most 37; rescaled 56.
Error    half a unit from the requantize and 2**-17 of the bias from the multiplier, beside what the factors themselves leave:
         passes/attention_bias.py chooses and measures them.
Memory   weights, in the order of use: per call and head the scale, the queries, then block after block the keys. Nodes with equal factors
         read the same words.
Engine   attribute `bias_by` = "channels": the kernel takes words in place of vectors; a node of that kind without factors has no bias.
Distance attribute `by_distance`: factors whose sum is how far a query is behind a key, negative; the kernel counts that itself, and reads
         the scales alone.
"""

from __future__ import annotations

import math

import numpy as np

from attnc.arrays import Array
from attnc.fixedpoint import matmul, requantize
from attnc.ir import GraphError, Node
from attnc.kernels.call import Walk
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.resources import Resources
from attnc.ops.attention_bias import BIAS_LIMIT
from attnc.ops.attention_sizes import Mask, Sizes
from attnc.ops.requantize import wide_products

SUM_BITS = 31
"""Of a product of two factors."""
MAX_CHANNELS = 64
CHANNEL_BYTES = 2
MIN_LANES = 4
"""Bytes of the scale of a head, which comes in one word."""


def channel_table(node: Node) -> Array:
    """The biases that the factors give: s16 [BH*T, Tk]."""
    p = node.params
    acc = matmul(p["bias_queries"], p["bias_keys"].swapaxes(-1, -2), BIAS_LIMIT**2)
    multiplier, shift = (p[name][:, None, None] for name in ("bias_multiplier", "bias_product_shift"))
    return requantize(acc, multiplier, shift, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int16).reshape(-1, acc.shape[-1])


def distance_table(node: Node, sizes: Sizes) -> Array:
    """The same where the kernel counts distances."""
    places = sizes.mask.offset + np.arange(sizes.queries)
    acc = (np.arange(sizes.keys) - places[:, None])[None]
    multiplier, shift = (node.params[name][:, None, None] for name in ("bias_multiplier", "bias_product_shift"))
    return requantize(acc, multiplier, shift, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int16).reshape(-1, acc.shape[-1])


def counts_distance(node: Node, mask: Mask) -> bool:
    """Whether the factors of a node count how far a query is behind a key, wherever it may look at one."""
    queries, keys = (node.params[name].astype(np.int64) for name in ("bias_queries", "bias_keys"))
    made, count = queries @ keys.swapaxes(-1, -2), keys.shape[1]
    allowed = mask.allowed(count, count)
    right = made == np.arange(count) - np.arange(count)[:, None]
    return bool(right.all() if allowed is None else right[:, allowed].all())


def scale_walk(node: Node, ctx: Lowering, heads: int) -> Walk:
    """The words of a call that counts distances: the scale of each head."""
    lanes, shared = ctx.design.lanes, len(node.params["bias_multiplier"]) == 1
    records = [_record(node, 0 if shared else head, lanes) for head in range(heads)]
    return ctx.packed(f"bias.{node.attrs['bias_digest']}.{heads}.scales", lambda: b"".join(records), heads)


def _record(node: Node, head: int, lanes: int) -> bytes:
    """The scale of a head, a word."""
    record = int(node.params["bias_multiplier"][head]) | int(node.params["bias_product_shift"][head]) << 24
    return record.to_bytes(4, "little").ljust(lanes, b"\0")


def check_factors(node: Node, sizes: Sizes) -> None:
    """Refuse factors that do not fit the sizes of their node, or a table beside them."""
    where, p = f"node {node.name!r} (attention)", node.params
    if sizes.bias_heads:
        raise GraphError(f"{where}: needs its bias as a table or as channels, found both")
    if not sizes.channels:
        return
    found = [p[name].shape for name in ("bias_queries", "bias_keys", "bias_multiplier", "bias_product_shift")]
    heads, channels = found[0][0], found[0][-1]
    expected = [(heads, sizes.queries, channels), (heads, sizes.keys, channels), (heads,), (heads,)]
    if found != expected or heads not in (1, sizes.heads) or not 1 <= channels <= MAX_CHANNELS:
        raise GraphError(f"{where}: needs factors of the bias of 1 or {sizes.heads} heads and 1 to {MAX_CHANNELS} channels, found {found}")
    if node.attrs.get("bias_by") != "channels":
        raise GraphError(f'{where}: factors of a bias need bias_by = "channels", found {node.attrs.get("bias_by")!r}')


def per_step(sizes: Sizes, lanes: int, groups: int = 1) -> int:
    """Channels per cycle that keep up with the tiles of q . k, for `groups` of queries one after the other: a power of two, at most those
    of a word."""
    wanted = math.ceil(max(sizes.channels, 1) * groups / (sizes.head // lanes))
    return min(1 << (wanted - 1).bit_length(), _width(max(sizes.channels, 1), lanes))


def _width(channels: int, lanes: int) -> int:
    """Channels of a word that the kernel keeps."""
    return min(1 << (channels - 1).bit_length(), lanes // CHANNEL_BYTES)


def words_of(channels: int, lanes: int) -> int:
    """Words of memory that the factors of a row take."""
    return math.ceil(channels * CHANNEL_BYTES / lanes)


def channel_steps(sizes: Sizes, lanes: int, groups: int = 1) -> int:
    """Cycles that the biases of all `groups` of queries take per key."""
    return groups * math.ceil(sizes.channels / per_step(sizes, lanes, groups))


def factor_walk(node: Node, ctx: Lowering, heads: range, queries: tuple[int, int], key_blocks: list[tuple[int, int]]) -> Walk:
    """The words of a call that serves `heads`, and (first, count) of queries and of each block of keys."""
    lanes, (row, rows) = ctx.design.lanes, queries
    shared = node.params["bias_queries"].shape[0] == 1
    per_head = 1 + (rows + sum(count for _, count in key_blocks)) * words_of(node.params["bias_queries"].shape[-1], lanes)

    def make() -> bytes:
        made = [_head_words(node, 0 if shared else head, queries, key_blocks, lanes) for head in heads]
        return b"".join(made)

    which = f"{len(heads)}" if shared else f"{heads.start}-{heads.stop}"
    first, last = key_blocks[0][0], key_blocks[-1]
    key = f"bias.{node.attrs['bias_digest']}.{which}.{row}+{rows}.{len(key_blocks)}.{first}-{last[0] + last[1]}"
    return ctx.packed(key, make, len(heads) * per_head)


def _head_words(node: Node, head: int, queries: tuple[int, int], key_blocks: list[tuple[int, int]], lanes: int) -> bytes:
    """The scale, the queries, the keys of one head."""
    p = node.params
    rows = [p["bias_queries"][head, queries[0] : queries[0] + queries[1]]]
    rows += [p["bias_keys"][head, first : first + count] for first, count in key_blocks]
    factors = np.concatenate(rows)
    padded = np.zeros((len(factors), words_of(factors.shape[1], lanes) * lanes // CHANNEL_BYTES), "<i2")
    padded[:, : factors.shape[1]] = factors
    return _record(node, head, lanes) + padded.tobytes()


def channel_logic(kernel: KernelCall, queries: int, keys_at_once: int = 1) -> Resources:
    """What channels take beside an engine without biases, for so many queries (and lanes of keys) at a time: for each pair a DSP per
    channel and step and `wide_product` of the sum (31 to 37 bits), 140 LUTs of shifter, clamp and channel select, 32 of a distance."""
    channels, step, columns = kernel.arg("CHANNELS_MAX"), kernel.arg("PER_STEP"), queries * keys_at_once
    logic = Resources(lut=columns * (172 + 20 * step) + 400, ff=columns * (160 + 32 * step) + 500, dsp=columns * step)
    return logic + wide_products(SUM_BITS + math.ceil(math.log2(channels)), columns)
