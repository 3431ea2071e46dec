"""What an operator knows when it states the calls of its kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from attnc.ir import Graph, Held, Node
from attnc.kernels.call import EXPERT, POSITION, PREFIX, ROWS, START, Moves, Walk, place_in
from attnc.kernels.chunks import Affine, Chunks
from attnc.kernels.design import KEYS_AT_ONCE, AnyNumbers, Design, EngineDesign

Make = Callable[[], bytes | Iterable[bytes]]
"""Makes a packed array, whole or in parts of whole words that follow each other."""


def rows_of(held: Held, words: int) -> Moves:
    """By how much the first row of a run of a matrix in memory moves (`Held.first`), in words that a row has."""
    if held.ring:
        return ((place_in(held.rows).name, words),)
    others = ((PREFIX, -(held.branches - 1) * words),) if held.branches > 1 else ()
    return ((POSITION, held.branches * words), *others)


@dataclass
class Lowering:
    """What `lower` may use: the design, where each value lies (word offsets), and where packed weights go.

    `payload(key, make)` returns the word offset of a packed array in the weight memory, and asks `make` for its bytes when the key is new.
    """

    graph: Graph
    design: Design
    offsets: dict[str, int]
    payload: Callable[[str, Make], int]
    memo: dict[str, dict[int, int]] = field(default_factory=dict)
    """What operators find out once for the whole graph."""
    block: int = 0
    """Where the node runs for each entry of a queue: the most rows of an entry."""
    _positions: dict[int, int] = field(default_factory=dict)

    def tiles(self, name: str) -> int:
        """Tiles of `lanes` channels of a value."""
        return math.ceil(self.graph.value(name).shape[1] / self.design.lanes)

    def bytes(self, name: str) -> int:
        """Bytes per element of a value in memory."""
        return 1 if self.graph.type(name).bits <= 8 else 2

    def half(self, name: str) -> bool:
        """Whether a value lies in memory as elements of 4 bits, two rows to a word: a cache of such."""
        return self.graph.value(name).held is not None and self.graph.type(name).bits <= 4

    def height(self, name: str) -> int:
        """Rows of the matrix in memory that a value is, or is a part of; of a cache as many as come in whole steps of keys."""
        value = self.graph.value(name)
        if value.held is None:
            return value.shape[0]
        rows = Chunks(value.held.chunk).rows if value.held.chunk else value.held.rows
        return KEYS_AT_ONCE * math.ceil(rows / KEYS_AT_ONCE)

    def position(self, rows: int) -> int:
        """Where the run of an entry of so many rows begins that calls are stated for: as far behind in a sequence as one can."""
        if rows not in self._positions:
            self._positions[rows] = self.graph.last(rows)
        return self._positions[rows]

    def last(self, name: str) -> int:
        """The row that a value which is part of a larger matrix begins at where calls are stated: of a ring the last one."""
        value = self.graph.value(name)
        if value.held is None:
            return 0
        rows = value.shape[0]
        return value.held.rows - rows if value.held.ring else self.position(rows)

    def words(self, name: str) -> int:
        """Words that the matrix of a value takes."""
        vectors = self.height(name) * self.tiles(name)
        return math.ceil(vectors / 2) if self.half(name) else vectors * self.bytes(name)

    def zero_point(self, name: str) -> int:
        """Zero point of a value in memory."""
        return self.graph.type(name).zero_point

    def bounds(self, name: str) -> dict[str, int]:
        """The range of a value, as the scalars of a call to which its elements saturate."""
        low, high = self.graph.type(name).range
        return {"low": low, "high": high}

    def walk(self, name: str, row: int = 0, rows: int | None = None, tile: int = 0, tiles: int | None = None, raw: bool = False) -> Walk:
        """Rows [row, row+rows) of tiles [tile, tile+tiles) of a value, in (tile, row) order; the whole by default. With `raw`,
        bytes as memory holds them, zero point included, low before high ones: for kernels that read bytes."""
        height = self.height(name)
        rows = self.graph.value(name).shape[0] - row if rows is None else rows
        tiles = self.tiles(name) - tile if tiles is None else tiles
        size, first = self.bytes(name), tile * height + row
        if self.block and name not in self.graph.constants:
            unit = size if raw else 1
            walk = self.through(name, first * unit, (1, 1, tiles, rows * unit), (0, 0, height * unit), raw)
            return replace(walk, moves=((START, size),), grows=((ROWS, unit),))
        if raw:
            first, rows, height = first * size, rows * size, height * size
        if rows == height:  # one long burst
            return self.through(name, first, (1, 1, 1, tiles * rows), (0, 0, 0), raw)
        return self.through(name, first, (1, 1, tiles, rows), (0, 0, height), raw)

    def through(self, name: str, first: int, counts: tuple[int, int, int, int], strides: tuple[int, int, int], raw: bool = False) -> Walk:
        """A walk through a value that starts at its vector `first`, counted from the row at the position where the value is a part of a
        larger matrix; with `raw` vectors are words, as `walk` says."""
        size, zero = (1, 0) if raw else (self.bytes(name), self.zero_point(name))
        half = self.half(name)
        walk = Walk((1 + half) * self.offsets[name] + first * size, counts, strides, size, zero, name, half=half)
        held = self.graph.value(name).held
        if held is None:
            return walk
        if held.chunk:
            chunks = Chunks(held.chunk)
            return self._moved(walk, chunks, chunks.place, self.last(name))
        return self._placed(walk, self.last(name), rows_of(held, self.bytes(name)))

    def whole(
        self, name: str, first: int, counts: tuple[int, int, int, int], strides: tuple[int, int, int], moves: Moves, grows: Moves
    ) -> Walk:
        """A walk through the whole matrix that a value is a part of, from its row `first` on, which `moves` with registers, as the walk
        `grows`."""
        size, half = self.bytes(name), self.half(name)
        offset = (1 + half) * self.offsets[name] + first * size
        moves = tuple((register, size * rows) for register, rows in moves)
        return Walk(offset, counts, strides, size, self.zero_point(name), name, moves=moves, grows=grows, half=half)

    def mixed(self, name: str, window: int, rows: int, grows: Moves, low: str, peaks: str = "") -> Walk:
        """A walk through all tiles of a cache of two precisions, of so many `rows` that a run looks at, which `grow` with registers: `name`
        is the value in bytes, `low` the one of 4 bits, whose tokens have scales in `peaks`, if they have any; `window` as in `Chunks`."""
        held = self.graph.value(name).held
        assert held is not None
        chunks, last = Chunks(held.chunk, window), self.last(name)

        def through(value: str, first: Affine, count: int, by: Moves, tiles: int) -> Walk:
            half = self.half(value)
            strides = (0, 0, self.height(value))
            walk = Walk((1 + half) * self.offsets[value], (1, 1, tiles, count), strides, value=value, grows=by, half=half)
            return self._moved(walk, chunks, first, last)

        tiles, before, scales = self.tiles(name), list[Walk](), None
        for stretch in chunks.stretches:
            count, by = chunks.at(stretch.count, last), stretch.count.by
            before.append(through(low if stretch.low else name, stretch.first, count, by, tiles))
            if stretch.low and peaks:
                scales = through(peaks, stretch.first, count, by, 1)
        behind = (*grows, *((register, -each) for register, each in chunks.begun.by))
        own = through(name, chunks.own, rows - chunks.at(chunks.begun, last), behind, tiles)
        return replace(own, before=tuple(before), scales=scales)

    def packed(self, key: str, make: Make, words: int, first: int = 0, place: tuple[int, int] | None = None) -> Walk:
        """`words` words from word `first` on of the packed array `key` in the weight memory; `make` as for `payload`. `place`: the last
        position and the words of a position, where the array has words for each and these are those of the run's."""
        walk = Walk(self.payload(key, make) + first, (1, 1, 1, words), (0, 0, 0))
        return walk if place is None else self._placed(walk, place[0], ((POSITION, place[1]),))

    def expert_words(self, key: str, make: Make, words: int, apart: int) -> Walk:
        """As `packed`, of the expert that an entry of a queue is for: arrays of experts begin `apart` words behind each other."""
        return replace(self.packed(key, make, words), moves=((EXPERT, apart),))

    def _placed(self, walk: Walk, row: int, moves: Moves) -> Walk:
        """Where it starts at the row that calls are stated for: all first `moves` are words from one row to the next."""
        return replace(walk, offset=walk.offset + row * sum(words for _, words in moves), moves=moves)

    def _moved(self, walk: Walk, chunks: Chunks, first: Affine, last: int) -> Walk:
        """From a row that follows from registers on, as it is where these have those of the last position."""
        assert walk.bytes == 1 and not walk.zero_point, "caches of two precisions are bytes and elements of 4 bits"
        return replace(walk, offset=walk.offset + chunks.at(first, last), moves=first.by)

    def engine(self, node: Node, kind: type[AnyNumbers]) -> EngineDesign[AnyNumbers]:
        """What the design says of the engine of a kernel that serves `node`."""
        return self.design.engine(kind, node.name)

    def row_blocks(self, name: str, rows: int | None = None) -> list[tuple[int, int]]:
        """(first row, rows) of the blocks of at most `rows` rows, by default those of the design, that a value is cut into; of a queue's
        entry the first one, as large as it may be."""
        if self.block:
            return [(0, self.block)]
        height, step = self.graph.value(name).shape[0], rows or self.design.rows
        return [(row, min(step, height - row)) for row in range(0, height, step)]
