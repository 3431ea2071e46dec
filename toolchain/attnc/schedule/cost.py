"""Estimates of cycles and resources. None comes from a synthesis run, and everything that shows them says so.

Cycles: the kernels of a chain overlap, and so do the processes of a kernel, but one that needs all its operands before it gives a result
(`Call.held`) parts the chain: what is before it, then what comes from it. Each part takes its slowest process or memory port. A stream
moves a word per cycle within a burst; short bursts are bound by the requests in flight, streams that read through the same port of the
board add up, and so do those that write, and all together are bound by the rate of the DDR. Instructions run one after the other, with
the time to fill and drain each; what brings the operand of a later one overlaps with the main kernel. Where engines run at the same time,
a step takes its slowest instruction, to which the others bring what they read or write through its ports in that time, or what all of them
together move through a port of the board or to and from the DDR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from attnc.errors import FitError
from attnc.kernels.call import Walk
from attnc.kernels.latency import READ_LATENCY, WRITE_RESPONSE
from attnc.kernels.resources import Memory, Resources
from attnc.kernels.storage import fifo, memory_cost, usual_kind
from attnc.schedule.devices import CLASSES, Board
from attnc.schedule.engine import Engine, Instruction, Slot, Stream
from attnc.schedule.fifos import usual_fifos
from attnc.schedule.placement import Buffer, collect, place, scaled
from attnc.schedule.program import FETCH_INTS, Program
from attnc.schedule.wiring import Part, Step, wire

REQUESTS_IN_FLIGHT = 16
AHEAD = 192
"""Beats that a loader of vectors asks for ahead, about (`load` in memory.hpp)."""
DDR_EFFICIENCY = 0.85
"""Share of the peak rate that long bursts reach; 0.85 to 0.94 have been measured."""
CALL_OVERHEAD = 40
"""Starting and ending a dataflow region."""
LOADER = Resources(lut=450, ff=600)
SHARED_LOADER = Resources(lut=150, ff=200)
"""What starts the runs of a loader of several operands, and selects the addresses of its requests."""
RUN = Resources(lut=220, ff=300)
"""A run of words that follow each other: a counter, an address, and elements of 16 bits with their zero point (8 lanes)."""
STORER = Resources(lut=450, ff=600)
PORT = Resources(lut=1200, ff=1800, bram36=2)
"""An m_axi adapter of 128 bits with its buffers."""
OPERANDS = "operands"
"""Name of the loader that serves several streams."""
CONTROL = Resources(lut=1800, ff=3000, bram36=2)
"""The registers that the host writes, and the adapter of 128 bits that reads the program: beside one of 32 bits about 300 LUT and 500 FF
for three times 96 bits of data on their way, and its buffer."""
SLOT_LATENCY = 12
"""Cycles that a vector takes through a kernel that passes it on, on average."""
PASSING = Resources(lut=60, ff=80)
"""What lets a slot be passed by, or stored on the way: a counter and a multiplexer's control; the multiplexer is a LUT per 2 bits."""
TRACK = Resources(lut=60, ff=100)
"""Starting the engine of a track beside others, or not; its instruction is kept in registers of its own."""


@dataclass(frozen=True)
class CallCost:
    """Estimated cycles of one instruction. `busy` are those of each process, stream ("port ...") and shared port of the board, and of the
    DDR; `bound` is what takes longest, `start` comes on top. `words` are those that it moves. `node` is the chain's main node. The slowest
    of those that run at the same time accounts for the cycles of all; the others are `hidden` beside it: its index."""

    node: str
    engine: str
    cycles: int
    bound: str
    start: int
    busy: Mapping[str, int]
    words: int
    macs: int
    hidden: int | None = None

    @property
    def counted(self) -> int:
        """Cycles of the sample that it accounts for."""
        return self.cycles if self.hidden is None else 0


Channel = tuple[str, bool]
"""A pointer, bundle or port of the board, and whether it is written."""


@dataclass
class _Part:
    """What overlaps: cycles by process or stream, what passes each pointer, by stream, and the parts of what brings the next operand."""

    busy: dict[str, int] = field(default_factory=dict)
    moved: list[tuple[Channel, str, int]] = field(default_factory=list)
    early: Sequence[_Part] = ()

    def stream(self, stream: Stream, walk: Walk, moved: int) -> None:
        """A stream that moves `walk` in `moved` cycles."""
        count = len(stream.pointers)
        bursts = math.prod(walk.counts[:3]) * math.ceil(walk.counts[3] * walk.bytes / count / stream.beat / 64)
        self.busy[f"port {stream.name}"] = max(moved, bursts * math.ceil(READ_LATENCY / REQUESTS_IN_FLIGHT))
        if stream.shared:  # its loader waits for the first word of each run
            self.busy[OPERANDS] = self.busy.get(OPERANDS, 0) + self.busy[f"port {stream.name}"] + READ_LATENCY
        self.moved += [((pointer, stream.kind == "store"), stream.name, moved) for pointer in stream.pointers]

    def ahead(self) -> list[tuple[Channel, str, int]]:
        """What its loaders have asked for from the start on: that passes in an earlier part, not in this."""
        found = [(channel, name, min(moved, AHEAD)) for channel, name, moved in self.moved if not channel[1]]
        early = {(channel, name): moved for channel, name, moved in found}
        self.moved = [(channel, name, moved - early.get((channel, name), 0)) for channel, name, moved in self.moved]
        return found

    def passing(self, ports: Mapping[str, str]) -> dict[Channel, dict[str, int]]:
        """Cycles in which something passes each port, in each direction, by stream."""
        found: dict[Channel, dict[str, int]] = {}
        for (pointer, write), name, cycles in self.moved:
            streams = found.setdefault((ports[pointer], write), {})
            streams[name] = streams.get(name, 0) + cycles
        return found

    def all_busy(self, ports: Mapping[str, str], beside: Mapping[Channel, float]) -> dict[str, int]:
        """With the ports of the board that several streams share, those of other engines among them: of each channel the share of all
        cycles that they take."""
        found = dict(self.busy)
        if self.early:
            found["next operand"] = sum(max(part.all_busy(ports, beside).values(), default=0) for part in self.early)
        slowest = max(found.values(), default=0)
        for channel, streams in self.passing(ports).items():
            others = round(slowest * beside.get(channel, 0))
            if others or len(streams) > 1:
                names = "+".join([*streams, *(["other engines"] if others else [])])
                found[f"{_direction(channel)} ({names})"] = sum(streams.values()) + others
        return found


@dataclass(frozen=True)
class _Work:
    """An instruction, its parts, and what passes each pointer in all."""

    instruction: Instruction
    parts: Sequence[_Part]
    passing: Mapping[Channel, int]

    @staticmethod
    def of(instruction: Instruction) -> _Work:
        """Whatever the ports."""
        passing: dict[Channel, int] = {}
        for stream in instruction.engine.streams:
            for pointer in stream.pointers:
                passing[pointer, stream.kind == "store"] = instruction.moved(stream)
        return _Work(instruction, _parts(instruction), passing)

    def span(self) -> int:
        """Cycles if nothing shared a port."""
        return sum(max(part.busy.values(), default=0) for part in self.parts)


def _direction(channel: Channel) -> str:
    return f"{channel[0]} writes" if channel[1] else channel[0]


def _through(step: Sequence[_Work], ports: Mapping[str, str]) -> dict[Channel, int]:
    """Cycles in which something passes each port, in each direction, for all instructions of a step."""
    found: dict[Channel, int] = {}
    for work in step:
        for (pointer, write), moved in work.passing.items():
            found[ports[pointer], write] = found.get((ports[pointer], write), 0) + moved
    return found


def _beside(step: Sequence[_Work], ports: Mapping[str, str]) -> list[dict[Channel, float]]:
    """For each instruction of a step the share of all cycles in which something of the others passes a port."""
    span = max(max(work.span() for work in step), 1)
    others = ([other for other in step if other is not work] for work in step)
    return [{channel: min(moved / span, 1.0) for channel, moved in _through(other, ports).items() if moved} for other in others]


def assign_ports(program: Program, board: Board) -> dict[str, str]:
    """A memory port of the board for each memory interface."""
    return _wired(program, board, [[_Work.of(one) for one in step] for step in program.steps])


def _wired(program: Program, board: Board, steps: Sequence[Sequence[_Work]]) -> dict[str, str]:
    bundles = tuple(dict.fromkeys(program.bundles.values()))
    fetched = (("program", False), program.instruction_ints // FETCH_INTS)

    def part(one: _Part, beside: Mapping[Channel, float]) -> Part:
        slowest = max(one.all_busy(program.bundles, {}).values(), default=0)
        moved = {channel: sum(streams.values()) for channel, streams in one.passing(program.bundles).items()}
        others = {channel: round(slowest * share) for channel, share in beside.items() if moved} if slowest else {}
        return slowest, tuple((channel, moved.get(channel, 0) + others.get(channel, 0)) for channel in {**moved, **others})

    def row(step: Sequence[_Work]) -> Step:
        shares = _beside(step, program.bundles)
        parts = [[part(one, beside) for one in work.parts] for work, beside in zip(step, shares, strict=True)]
        slowest, moved = parts[0][0]
        parts[0][0] = slowest, (*moved, fetched)  # beside what the step begins with
        return tuple(map(tuple, parts)), tuple(_through(step, program.bundles).items())

    return wire([row(step) for step in steps], bundles, board.ports)


def _parts(instruction: Instruction) -> list[_Part]:
    """What brings the operand of another instruction overlaps with the main kernel, which waits for none."""
    slot, slots = instruction.engine.operand_slot or 0, range(len(instruction.engine.slots))
    parts = _slots_parts(instruction, slots[slot:] if instruction.ready else slots)
    if instruction.brings is not None:
        before = _slots_parts(instruction.brings, slots[:slot])
        main = instruction.brings.calls[slot]
        before[-1].busy.update(main.bringing().cycles if main is not None else {})
        if not instruction.own:
            return before
        parts[0].early = before
    return parts


def _slots_parts(instruction: Instruction, slots: range) -> list[_Part]:
    """Of some of its slots, working for its own block."""
    engine, parts = instruction.engine, [_Part()]

    def move(streams: list[Stream]) -> None:
        for stream in streams:
            walk = instruction.walk(stream)
            if walk.vectors:
                parts[-1].stream(stream, walk, instruction.moved(stream))

    move([s for s in engine.streams if s.slot is None and s.kind == "load" and not instruction.ready])
    for number in slots:
        call = instruction.timed(number)
        if call is None:
            continue
        mine = [s for s in engine.streams if s.slot == number]
        early = [s for s in mine if s.kind != "words" or not call.held]
        move(early)
        parts[-1].busy.update(call.cycles)
        if call.held:
            parts.append(_Part(dict(call.held)))
            move([s for s in mine if s not in early])
    move([s for s in engine.streams if s.slot is None and s.kind == "store" and slots.stop == len(engine.slots)])
    parts = [part for part in parts if part.busy] or [_Part()]
    for part in parts[1:]:
        parts[0].moved += part.ahead()
    return parts


def call_cost(instruction: Instruction, ports: Mapping[str, str], words_per_cycle: float, instruction_ints: int) -> CallCost:
    """Cycles of an instruction that runs alone."""
    return _work_cost(_Work.of(instruction), {}, ports, words_per_cycle, instruction_ints)


def _work_cost(
    work: _Work, beside: Mapping[Channel, float], ports: Mapping[str, str], words_per_cycle: float, instruction_ints: int
) -> CallCost:
    """Of each of its parts the slowest process, stream or port, or the DDR in all, plus start-up."""
    instruction, engine = work.instruction, work.instruction.engine
    found = [busy for busy in (part.all_busy(ports, beside) for part in work.parts) if busy]
    busy: dict[str, int] = {}
    for name, cycles in (item for part in found for item in part.items()):
        busy[name] = busy.get(name, 0) + cycles
    words = sum(walk.vectors * walk.bytes for walk in map(instruction.walk, engine.streams))
    busy["ddr"] = math.ceil(words / words_per_cycle)
    slowest = [max(part, key=lambda name: part[name]) for part in found]
    longest = max(zip(found, slowest, strict=True), key=lambda entry: entry[0][entry[1]])[1]
    total = sum(part[name] for part, name in zip(found, slowest, strict=True))
    bound, total = ("ddr", busy["ddr"]) if busy["ddr"] > total else (longest, total)
    start = READ_LATENCY + WRITE_RESPONSE + CALL_OVERHEAD + SLOT_LATENCY * (len(instruction.active) - 1)
    total = max(total, READ_LATENCY + instruction_ints // FETCH_INTS - start)  # the next instruction comes meanwhile
    macs = sum(call.macs for _, call in instruction.active)
    return CallCost(instruction.chain.main.node.name, engine.name, total + start, bound, start, busy, words, macs)


def _step_costs(
    step: Sequence[_Work], first: int, ports: Mapping[str, str], words_per_cycle: float, instruction_ints: int
) -> list[CallCost]:
    """Costs of the instructions of a step, of which the first has index `first` in the program."""
    shares = _beside(step, ports)
    alone = [_work_cost(work, share, ports, words_per_cycle, instruction_ints) for work, share in zip(step, shares, strict=True)]
    shared = {f"{_direction(channel)} (all streams)": moved for channel, moved in _through(step, ports).items()}
    shared["ddr"] = math.ceil(sum(call.words for call in alone) / words_per_cycle)
    slowest = max(range(len(alone)), key=lambda index: alone[index].cycles)
    longest, bound = alone[slowest], max(shared, key=lambda name: shared[name])
    if shared[bound] + longest.start > longest.cycles:
        busy = {**longest.busy, bound: shared[bound]}
        longest = replace(longest, cycles=shared[bound] + longest.start, bound=bound, busy=busy)
    return [longest if index == slowest else replace(call, hidden=first + slowest) for index, call in enumerate(alone)]


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a whole program on a board. `engines` are the resources of each engine before its buffers were placed, `places` is
    the kind of memory of each of `buffers`, `macs_per_cycle` the multiply-adds that all arrays of multipliers can do."""

    calls: tuple[CallCost, ...]
    resources: Resources
    clock_mhz: float
    engines: Mapping[str, Resources]
    buffers: tuple[Buffer, ...]
    places: Mapping[str, str]
    ports: Mapping[str, str]
    words_per_cycle: float
    macs_per_cycle: int

    @property
    def cycles(self) -> int:
        """Of one sample."""
        return sum(call.counted for call in self.calls)

    @property
    def latency_ms(self) -> float:
        """Of one sample at the target clock."""
        return self.cycles / self.clock_mhz / 1000

    @property
    def macs(self) -> int:
        """Multiply-adds of one sample."""
        return sum(call.macs for call in self.calls)

    @property
    def words(self) -> int:
        """Words between memory and accelerator for one sample."""
        return sum(call.words for call in self.calls)

    def by_node(self) -> dict[str, int]:
        """Cycles that the main node of each chain accounts for."""
        total: dict[str, int] = {}
        for call in self.calls:
            total[call.node] = total.get(call.node, 0) + call.counted
        return total

    def used(self) -> dict[str, float]:
        """Resources by class."""
        return dict(zip(CLASSES, self.resources.astuple(), strict=True))


def slot_resources(slot: Slot, lanes: int, chained: bool) -> Resources:
    """A kernel with its buffers where they usually lie, and what a chain adds."""
    total = slot.resources
    if chained:
        total = total + fifo(16 * lanes) + Resources(lut=16 * lanes / 2) + scaled(PASSING, slot.optional + slot.tap)
    return total


def engine_resources(engine: Engine, lanes: int) -> Resources:
    """Kernels, loaders, storers and streams of one engine, with its buffers where they usually lie."""
    total = sum((slot_resources(slot, lanes, engine.chained) for slot in engine.slots), Resources())
    for stream in engine.streams:
        total = total + scaled(STORER if stream.kind == "store" else RUN if stream.shared else LOADER, len(stream.pointers))
        total = total + fifo(stream.width(lanes), stream.depth)
    total = total + scaled(SHARED_LOADER, bool(engine.shared))
    return total


def engine_total(engine: Engine, cost: Estimate) -> Resources:
    """One engine with its buffers where the plan puts them."""
    own = cost.engines[engine.name]
    kinds = ((memory, cost.places[f"{stem}.{memory.name}"]) for stem, memory in _memories(engine))
    return sum((memory_cost(memory, kind) for memory, kind in kinds), without_buffers(own))


def _memories(engine: Engine) -> list[tuple[str, Memory]]:
    return [(slot.kernel.network.stem, memory) for slot in engine.slots for memory in slot.resources.memories]


def without_buffers(resources: Resources) -> Resources:
    """What is left when the buffers that can be placed are taken out."""
    return sum((scaled(memory_cost(memory, usual_kind(memory)), -1) for memory in resources.memories), resources)


def _other_depths(engine: Engine, program: Program) -> Resources:
    """What its FIFOs take with the depths that the program was given, less what they take with the usual ones."""
    usual = usual_fifos(engine, program.design.lanes) if program.depths else {}
    given = {name: replace(queue, depth=program.depths[name]) for name, queue in usual.items() if name in program.depths}
    return sum((queue.resources + scaled(usual[name].resources, -1) for name, queue in given.items()), Resources())


def program_resources(
    program: Program, board: Board, fixed: Mapping[str, str] | None = None
) -> tuple[Resources, dict[str, Resources], list[Buffer], dict[str, str]]:
    """All engines, memory ports and control; then each engine, the buffers, and where they lie (`fixed` ones as given)."""
    engines = {e.name: engine_resources(e, program.design.lanes) + _other_depths(e, program) for e in program.engines}
    buffers = collect((slot.kernel.network.stem, slot.resources) for engine in program.engines for slot in engine.slots)
    logic = sum((without_buffers(r) for r in engines.values()), CONTROL) + scaled(PORT, len(set(program.bundles.values())))
    if program.design.parallel > 1:
        longest = max(engine.instruction_ints for engine in program.engines)
        logic = logic + scaled(TRACK, len(program.tracks)) + Resources(ff=32 * (program.instruction_ints - longest))
    total, places = place(logic, buffers, board.limits, fixed)
    return total, engines, buffers, places


def estimate(
    program: Program, board: Board, clock_mhz: float, places: Mapping[str, str] | None = None, ports: Mapping[str, str] | None = None
) -> Estimate:
    """Cost of `program` on `board` at a clock; `places` of buffers and memory `ports` of memory interfaces as given, else chosen."""
    words_per_cycle = board.ddr_gb_s * 1e3 * DDR_EFFICIENCY / clock_mhz / program.design.lanes
    steps = [[_Work.of(one) for one in step] for step in program.steps]
    wired = {**_wired(program, board, steps), **(ports or {})}
    by_pointer = {pointer: wired[bundle] for pointer, bundle in program.bundles.items()}
    calls: list[CallCost] = []
    for step in steps:
        calls += _step_costs(step, len(calls), by_pointer, words_per_cycle, program.instruction_ints)
    first = next(index for index, call in enumerate(calls) if call.hidden is None)
    fetched = READ_LATENCY + program.instruction_ints // FETCH_INTS  # beside the first instruction nothing runs
    calls[first] = replace(calls[first], cycles=calls[first].cycles + fetched, start=calls[first].start + fetched)
    total, engines, buffers, kinds = program_resources(program, board, places)
    macs = sum(slot.macs_per_cycle for engine in program.engines for slot in engine.slots)
    return Estimate(tuple(calls), total, clock_mhz, engines, tuple(buffers), kinds, wired, words_per_cycle, macs)


def check_memory(program: Program, board: Board) -> None:
    """Raise `FitError` where activations and weights exceed the board's DDR, or a word offset would not fit 31 bits."""
    words = program.memory.words + program.weight_words
    needed = math.ceil(words * program.design.lanes / (1 << 20))
    if needed > board.ddr_mib or max(program.memory.words, program.weight_words) >= 1 << 31:
        raise FitError(f"the model needs {needed:,} MiB of memory for weights and activations, {board.name} has {board.ddr_mib:,} MiB")


def overrun(resources: Resources, board: Board) -> str | None:
    """The class that exceeds its limit most, or None."""
    used, limits = dict(zip(CLASSES, resources.astuple(), strict=True)), board.limits
    over = [name for name in CLASSES if used[name] > limits[name]]
    return max(over, key=lambda name: used[name] / max(limits[name], 1e-9)) if over else None
