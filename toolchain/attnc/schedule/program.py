"""The program: engines shared by all layers, and the instructions that drive them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from attnc.ir import Graph
from attnc.ops import operator
from attnc.ops.base import SIDES, Call, Design, Lowering, Walk
from attnc.schedule.chains import Chain, Key, Link, Order, engine_orders, first_load, form_chains
from attnc.schedule.engine import POINTERS, Engine, Instruction, Slot
from attnc.schedule.memory import MemoryMap, aligned, apart, plan_memory
from attnc.schedule.prefetch import prefetch
from attnc.schedule.sharing import Operand, share


@dataclass(frozen=True)
class Program:
    """What the hardware runs for one sample."""

    design: Design
    engines: tuple[Engine, ...]
    instructions: tuple[Instruction, ...]
    memory: MemoryMap
    weight_words: int

    @property
    def calls(self) -> list[tuple[Engine, Call]]:
        """Every run of a kernel, with its engine."""
        return [(instruction.engine, call) for instruction in self.instructions for _, call in instruction.active]

    @cached_property
    def pointers(self) -> dict[str, int]:
        """The arguments through which streams reach memory, with the words that each moves per cycle."""
        found = {stream.pointer: stream.beat for engine in self.engines for stream in engine.streams}
        kinds = list(POINTERS.values())
        order = sorted(found, key=lambda name: (kinds.index(name.rpartition("_")[0]), int(name.rpartition("_")[2])))
        return {name: found[name] for name in order}

    @cached_property
    def bundles(self) -> dict[str, str]:
        """The memory interface of each pointer. One that writes shares it with one that reads words of its size, since an interface reads
        and writes at the same time. The pointers of a loader that reads activations and parameters, in turn, share one too."""
        readers: dict[int, list[str]] = {}
        found = {"program": "program"}
        for pointer, beat in self.pointers.items():
            if pointer.startswith((POINTERS["load"], POINTERS["words"], POINTERS["wide words"])):
                readers.setdefault(beat, []).append(pointer)
                found[pointer] = pointer
            elif pointer.startswith(POINTERS["parameters"]):
                partner = POINTERS["load"] + pointer.removeprefix(POINTERS["parameters"])
                found[pointer] = partner if partner in self.pointers else pointer
        for pointer, beat in self.pointers.items():
            if pointer not in found:
                free = readers.get(beat)
                found[pointer] = free.pop(0) if free else pointer
        return found

    @property
    def instruction_ints(self) -> int:
        """Integers per instruction, the same for all: the longest, rounded up to 16."""
        return 16 * math.ceil(max((engine.instruction_ints for engine in self.engines), default=1) / 16)

    def encode(self) -> npt.NDArray[np.int32]:
        """Instructions as integers [instructions, instruction_ints], filled up with zeros."""
        code = np.zeros((len(self.instructions), self.instruction_ints), np.int32)
        for row, instruction in zip(code, self.instructions, strict=True):
            ints = instruction.encode()
            row[: len(ints)] = ints
        return code


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


def build_program(graph: Graph, design: Design, write_weights: Callable[[bytes], object] | None) -> Program:
    """Lower every node, chain the calls, share engines, place all values."""
    weights = WeightMemory(design.lanes, write_weights)
    offsets: dict[str, int] = {}
    ctx = Lowering(graph, design, offsets, weights.place)
    words = {name: ctx.words(name) for name in graph.values}
    offsets.update(apart(words))
    chains = form_chains(graph, [(node, operator(node).lower(node, ctx)) for node in graph.nodes], design.copies > 1)
    memory = plan_memory(graph, words, [(chain.reads, chain.stores()) for chain in chains])
    if write_weights is not None:  # where values lie changes no estimate
        chains = _settle(chains, offsets, {name: region.offset for name, region in memory.values.items()})
    engines, engine_of = _engines(chains, design.beat)
    instructions = tuple(found for chain, engine in zip(chains, engine_of, strict=True) for found in _instructions(chain, engine))
    if design.beat > 1:
        engines, instructions = _widened(engines, instructions)
    engines, instructions = _shared(engines, instructions)
    engines, instructions = _two_sided(engines, tuple(prefetch(instructions)))
    if write_weights is None:
        calls = [call for chain in chains for link in chain.links for call in link.calls]
        weights.words = sum(map(aligned, dict(pair for call in calls for pair in weight_walks(call)).values()))
    return Program(design, engines, instructions, memory, weights.words)


def _settle(chains: Sequence[Chain], apart_at: Mapping[str, int], final: Mapping[str, int]) -> list[Chain]:
    """Move the walks from regions of their own, from which they were lowered, to where the values lie in the end."""
    names, starts = list(apart_at), list(apart_at.values())

    def moved(walk: Walk) -> Walk:
        index = bisect.bisect_right(starts, walk.offset) - 1
        return replace(walk, offset=walk.offset - starts[index] + final.get(names[index], starts[index]))

    def call(old: Call) -> Call:
        ports = zip(old.kernel.ports, old.walks, strict=True)
        return replace(old, walks=tuple(walk if port.kind == "words" else moved(walk) for port, walk in ports))

    return [Chain([replace(link, calls=tuple(map(call, link.calls))) for link in chain.links]) for chain in chains]


def _engines(chains: Sequence[Chain], beat: int) -> tuple[tuple[Engine, ...], list[Engine]]:
    """The engines, and the one of each chain. They are numbered by their kernels, so that their order does not depend on which layer
    happens to come first."""
    found = sorted(engine_orders(chains), key=lambda entry: str(entry[0].slots()))
    engines = tuple(_engine(index, order, [chains[i] for i in members], beat) for index, (order, members) in enumerate(found))
    engine_of = {i: engine for engine, (_, members) in zip(engines, found, strict=True) for i in members}
    return engines, [engine_of[i] for i in range(len(chains))]


def _engine(index: int, order: Order, chains: Sequence[Chain], beat: int) -> Engine:
    links: dict[Key, list[Link]] = {key: [] for key in order.slots()}
    for link in (link for chain in chains for link in chain.links):
        links[link.key].append(link)
    slots = []
    for key, users in links.items():
        kernel = users[0].calls[0].kernel
        for call in (call for link in users for call in link.calls):
            kernel = kernel.merge(call.kernel)
        fed = order.fed.get(key, first_load(kernel))
        slots.append(Slot(users[0].node.op, kernel, fed, len(users) < len(chains), any(link.tapped for link in users)))
    heavy = next((chain.heavy for chain in chains if chain.heavy is not None), None)
    main = next((slot for slot, key in zip(slots, links, strict=True) if key == heavy), slots[0])
    return Engine(index, tuple(slots), main, beat)


def _widened(engines: tuple[Engine, ...], instructions: tuple[Instruction, ...]) -> tuple[tuple[Engine, ...], tuple[Instruction, ...]]:
    """Storers through which only 16-bit vectors pass move one per cycle."""
    sizes: dict[tuple[int, str], set[int]] = {}
    for instruction in instructions:
        for stream in instruction.engine.streams:
            walk = instruction.walk(stream)
            if stream.kind == "store" and walk.vectors:
                sizes.setdefault((instruction.engine.index, stream.name), set()).add(walk.bytes)
    wide = [frozenset(name for (index, name), found in sizes.items() if index == e.index and found == {2}) for e in engines]
    return _exchanged(tuple(replace(engine, wide=names) for engine, names in zip(engines, wide, strict=True)), instructions)


def _shared(engines: tuple[Engine, ...], instructions: tuple[Instruction, ...]) -> tuple[tuple[Engine, ...], tuple[Instruction, ...]]:
    """Operands of few words share a loader; never weights of multipliers, or the vectors of the chain."""

    def shared(engine: Engine) -> tuple[tuple[str, int], ...]:
        operands = []
        for stream in (stream for stream in engine.streams if stream.kind != "store" and engine.chained):
            slot = engine.slots[stream.slot or 0]
            first = stream.port is not None and slot.kernel.ports[stream.port].first
            runs = {number: one.run(stream) for number, one in enumerate(instructions) if one.engine is engine and one.walk(stream).vectors}
            alone, ahead = bool(slot.macs_per_cycle) or stream.port is None, (stream.slot or 0) < (engine.operand_slot or 0)
            operands.append(Operand(stream.name, stream.kind, first, alone, ahead, runs))
        return share(operands)

    return _exchanged(tuple(replace(engine, shared=shared(engine)) for engine in engines), instructions)


def _exchanged(engines: tuple[Engine, ...], instructions: tuple[Instruction, ...]) -> tuple[tuple[Engine, ...], tuple[Instruction, ...]]:
    """The instructions for `engines`, which differ from theirs in their streams."""
    return engines, tuple(replace(instruction, engine=engines[instruction.engine.index]) for instruction in instructions)


def _two_sided(engines: tuple[Engine, ...], instructions: tuple[Instruction, ...]) -> tuple[tuple[Engine, ...], tuple[Instruction, ...]]:
    """Kernels that hold two operands where instructions ask for it."""

    def widened(engine: Engine) -> Engine:
        slots = tuple(replace(slot, kernel=slot.kernel.with_arg(SIDES, 2)) if slot is engine.main else slot for slot in engine.slots)
        return replace(engine, slots=slots, main=slots[engine.operand_slot or 0])

    two = {one.engine.index for one in instructions if one.side}
    return _exchanged(tuple(widened(engine) if engine.index in two else engine for engine in engines), instructions)


def _instructions(chain: Chain, engine: Engine) -> list[Instruction]:
    """One per block of rows."""
    by_key = {link.key: link for link in chain.links}
    links = [by_key.get(slot.kernel.key) for slot in engine.slots]
    tapped = frozenset(number for number, link in enumerate(links) if link is not None and link.tapped)
    kept = chain.links[0].kept is not None
    return [
        Instruction(engine, tuple(None if link is None else link.calls[block] for link in links), tapped, chain, block, kept)
        for block in range(len(chain.links[0].calls))
    ]
