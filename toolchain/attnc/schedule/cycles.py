"""Estimates of cycles, from what the networks of the kernels say and what passes the ports of the board.

The kernels of a chain overlap, and so do the processes of a kernel, but one that needs all its operands before it gives a result
(`Call.held`) parts the chain: what is before it, then what comes from it. Each part takes its slowest process or memory port. A stream
moves a word per cycle within a burst; short bursts are bound by the requests in flight, streams that read through the same port of the
board add up, and so do those that write, and all together are bound by the rate of the DDR. Instructions run one after the other, with
the time to fill and drain each; what brings the operand of a later one overlaps with the main kernel. Where engines run at the same time,
a step takes its slowest instruction, to which the others bring what they read or write through its ports in that time, or what all of them
together move through a port of the board or to and from the DDR. Where a kernel waits for many vectors before it gives anything
(`Call.opening`), it begins later by what other such operands take of their port.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from attnc.kernels.call import Walk
from attnc.kernels.latency import READ_LATENCY, WRITE_RESPONSE
from attnc.schedule.devices import Board
from attnc.schedule.engine import Instruction, Stream
from attnc.schedule.program import FETCH_INTS, Program
from attnc.schedule.wiring import Part, Step, wire

REQUESTS_IN_FLIGHT = 16
AHEAD = 192
"""Beats that a loader of vectors asks for ahead, about (`load` in memory.hpp)."""
CALL_OVERHEAD = 10
"""Entering and leaving three dataflow regions, one in the other, a cycle each, and asking for the first word."""
OPERANDS = "operands"
"""Name of the loader that serves several streams."""


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
Key = TypeVar("Key")


@dataclass(frozen=True)
class Beside:
    """What the other engines of a step move through each port and direction: the share of all cycles, and cycles of what they ask for at
    its start, all at once."""

    share: Mapping[Channel, float] = field(default_factory=dict)
    eager: Mapping[Channel, int] = field(default_factory=dict)

    def meanwhile(self, channel: Channel, cycles: int, own: int) -> int:
        """Cycles of a port that they take in so many cycles, in which something of one's own passes in `own`. What is asked for at the
        start takes turns with that, so it takes no more than as many."""
        return max(round(cycles * self.share.get(channel, 0)), min(self.eager.get(channel, 0), own))

    def later(self) -> Beside:
        """Behind the first part."""
        return Beside(self.share)


ALONE = Beside()


@dataclass
class _Part:
    """What overlaps: cycles by process or stream, what passes each pointer, by stream, what has to pass before the kernel gives anything,
    and the parts of what brings the next operand. What the kernel that begins the part gives comes `behind` its start."""

    busy: dict[str, int] = field(default_factory=dict)
    moved: list[tuple[Channel, str, int]] = field(default_factory=list)
    opening: list[tuple[str, int]] = field(default_factory=list)
    early: Sequence[_Part] = ()
    behind: int = 0
    holders: set[str] = field(default_factory=set)
    """Its processes, and what only brings operands: these wait for no result."""

    def stream(self, stream: Stream, walk: Walk, moved: int, opening: int) -> None:
        """A stream that moves `walk` in `moved` cycles; the kernel waits for `opening` of its vectors."""
        count = len(stream.pointers)
        bursts = math.prod(walk.counts[:3]) * math.ceil(walk.counts[3] * walk.bytes / count / stream.beat / 64)
        self.busy[f"port {stream.name}"] = max(moved, bursts * math.ceil(READ_LATENCY / REQUESTS_IN_FLIGHT))
        self.holders |= {f"port {stream.name}", OPERANDS} if stream.kind != "store" else set()
        if stream.shared:  # its loader waits for the first word of each run
            self.busy[OPERANDS] = self.busy.get(OPERANDS, 0) + self.busy[f"port {stream.name}"] + READ_LATENCY
        self.moved += [((pointer, stream.kind == "store"), stream.name, moved) for pointer in stream.pointers]
        self.opening += [(pointer, math.ceil(moved * opening / walk.vectors)) for pointer in stream.pointers if opening]

    def opens(self, ports: Mapping[str, str]) -> dict[str, int]:
        """Cycles in which something passes each port before the kernel gives anything."""
        found: dict[str, int] = {}
        for pointer, cycles in self.opening:
            found[ports[pointer]] = found.get(ports[pointer], 0) + cycles
        return found

    def later(self, ports: Mapping[str, str], beside: Beside) -> int:
        """By how many cycles it begins later than with a port for each of those streams."""
        opens = (cycles + beside.meanwhile((port, False), cycles, cycles) for port, cycles in self.opens(ports).items())
        return max(opens, default=0) - max((cycles for _, cycles in self.opening), default=0)

    def ahead(self) -> list[tuple[Channel, str, int]]:
        """What its loaders have asked for from the start on: that passes in an earlier part, not in this."""
        found = [(channel, name, min(moved, AHEAD)) for channel, name, moved in self.moved if not channel[1]]
        early = {(channel, name): moved for channel, name, moved in found}
        self.moved = [(channel, name, moved - early.get((channel, name), 0)) for channel, name, moved in self.moved]
        return found

    def passing(self, ports: Mapping[str, str]) -> dict[Channel, list[tuple[str, int]]]:
        """Cycles in which something passes each port, in each direction, for each pointer of a stream."""
        found: dict[Channel, list[tuple[str, int]]] = {}
        for (pointer, write), name, cycles in self.moved:
            found.setdefault((ports[pointer], write), []).append((name, cycles))
        return found

    def all_busy(self, ports: Mapping[str, str], beside: Beside) -> dict[str, int]:
        """With the ports of the board that several streams share, those of other engines among them."""
        later = self.later(ports, beside)
        found = {name: cycles + later + (0 if name in self.holders else self.behind) for name, cycles in self.busy.items()}
        if self.early:
            found["next operand"] = sum(max(part.all_busy(ports, beside).values(), default=0) for part in self.early)
        slowest = max(found.values(), default=0)
        for channel, streams in self.passing(ports).items():
            own = sum(cycles for _, cycles in streams)
            others = beside.meanwhile(channel, slowest, own)
            if others or len(streams) > 1:
                names = "+".join([*(name for name, _ in streams), *(["others"] if others else [])])
                found[f"{_direction(channel)} ({names})"] = own + others + (self.behind if channel[1] else 0)
        return found


@dataclass(frozen=True)
class Work:
    """An instruction, its parts, and what passes each pointer in all."""

    instruction: Instruction
    parts: Sequence[_Part]
    passing: Mapping[Channel, int]

    @staticmethod
    def of(instruction: Instruction) -> Work:
        """Whatever the ports."""
        passing: dict[Channel, int] = {}
        for stream in instruction.engine.streams:
            passing.update(dict.fromkeys(((pointer, stream.kind == "store") for pointer in stream.pointers), instruction.moved(stream)))
        return Work(instruction, _parts(instruction), passing)

    def eager(self, ports: Mapping[str, str]) -> dict[Channel, int]:
        """Cycles of what it asks for at its start, all at once: both halves of the buffers of a kernel that opens with many vectors; the
        operand of one that takes all of it before it gives anything."""
        first = self.parts[0]
        if first.opening:
            return {(port, False): 2 * cycles for port, cycles in first.opens(ports).items()}
        passing = first.passing(ports) if len(self.parts) > 1 else {}
        return {channel: sum(cycles for _, cycles in streams) for channel, streams in passing.items()}

    def span(self) -> int:
        """Cycles if nothing shared a port."""
        return sum(max(part.busy.values(), default=0) for part in self.parts)


def _direction(channel: Channel) -> str:
    return f"{channel[0]} writes" if channel[1] else channel[0]


def _through(step: Sequence[Work], ports: Mapping[str, str]) -> dict[Channel, int]:
    """Cycles in which something passes each port, in each direction, for all instructions of a step."""
    found: dict[Channel, int] = {}
    for work in step:
        for (pointer, write), moved in work.passing.items():
            found[ports[pointer], write] = found.get((ports[pointer], write), 0) + moved
    return found


def _beside(step: Sequence[Work], ports: Mapping[str, str], instruction_ints: int) -> list[Beside]:
    """For each instruction of a step what the others do, and the fetching of the next one."""
    span = max(max(work.span() for work in step), 1)
    found = []
    for work in step:
        others = [other for other in step if other is not work]
        share = {channel: min(moved / span, 1.0) for channel, moved in _through(others, ports).items() if moved}
        eager: dict[Channel, int] = {(ports["program"], False): instruction_ints // FETCH_INTS}
        for channel, cycles in (item for other in others for item in other.eager(ports).items()):
            eager[channel] = eager.get(channel, 0) + cycles
        found.append(Beside(share, eager))
    return found


def assign_ports(program: Program, board: Board) -> dict[str, str]:
    """A memory port of the board for each memory interface."""
    return wired(program, board, [[Work.of(one) for one in step] for step in program.steps])


def wired(program: Program, board: Board, steps: Sequence[Sequence[Work]]) -> dict[str, str]:
    """The same with the work of the program's steps."""
    bundles = tuple(dict.fromkeys(program.bundles.values()))

    def part(one: _Part, beside: Beside) -> Part:
        opens = one.opens(program.bundles)
        slowest = max(one.all_busy(program.bundles, ALONE).values(), default=0) - max(opens.values(), default=0)
        moved = {channel: sum(cycles for _, cycles in streams) for channel, streams in one.passing(program.bundles).items()}
        own, late = max(moved.values(), default=0), max(opens.values(), default=0)
        others = {channel: beside.meanwhile(channel, slowest, own) for channel in {**beside.share, **beside.eager} if moved}
        begin = {bundle: beside.meanwhile((bundle, False), late, late) for bundle, write in others if opens and not write}
        return slowest, _together(moved, others), _together(opens, begin)

    def row(step: Sequence[Work]) -> Step:
        parts = []
        for work, beside in zip(step, _beside(step, program.bundles, program.instruction_ints), strict=True):
            parts.append(tuple(part(one, beside.later() if number else beside) for number, one in enumerate(work.parts)))
        return tuple(parts), tuple(_through(step, program.bundles).items())

    return wire([row(step) for step in steps], bundles, board.ports)


def _together(own: Mapping[Key, int], others: Mapping[Key, int]) -> tuple[tuple[Key, int], ...]:
    return tuple((key, own.get(key, 0) + others.get(key, 0)) for key in {**own, **others})


def _parts(instruction: Instruction) -> list[_Part]:
    """What brings the operand of another instruction overlaps with the main kernel, which waits for none."""
    slot, slots = instruction.engine.operand_slot or 0, range(len(instruction.engine.slots))
    parts = _slots_parts(instruction, slots[slot:] if instruction.ready else slots)
    if instruction.brings is not None:
        before = _slots_parts(instruction.brings, slots[:slot])
        main = instruction.brings.calls[slot]
        before[-1].busy.update(main.bringing().cycles if main is not None else {})
        _move(instruction.brings, [s for s in instruction.engine.streams if s.slot == slot and s.port is None], before[-1])
        if not instruction.own:
            return before
        parts[0].early = before
    return parts


def _slots_parts(instruction: Instruction, slots: range) -> list[_Part]:
    """Of some of its slots, working for its own block."""
    engine, parts = instruction.engine, [_Part()]
    _move(instruction, [s for s in engine.streams if s.slot is None and s.kind == "load" and not instruction.ready], parts[0])
    for number in slots:
        call = instruction.timed(number)
        if call is None:
            continue
        brought = instruction.ready and number == engine.operand_slot
        mine = [s for s in engine.streams if s.slot == number and not (brought and s.port is None)]
        early = [s for s in mine if s.kind != "words" or not call.held]
        _move(instruction, early, parts[-1])
        parts[-1].busy.update(call.cycles)
        if call.held:
            parts.append(_Part(dict(call.held), behind=call.begins, holders=set(call.held)))
            _move(instruction, [s for s in mine if s not in early], parts[-1])
    _move(instruction, [s for s in engine.streams if s.slot is None and s.kind == "store" and slots.stop == len(engine.slots)], parts[-1])
    parts = [part for part in parts if part.busy] or [_Part()]
    for part in parts[1:]:
        parts[0].moved += part.ahead()
    return parts


def _move(instruction: Instruction, streams: Sequence[Stream], part: _Part) -> None:
    """Streams of an instruction pass in a part of it."""
    for stream in streams:
        walk = instruction.walk(stream)
        if walk.vectors:
            part.stream(stream, walk, instruction.moved(stream), _opening(instruction, stream))


def _opening(instruction: Instruction, stream: Stream) -> int:
    """Vectors of a stream for which its kernel waits before it gives anything."""
    number = stream.slot or 0
    call, slot = instruction.calls[number], instruction.engine.slots[number]
    port = slot.fed if stream.slot is None else stream.port
    return 0 if call is None or port is None or stream.kind == "store" else call.opening.get(call.kernel.ports[port].name, 0)


def call_cost(instruction: Instruction, ports: Mapping[str, str], words_per_cycle: float, instruction_ints: int) -> CallCost:
    """Cycles of an instruction that runs alone."""
    work = Work.of(instruction)
    return _work_cost(work, _beside([work], ports, instruction_ints)[0], ports, words_per_cycle, instruction_ints)


def _work_cost(work: Work, beside: Beside, ports: Mapping[str, str], words_per_cycle: float, instruction_ints: int) -> CallCost:
    """Of each of its parts the slowest process, stream or port, or the DDR in all, plus start-up."""
    instruction, engine = work.instruction, work.instruction.engine
    besides = [beside, *[beside.later()] * (len(work.parts) - 1)]
    found = [busy for busy in (part.all_busy(ports, one) for part, one in zip(work.parts, besides, strict=True)) if busy]
    busy: dict[str, int] = {}
    for name, cycles in (item for part in found for item in part.items()):
        busy[name] = busy.get(name, 0) + cycles
    words = sum(walk.vectors * walk.bytes for walk in map(instruction.walk, engine.streams))
    busy["ddr"] = math.ceil(words / words_per_cycle)
    slowest = [max(part, key=lambda name: part[name]) for part in found]
    longest = max(zip(found, slowest, strict=True), key=lambda entry: entry[0][entry[1]])[1]
    total = sum(part[name] for part, name in zip(found, slowest, strict=True))
    bound, total = ("ddr", busy["ddr"]) if busy["ddr"] > total else (longest, total)
    depths = [call.depth for _, call in instruction.active]
    processes = {name for _, call in instruction.active for name in (*call.cycles, *call.held)}
    own = max(depths, default=0) if processes & {*slowest} else 0  # among the cycles of the slowest
    start = READ_LATENCY + WRITE_RESPONSE + CALL_OVERHEAD + sum(depths) - own
    total = max(total, READ_LATENCY + instruction_ints // FETCH_INTS - start)  # the next instruction comes meanwhile
    macs = sum(call.macs for _, call in instruction.active)
    return CallCost(instruction.chain.main.node.name, engine.name, total + start, bound, start, busy, words, macs)


def _step_costs(
    step: Sequence[Work], first: int, ports: Mapping[str, str], words_per_cycle: float, instruction_ints: int
) -> list[CallCost]:
    """Costs of the instructions of a step, of which the first has index `first` in the program."""
    shares = _beside(step, ports, instruction_ints)
    alone = [_work_cost(work, share, ports, words_per_cycle, instruction_ints) for work, share in zip(step, shares, strict=True)]
    shared = {f"{_direction(channel)} (all streams)": moved for channel, moved in _through(step, ports).items()}
    shared["ddr"] = math.ceil(sum(call.words for call in alone) / words_per_cycle)
    slowest = max(range(len(alone)), key=lambda index: alone[index].cycles)
    longest, bound = alone[slowest], max(shared, key=lambda name: shared[name])
    if shared[bound] + longest.start > longest.cycles:
        busy = {**longest.busy, bound: shared[bound]}
        longest = replace(longest, cycles=shared[bound] + longest.start, bound=bound, busy=busy)
    return [longest if index == slowest else replace(call, hidden=first + slowest) for index, call in enumerate(alone)]


def program_costs(
    steps: Sequence[Sequence[Work]], ports: Mapping[str, str], words_per_cycle: float, instruction_ints: int
) -> list[CallCost]:
    """Costs of all instructions of a program, with `ports` by pointer."""
    calls: list[CallCost] = []
    for step in steps:
        calls += _step_costs(step, len(calls), ports, words_per_cycle, instruction_ints)
    first = next(index for index, call in enumerate(calls) if call.hidden is None)
    fetched = READ_LATENCY + instruction_ints // FETCH_INTS  # beside the first instruction nothing runs
    calls[first] = replace(calls[first], cycles=calls[first].cycles + fetched, start=calls[first].start + fetched)
    return calls
