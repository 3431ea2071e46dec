"""Packed weights: how the codes of a weight lie in memory, and making them, a batch of blocks at a time.

A block is steps * columns output channels, the last one as many columns as are left: their records (8 bytes each), their
multipliers, their codes; or their records last (`records_last`). Codes come in units of 8 channels, or of all columns (`whole`), and
`group` tiles; word i of a unit of 8 channels holds bit i of the codes of its L lanes and channels (bit v of byte l: channel v); of one of
all columns words of the same bit follow each other, 8 channels after 8.
Where `turns` words arrive together, records, multipliers and every unit are filled up to whole beats of so many, and multipliers of
several groups share a beat that has room for them. Through several ports parts of a beat come from each: the first parts of all beats of a
matrix lie first, then the second ones.
  bytes    a signed byte per weight, channel after channel: no units. `turns` channels take turns, word by word.
  bits     a unit per 1, 2 or 4 tiles; the code is the weights in two's complement, the first tile's lowest: `bits` words per tile.
  ternary  a unit per 3 or 5 tiles; the code is 1 + w as digits to base 3, 5 or 8 words; the least that suffices for a shorter last one.
  planes   a unit per plane and 4 tiles; the code is a bit of each tile's weight, a word per tile. Highest plane first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from attnc.arrays import Array
from attnc.ir import Node
from attnc.kernels.numbers import RECORD_BYTES

BATCH_WEIGHTS = 1 << 20
"""Weights packed at a time; what is in memory at once is a few times that."""
STRIP = 32
"""Columns of a matrix in column order that are copied at a time."""
TERNARY_BITS = (0, 2, 4, 5, 7, 8)
"""Bits of the code of 0 to 5 ternary weights."""


Coding = Literal["bytes", "bits", "ternary", "planes"]


@dataclass(frozen=True)
class Layout:
    """How the weights of one call lie in memory. `columns` channels are computed at a time, `steps` times per block."""

    lanes: int
    columns: int
    steps: int
    coding: Coding
    bits: int
    """bits: of a weight; planes: their number."""
    group: int = 1
    """Tiles that share a code."""
    scales: int = 0
    """Multipliers per channel."""
    turns: int = 1
    """Words that arrive together; bytes: channels that lie side by side. They divide the columns."""
    ports: int = 1
    """Memory ports through which they arrive."""
    whole: bool = False
    """bits, ternary: whether a unit is of all columns."""
    records_last: bool = False
    """Whether the records of a block follow its codes."""

    def key(self, node: Node) -> str:
        """What the weights of a node are called as they lie so: entries whose engines differ have them each their own way."""
        return f"{node.packed}: {self}"

    @property
    def channels(self) -> int:
        """Of a block."""
        return self.columns * self.steps

    @property
    def unit_words(self) -> int:
        """Words of a whole unit."""
        return {"bytes": 0, "bits": self.bits * self.group, "ternary": TERNARY_BITS[min(self.group, 5)], "planes": 4}[self.coding]

    @property
    def octets(self) -> int:
        """Of a unit: 8 channels each."""
        return math.ceil(self.columns / 8) if self.whole else 1

    @property
    def scale_groups(self) -> int:
        """Groups whose multipliers share a beat."""
        return max(self.lanes * self.turns // self.columns, 1) if self.whole else 1

    @property
    def scale_words(self) -> int:
        """Words of the multipliers of so many groups, filled up."""
        beat = self.lanes * self.turns
        return math.ceil(self.scale_groups * self.columns / beat) * self.turns

    def unit(self, bits: int) -> int:
        """Words of a unit of so many words per 8 channels, filled up."""
        return math.ceil(self.octets * bits / self.turns) * self.turns

    def tail_words(self, k_tiles: int) -> int:
        """Words of the last unit along the reduction axis."""
        left = k_tiles - (math.ceil(k_tiles / self.group) - 1) * self.group
        return {"bytes": 0, "bits": self.bits * left, "ternary": TERNARY_BITS[left], "planes": left}[self.coding]

    def total_words(self, n: int, k_tiles: int) -> int:
        """Words of `n` channels."""
        blocks, rest = divmod(math.ceil(n / self.columns), self.steps)
        return blocks * self.words(k_tiles) + (replace(self, steps=rest).words(k_tiles) if rest else 0)

    def words(self, k_tiles: int) -> int:
        """Words of a block."""
        head = self.channels * RECORD_BYTES // self.lanes + self.steps * math.ceil(self.scales / self.scale_groups) * self.scale_words
        if self.coding == "bytes":
            return head + self.channels * k_tiles
        units = math.ceil(self.columns / 8) // self.octets * (self.bits if self.coding == "planes" else 1)
        body = (math.ceil(k_tiles / self.group) - 1) * self.unit(self.unit_words) + self.unit(self.tail_words(k_tiles))
        return head + self.steps * units * body

    def first_words(self, k_tiles: int) -> int:
        """Words of the multipliers and codes of a block: what lies before its records where these are last."""
        return self.words(k_tiles) - self.channels * RECORD_BYTES // self.lanes


def records(bias: Array, multiplier: Array, shift: Array) -> Array:
    """uint8 [N, 8]: bias s32, multiplier u24, shift u8, little endian."""
    record = np.zeros((len(bias), RECORD_BYTES), np.uint8)
    record[:, 0:4] = bias.astype("<i4").view(np.uint8).reshape(-1, 4)
    record[:, 4:7] = multiplier.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
    record[:, 7] = shift
    return record


def payload(node: Node, layout: Layout) -> Iterator[bytes]:
    """The blocks of a quantized linear node."""
    p = node.params
    return pack(layout, p["weight"], records(p["stored_bias"], p["multiplier"], p["shift"]), p.get("group_multiplier"))


def pack(layout: Layout, q: Array, record: Array, multiplier: Array | None = None) -> Iterator[bytes]:
    """The blocks of a weight q [N, K] int8 (binary: [planes, N, K]) one batch after the other, or what each port brings of them; memory
    does not grow with N."""
    n, k = q.shape[-2:]
    blocks, per_batch = n // layout.channels, max(1, BATCH_WEIGHTS // (layout.channels * k))
    done = blocks * layout.channels
    for port in range(layout.ports):
        for first in range(0, blocks, per_batch):
            count = min(per_batch, blocks - first)
            yield _of_port(layout, port, _blocks(layout, q, record, multiplier, first * layout.channels, count))
        if done < n:
            last = replace(layout, steps=math.ceil((n - done) / layout.columns))
            yield _of_port(layout, port, _blocks(last, q, record, multiplier, done, 1))


def _of_port(layout: Layout, port: int, blocks: Array) -> bytes:
    """The beats of some blocks that come through a port."""
    if layout.ports == 1:
        return blocks.tobytes()
    beats = blocks.reshape(-1, layout.ports, layout.turns // layout.ports * layout.lanes)
    return beats[:, port].tobytes()


def _blocks(layout: Layout, q: Array, record: Array, multiplier: Array | None, first: int, count: int) -> Array:
    """uint8 [blocks, bytes]: `count` blocks from channel `first` on."""
    rows = slice(first, first + count * layout.channels)
    parts = [_pad(record[rows], 0, count * layout.channels).reshape(count, -1)]
    if layout.scales:
        assert multiplier is not None
        parts.append(_multipliers(layout, multiplier[..., rows, :], count))
    parts.append(_codes(layout, _in_rows(q[..., rows, :]), count))
    if layout.records_last:
        parts.append(parts.pop(0))
    return np.concatenate(parts, axis=1).view(np.uint8)


def _in_rows(q: Array) -> Array:
    """The same with the weights of a channel next to each other, copied a strip of columns at a time so that a cache holds both sides."""
    if q.strides[-1] == q.itemsize:
        return q
    found = np.empty(q.shape, q.dtype)
    for first in range(0, q.shape[-1], STRIP):
        found[..., first : first + STRIP] = q[..., first : first + STRIP]
    return found


def _pad(array: Array, axis: int, size: int) -> Array:
    """Zeros behind `array` up to `size` along an axis."""
    axis %= array.ndim
    if array.shape[axis] == size:
        return array
    padded = np.zeros((*array.shape[:axis], size, *array.shape[axis + 1 :]), array.dtype)
    padded[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return padded


def _multipliers(layout: Layout, multiplier: Array, blocks: int) -> Array:
    """uint8 [blocks, bytes] in order step, group, plane, column."""
    planar = multiplier if multiplier.ndim == 3 else multiplier[np.newaxis]
    planar = _pad(planar.astype(np.uint8), 1, blocks * layout.channels)
    shaped = planar.reshape(planar.shape[0], blocks, layout.steps, layout.columns, -1)
    if not layout.whole:
        return np.ascontiguousarray(shaped.transpose(1, 2, 4, 0, 3)).reshape(blocks, -1)
    together = layout.scale_groups
    shared = _pad(shaped[0, :, 0], 2, math.ceil(shaped.shape[4] / together) * together).transpose(0, 2, 1)
    return _pad(shared.reshape(blocks, -1, together * layout.columns), 2, layout.scale_words * layout.lanes).reshape(blocks, -1)


def _codes(layout: Layout, q: Array, blocks: int) -> Array:
    """uint8 [blocks, bytes]."""
    k_tiles = math.ceil(q.shape[-1] / layout.lanes)
    chunks = math.ceil(k_tiles / layout.group)
    width = chunks * layout.group * layout.lanes
    if layout.coding == "bytes":
        whole = _pad(_pad(q, -1, width), -2, blocks * layout.channels)
        words = np.ascontiguousarray(whole).view(f"V{layout.lanes}").reshape(-1, layout.turns, k_tiles)
        return np.ascontiguousarray(words.swapaxes(1, 2)).view(np.uint8).reshape(blocks, -1)
    planes = [_octets(layout, plane, blocks, chunks) for plane in (q if q.ndim == 3 else q[np.newaxis])]
    if layout.coding == "planes":
        # [blocks, steps, planes, chunks, octets, tiles of a chunk, lanes]
        if q.ndim == 3:
            bits = [_bit(plane, 7) ^ _ones(plane) for plane in planes]  # -1 is 0, 1 is 1
        else:
            bits = [_bit(planes[0], plane) for plane in reversed(range(layout.bits))]
        units = np.stack([_gather(bit) for bit in bits]).transpose(1, 2, 0, 4, 3, 5, 6)
    else:
        ternary = layout.coding == "ternary"
        codes = _ternary(planes[0], k_tiles - (chunks - 1) * layout.group) if ternary else _fields(planes[0], layout.bits)
        words = [_gather(_bit(codes, i)) for i in range(layout.unit_words)]
        if layout.whole:  # [blocks, steps, chunks, words, octets, lanes]
            return _whole_units(layout, np.stack(words).transpose(1, 2, 4, 0, 3, 5), layout.tail_words(k_tiles))
        units = np.stack(words).transpose(1, 2, 4, 3, 0, 5)[:, :, np.newaxis]
    body, tail = units[:, :, :, :-1], units[:, :, :, -1, :, : layout.tail_words(k_tiles)]
    joined = np.concatenate([part.reshape(*units.shape[:3], -1) for part in (body, tail)], axis=3)
    return np.ascontiguousarray(joined).view(np.uint8).reshape(blocks, -1)


def _whole_units(layout: Layout, units: Array, tail_words: int) -> Array:
    """uint8 [blocks, bytes]: units of all columns [blocks, steps, chunks, words, octets, lanes], each filled up to whole beats."""
    parts = []
    for chunks in (units[:, :, :-1], units[:, :, -1:, :tail_words]):
        words = chunks.reshape(*chunks.shape[:3], chunks.shape[3] * chunks.shape[4], chunks.shape[5])
        filled = _pad(words, 3, layout.unit(chunks.shape[3]))
        parts.append(filled.reshape(len(units), -1))
    return np.ascontiguousarray(np.concatenate(parts, axis=1)).view(np.uint8)


def _octets(layout: Layout, q: Array, blocks: int, chunks: int) -> Array:
    """[8 channels, blocks, steps, octets, chunks, tiles of a chunk, words of lanes]: bytes, 8 (or as many as there are) lanes to an
    integer, so that one operation serves them all."""
    whole = _pad(_pad(q, -1, chunks * layout.group * layout.lanes), -2, blocks * layout.channels)
    octets = math.ceil(layout.columns / 8)
    by_column = _pad(whole.reshape(blocks, layout.steps, layout.columns, -1), 2, octets * 8)
    packed = np.ascontiguousarray(by_column).view(f"u{min(layout.lanes, 8)}")
    shaped = packed.reshape(blocks, layout.steps, octets, 8, chunks, layout.group, -1)
    return np.ascontiguousarray(np.moveaxis(shaped, 3, 0))


def _ones(x: Array) -> Array:
    """1 in every byte."""
    return x.dtype.type(0x0101010101010101 & ((1 << (8 * x.dtype.itemsize)) - 1))


def _bit(x: Array, bit: int) -> Array:
    """Bit `bit` of every byte, as 0 or 1 in that byte."""
    shifted = np.right_shift(x, x.dtype.type(bit))
    np.bitwise_and(shifted, _ones(x), out=shifted)
    return shifted


def _gather(bits: Array) -> Array:
    """Bits [8, ...] of 8 channels as one byte per lane: bit v is channel v."""
    result = bits[0].copy()
    for v in range(1, 8):
        np.left_shift(bits[v], bits.dtype.type(v), out=bits[v])
        np.bitwise_or(result, bits[v], out=result)
    return result


def _fields(q: Array, bits: int) -> Array:
    """Codes [..., chunks, lanes] of weights [..., chunks, group, lanes] in two's complement of `bits` bits, the first one lowest. One that
    is alone keeps what is above its bits."""
    code: Array = q[..., 0, :]
    if q.shape[-2] > 1:
        field = _ones(q) * q.dtype.type((1 << bits) - 1)
        code = np.bitwise_or.reduce([(q[..., tile, :] & field) << q.dtype.type(bits * tile) for tile in range(q.shape[-2])])
    return code


def _ternary(q: Array, last: int) -> Array:
    """Codes [..., chunks, lanes] of weights [..., chunks, group, lanes]: 1 + w as digits to base 3, lowest first. No byte of a sum
    exceeds 255. The last chunk has `last` tiles; the digits of those it lacks are 0, so that its codes are short."""
    # Adding 1 to the bytes -1, 0, 1 without a carry: 1 ^ (w & 1) for the low bit, twice the bit of 1.
    one, ones = q.dtype.type(1), _ones(q)
    odd, sign = np.bitwise_and(q, ones), _bit(q, 7)
    digits = (ones ^ odd) + ((odd ^ sign) << one)
    digits[..., -1, last:, :] = 0
    code = digits[..., -1, :].copy()
    for i in reversed(range(q.shape[-2] - 1)):
        code *= q.dtype.type(3)
        code += digits[..., i, :]
    return code
