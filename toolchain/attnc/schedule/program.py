"""The program: engines shared by all layers, and the instructions that drive them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from attnc.ir import Graph, Node
from attnc.ops import OPERATORS, operator
from attnc.ops.base import Call, Design, IntType, KernelCall, Lowering, Port, Resources, Walk
from attnc.schedule.bundles import Task, form_bundles, processes
from attnc.schedule.chains import Chain, Key, Link, Order, engine_orders, first_load, form_chains, settle, store_port, whole_operands_first
from attnc.schedule.memory import MemoryMap, WeightMemory, apart, plan_memory, weight_walks

WALK_INTS = 9
SLOT_INTS = 3
"""Of a slot: whether it works, the vectors that arrive, whether they are stored too."""
IDLE = Walk(0, (0, 0, 0, 0), (0, 0, 0))
POINTERS = {"load": "load", "words": "weights", "store": "result", "wide": "wide"}
"""Arguments of the accelerator by the kind of their streams; "wide" ones are those of stores that move two words per cycle."""


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
    cycle."""

    name: str
    kind: str
    type: IntType
    pointer: str
    slot: int | None = None
    port: int | None = None
    beat: int = 1


@dataclass(frozen=True)
class Engine:
    """One piece of hardware: kernels, one behind the other, between loaders and storers. It is named after its main kernel. `beat` are the
    words per cycle of its loaders, and of those storers (by name) that only 16-bit vectors pass. Pointers are its `own` where engines run
    at the same time, else shared by engines."""

    index: int
    slots: tuple[Slot, ...]
    main: Slot
    beat: int = 1
    wide: frozenset[str] = frozenset()
    own: bool = False

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
        used = dict.fromkeys(POINTERS, 0)

        def add(name: str, kind: str, type_: IntType, slot: int | None = None, port: int | None = None) -> None:
            group = "wide" if name in self.wide else kind
            beat = self.beat if kind == "load" or group == "wide" else 1
            pointer = f"{POINTERS[group]}_{self.index}_{used[group]}" if self.own else f"{POINTERS[group]}_{used[group]}"
            found.append(Stream(name, kind, type_, pointer, slot, port, beat))
            used[group] += 1

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

    @property
    def span(self) -> int:
        """Cycles of its slowest processes, one part of the chain after the other (`Call.held`), whatever the memory does."""
        parts = [0]
        for _, call in self.active:
            parts[-1] = max(parts[-1], *call.cycles.values()) if call.cycles else parts[-1]
            parts += [max(call.held.values())] if call.held else []
        return sum(parts)

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
    """What the hardware runs for one sample: steps, each of instructions that run at the same time (of one where engines take turns)."""

    design: Design
    engines: tuple[Engine, ...]
    steps: tuple[tuple[Instruction, ...], ...]
    memory: MemoryMap
    weight_words: int

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """Of all steps, in their order: that in which each engine runs its own."""
        return tuple(instruction for step in self.steps for instruction in step)

    @property
    def processes(self) -> list[tuple[Engine, ...]]:
        """Engines by the process that holds them, where engines run at the same time."""
        owners = _processes(self.engines)
        return [tuple(e for e, owner in zip(self.engines, owners, strict=True) if owner == number) for number in sorted(set(owners))]

    @property
    def calls(self) -> list[tuple[Engine, Call]]:
        """Every run of a kernel, with its engine."""
        return [(instruction.engine, call) for instruction in self.instructions for _, call in instruction.active]

    @cached_property
    def pointers(self) -> dict[str, int]:
        """The arguments through which streams reach memory, with the words that each moves per cycle."""
        found = {stream.pointer: stream.beat for engine in self.engines for stream in engine.streams}
        kinds = list(POINTERS.values())

        def place(name: str) -> list[int]:
            kind, *numbers = name.split("_")
            return [kinds.index(kind), *map(int, numbers)]

        return {name: found[name] for name in sorted(found, key=place)}

    @cached_property
    def bundles(self) -> dict[str, str]:
        """The memory interface of each pointer. One that writes shares it with one that reads words of its size, since an interface reads
        and writes at the same time; it is one of the same engine where pointers are its own."""
        readers: dict[tuple[str, int], list[str]] = {}

        def like(pointer: str, beat: int) -> tuple[str, int]:
            return "_".join(pointer.split("_")[1:-1]), beat

        found = {"program": "program"}
        for pointer, beat in self.pointers.items():
            if pointer.startswith((POINTERS["load"], POINTERS["words"])):
                readers.setdefault(like(pointer, beat), []).append(pointer)
                found[pointer] = pointer
        for pointer, beat in self.pointers.items():
            if pointer not in found:
                free = readers.get(like(pointer, beat))
                found[pointer] = free.pop(0) if free else pointer
        return found

    @cached_property
    def places(self) -> list[int]:
        """Where in a step the integers of each engine start: all at 0 where engines take turns, else one behind the other; then the end."""
        sizes = [engine.instruction_ints for engine in self.engines]
        return [*itertools.accumulate(sizes, initial=0)] if self.design.parallel > 1 else [0] * len(sizes) + [max(sizes, default=1)]

    @property
    def instruction_ints(self) -> int:
        """Integers per step, the same for all, rounded up to 16."""
        return 16 * math.ceil(self.places[-1] / 16)

    def encode(self) -> npt.NDArray[np.int32]:
        """Steps as integers [steps, instruction_ints], filled up with zeros. The first integer of an instruction names its engine; where
        each engine has a place of its own, it says whether the engine works."""
        code = np.zeros((len(self.steps), self.instruction_ints), np.int32)
        for row, step in zip(code, self.steps, strict=True):
            for instruction in step:
                ints, at = instruction.encode(), self.places[instruction.engine.index]
                row[at : at + len(ints)] = [1, *ints[1:]] if self.design.parallel > 1 else ints
        return code


def build_program(graph: Graph, design: Design, write_weights: Callable[[bytes], object] | None) -> Program:
    """Lower every node, chain the calls, share engines, say what runs when, place all values."""
    weights = WeightMemory(design.lanes, write_weights)
    offsets: dict[str, int] = {}
    ctx = Lowering(graph, design, offsets, weights.place)
    words = {name: ctx.words(name) for name in graph.values}
    offsets.update(apart(words))
    lowered: Sequence[tuple[Node, Sequence[Call]]] = [(node, operator(node).lower(node, ctx)) for node in graph.nodes]
    if design.parallel > 1:
        lowered = whole_operands_first(graph, lowered)
    chains = form_chains(graph, lowered, design.copies > 1)
    engines, engine_of = _engines(chains, design)
    instructions = _all_instructions(chains, engine_of)
    if design.beat > 1:
        engines = _widened(engines, instructions)
    order = _order(design, engines, instructions, list(offsets.values()))
    # From here on it is known what each engine runs after what.
    memory = plan_memory(graph, words, [_touched([instructions[i].chain for i in step]) for step in order])
    if write_weights is not None:  # where values lie changes no estimate
        chains = settle(chains, offsets, {name: region.offset for name, region in memory.values.items()})
    instructions = _all_instructions(chains, [engines[engine.index] for engine in engine_of])
    if write_weights is None:
        calls = [call for instruction in instructions for _, call in instruction.active]
        weights.words = sum(dict(pair for call in calls for pair in weight_walks(call)).values())
    return Program(design, engines, tuple(tuple(instructions[i] for i in step) for step in order), memory, weights.words)


def _order(design: Design, engines: Sequence[Engine], instructions: Sequence[Instruction], starts: Sequence[int]) -> list[tuple[int, ...]]:
    """Indices of the instructions of each step: those that run at the same time where the design says so, else one after the other."""
    if design.parallel > 1:
        return form_bundles(_tasks(engines, instructions), starts)
    return [(index,) for index in range(len(instructions))]


def _processes(engines: Sequence[Engine]) -> list[int]:
    return processes([[slot.kernel for slot in engine.slots] for engine in engines])


def _tasks(engines: Sequence[Engine], instructions: Sequence[Instruction]) -> list[Task]:
    """What the schedule must know of each. Where a product finds its operand in the engine, neither it nor the one that left it moves."""
    owners = _processes(engines)
    tasks: list[Task] = []
    last: dict[Key, int] = {}
    for number, one in enumerate(instructions):
        heavy, kept = one.chain.heavy, one.chain.links[0].kept is not None
        walks = [(stream.kind, walk) for stream in one.engine.streams if (walk := one.walk(stream)).vectors]
        loads, stores = (tuple(walk for kind, walk in walks if kind == wanted) for wanted in ("load", "store"))
        tasks.append(Task(owners[one.engine.index], one.span, loads, stores, kept))
        if kept and heavy is not None:
            tasks[last[heavy]] = replace(tasks[last[heavy]], fixed=True)
        if heavy is not None:
            last[heavy] = number
    return tasks


def _touched(chains: Sequence[Chain]) -> tuple[set[str], list[str]]:
    """Values that chains read, and those that they store."""
    return {name for chain in chains for name in chain.reads}, [name for chain in chains for name in chain.stores()]


def _engines(chains: Sequence[Chain], design: Design) -> tuple[tuple[Engine, ...], list[Engine]]:
    """The engines, and the one of each chain. They are numbered by their kernels, so that their order does not depend on which layer
    happens to come first."""
    found = sorted(engine_orders(chains), key=lambda entry: str(entry[0].slots()))
    engines = tuple(_engine(index, order, [chains[i] for i in members], design) for index, (order, members) in enumerate(found))
    engine_of = {i: engine for engine, (_, members) in zip(engines, found, strict=True) for i in members}
    return engines, [engine_of[i] for i in range(len(chains))]


def _engine(index: int, order: Order, chains: Sequence[Chain], design: Design) -> Engine:
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
    return Engine(index, tuple(slots), main, design.beat, own=design.parallel > 1)


def _widened(engines: tuple[Engine, ...], instructions: Sequence[Instruction]) -> tuple[Engine, ...]:
    """Storers through which only 16-bit vectors pass move one per cycle."""
    sizes: dict[tuple[int, str], set[int]] = {}
    for instruction in instructions:
        for stream in instruction.engine.streams:
            walk = instruction.walk(stream)
            if stream.kind == "store" and walk.vectors:
                sizes.setdefault((instruction.engine.index, stream.name), set()).add(walk.bytes)
    wide = [frozenset(name for (index, name), found in sizes.items() if index == e.index and found == {2}) for e in engines]
    return tuple(replace(engine, wide=names) for engine, names in zip(engines, wide, strict=True))


def _all_instructions(chains: Sequence[Chain], engine_of: Sequence[Engine]) -> list[Instruction]:
    """Of all chains, in order."""
    return [found for chain, engine in zip(chains, engine_of, strict=True) for found in _instructions(chain, engine)]


def _instructions(chain: Chain, engine: Engine) -> list[Instruction]:
    """One per block of rows."""
    by_key = {link.key: link for link in chain.links}
    links = [by_key.get(slot.kernel.key) for slot in engine.slots]
    tapped = frozenset(number for number, link in enumerate(links) if link is not None and link.tapped)
    return [
        Instruction(engine, tuple(None if link is None else link.calls[block] for link in links), tapped, chain)
        for block in range(len(chain.links[0].calls))
    ]
