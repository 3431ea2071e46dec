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
from attnc.ops import OPERATORS, operator
from attnc.ops.base import Call, Design, IntType, KernelCall, Lowering, Port, Resources, Walk
from attnc.schedule.chains import Chain, Key, Link, Order, engine_orders, first_load, form_chains, store_port
from attnc.schedule.memory import MemoryMap, apart, plan_memory
from attnc.schedule.sharing import DEPTH, Operand, Run, share

WALK_INTS = 9
SLOT_INTS = 3
"""Of a slot: whether it works, the vectors that arrive, whether they are stored too."""
IDLE = Walk(0, (0, 0, 0, 0), (0, 0, 0))
POINTERS = {"load": "load", "words": "weights", "store": "result", "wide": "wide", "parameters": "parameters"}
"""Arguments of the accelerator by the kind of their streams; "wide" ones are those of stores that move two words per cycle, "parameters"
those of words whose loader reads load_<n> of the same number as well."""


@dataclass(frozen=True)
class Slot:
    """A kernel in an engine, with the sizes that serve all its calls. `fed` is the port through which the vectors of the chain arrive,
    `optional` whether some instructions pass it by, `tap` whether some store what arrives."""

    op: str
    kernel: KernelCall
    fed: int
    optional: bool = False
    tap: bool = False

    @cached_property
    def resources(self) -> Resources:
        """Estimate of the kernel, with its buffers where they usually lie."""
        return OPERATORS[self.op].resources(self.kernel)

    @cached_property
    def macs_per_cycle(self) -> int:
        """Multiply-adds that its array of multipliers can do."""
        return OPERATORS[self.op].macs_per_cycle(self.kernel)


@dataclass(frozen=True)
class Stream:
    """Between memory and an engine. `slot` and `port` say which kernel it belongs to: none for the first slot's input and the last one's
    output; a tap has a slot and no port. `pointer` is the argument of the accelerator that it uses, `beat` the words that this moves per
    cycle, `shared` whether its loader serves other streams too, `depth` the vectors that its FIFO holds."""

    name: str
    kind: str
    type: IntType
    pointer: str
    slot: int | None = None
    port: int | None = None
    beat: int = 1
    shared: bool = False
    depth: int = DEPTH


@dataclass(frozen=True)
class Engine:
    """One piece of hardware: kernels, one behind the other, between loaders and storers. It is named after its main kernel. `beat` are the
    words per cycle of its loaders, and of those storers (by name) that only 16-bit vectors pass. `shared` are the streams that one loader
    serves, as `sharing.share` gives them."""

    index: int
    slots: tuple[Slot, ...]
    main: Slot
    beat: int = 1
    wide: frozenset[str] = frozenset()
    shared: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """A C++ identifier."""
        return f"engine_{self.index}"

    @property
    def op(self) -> str:
        """Operator of its main kernel."""
        return self.main.op

    @property
    def kernel(self) -> KernelCall:
        """Its main kernel."""
        return self.main.kernel

    @property
    def chained(self) -> bool:
        """Whether instructions say which of its slots work."""
        return len(self.slots) > 1

    @property
    def entry(self) -> IntType:
        """Elements of the stream into the first slot: 16 bits where some instructions pass that slot by."""
        first = self.slots[0]
        return IntType(16) if first.optional else first.kernel.ports[first.fed].type

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The input of the first slot, the other operands slot by slot, taps, the output of the last."""
        found: list[Stream] = []
        used, depths = dict.fromkeys(POINTERS, 0), dict(self.shared)

        def add(name: str, kind: str, type_: IntType, slot: int | None = None, port: int | None = None) -> None:
            shared = name in depths
            group = "wide" if name in self.wide else "parameters" if shared and kind == "words" else kind
            beat = 1 if group in ("words", "store") else self.beat
            if shared and not any(stream.shared for stream in found):
                used["parameters"] = used["load"]
                used["load"] += 1
            number = used["parameters"] if shared else used[group]
            found.append(Stream(name, kind, type_, f"{POINTERS[group]}_{number}", slot, port, beat, shared, depths.get(name, DEPTH)))
            used[group] += not shared

        first, last = self.slots[0], self.slots[-1].kernel
        add(self._name(0, first.kernel.ports[first.fed]), "load", self.entry)
        for number, slot in enumerate(self.slots):
            for index, port in enumerate(slot.kernel.ports):
                if index != slot.fed and port.kind != "store":
                    add(self._name(number, port), port.kind, port.type, number, index)
        for number, slot in enumerate(self.slots):
            if slot.tap:
                add(f"tap_{number}", "store", IntType(16), number)
        add(self._name(len(self.slots) - 1, last.ports[store_port(last)]), "store", IntType(16))
        return tuple(found)

    def _name(self, number: int, port: Port) -> str:
        return f"{port.name}_{number}" if self.chained else port.name

    @property
    def instruction_ints(self) -> int:
        """Integers of an instruction that drives it."""
        control = SLOT_INTS * len(self.slots) if self.chained else 0
        return 1 + WALK_INTS * len(self.streams) + control + sum(len(slot.kernel.scalars) for slot in self.slots)


@dataclass(frozen=True)
class Instruction:
    """What an engine does at a time: a call for each slot that works, and the chain that they belong to."""

    engine: Engine
    calls: tuple[Call | None, ...]
    tapped: frozenset[int]
    chain: Chain

    @cached_property
    def active(self) -> list[tuple[int, Call]]:
        """The slots that work, with their calls."""
        return [(number, call) for number, call in enumerate(self.calls) if call is not None]

    def walk(self, stream: Stream) -> Walk:
        """How a stream goes through memory."""
        active = self.active
        if stream.port is not None:
            assert stream.slot is not None
            call = self.calls[stream.slot]
            return IDLE if call is None else call.walks[stream.port]
        if stream.slot is not None:
            call = self.calls[stream.slot]
            return IDLE if call is None or stream.slot not in self.tapped else self._arriving(stream.slot)
        if stream.kind == "load" and self.chain.links[0].kept is not None:
            return IDLE
        number, call = active[0] if stream.kind == "load" else active[-1]
        return call.walks[self.engine.slots[number].fed] if stream.kind == "load" else call.walks[store_port(call.kernel)]

    def run(self, stream: Stream) -> Run:
        """What the stream of an operand does, and when: packed words are for the processes that work once all vectors have arrived."""
        before, after = (sum(bool(c.held) for n, c in self.active if n < (stream.slot or 0) + more) for more in (0, 1))
        return Run(self.walk(stream), after if stream.kind == "words" else before, after)

    def _arriving(self, number: int) -> Walk:
        call = self.calls[number]
        assert call is not None
        return call.walks[self.engine.slots[number].fed]

    def control(self) -> list[int]:
        """Per slot whether it works, the vectors that arrive, and whether they are stored too."""
        ints: list[int] = []
        first, kept = self.active[0][0], self.chain.links[0].kept is not None
        vectors = 0 if kept else self._arriving(first).vectors
        for number, call in enumerate(self.calls):
            vectors = vectors if call is None or (kept and number == first) else self._arriving(number).vectors
            ints += [int(call is not None), vectors, int(number in self.tapped)]
            if call is not None:
                vectors = call.walks[store_port(call.kernel)].vectors
        return ints

    def encode(self) -> list[int]:
        """As integers: engine, walks of its streams, control of its slots, scalars of its kernels."""
        walks = [i for stream in self.engine.streams for i in self.walk(stream).encode()]
        scalars = [
            number
            for slot, call in zip(self.engine.slots, self.calls, strict=True)
            for number in (call.scalars if call is not None else [0] * len(slot.kernel.scalars))
        ]
        return [self.engine.index, *walks, *(self.control() if self.engine.chained else []), *scalars]


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
            if pointer.startswith((POINTERS["load"], POINTERS["words"])):
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
    """Packed weights in the order of their first use; `write` takes their bytes as they come, so none is kept.

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
    if write_weights is None:
        calls = [call for instruction in instructions for _, call in instruction.active]
        weights.words = sum(dict(pair for call in calls for pair in weight_walks(call)).values())
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
            operands.append(Operand(stream.name, stream.kind, first, bool(slot.macs_per_cycle) or stream.port is None, runs))
        return share(operands)

    return _exchanged(tuple(replace(engine, shared=shared(engine)) for engine in engines), instructions)


def _exchanged(engines: tuple[Engine, ...], instructions: tuple[Instruction, ...]) -> tuple[tuple[Engine, ...], tuple[Instruction, ...]]:
    """The instructions for `engines`, which differ from theirs in their streams."""
    return engines, tuple(replace(instruction, engine=engines[instruction.engine.index]) for instruction in instructions)


def _instructions(chain: Chain, engine: Engine) -> list[Instruction]:
    """One per block of rows."""
    by_key = {link.key: link for link in chain.links}
    links = [by_key.get(slot.kernel.key) for slot in engine.slots]
    tapped = frozenset(number for number, link in enumerate(links) if link is not None and link.tapped)
    return [
        Instruction(engine, tuple(None if link is None else link.calls[block] for link in links), tapped, chain)
        for block in range(len(chain.links[0].calls))
    ]
