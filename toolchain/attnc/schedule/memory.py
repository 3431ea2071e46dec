"""Where every value lies in the memory that host and accelerator share, and every packed weight in the memory of weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from attnc.ir import Graph, GraphError
from attnc.kernels.call import Call

ALIGNMENT = 2


@dataclass(frozen=True)
class Region:
    """Words [offset, offset + words)."""

    offset: int
    words: int

    @property
    def end(self) -> int:
        """First word after it."""
        return self.offset + self.words


@dataclass(frozen=True)
class MemoryMap:
    """Regions of the memory, in words, and the place of each value. Inputs, constants and outputs are contiguous, so that the
    host writes and reads each in one transfer; activations reuse what is free. `caches` come last: what lies there stays from run to run;
    it is that of the first session, those of others follow."""

    inputs: Region
    constants: Region
    outputs: Region
    activations: Region
    values: dict[str, Region]
    caches: Region
    sessions: int = 1

    @property
    def words(self) -> int:
        """Size of the whole."""
        ends = (self.inputs.end, self.constants.end, self.outputs.end, self.activations.end)
        return max(*ends, self.caches.offset + self.sessions * self.caches.words)


def apart(words: Mapping[str, int]) -> dict[str, int]:
    """Word offsets that give every value a region of its own, so that an offset tells whose it is."""
    return dict(zip(words, itertools.accumulate((max(aligned(size), ALIGNMENT) for size in words.values()), initial=0), strict=False))


def plan_memory(
    graph: Graph, words: Mapping[str, int], steps: Sequence[tuple[Iterable[str], Iterable[str]]], sessions: int = 1
) -> MemoryMap:
    """First fit in order of the steps, each with the values that it reads and stores, or parts of. A value is live from the first step that
    stores to the last that touches it; what a step reads or stores is live while it runs, so it writes over none of it. Values that no
    step stores take no memory; a step that reads one of them, or one that is stored no earlier than by itself, is an error, but for
    caches, which hold what runs before stored."""
    values: dict[str, Region] = {}
    places: dict[str, Region] = {}
    """Of matrices in memory: several values may be parts of one."""
    cursor = 0

    def contiguous(names: list[str]) -> Region:
        nonlocal cursor
        start = cursor
        for name in names:
            held = graph.value(name).held
            key = name if held is None else held.name
            if key not in places:
                places[key] = Region(cursor, words[name])
                cursor = aligned(cursor + words[name])
            values[name] = places[key]
        return Region(start, cursor - start)

    inputs = contiguous(graph.inputs)
    constants = contiguous(list(graph.constants))
    outputs = contiguous([name for name in graph.outputs if name not in values])
    base = cursor
    last_use = {name: step for step, touched in enumerate(steps) for name in itertools.chain(*touched)}
    cached = [name for name, value in graph.values.items() if value.held is not None and name not in values]
    held = {*graph.inputs, *graph.constants, *cached}
    live: dict[str, Region] = {}
    high = base
    for step, (reads, stores) in enumerate(steps):
        if lacking := sorted(set(reads) - held):
            raise GraphError(f"step {step} reads {lacking[0]!r} from memory, which does not hold it")
        held.update(stores)
        for name in stores:
            if name not in values and name not in cached:
                place = _first_fit(list(live.values()), base, words[name])
                values[name] = live[name] = place
                high = max(high, place.end)
        for name in [name for name in live if last_use[name] <= step]:
            del live[name]
    cursor = aligned(high)
    return MemoryMap(inputs, constants, outputs, Region(base, high - base), values, contiguous(cached), sessions)


def aligned(words: int) -> int:
    """The next offset at which a value may lie: a beat of memory never holds two values."""
    return words + -words % ALIGNMENT


def _first_fit(taken: list[Region], base: int, words: int) -> Region:
    """Lowest gap of `words` words at or above `base`."""
    cursor = base
    for region in sorted(taken, key=lambda r: r.offset):
        if region.offset - cursor >= words:
            break
        cursor = max(cursor, aligned(region.end))
    return Region(cursor, words)


class WeightMemory:
    """Packed weights in the order of their first use, each from an even word on; `write` takes their bytes as they come, so none is kept.

    Without `write` nothing is packed and offsets only tell arrays apart: enough for an estimate.
    """

    def __init__(self, lanes: int, write: Callable[[bytes], object] | None) -> None:
        self.lanes, self.write = lanes, write
        self.words = 0
        self.offsets: dict[str, int] = {}

    def place(self, key: str, make: Callable[[], bytes | Iterable[bytes]]) -> int:
        """Word offset of the packed array `key`."""
        if self.write is None:
            return self.offsets.setdefault(key, len(self.offsets))
        if key not in self.offsets:
            self.offsets[key] = self.words
            made = make()
            for data in (made,) if isinstance(made, bytes) else made:
                words = math.ceil(len(data) / self.lanes)
                self.write(data.ljust(words * self.lanes, b"\0"))
                self.words += words
            if self.words < aligned(self.words):
                self.write(b"\0" * self.lanes)
                self.words += 1
        return self.offsets[key]


def weight_walks(call: Call) -> list[tuple[int, int]]:
    """(offset, words) of the packed arrays that a call reads; equal offsets are the same array."""
    return [(walk.offset, walk.vectors) for port, walk in zip(call.kernel.ports, call.walks, strict=True) if port.kind == "words"]
