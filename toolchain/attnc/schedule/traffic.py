"""What a program moves between memory and kernels, checked word by word before it is written.

Golden knows values and no memory, so nothing but this says that a port which reads memory finds there what golden gave the operator:
every word that an instruction loads must hold the value that its walk names, put there by the host or by a step before, and a step must
write over nothing that it reads itself. A product that starts on an operand which is in its kernel must find its own. Bytes must mean to
the kernel what they mean in the value's type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from attnc.fixedpoint import int_range
from attnc.ir import Graph, GraphError
from attnc.kernels.call import Call, Walk
from attnc.schedule.chains import first_load
from attnc.schedule.engine import Instruction
from attnc.schedule.memory import MemoryMap, Region
from attnc.schedule.overlap import runs

Words = slice | npt.NDArray[np.int64]


def check_traffic(graph: Graph, places: MemoryMap, steps: Sequence[Sequence[Instruction]]) -> None:
    """Raise `GraphError` where steps of a program load what memory does not hold, or read bytes as what they are not."""
    memory = _Memory(graph, places)
    for call in {id(call): call for step in steps for one in step for _, call in one.active}.values():
        check_types(graph, call)
    entry = None
    for number, step in enumerate(steps):
        if step[0].entry != entry:
            entry = step[0].entry
            memory.begin([walk for later in steps if later[0].entry == entry for one in later for walk in one.moves("store")])
        memory.load(number, [walk for one in step for walk in one.moves("load") if walk.vectors])
        memory.store(number, [walk for one in step for walk in one.moves("store") if walk.vectors])
    for name in graph.outputs:
        memory.expect("the host", name, places.values[name])
    check_operands(steps)


def check_operands(steps: Sequence[Sequence[Instruction]]) -> None:
    """Every product finds its operand in the side of its kernel where it looks for it."""
    held: dict[tuple[int, int], Walk] = {}
    for number, one in ((number, one) for number, step in enumerate(steps) for one in step):
        operand, side = _operand(one), (one.engine.index, one.side)
        if operand is not None and not one.ready:
            held[side] = operand
        if operand is not None and held.get(side) != operand:
            found = f"others, of {held[side].value!r}" if side in held else "none"
            raise GraphError(f"step {number} computes with rows of {operand.value!r}, its kernel holds {found}")
        brought = None if one.brings is None else _operand(one.brings)
        if one.brings is not None and brought is not None:
            held[one.engine.index, one.brings.side] = brought


def _operand(one: Instruction) -> Walk | None:
    """What the main kernel of an instruction computes with, if that holds operands and works."""
    slot = one.engine.operand_slot
    call = None if slot is None else one.calls[slot]
    return None if call is None else call.walks[first_load(call.kernel)]


def check_types(graph: Graph, call: Call) -> None:
    """Every walk of a call moves bytes as the type of its value says, and what it loads fits the port."""
    moved = [(port, each) for port, walk in zip(call.kernel.ports, call.walks, strict=True) for each in walk.stretches]
    for port, walk in moved:
        if port.kind == "words" or not walk.vectors:
            continue
        where = f"node {call.node!r}: port {port.name!r}"
        if not walk.value:
            raise GraphError(f"{where} goes through memory that no value has")
        type_ = graph.type(walk.value)
        if not type_.signed:
            raise GraphError(f"{where} moves {walk.value!r} of type {type_.short}: memory holds signed integers")
        meaning = (1, 0) if port.raw else (1 if type_.bits <= 8 else 2, type_.zero_point)
        cached = graph.value(walk.value).held is not None
        if walk.half != (cached and type_.bits <= 4):
            raise GraphError(f"{where} moves {walk.value!r} of {type_.bits} bits as {'halves of ' if walk.half else ''}bytes")
        if (walk.bytes, walk.zero_point) != meaning:
            found = f"{walk.bytes} bytes with zero point {walk.zero_point}"
            raise GraphError(f"{where} moves {walk.value!r} as {found}, needed {meaning[0]} with {meaning[1]}")
        low, high = int_range(port.type.bits, port.type.signed)
        if not port.raw and (type_.range[0] < low or type_.range[1] > high):
            raise GraphError(f"{where} carries {low} to {high}, {walk.value!r} has {type_.range[0]} to {type_.range[1]}")


def _words(walk: Walk) -> Words:
    """That a walk passes."""
    if max(walk.counts[:3]) == 1 and not walk.half:
        return slice(walk.offset, walk.offset + walk.counts[3] * walk.bytes)
    starts, size = runs(walk)
    found: npt.NDArray[np.int64] = (starts[:, None] + np.arange(size)).ravel()
    return found


class _Memory:
    """The value that every word holds, by number, and the last step that loaded or stored it."""

    def __init__(self, graph: Graph, places: MemoryMap) -> None:
        matrices = {name: name if value.held is None else value.held.name for name, value in graph.values.items()}
        order = {name: number for number, name in enumerate(dict.fromkeys(matrices.values()), 1)}
        self.numbers = {name: order[matrix] for name, matrix in matrices.items()}
        self.holds = np.zeros(places.words, np.int32)
        self.touched = np.full(places.words, -1, np.int32)
        cached = [name for name, value in graph.values.items() if value.held is not None and name in places.values]
        for name in (*graph.inputs, *graph.constants, *cached):
            region = places.values[name]
            self.holds[region.offset : region.end] = self.numbers[name]

    def begin(self, stores: Iterable[Walk]) -> None:
        """A run of an entry: of the caches it has what runs before left, but nothing of its own tokens."""
        for words in (_words(walk) for walk in stores if walk.vectors and walk.moves):
            self.holds[words] = 0

    def load(self, step: int, walks: Iterable[Walk]) -> None:
        """What the instructions of a step load, before any of them stores."""
        for walk in walks:
            words = _words(walk)
            self._expect(f"step {step}", walk.value, words)
            self.touched[words] = step

    def store(self, step: int, walks: Iterable[Walk]) -> None:
        """What they store."""
        for walk in walks:
            words = _words(walk)
            if (self.touched[words] == step).any():
                raise GraphError(f"step {step} stores {walk.value!r} where it loads or stores something else")
            self.holds[words], self.touched[words] = self.numbers[walk.value], step

    def expect(self, who: str, name: str, region: Region) -> None:
        """That a whole value is there."""
        self._expect(who, name, slice(region.offset, region.end))

    def _expect(self, who: str, name: str, words: Words) -> None:
        found = self.holds[words]
        if (found != self.numbers[name]).any():
            other = next(iter({*map(int, np.unique(found))} - {self.numbers[name]}))
            held = next((value for value, number in self.numbers.items() if number == other), None)
            what = "nothing" if held is None else repr(held)
            raise GraphError(f"{who} reads {name!r} from words of memory that hold {what}")
