"""The head of a decoder on the host: its last linear layer, from the integers that the device makes of a token to its logits, exactly as
the device would have computed them.

    acc[n] = sum over planes p and groups g of factor[p, g, n] * (sum over k in g of w[p, n, k] * x[k]) + bias[n]
    y[n] = clamp(acc[n] * multiplier[n] / 2**shift[n]), and with a scale per token once more, times that

The file has, in this order, for each row n (a token): bias s32, multiplier s32, with a scale per token another bias s32, shift u8; where
groups or planes have scales of their own factor u8 [planes, groups, rows]; and the weights. Those of more than 4 bits without groups are
s8 [rows, channels], multiplied in floats a block of rows at a time, in pieces whose sums floats hold exactly. Others share bytes
(`Digits`), u8 [planes, groups, bytes of a group, rows]: a byte is looked up among the 256 sums that its weights may make with the
channels of the token. Nothing but those blocks is ever unpacked, and the file stays where it is until it is read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attnc_host.errors import AcceleratorError
from attnc_host.fields import Fields

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

EXACT = 1 << 24
"""Whole numbers up to this are exact in float32, and those up to 2**53 in float64."""
PIECE = 64
"""Channels that a product in float32 must take at a time, at least, to be worth it."""
BLOCK_BYTES = 1 << 19
"""Of the floats of a block of rows: what caches hold."""
BLOCK_ROWS = 1 << 13
"""Rows whose sums are looked up together."""
MAX_THREADS = 4
THREADED = 1 << 20
"""Weights from which on several threads share a product; NumPy needs no interpreter meanwhile."""
FRACTION = 8
"""Fraction bits of the bias behind a scale per token."""


@dataclass(frozen=True)
class Digits:
    """How weights share a byte: `count` of them, the first the lowest, as digits to a base; a weight is digit * step - offset."""

    base: int
    offset: int
    count: int
    step: int = 1

    @staticmethod
    def of(name: str) -> Digits:
        """Of a format of weights: int8 to int2, ternary, or a plane of binary ones."""
        if name == "ternary":
            return Digits(3, 1, 5)
        if name.startswith("binary"):
            return Digits(2, 1, 8, 2)
        bits = int(name.removeprefix("int"))
        return Digits(256, 128, 1) if bits > 4 else Digits(1 << bits, 1 << (bits - 1), 8 // bits)

    @property
    def values(self) -> Int64:
        """The weights of every byte, [256, count]; those of bytes that stand for none are anything."""
        digits = np.arange(256)[:, None] // self.base ** np.arange(self.count) % self.base
        return digits * self.step - self.offset

    @property
    def largest(self) -> int:
        """Magnitude."""
        return self.offset


@dataclass(frozen=True)
class Layer:
    """What a build says of the head. `input` and `peak` are the values of the device that it reads: a row of integers, and the scale of
    the token where there is one. `between` is the range of y, `low` to `high` that of the logits, whose real value is scale * q."""

    file: Path
    rows: int
    channels: int
    format: str
    group_size: int
    factors: bool
    input: str
    peak: str | None
    between: tuple[int, int]
    multiplier: int
    shift: int
    """The factor of a scale per token."""
    low: int
    high: int
    scale: npt.NDArray[np.float64]
    ms: float | None
    """What a token takes on the processors of the board, estimated; None where nothing is known of them."""

    @property
    def plain(self) -> bool:
        """Whether every weight has a byte, and none a scale of its own."""
        return not self.factors and Digits.of(self.format).count == 1

    @property
    def planes(self) -> int:
        """Of binary weights, else 1."""
        return int(self.format[-1]) if self.format.startswith("binary") else 1

    @property
    def groups(self) -> tuple[int, int]:
        """Groups of channels, and the bytes of each."""
        size = self.group_size or self.channels
        return math.ceil(self.channels / size), math.ceil(size / Digits.of(self.format).count)

    @property
    def sections(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """The file: name, type and shape of each part, in their order."""
        (groups, size), n = self.groups, self.rows
        return (
            ("bias", "<i4", (n,)),
            ("multiplier", "<i4", (n,)),
            *([("peak_bias", "<i4", (n,))] if self.peak is not None else []),
            ("shift", "u1", (n,)),
            *([("factor", "u1", (self.planes, groups, n))] if self.factors else []),
            ("weight", "i1", (n, self.channels)) if self.plain else ("weight", "u1", (self.planes, groups, size, n)),
        )

    @property
    def bytes(self) -> int:
        """Of the file."""
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in self.sections)


def read_layer(fields: Fields) -> Layer:
    """From a manifest."""
    format_ = fields.text("format")
    if not re.fullmatch(r"int[234568]|ternary|binary[234]", format_):
        fields.fail("format", "int8, int6, int5, int4, int3, int2, ternary, binary4, binary3 or binary2", format_)
    between, ms = fields.integers("between", None), fields.get("ms")
    if len(between) != 2 or between[0] > between[1]:
        fields.fail("between", "the smallest and the largest integer", list(between))
    if ms is not None and (isinstance(ms, bool) or not isinstance(ms, (int, float)) or not 0 <= ms < math.inf):
        fields.fail("ms", "milliseconds, or null", ms)
    low = fields.integer("low")
    found = Layer(
        file=fields.path("file"),
        rows=fields.integer("rows", 1, 1 << 31),
        channels=fields.integer("channels", 1, 1 << 31),
        format=format_,
        group_size=fields.integer("group_size", 0, 1 << 31),
        factors=fields.flag("factors"),
        input=fields.text("input"),
        peak=None if fields.get("peak") is None else fields.text("peak"),
        between=(between[0], between[1]),
        multiplier=fields.integer("multiplier", 0, (1 << 31) - 1),
        shift=fields.integer("shift", 0, 62),
        low=low,
        high=fields.integer("high", low),
        scale=_scale(fields),
        ms=None if ms is None else float(ms),
    )
    if found.scale.shape not in ((), (found.rows,)):
        fields.fail("scale", f"a number, or one for each of {found.rows} rows", f"{found.scale.size} numbers")
    return found


def _scale(fields: Fields) -> npt.NDArray[np.float64]:
    try:
        found = np.asarray(fields.get("scale"), np.float64)
    except (TypeError, ValueError):
        found = np.zeros(())
    if not (np.isfinite(found) & (found > 0)).all():
        fields.fail("scale", "numbers above 0", fields.get("scale"))
    return found


class Head:
    """The layer over the bytes of its file."""

    def __init__(self, layer: Layer, data: Bytes) -> None:
        if data.size != layer.bytes:
            raise AcceleratorError(f"{layer.file}: needed {layer.bytes:,} bytes, found {data.size:,}; the build folder is damaged")
        self.layer, self.data, self.parts, at = layer, data, dict[str, npt.NDArray[np.integer]](), 0
        for name, dtype, shape in layer.sections:
            size = np.dtype(dtype).itemsize * math.prod(shape)
            self.parts[name] = data[at : at + size].view(dtype).reshape(shape)
            at += size

    @classmethod
    def open(cls, layer: Layer) -> Head:
        """The file is mapped, not read."""
        if layer.file.stat().st_size != layer.bytes:  # an empty one cannot be mapped
            return cls(layer, np.fromfile(layer.file, np.uint8))
        return cls(layer, np.asarray(np.memmap(layer.file, np.uint8, "r")))

    def logits(self, x: npt.NDArray[np.integer], peak: npt.NDArray[np.integer] | None) -> npt.NDArray[np.float64]:
        """Real logits [tokens, rows], of `integers`."""
        return np.asarray(self.integers(x, peak) * self.layer.scale)

    def integers(self, x: npt.NDArray[np.integer], peak: npt.NDArray[np.integer] | None) -> Int64:
        """Logits [tokens, rows] of x [tokens, channels] and, with a scale per token, of peak [tokens, 1]; all are q of real = scale * q."""
        return np.stack([self._token(row.astype(np.int64), 0 if peak is None else int(peak[at, 0])) for at, row in enumerate(x)])

    def _token(self, x: Int64, peak: int) -> Int64:
        layer, p = self.layer, self.parts
        y = _requantize(self._sums(x) + p["bias"], p["multiplier"].astype(np.int64), p["shift"].astype(np.int64), *layer.between)
        if layer.peak is None:
            return y
        acc = _round_half_up(y * (peak * layer.multiplier), np.int64(layer.shift - FRACTION)) + p["peak_bias"]
        return np.clip(_round_half_up(acc, np.int64(FRACTION)), layer.low, layer.high)

    def _sums(self, x: Int64) -> Int64:
        """The exact product with the weights, [rows]."""
        bound = max(int(np.abs(x).max()), 1) * (128 if self.layer.plain else self._digits.largest)
        add = self._multiplied(x, bound) if self.layer.plain else self._looked_up(x, bound)
        found = np.zeros(self.layer.rows, np.int64)
        threads = min(MAX_THREADS, len(os.sched_getaffinity(0))) if self.layer.rows * self.layer.channels >= THREADED else 1
        if threads == 1:
            add(found, 0, len(found))
            return found
        edges = [len(found) * at // threads for at in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda at: add(found, edges[at], edges[at + 1]), range(threads)))
        return found

    def _multiplied(self, x: Int64, bound: int) -> Callable[[Int64, int, int], None]:
        """Bytes as floats; `bound` is that of a single product."""
        weight, step = self.parts["weight"], min(EXACT // bound, len(x))
        single = step >= min(PIECE, len(x))
        real, step = (x.astype(np.float32), step) if single else (x.astype(np.float64), len(x))
        size = max(BLOCK_BYTES // (real.itemsize * step), 1)

        def add(found: Int64, start: int, stop: int) -> None:
            for first in range(start, stop, size):
                rows = slice(first, min(first + size, stop))
                for at in range(0, len(x), step):
                    part = weight[rows, at : at + step].astype(real.dtype)
                    # A product for each row: a whole one would wake the threads of the BLAS, which wait for each other.
                    found[rows] += np.matmul(part[:, None, :], real[at : at + step, None])[:, 0, 0].astype(np.int64)

        return add

    @cached_property
    def _digits(self) -> Digits:
        return Digits.of(self.layer.format)

    def _looked_up(self, x: Int64, bound: int) -> Callable[[Int64, int, int], None]:
        """Bytes as places in tables of the sums that their weights may make; `bound` is that of a single product."""
        weight, factor, (groups, size) = self.parts["weight"], self.parts.get("factor"), self.layer.groups
        group = self.layer.group_size or len(x)
        padded = np.zeros((groups, size * self._digits.count), np.int64)
        for at in range(groups):
            part = x[at * group : (at + 1) * group]
            padded[at, : len(part)] = part
        type_ = np.int32 if bound * padded.size < 1 << 31 else np.int64
        sums = np.einsum("gbc,vc->gbv", padded.reshape(groups, size, -1), self._digits.values).astype(type_)

        def add(found: Int64, start: int, stop: int) -> None:
            for first in range(start, stop, BLOCK_ROWS):
                rows = slice(first, min(first + BLOCK_ROWS, stop))
                one = np.empty(rows.stop - rows.start, type_)
                for plane, at in np.ndindex(self.layer.planes, groups):
                    total = np.zeros_like(one)
                    for table, places in zip(sums[at], weight[plane, at], strict=True):
                        table.take(places[rows], out=one, mode="clip")
                        total += one
                    found[rows] += total if factor is None else total.astype(np.int64) * factor[plane, at, rows]

        return add


def _requantize(acc: Int64, multiplier: Int64, shift: Int64, low: int, high: int) -> Int64:
    return np.clip(_round_half_up(acc * multiplier, shift), low, high)


def _round_half_up(x: Int64, shift: Int64) -> Int64:
    """x / 2**shift, rounded to nearest, ties towards plus infinity."""
    half = np.where(shift > 0, np.left_shift(np.int64(1), np.maximum(shift - 1, 0)), 0)
    return np.asarray(np.right_shift(x + half, shift))
