"""The streams between memory and an engine, and what an instruction says of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from attnc.kernels.call import MIXED, WALK, Walk
from attnc.kernels.memory import LOAD, LOAD_EACH_WORD, LOAD_MIXED, LOAD_PARTS, LOAD_VECTORS, STORE, TAKE_RUN, TAKE_RUN_WORDS
from attnc.kernels.network import Names, Process
from attnc.kernels.ports import IntType
from attnc.kernels.storage import SHALLOW

POINTERS = {
    "load": "load",
    "words": "weights",
    "wide words": "wideweights",
    "keys": "keys",
    "parameters": "parameters",
    "store": "result",
    "wide": "wide",
}
"""Arguments of the accelerator by the kind of their streams; "keys" are those of loads of several vectors at a time, "wide" ones those of
packed words and of stores that move two words per cycle, "parameters" those of words whose loader reads load_<n> of the same number as
well. Those of stores come last."""
SEVERAL = {"words": "wide words", "load": "keys"}
"""The kind of a stream that brings several words or vectors at a time."""


class WordRun(NamedTuple):
    """Packed words that follow each other: where they start, how many there are, and how far the parts lie apart where they come through
    several ports."""

    first: int
    words: int
    apart: int


@dataclass(frozen=True)
class Stream:
    """Between memory and an engine. `slot` and `port` say which kernel it belongs to: none for the first slot's input and the last one's
    output; a tap has a slot and no port. `pointers` are the arguments of the accelerator that it uses, `beat` the words that each moves per
    cycle, `shared` whether its loader serves other streams too, `depth` the vectors that its FIFO holds, `ahead` whether the first weights
    of a later instruction may follow, `each` whether words come one by one whatever its beat. `vectors` come at a time. `mixed`: it brings
    caches of two precisions, with at most so many `scales` of tokens through each pointer."""

    name: str
    kind: str
    type: IntType
    pointers: tuple[str, ...]
    slot: int | None = None
    port: int | None = None
    beat: int = 1
    shared: bool = False
    depth: int = SHALLOW
    ahead: bool = False
    each: bool = False
    vectors: int = 1
    mixed: bool = False
    scales: int = 0

    @property
    def mover(self) -> Process:
        """The process that moves it; a loader that several streams share moves one after the other."""
        if self.kind == "store":
            return STORE
        if self.shared:
            return TAKE_RUN_WORDS if self.kind == "words" else TAKE_RUN
        if self.mixed:
            return LOAD_MIXED[len(self.pointers)]
        if self.kind == "load":
            return LOAD if self.vectors == 1 else LOAD_VECTORS[len(self.pointers)]
        return LOAD_EACH_WORD if self.each else LOAD_PARTS[len(self.pointers)]

    @property
    def fields(self) -> tuple[str, ...]:
        """The integers of an instruction that say how it goes through memory: words, and a run, are where they start and how many follow;
        a run of vectors has a type too. Two runs of words where it may bring weights ahead."""
        if self.ahead:
            return "first", "count", "apart", "next_first", "next_count", "next_apart"
        if self.mixed:
            return (*WALK, *MIXED)
        return ("offset", "vectors") if self.kind == "words" else ("offset", "count_3", "type") if self.shared else WALK

    def encode(self, walk: Walk) -> list[int]:
        """A walk as these integers."""
        integers = walk.encode()
        return [integers[name] for name in self.fields]

    def width(self, lanes: int) -> int:
        """Bits of an element of its FIFO."""
        return lanes * (8 * self.taken if self.kind == "words" else self.vectors * self.type.bits)

    def moved(self, numbers: tuple[tuple[str, int], ...]) -> int:
        """Cycles in which something passes each of its pointers, with those numbers of a walk."""
        return _moved(self.mover, self.beat, self.vectors, numbers)

    def passed(self, moved: int) -> int:
        """Of so many cycles in which its loader works, those in which something passes its port of the board."""
        return -(-moved // self.beat) if self.each else moved

    @property
    def taken(self) -> int:
        """Words that a kernel takes at a time from a stream of words."""
        return 1 if self.shared or self.each else self.beat * len(self.pointers)


@lru_cache(maxsize=1 << 14)
def _moved(mover: Process, beat: int, vectors: int, numbers: tuple[tuple[str, int], ...]) -> int:
    names = Names({"W": beat, "S": vectors}, dict(numbers), {})
    busy = [loop.busy(loop.runs(names)) for loop in mover.loops]
    return sum(busy[1:]) if mover in LOAD_MIXED.values() else max(busy)
