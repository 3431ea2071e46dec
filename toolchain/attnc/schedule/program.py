"""The program: engines shared by all layers, and the instructions that drive them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc.ir import Graph
from attnc.kernels.call import Call, Derived
from attnc.kernels.design import Design
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import SIDES
from attnc.schedule.chains import Chain, Key, Link, Order, engine_orders, first_load, form_chains, settle, whole_operands_first
from attnc.schedule.engine import Engine, Instruction, Slot
from attnc.schedule.interfaces import interfaces
from attnc.schedule.lowered import Calls, entry_rows, least_cycles, lower, regions
from attnc.schedule.memory import MemoryMap, WeightMemory, aligned, plan_memory, weight_walks
from attnc.schedule.patches import PATCH_SHIFT, Fetch, Patch, Stated, integers, patches
from attnc.schedule.prefetch import prefetch, weights_ahead
from attnc.schedule.queues import Queue, Routing, openings, queues, rows_of_experts, unrolled
from attnc.schedule.registers import more_in_use, registers_at, registers_of, usual_use
from attnc.schedule.sharing import Operand, share
from attnc.schedule.sized import sized
from attnc.schedule.steps import Task, form_steps, tracks
from attnc.schedule.streams import POINTERS
from attnc.schedule.touched import touched
from attnc.schedule.traffic import check_traffic

OPENING_INTS = 3
"""Integers of a step that open a queue."""
FETCH_INTS = 4
"""Integers of the program that a read brings: as many bits as a memory port of the board has."""


@dataclass(frozen=True)
class Program:
    """What the hardware runs for one sample: steps, each of instructions that run at the same time (of one where engines take turns)."""

    design: Design
    engines: tuple[Engine, ...]
    steps: tuple[tuple[Instruction, ...], ...]
    memory: MemoryMap
    weight_words: int
    depths: Mapping[str, int] = field(default_factory=dict)
    """Of FIFOs by name, where they are not the usual ones (fifos.py)."""
    stated: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of the entries of a graph with caches: the registers that their instructions are stated for."""
    last: Mapping[str, int] = field(default_factory=dict)
    """The last position of each."""
    derived: tuple[Derived, ...] = ()
    """Registers that follow from the position."""
    queues: Mapping[str, Queue] = field(default_factory=dict)
    """Of experts."""
    routing: Routing = field(default_factory=dict)
    """What estimates are for."""
    alike: int | None = None
    """The patches of a step of a program that is nearly the same, where an estimate is all that is wanted: to count them takes long."""

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """Of all steps, in their order: that in which each engine runs its own."""
        return tuple(instruction for step in self.steps for instruction in step)

    @cached_property
    def design_facts(self) -> dict[str, Any]:
        """The design as files have it, without engines that the program does not have."""
        return self.design.facts({slot.kernel.engine for engine in self.engines for slot in engine.slots})

    @property
    def tracks(self) -> list[tuple[Engine, ...]]:
        """Engines that take turns, where others run at the same time."""
        owners = _tracks(self.engines)
        return [tuple(e for e, owner in zip(self.engines, owners, strict=True) if owner == number) for number in sorted(set(owners))]

    @property
    def calls(self) -> list[tuple[Engine, Call]]:
        """Every run of a kernel, with its engine."""
        return [(instruction.engine, call) for instruction in self.instructions for _, call in instruction.active]

    @cached_property
    def pointers(self) -> dict[str, int]:
        """The arguments through which streams reach memory, with the words that each moves per cycle."""
        found = {pointer: stream.beat for engine in self.engines for stream in engine.streams for pointer in stream.pointers}
        kinds = list(POINTERS.values())

        def place(name: str) -> list[int]:
            kind, *numbers = name.split("_")
            return [kinds.index(kind), *map(int, numbers)]

        return {name: found[name] for name in sorted(found, key=place)}

    @cached_property
    def bundles(self) -> dict[str, str]:
        """The memory interface of each pointer."""
        return {"program": "program"} | interfaces(self.pointers, self.engines, self.design.parallel > 1)

    @cached_property
    def places(self) -> list[int]:
        """Where in a step the integers of each engine start: all at 0 where engines take turns, else one behind the other; then the end."""
        sizes = [engine.instruction_ints for engine in self.engines]
        return [*itertools.accumulate(sizes, initial=0)] if self.design.parallel > 1 else [0] * len(sizes) + [max(sizes, default=1)]

    @cached_property
    def entries(self) -> dict[str, range]:
        """Its steps by entry of the graph."""
        found: dict[str, range] = {}
        for number, step in enumerate(self.steps):
            found[step[0].entry] = range(found.get(step[0].entry, range(number, number)).start, number + 1)
        return found

    @property
    def given(self) -> tuple[str, ...]:
        """Registers that come with a run, by name."""
        return self.as_stated.given

    @property
    def registers(self) -> tuple[str, ...]:
        """By name, those of a run first."""
        return self.as_stated.registers

    def at(self, positions: Mapping[str, int], session: int = 0) -> Program:
        """The same with instructions stated for other positions, by entry, and a session."""
        return self.holding({entry: registers_at(position, session, self.derived) for entry, position in positions.items()})

    def start(self, entry: str, position: int) -> list[int]:
        """The integers that start a run of an entry in session 0: the first step, how many, and the registers that come with it."""
        steps, own = self.entries[entry], registers_at(position, 0, ())
        return [steps.start, len(steps), *(own[name] for name in self.given)]

    @property
    def in_use(self) -> Program:
        """The same with instructions stated for the positions at which a search counts the entries of a decoder."""
        return self.at({entry: position for entry, (position, _) in usual_use(self.last).items()}) if self.last else self

    def holding(self, registers: Mapping[str, Mapping[str, int]]) -> Program:
        """The same with instructions stated for other registers, by entry."""
        more = {entry: {name: own[name] - number for name, number in self.stated[entry].items()} for entry, own in registers.items()}
        steps = tuple(tuple(one.at(more[one.entry]) if one.entry in more else one for one in step) for step in self.steps)
        stated = {entry: {name: own[name] for name in self.stated[entry]} for entry, own in registers.items()}
        return replace(self, steps=steps, stated={**self.stated, **stated})

    @cached_property
    def runs(self) -> tuple[tuple[int, tuple[Instruction, ...]], ...]:
        """Every step that runs, with its number: those of a queue once for each of its entries, as the routing has them."""
        return tuple(unrolled(self.steps, self.queues, self.routing)) if self.queues else tuple(enumerate(self.steps))

    @cached_property
    def openings(self) -> dict[int, tuple[str, int]]:
        """Steps behind which those of a queue begin, with the queue and how many there are."""
        return openings(self.steps) if self.queues else {}

    @property
    def first_patch(self) -> int:
        """Where in a step its patches begin: behind what opens a queue."""
        return self.places[-1] + (OPENING_INTS if self.queues else 0)

    @property
    def instruction_ints(self) -> int:
        """Integers per step, the same for all, rounded up to 16."""
        return 16 * math.ceil((self.first_patch + 2 * self.most_patches) / 16)

    @cached_property
    def fetch(self) -> Fetch:
        """What brings those of a step."""
        return Fetch.of(self.instruction_ints // FETCH_INTS, self.most_patches)

    @cached_property
    def most_patches(self) -> int:
        """Integers of a step that registers change, at most."""
        if self.alike is not None:
            return self.alike
        return max(map(len, self.patches)) if self.registers else 0

    @property
    def patches(self) -> list[list[Patch]]:
        """Of every step the integers that registers change."""
        return self._patched[1]

    @cached_property
    def _patched(self) -> tuple[npt.NDArray[np.int64], list[list[Patch]]]:
        """The integers of every step where registers are 0, and what these change."""
        return patches(self.as_stated)

    @property
    def as_stated(self) -> Stated:
        """Its steps as they are stated."""
        return Stated(self.steps, self.places, self.design.parallel > 1, self.stated, self.last, self.derived, self.queues)

    def encode(self) -> npt.NDArray[np.int32]:
        """Steps as integers [steps, instruction_ints], filled up with zeros. The first integer of an instruction names its engine; where
        each engine has a place of its own, it says whether the engine works. Where there are queues, the next integers say of how many
        steps the group is that begins behind this one, where its queue lies, and of how many entries that is at most. Where there are
        registers, instructions are those for zeros in them, and end with their patches: which integer (and in the upper half which
        register), and how much for each more in it."""
        code = np.zeros((len(self.steps), self.instruction_ints), np.int32)
        plain, changes = self._patched
        code[:, : self.places[-1]] = plain
        for number, (name, steps) in self.openings.items():
            queue = self.queues[name]
            code[number, self.places[-1] : self.first_patch] = steps, queue.offset, queue.entries
        for row, found in zip(code, changes, strict=True):
            for number, (place, register, slope) in enumerate(found):
                at = self.first_patch + 2 * number
                row[at : at + 2] = place | register << PATCH_SHIFT, slope
        return code

    def plain(self) -> npt.NDArray[np.int64]:
        """The integers of every step as it is stated, without patches."""
        return integers(self.as_stated, [{}] * len(self.steps))


def build_program(graph: Graph, design: Design, write_weights: Callable[[bytes], object] | None) -> Program:
    """Lower every node, chain the calls, share engines, say what runs when, place all values."""
    if write_weights is None:
        return Programs(graph).build(design)
    weights, (words, offsets) = WeightMemory(design.lanes, write_weights), regions(graph, design)
    ctx = Lowering(graph, design, offsets, weights.place)
    program = _program(graph, design, words, offsets, [lower(node, ctx) for node in graph.nodes], placed=True)
    steps = [step for _, step in unrolled(program.steps, program.queues, program.routing, apart=True)]
    check_traffic(graph, program.memory, steps)
    return replace(program, weight_words=weights.words)


class Programs:
    """Programs of a graph, which must not change meanwhile, for an estimate: no weights are packed, and values lie where they were lowered.
    What designs have in common is found once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._calls, self._use = Calls(graph), more_in_use(graph)
        self.queued = rows_of_experts(graph)
        """Rows of an expert where all have about the same; 0 where there are none."""
        self._patches: dict[int, int] = {}

    def build(self, design: Design) -> Program:
        """The program of a design, for estimates: patches are counted for the first one with as many engines that run at the same time."""
        program = _program(self.graph, design, *self._calls.lower(design), placed=False)
        if design.parallel not in self._patches:
            self._patches[design.parallel] = program.most_patches
        return replace(program, alike=self._patches[design.parallel])

    def least_cycles(self, design: Design) -> int:
        """No estimate of its program is lower; quickly found."""
        return least_cycles(self._calls.lower(design)[2], self._use)


def _program(
    graph: Graph, design: Design, words: Mapping[str, int], offsets: Mapping[str, int], lowered: Sequence[Link], placed: bool
) -> Program:
    """Chains, engines and steps of what was lowered to regions that start at `offsets`; walks go where values lie in the end if `placed`,
    which changes no estimate."""
    if design.parallel > 1:
        lowered = whole_operands_first(graph, lowered)
    chains = form_chains(graph, lowered, design.copies > 1)
    engines, engine_of = _engines(chains, design)
    instructions = _all_instructions(chains, engine_of)
    engines = sized(engines, instructions, design.beat > 1)
    engines = _shared(engines, instructions)
    groups = [[*group] for _, group in itertools.groupby(range(len(instructions)), key=lambda index: instructions[index].chain.main.part)]
    orders = [_order(design, engines, instructions, group, list(offsets.values())) for group in groups]
    # From here on it is known what each engine runs after what.
    memory = plan_memory(graph, words, touched([[instructions[i] for i in step] for order in orders for step in order]), graph.sessions)
    if placed:
        chains = settle(chains, offsets, memory)
    instructions = _all_instructions(chains, [engines[engine.index] for engine in engine_of])
    # What ran before an entry, or before steps that run again, is not known: nothing is brought for it.
    parts = [weights_ahead(prefetch([[instructions[i] for i in step] for step in order])) for order in orders]
    engines, steps = _two_sided(engines, [step for part in parts for step in part])
    arrays = dict(pair for chain in chains for link in chain.links for call in link.calls for pair in weight_walks(call))
    last, derived, stated = registers_of(graph, (call for chain in chains for link in chain.links for call in link.calls))
    total, found = sum(map(aligned, arrays.values())), queues(graph, memory, entry_rows(design))
    return Program(design, engines, steps, memory, total, stated=stated, last=last, derived=derived, queues=found)


def _order(
    design: Design, engines: Sequence[Engine], instructions: Sequence[Instruction], group: Sequence[int], starts: Sequence[int]
) -> list[tuple[int, ...]]:
    """Indices of the instructions of each step, of those of a part: those that run at the same time where the design says so, else one
    after the other."""
    if design.parallel > 1:
        tasks = _tasks(engines, [instructions[index] for index in group])
        return [tuple(group[place] for place in step) for step in form_steps(tasks, starts)]
    return [(index,) for index in group]


def _tracks(engines: Sequence[Engine]) -> list[int]:
    return tracks([[slot.kernel for slot in engine.slots] for engine in engines])


def _tasks(engines: Sequence[Engine], instructions: Sequence[Instruction]) -> list[Task]:
    """What the schedule must know of each. Where products find their operands in the engine, neither they nor those that left them move:
    one that came between the blocks of these would write over the operand of another."""
    owners = _tracks(engines)
    tasks: list[Task] = []
    last: dict[Key, tuple[Chain, list[int]]] = {}
    for number, one in enumerate(instructions):
        heavy, kept = one.chain.heavy, one.chain.links[0].kept is not None
        loads, stores = (tuple(walk for walk in one.moves(kind) if walk.vectors) for kind in ("load", "store"))
        tasks.append(Task(owners[one.engine.index], one.span, loads, stores, kept))
        if heavy is None:
            continue
        if kept:
            for before in last[heavy][1]:
                tasks[before] = replace(tasks[before], fixed=True)
        if heavy not in last or last[heavy][0] is not one.chain:
            last[heavy] = one.chain, []
        last[heavy][1].append(number)
    return tasks


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
        for other in (other for link in users for other in (*(call.kernel for call in link.calls), *link.others)):
            kernel = kernel.merge(other)
        fed = order.fed.get(key, first_load(kernel))
        slots.append(Slot(users[0].node.op, kernel, fed, len(users) < len(chains), any(link.tapped for link in users)))
    heavy = next((chain.heavy for chain in chains if chain.heavy is not None), None)
    main = next((slot for slot, key in zip(slots, links, strict=True) if key == heavy), slots[0])
    return Engine(index, tuple(slots), main, design.beat, own=design.parallel > 1)


def _shared(engines: tuple[Engine, ...], instructions: Sequence[Instruction]) -> tuple[Engine, ...]:
    """Operands of few words share a loader; never weights of multipliers, or the vectors of the chain."""

    def shared(engine: Engine) -> tuple[tuple[str, int], ...]:
        if not engine.chained:
            return ()
        mine = [(number, one, one.walks) for number, one in enumerate(instructions) if one.engine.index == engine.index]
        operands = []
        for place, stream in enumerate(engine.streams):
            if stream.kind == "store":
                continue
            slot = engine.slots[stream.slot or 0]
            first = stream.port is not None and slot.kernel.ports[stream.port].first
            runs = {number: one.run(*walks[place]) for number, one, walks in mine if walks[place][1].vectors}
            alone = bool(slot.macs_per_cycle) or stream.port is None or stream.name in {*engine.small, *dict(engine.mixed)}
            ahead = (stream.slot or 0) < (engine.operand_slot or 0)
            operands.append(Operand(stream.name, stream.kind, first, alone, ahead, runs))
        return share(operands)

    return tuple(replace(engine, shared=shared(engine)) for engine in engines)


def _two_sided(
    engines: tuple[Engine, ...], steps: Sequence[Sequence[Instruction]]
) -> tuple[tuple[Engine, ...], tuple[tuple[Instruction, ...], ...]]:
    """Kernels that hold two operands where instructions ask for it."""

    def widened(engine: Engine) -> Engine:
        slots = tuple(replace(slot, kernel=slot.kernel.with_arg(SIDES, 2)) if slot is engine.main else slot for slot in engine.slots)
        return replace(engine, slots=slots, main=slots[engine.operand_slot or 0])

    two = {one.engine.index for step in steps for one in step if one.side}
    engines = tuple(widened(engine) if engine.index in two else engine for engine in engines)
    return engines, tuple(tuple(replace(one, engine=engines[one.engine.index]) if one.engine.index in two else one for one in step)
                          for step in steps)  # fmt: skip


def _all_instructions(chains: Sequence[Chain], engine_of: Sequence[Engine]) -> list[Instruction]:
    """Of all chains, in order."""
    return [found for chain, engine in zip(chains, engine_of, strict=True) for found in _instructions(chain, engine)]


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
