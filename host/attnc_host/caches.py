"""What the manifest of a decoder says: its entries, tables of tokens and caches, and where a block of tokens may begin."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnc_host.fields import Fields
from attnc_host.head import Layer, read_layer

SCALARS = ("first", "instructions", "position", "session", "prefix")
"""Registers of a run of a decoder, in the order in which `RUNS` has them for each run of the test bench; the last one where branches are
decoded."""
COPY = -1
"""In place of the first instruction: no run, but `session` gets the caches of the session that stands for the position."""
RUNS = "runs.bin"
ENTRIES = PREFILL, DECODE, BATCH = "prefill", "decode", "batch"
"""The last one where branches are decoded."""


@dataclass(frozen=True)
class Entry:
    """A part of the program of a decoder: its instructions, the input of the device that it takes, and the outputs that it gives: logits,
    or what the host makes them of."""

    first: int
    instructions: int
    input: str
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows of numbers in a file."""

    file: Path
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Decoder:
    """Of a build that generates tokens. `tokens` has a row for each of `vocabulary` tokens: integers of the device, or float32 where a
    row of `positions` is added. The entry `PREFILL` takes `block` tokens, `DECODE` one, `BATCH` one for each of `branches` (0: there is no
    such entry); sequences have at most `length`. Caches are `cache_words` for each of `sessions`, from word `cache_offset` on; of windows
    of attention they are `rings` of so many rows, whose end lies between two blocks. `head`: the last layer, where the host computes logits
    from what `DECODE` and `BATCH` end with."""

    length: int
    block: int
    sessions: int
    vocabulary: int
    input: str
    output: str
    entries: dict[str, Entry]
    estimates: dict[str, tuple[tuple[int, int], ...]]
    """Estimated cycles of each entry: positions in their order, each with its cycles."""
    tokenizer: Path | None
    tokens: Table
    positions: Table | None
    cache_offset: int
    cache_words: int
    rings: tuple[int, ...] = ()
    head: Layer | None = None
    chunks: tuple[int, ...] = ()
    """Of caches of two precisions: bytes of the tokens of the last two chunks of so many are kept, and a block does not go over the end of
    one."""
    branches: int = 0
    chat: Path | None = None
    """The template of conversations, for `attnc_host.chat.Chat`."""
    ends: tuple[int, ...] = ()
    """Tokens that end a text, besides those that the tokenizer has a usual name for."""

    @property
    def scalars(self) -> tuple[str, ...]:
        """Registers of a run, by name and in order."""
        return SCALARS if self.branches else SCALARS[:-1]

    def start(self, entry: Entry, position: int, session: int, prefix: int = 0) -> dict[str, int]:
        """The registers of a run; branches are behind a `prefix` of so many tokens."""
        setting = (entry.first, entry.instructions, position, session, prefix)
        return dict(zip(self.scalars, setting, strict=False))

    def row(self, position: int, prefix: int) -> int:
        """The row of the caches that the first of branches has its token in."""
        return prefix + self.branches * (position - prefix)

    def cycles(self, entry: str, position: int) -> float:
        """Estimated cycles of a run; between two positions that were estimated on the line through both. The position of branches is their
        `row`."""
        places, cycles = zip(*self.estimates[entry], strict=True)
        return float(np.interp(position, places, cycles))

    def takes_block(self, position: int) -> bool:
        """Whether a block of tokens may begin at a position."""
        return block_fits(position, self.block, self.length, self.rings + self.chunks)

    def holds(self, end: int, count: int) -> bool:
        """Whether caches that were written up to token `end` serve whoever goes on behind the first `count`: of a ring the earliest may be
        written over, and so may bytes of a chunk before the one that `count` is in."""
        kept = all(count <= chunk or end <= max(3 * chunk, (count // chunk + 1) * chunk) for chunk in self.chunks)
        return not count or (kept and all(end <= max(ring, count + self.block) for ring in self.rings))

    def written(self, end: int, position: int, rows: int) -> int:
        """The token up to which caches are written that were so up to `end`, behind a run that writes `rows` from a position on: of who
        goes on in the first chunk nothing lies where others were written over, and all behind it is still to be written."""
        kept = min([end, *(3 * chunk for chunk in self.chunks if position <= chunk)]) if position else 0
        return max(position + rows, kept)

    def begins(self, entry: str, position: int) -> int:
        """The last position up to one that an entry may begin at."""
        if entry == BATCH:
            return min(position, self.length - self.branches)
        return position if entry == DECODE else block_before(position, self.block, self.length, self.rings + self.chunks)


def block_fits(position: int, block: int, length: int, borders: Collection[int]) -> bool:
    """Whether a block of tokens from a position on fits a sequence of `length`, and no ring or chunk of so many tokens ends in it."""
    return position + block <= length and all(position % border + block <= border for border in borders)


def block_before(position: int, block: int, length: int, borders: Collection[int]) -> int:
    """The last position up to one that a block may begin at."""
    return next(place for place in range(position, -1, -1) if block_fits(place, block, length, borders))


def read_decoder(fields: Fields, words: int) -> Decoder:
    """From a manifest; the memory has so many words."""
    caches, entries = fields.child("caches"), fields.child("entries")
    branches = 0 if fields.get("branches") is None else fields.integer("branches", 0)
    names = ENTRIES if branches else ENTRIES[:-1]

    def entry(name: str) -> Entry:
        own = entries.child(name)
        outputs = own.get("outputs")
        if not isinstance(outputs, list) or not all(isinstance(value, str) for value in outputs) or bool(outputs) == (name == PREFILL):
            own.fail("outputs", "a list of values", outputs)
        return Entry(own.integer("first", 0), own.integer("instructions", 1), own.text("input"), tuple(outputs))

    def estimates(name: str) -> tuple[tuple[int, int], ...]:
        own = [row for row in fields.children("estimates") if row.text("entry") == name]
        found = tuple((row.integer("position", 0), row.integer("cycles", 1)) for row in own)
        if not found or [place for place, _ in found] != sorted({place for place, _ in found}):
            fields.fail("estimates", f"cycles of {name!r} at positions that rise", found)
        return found

    def table(name: str) -> Table:
        own = fields.child(name)
        return Table(own.path("file"), own.dtype("dtype"))

    found = Decoder(
        length=fields.integer("length", 2),
        block=fields.integer("block", 1),
        sessions=fields.integer("sessions", 1),
        vocabulary=fields.integer("vocabulary", 1),
        input=fields.text("input"),
        output=fields.text("output"),
        entries={name: entry(name) for name in names},
        estimates={name: estimates(name) for name in names},
        tokenizer=fields.path("tokenizer", optional=True),
        chat=fields.path("chat", optional=True),
        ends=fields.integers("ends", 0),
        tokens=table("tokens"),
        positions=table("positions") if fields.get("positions") is not None else None,
        cache_offset=caches.integer("offset", 0),
        cache_words=caches.integer("words", 1),
        rings=_rows(caches, "rings"),
        chunks=_rows(caches, "chunks"),
        head=read_layer(fields.child("head")) if fields.get("head") is not None else None,
        branches=branches,
    )
    if found.cache_offset + found.sessions * found.cache_words > words:
        fields.fail("caches", f"caches that end at word {words} or before", found.cache_offset)
    return found


def _rows(caches: Fields, name: str) -> tuple[int, ...]:
    found = caches.get(name)
    if not isinstance(found, list) or not all(type(rows) is int and rows > 0 for rows in found):
        caches.fail(name, "a list of numbers of rows", found)
    return tuple(found)
