"""What an instruction does in time, whatever the ports of the board: its parts, one after the other, what is busy in each and what passes
each pointer; and what those beside it in a step do.

The kernels of a chain overlap, and so do the processes of a kernel, but one that needs all its operands before it gives a result
(`Call.held`) parts the chain: what is before it, then what comes from it, which begins behind its first result. Where a kernel waits for
many vectors before it gives anything (`Timing.opening`), it begins later by what else passes their port.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from attnc.kernels.call import Walk
from attnc.kernels.latency import READ_LATENCY
from attnc.schedule.engine import Instruction
from attnc.schedule.patches import Fetch
from attnc.schedule.streams import Stream

REQUESTS_IN_FLIGHT = 16
AHEAD = 192
"""Beats that a loader of vectors asks for ahead, about (`load` in memory.hpp)."""
TURN = 16
"""Beats that a port of the board serves for one before it serves another, as the simulation has it."""
OPERANDS = "operands"
"""Name of the loader that serves several streams."""
NOTHING_LEFT: Mapping[str, int] = {}
Channel = tuple[str, bool]
"""A pointer, bundle or port of the board, and whether it is written."""


@dataclass(frozen=True)
class Beside:
    """What the other engines of a step move through each port and direction: the share of all cycles, cycles of what each of their
    pointers asks for at its start, all at once, and how many pointers they have there."""

    share: Mapping[Channel, float] = field(default_factory=dict)
    eager: Mapping[Channel, Sequence[int]] = field(default_factory=dict)
    pointers: Mapping[Channel, int] = field(default_factory=dict)

    def meanwhile(self, channel: Channel, cycles: int, own: int) -> int:
        """Cycles of a port that they take in so many cycles, before something of one's own has passed in `own`: all take turns. Of what a
        pointer asks for at the start, as much as one's own."""
        turns = math.ceil(own / TURN) * TURN
        asked = sum(min(eager, turns) for eager in self.eager.get(channel, ()))
        wanted = max(round(cycles * self.share.get(channel, 0)), asked)
        return min(wanted, self.pointers.get(channel, 0) * turns)

    def later(self) -> Beside:
        """Behind the first part."""
        return Beside(self.share, {}, self.pointers)

    def asking(self, more: Iterable[tuple[Channel, int]]) -> Beside:
        """With what more pointers ask for at its start."""
        eager, pointers = dict(self.eager), dict(self.pointers)
        for channel, cycles in more:
            eager[channel] = [*eager.get(channel, ()), cycles]
            pointers[channel] = pointers.get(channel, 0) + 1
        return Beside(self.share, eager, pointers)


ALONE = Beside()


@dataclass
class Part:
    """What overlaps: cycles by process or stream, what passes each pointer, by stream, what has to pass before the kernel gives anything,
    and the parts of what brings the next operand. What the kernel that begins the part gives comes `behind` its start."""

    busy: dict[str, int] = field(default_factory=dict)
    moved: list[tuple[Channel, str, int]] = field(default_factory=list)
    opening: list[tuple[str, int, int]] = field(default_factory=list)
    early: Sequence[Part] = ()
    asked: list[tuple[str, int]] = field(default_factory=list)
    """What is read in it for later parts, as far as ports have time."""
    tail: int = 0
    """Cycles from the last operand to the end, beyond the depth of the kernel."""
    trailing: dict[str, int] = field(default_factory=dict)
    """The same from the last vector of other streams, by pointer."""
    closing: int = 0
    """Cycles of the kernel's first process for what it takes last, and for each of the earlier ones alike."""
    again: int = 0
    """How often what has to pass before the kernel gives anything passes again, for what follows."""
    leaving: int = 0
    """Vectors that leave behind the last operation of its kernel."""
    lag: int = 0
    """Cycles by which these leave later than one by one, since each is several beats."""
    behind: int = 0
    inside: int = 0
    """Vectors in the pipelines that give the results of its kernels, and that stand still where none comes."""
    given: int = 0
    """Vectors that it stores."""
    holders: set[str] = field(default_factory=set)
    """Its processes, and what only brings operands: these wait for no result."""

    def stream(self, stream: Stream, walk: Walk, moved: int, opening: int, trailing: int) -> None:
        """A stream that moves `walk` in `moved` cycles; the kernel waits for `opening` of its vectors, and ends `trailing` cycles behind
        the last one."""
        count = len(stream.pointers)
        bursts = math.prod(walk.counts[:3]) * math.ceil(walk.run_words / count / stream.beat / 64)
        self.busy[f"port {stream.name}"] = max(moved, bursts * math.ceil(READ_LATENCY / REQUESTS_IN_FLIGHT))
        if stream.kind == "store" and stream.slot is None:
            self.lag = round((moved / walk.vectors - 1) * self.leaving)
            self.given = walk.vectors
        self.holders |= {f"port {stream.name}", OPERANDS} if stream.kind != "store" else set()
        if stream.shared:  # its loader waits for the first word of each run
            self.busy[OPERANDS] = self.busy.get(OPERANDS, 0) + self.busy[f"port {stream.name}"] + READ_LATENCY
        passed = stream.passed(moved)
        self.moved += [((pointer, stream.kind == "store"), stream.name, passed) for pointer in stream.pointers]
        self.opening += [(pointer, math.ceil(passed * opening / walk.vectors), opening) for pointer in stream.pointers if opening]
        self.trailing |= {pointer: trailing for pointer in stream.pointers if trailing}

    def opens(self, ports: Mapping[str, str]) -> dict[str, int]:
        """Cycles in which something passes each port before the kernel gives anything."""
        found: dict[str, int] = {}
        for pointer, cycles, _ in self.opening:
            found[ports[pointer]] = found.get(ports[pointer], 0) + cycles
        return found

    def later(self, ports: Mapping[str, str], beside: Beside) -> int:
        """By how many cycles it begins later than if a vector of each of those streams came per cycle, as the kernel takes it; and goes on
        later, where the next ones take longer than what it does with these. Its other streams take turns with those that it waits for."""
        waited = {pointer for pointer, _, _ in self.opening}
        others = [(pointer, cycles) for (pointer, write), _, cycles in self.moved if not write and pointer not in waited]
        beside = beside.asking(((ports[pointer], False), min(cycles, AHEAD)) for pointer, cycles in others)
        opens = (cycles + beside.meanwhile((port, False), cycles, cycles) for port, cycles in self.opens(ports).items())
        first = max(opens, default=0)
        waits = max(first - self.closing, 0) if self.closing and self.again else 0
        return max(first - max((vectors for _, _, vectors in self.opening), default=0), 0) + waits

    def ahead(self) -> list[tuple[str, int]]:
        """What its loaders have asked for from the start on: that passes in an earlier part, not in this."""
        early = [0 if write else min(moved, AHEAD) for (_, write), _, moved in self.moved]
        found = [(pointer, cycles) for ((pointer, _), _, _), cycles in zip(self.moved, early, strict=True) if cycles]
        self.moved = [(channel, name, moved - cycles) for (channel, name, moved), cycles in zip(self.moved, early, strict=True)]
        return found

    def with_asked(self, ports: Mapping[str, str], beside: Beside) -> Beside:
        """What others read at its start, and its own later parts."""
        return beside.asking(((ports[pointer], False), cycles) for pointer, cycles in self.asked)

    def passing(self, ports: Mapping[str, str]) -> dict[Channel, list[tuple[str, int]]]:
        """Cycles in which something passes each port, in each direction, for each pointer of a stream."""
        found: dict[Channel, list[tuple[str, int]]] = {}
        for (pointer, write), name, cycles in self.moved:
            found.setdefault((ports[pointer], write), []).append((name, cycles))
        return found

    def stands(self, reading: int) -> int:
        """By how many cycles its first result comes later where what it takes comes in so many: a pipeline that waits keeps the vectors
        that are in it."""
        return min(self.inside, self.given) * max(reading - self.given, 0) // self.given if self.given else 0

    def left(self, ports: Mapping[str, str], cycles: int) -> dict[str, int]:
        """Of what is read in it for later parts, by port what does not pass in so many cycles, which the part takes."""
        own, asked = self.passing(ports), Counter[str]()
        for pointer, moved in self.asked:
            asked[ports[pointer]] += moved
        passed = {port: sum(moved for _, moved in own.get((port, False), ())) for port in asked}
        return {port: max(moved + passed[port] - cycles, 0) for port, moved in asked.items()}

    def all_busy(self, ports: Mapping[str, str], beside: Beside, left: Mapping[str, int] = NOTHING_LEFT) -> dict[str, int]:
        """With the ports of the board that several streams share, those of other engines among them; `left` is what comes through a port
        that was asked for in an earlier part."""
        beside, later = self.with_asked(ports, beside), self.later(ports, beside)
        found = {
            name: cycles + later + (0 if name in self.holders else self.behind) + (0 if name.startswith("port ") else self.lag)
            for name, cycles in self.busy.items()
        }
        if self.early:
            found["next operand"] = sum(max(part.all_busy(ports, beside).values(), default=0) for part in self.early)
        slowest = max(found.values(), default=0)
        trailing = {ports[pointer]: cycles for pointer, cycles in self.trailing.items()}
        reading = 0
        for channel, streams in sorted(self.passing(ports).items(), key=lambda item: item[0][1]):  # first what is read
            before = 0 if channel[1] else left.get(channel[0], 0)
            own = sum(cycles for _, cycles in streams) + before
            others = beside.meanwhile(channel, slowest, own)
            tail = self.behind + self.stands(reading) if channel[1] else max(self.tail, trailing.get(channel[0], 0))
            if others or before or len(streams) > 1 or (tail and not channel[1]):
                names = "+".join([*(name for name, _ in streams), *(["others"] if others else [])])
                found[f"{direction(channel)} ({names})"] = own + others + tail
            reading = reading if channel[1] else max(reading, own + others)
        return found


@dataclass(frozen=True, eq=False)
class Work:
    """An instruction, its parts, and what passes each pointer in all; one for all that are alike."""

    instruction: Instruction
    parts: Sequence[Part]
    passing: Mapping[Channel, int]

    @staticmethod
    def of(instruction: Instruction) -> Work:
        """Whatever the ports."""
        passing: dict[Channel, int] = {}
        for stream in instruction.engine.streams:
            passing.update(
                dict.fromkeys(((pointer, stream.kind == "store") for pointer in stream.pointers), stream.passed(instruction.moved(stream)))
            )
        return Work(instruction, _parts(instruction), passing)

    def eager(self, ports: Mapping[str, str]) -> list[tuple[Channel, int]]:
        """Cycles of what each pointer moves as soon as it starts: all of the operand of a kernel that takes it before it gives anything;
        else what a loader asks for ahead, behind both halves of the buffers of a kernel that opens with many vectors."""
        first = self.parts[0]
        opens = {pointer: cycles for pointer, cycles, _ in first.opening}
        moved = [(pointer, write, cycles) for (pointer, write), _, cycles in first.moved]
        found = [
            ((ports[pointer], write), cycles if len(self.parts) > 1 else min(cycles, 2 * opens.get(pointer, 0) + AHEAD))
            for pointer, write, cycles in moved
        ]
        return found + [((ports[pointer], False), cycles) for pointer, cycles in first.asked]

    def span(self) -> int:
        """Cycles if nothing shared a port."""
        return sum(max(part.busy.values(), default=0) for part in self.parts)


def direction(channel: Channel) -> str:
    """A port in words."""
    return f"{channel[0]} writes" if channel[1] else channel[0]


def through(step: Sequence[Work], ports: Mapping[str, str]) -> dict[Channel, int]:
    """Cycles in which something passes each port, in each direction, for all instructions of a step."""
    found: dict[Channel, int] = {}
    for work in step:
        for (pointer, write), moved in work.passing.items():
            found[ports[pointer], write] = found.get((ports[pointer], write), 0) + moved
    return found


def side_by_side(step: Sequence[Work], ports: Mapping[str, str], fetch: Fetch) -> list[Beside]:
    """For each instruction of a step what the others do, and the fetching of the next one."""
    span = max(max(work.span() for work in step), 1)
    found = []
    for work in step:
        others = [other for other in step if other is not work]
        share = {channel: min(moved / span, 1.0) for channel, moved in through(others, ports).items() if moved}
        eager: dict[Channel, list[int]] = {(ports["program"], False): [fetch.passing]}
        for channel, cycles in (item for other in others for item in other.eager(ports)):
            eager.setdefault(channel, []).append(cycles)
        pointers = Counter((ports[name], write) for other in others for (name, write), moved in other.passing.items() if moved)
        pointers[ports["program"], False] += 1
        found.append(Beside(share, eager, pointers))
    return found


def _parts(instruction: Instruction) -> list[Part]:
    """What brings the operand of another instruction overlaps with the main kernel, which waits for none."""
    slot, slots = instruction.engine.operand_slot or 0, range(len(instruction.engine.slots))
    parts = _slots_parts(instruction, slots[slot:] if instruction.ready else slots)
    if instruction.brings is not None:
        before = _slots_parts(instruction.brings, slots[:slot])
        main = instruction.brings.calls[slot]
        before[-1].busy.update(main.bringing.cycles if main is not None else {})
        _move(instruction.brings, [s for s in instruction.engine.streams if s.slot == slot and s.port is None], before[-1])
        if not instruction.own:
            return before
        parts[0].early = before
    return parts


def _slots_parts(instruction: Instruction, slots: range) -> list[Part]:
    """Of some of its slots, working for its own block."""
    engine, parts = instruction.engine, [Part()]
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
        if not call.held:
            parts[-1].behind += call.timing.begins
            parts[-1].tail += call.timing.tail
            parts[-1].closing += call.timing.closing
            parts[-1].again += call.timing.again
            parts[-1].holders |= set(call.cycles) if call.timing.begins else set()
            parts[-1].leaving += call.timing.leaving
            parts[-1].inside += call.giving
        else:
            parts.append(Part(dict(call.held), behind=call.timing.begins, inside=call.giving, holders=set(call.held)))
            parts[-1].leaving = call.timing.leaving
            _move(instruction, [s for s in mine if s not in early], parts[-1])
    _move(instruction, [s for s in engine.streams if s.slot is None and s.kind == "store" and slots.stop == len(engine.slots)], parts[-1])
    parts = [part for part in parts if part.busy] or [Part()]
    for part in parts[1:]:
        parts[0].asked += part.ahead()
    return parts


def _move(instruction: Instruction, streams: Sequence[Stream], part: Part) -> None:
    """Streams of an instruction pass in a part of it."""
    for stream in streams:
        walk = instruction.walk(stream)
        if walk.vectors:
            opening, trailing = _waits(instruction, stream)
            part.stream(stream, walk, instruction.moved(stream), opening, trailing)


def _waits(instruction: Instruction, stream: Stream) -> tuple[int, int]:
    """Vectors of a stream for which its kernel waits before it gives anything; cycles from its last one to the end."""
    number = stream.slot or 0
    call, slot = instruction.calls[number], instruction.engine.slots[number]
    port = slot.fed if stream.slot is None else stream.port
    if call is None or port is None or stream.kind == "store":
        return 0, 0
    name = call.kernel.ports[port].name
    return call.timing.opening.get(name, 0), call.timing.trailing.get(name, 0)
