"""What an instruction does in time, whatever the ports of the board: its parts, one after the other, what is busy in each and what passes
each pointer; and what those beside it in a step do.

The kernels of a chain overlap, and so do the processes of a kernel, but one that needs all its operands before it gives a result
(`Call.held`) parts the chain: what is before it, then what comes from it, which begins behind its first result. Where a kernel waits for
many vectors before it gives anything (`Timing.opening`), it begins later by what else passes their port.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attnc.kernels.call import Walk
from attnc.kernels.latency import READ_LATENCY
from attnc.schedule.engine import Instruction
from attnc.schedule.patches import Fetch
from attnc.schedule.streams import Stream
from attnc.schedule.turns import TURN, Beside, Channel, Moved, Passed, by_port, direction, slowed

REQUESTS_IN_FLIGHT = 16
AHEAD = 192
"""Beats that a loader of vectors asks for ahead, about (`load` in memory.hpp)."""
BURST = 64
"""Beats of the longest burst."""
HELD = REQUESTS_IN_FLIGHT * BURST
"""Beats that the adapter of a pointer keeps for a loader that asks for all at once, as those of words do."""
OPERANDS = "operands"
"""Name of the loader that serves several streams."""
NOTHING_LEFT: Mapping[str, int] = {}


@dataclass
class Part:
    """What overlaps: cycles by process or stream, what passes each pointer, by stream, what has to pass before the kernel gives anything,
    and the parts of what brings the next operand. What the kernel that begins the part gives comes `behind` its start."""

    busy: dict[str, int] = field(default_factory=dict)
    moved: list[Moved] = field(default_factory=list)
    opening: list[tuple[str, Passed, int]] = field(default_factory=list)
    early: Sequence[Part] = ()
    asked: list[tuple[str, Passed]] = field(default_factory=list)
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
        runs = [(math.prod(each.counts[:3]), math.ceil(each.run_words / len(stream.pointers) / stream.beat)) for each in walk.stretches]
        bursts, turns = (sum(count * math.ceil(beats / size) for count, beats in runs) for size in (BURST, TURN))
        self.busy[f"port {stream.name}"] = max(moved, bursts * math.ceil(READ_LATENCY / REQUESTS_IN_FLIGHT))
        if stream.kind == "store" and stream.slot is None:
            self.lag = round((moved / walk.vectors - 1) * self.leaving)
            self.given = walk.vectors
        self.holders |= {f"port {stream.name}", OPERANDS} if stream.kind != "store" else set()
        if stream.shared:  # its loader waits for the first word of each run
            self.busy[OPERANDS] = self.busy.get(OPERANDS, 0) + self.busy[f"port {stream.name}"] + READ_LATENCY
        passed, write = Passed(stream.passed(moved), turns), stream.kind == "store"
        ahead = 0 if write else min(passed.cycles, HELD if stream.kind == "words" else AHEAD)
        self.moved += [Moved((pointer, write), stream.name, passed, ahead) for pointer in stream.pointers]
        first = passed.part(math.ceil(passed.cycles * opening / walk.vectors))
        self.opening += [(pointer, first, opening) for pointer in stream.pointers if opening]
        self.trailing |= {pointer: trailing for pointer in stream.pointers if trailing}

    def opens(self, ports: Mapping[str, str]) -> dict[str, Passed]:
        """What passes each port before the kernel gives anything."""
        return by_port((ports[pointer], passed) for pointer, passed, _ in self.opening)

    def later(self, ports: Mapping[str, str], beside: Beside, served: float) -> int:
        """By how many cycles it begins later than if a vector of each of those streams came per cycle, as the kernel takes it; and goes on
        later, where the next ones take longer than what it does with these. Its other streams take turns with those that it waits for."""
        waited = {pointer for pointer, _, _ in self.opening}
        others = [moved for moved in self.moved if not moved.channel[1] and moved.channel[0] not in waited]
        beside = beside.asking((moved.at(ports), moved.ahead) for moved in others)
        opens = {(port, False): one.cycles + beside.meanwhile((port, False), *one) for port, one in self.opens(ports).items()}
        slow = slowed({**opens, **beside.elsewhere(max(opens.values(), default=0), opens)}, served)
        first = max((slow[channel] for channel in opens), default=0)
        waits = max(first - self.closing, 0) if self.closing and self.again else 0
        return max(first - max((vectors for _, _, vectors in self.opening), default=0), 0) + waits

    def ahead(self) -> list[tuple[str, Passed]]:
        """What its loaders have asked for from the start on: that passes in an earlier part, not in this."""
        found = [(moved.channel[0], moved.passed.part(moved.ahead)) for moved in self.moved if moved.ahead]
        self.moved = [one._replace(passed=one.passed.part(one.passed.cycles - one.ahead), ahead=0) for one in self.moved]
        return found

    def with_asked(self, ports: Mapping[str, str], beside: Beside) -> Beside:
        """What others read at its start, and its own later parts."""
        return beside.asking(((ports[pointer], False), passed.cycles) for pointer, passed in self.asked)

    def passing(self, ports: Mapping[str, str]) -> dict[Channel, Passed]:
        """What passes each port, in each direction."""
        return by_port((moved.at(ports), moved.passed) for moved in self.moved)

    def stands(self, reading: int) -> int:
        """By how many cycles its first result comes later where what it takes comes in so many: a pipeline that waits keeps the vectors
        that are in it."""
        return min(self.inside, self.given) * max(reading - self.given, 0) // self.given if self.given else 0

    def left(self, ports: Mapping[str, str], beside: Beside, served: float, cycles: int) -> dict[str, int]:
        """Of what is read in it for later parts, by port what does not pass in so many cycles, which the part takes, and what others have
        asked for in turn with it."""
        passing, asked = self.passing(ports), by_port(((ports[pointer], False), passed) for pointer, passed in self.asked)
        all_ = {channel: passing.get(channel, Passed()).and_(asked.get(channel, Passed())) for channel in {**passing, **asked}}
        total = {channel: one.cycles + beside.meanwhile(channel, cycles, one.turns) for channel, one in all_.items()}
        slow = slowed({**total, **beside.elsewhere(cycles, total)}, served)
        return {port: max(total[port, write] * (slow[port, write] - cycles) // slow[port, write], 0) for port, write in asked}

    def all_busy(
        self, ports: Mapping[str, str], beside: Beside, served: float = math.inf, left: Mapping[str, int] = NOTHING_LEFT
    ) -> dict[str, int]:
        """With the ports of the board that several streams share, those of other engines among them, of which the DDR serves so many at
        full rate; `left` is what comes through a port that was asked for in an earlier part."""
        beside = self.with_asked(ports, beside)
        later = self.later(ports, beside, served)
        found = {
            name: cycles + later + (0 if name in self.holders else self.behind) + (0 if name.startswith("port ") else self.lag)
            for name, cycles in self.busy.items()
        }
        if self.early:
            with_own = beside.asking((moved.at(ports), moved.passed.cycles) for moved in self.moved)
            found["next operand"] = sum(max(part.values()) for part in in_turn(self.early, ports, with_own, served))
        slowest = max(found.values(), default=0)
        return found | self._channels(ports, beside, slowest, served, left)

    def _channels(self, ports: Mapping[str, str], beside: Beside, slowest: int, served: float, left: Mapping[str, int]) -> dict[str, int]:
        """Of those ports, where the part takes so many cycles if it shares none."""
        trailing = {ports[pointer]: cycles for pointer, cycles in self.trailing.items()}
        passing, found, came = self.passing(ports), dict[str, int](), 0
        before = {channel: 0 if channel[1] else left.get(channel[0], 0) for channel in passing}
        total = {
            channel: passed.cycles + before[channel] + beside.meanwhile(channel, slowest, passed.turns + math.ceil(before[channel] / TURN))
            for channel, passed in passing.items()
        }
        # What is written follows what is read: they are at the DDR at the same time for what is left of either.
        reading = {channel: cycles for channel, cycles in total.items() if not channel[1]}
        beyond = max(max(reading.values(), default=0) - self.behind, 0)
        elsewhere = beside.elsewhere(slowest, total)
        slow = slowed({**{channel: min(cycles, beyond) for channel, cycles in total.items()}, **reading, **elsewhere}, served)
        late = {channel: max(cycles - self.behind, 0) for channel, cycles in reading.items()}
        slow |= {channel: cycles for channel, cycles in slowed({**total, **late, **elsewhere}, served).items() if channel[1]}
        for channel in sorted(passing, key=lambda channel: channel[1]):  # first what is read
            tail = self.behind + self.stands(came) if channel[1] else max(self.tail, trailing.get(channel[0], 0)) + self.lag
            mine = [moved for moved in self.moved if moved.at(ports) == channel]
            others = total[channel] > passing[channel].cycles + before[channel]
            if slow[channel] > passing[channel].cycles or len(mine) > 1 or (tail and not channel[1]):
                names = [*(moved.stream for moved in mine), *(["others"] if others else [])]
                found[f"{direction(channel)} ({'+'.join(names)})"] = slow[channel] + tail
            # Weights do not come as vectors leave.
            if not channel[1] and any(moved.channel[0] not in self.trailing for moved in mine):
                came = max(came, slow[channel])
        return found


def in_turn(parts: Sequence[Part], ports: Mapping[str, str], beside: Beside, served: float) -> list[dict[str, int]]:
    """What is busy in each of some parts that follow each other, and in which anything is."""
    found, left = list[dict[str, int]](), dict[str, int]()
    for part in parts:
        here = part.all_busy(ports, beside, served, left)
        left = part.left(ports, beside, served, max(here.values(), default=0))
        found += [here] if here else []
        beside = beside.later()
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
        opens = {pointer: passed.cycles for pointer, passed, _ in first.opening}
        found = []
        for (pointer, write), _, passed, _ in first.moved:
            ahead = passed.cycles if len(self.parts) > 1 else min(passed.cycles, 2 * opens.get(pointer, 0) + AHEAD)
            found.append(((ports[pointer], write), ahead))
        return found + [((ports[pointer], False), passed.cycles) for pointer, passed in first.asked]

    def span(self) -> int:
        """Cycles if nothing shared a port."""
        return sum(max(part.busy.values(), default=0) for part in self.parts)


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
