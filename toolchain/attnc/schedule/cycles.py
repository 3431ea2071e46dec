"""Estimates of cycles, from what the networks of the kernels say and what passes the ports of the board.

Each part of an instruction (work.py) takes its slowest process or memory port. A stream moves a word per cycle within a burst; short bursts
are bound by the requests in flight, streams that read through the same port of the board add up, and so do those that write, and all
together are bound by the rate of the DDR. Instructions run one after the other, with the time to fill and drain each; what brings the
operand of a later one overlaps with the main kernel. Where engines run at the same time, a step takes its slowest instruction, to which the
others bring what they read or write through its ports in that time, or what all of them together move through a port of the board or to and
from the DDR.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

from attnc.kernels.latency import READ_LATENCY, WRITE_RESPONSE
from attnc.kernels.memory import FORWARD, TEE
from attnc.schedule.devices import Board
from attnc.schedule.engine import Instruction
from attnc.schedule.patches import Fetch
from attnc.schedule.program import Program
from attnc.schedule.turns import ALONE, Beside, Passed, direction, most
from attnc.schedule.wiring import Part as Row
from attnc.schedule.wiring import Step, changes, nearly, wire
from attnc.schedule.work import Part, Work, in_turn, side_by_side, through

CALL_OVERHEAD = 10
"""Entering and leaving three dataflow regions, one in the other, a cycle each, and asking for the first word."""
WORTHWHILE = 0.005
"""Share of the cycles: estimates are not known to be better than that."""
Key = TypeVar("Key")


@dataclass(frozen=True)
class CallCost:
    """Estimated cycles of one instruction. `busy` are those of each process, stream ("port ...") and shared port of the board, and of the
    DDR; `bound` is what takes longest, `start` comes on top. `words` are those that it moves. `node` is the chain's main node. The slowest
    of those that run at the same time accounts for the cycles of all; the others are `hidden` beside it: its index. It counts so many
    `times`, where its node stands for others."""

    node: str
    engine: str
    cycles: int
    bound: str
    start: int
    busy: Mapping[str, int]
    words: int
    macs: int
    hidden: int | None = None
    times: int = 1

    @property
    def counted(self) -> int:
        """Cycles of the sample that it accounts for."""
        return self.times * self.cycles if self.hidden is None else 0


def works(program: Program) -> list[tuple[Work, ...]]:
    """The work of every step that runs. Layers are alike: instructions that take the same cycles share it."""
    known: dict[Hashable, Work] = {}

    def work(one: Instruction) -> Work:
        if one.likeness not in known:
            known[one.likeness] = Work.of(one)
        return known[one.likeness]

    return [tuple(work(one) for one in step) for _, step in program.runs]


def assign_ports(program: Program, board: Board) -> dict[str, str]:
    """A memory port of the board for each memory interface."""
    return wired(program, board, works(program))


def wired(program: Program, board: Board, steps: Sequence[tuple[Work, ...]]) -> dict[str, str]:
    """The same with the work of the program's steps."""
    return wire(_rows(program, steps), tuple(dict.fromkeys(program.bundles.values())), board.ports)


def _often(program: Program, steps: Sequence[tuple[Work, ...]]) -> Counter[tuple[Work, ...]]:
    """How often what the steps do is done, by the `works` of a program: each counts as often as its first instruction."""
    found: Counter[tuple[Work, ...]] = Counter()
    for (_, step), alike in zip(program.runs, steps, strict=True):
        found[alike] += step[0].times
    return found


def _rows(program: Program, steps: Sequence[tuple[Work, ...]]) -> Counter[Step]:
    """What the steps move, and how often."""

    def part(one: Part, beside: Beside) -> Row:
        opens, moved, beside = one.opens(program.bundles), one.passing(program.bundles), one.with_asked(program.bundles, beside)
        late, own = most(opens), most(moved)
        slowest = max(one.all_busy(program.bundles, ALONE).values(), default=0) - late.cycles
        others = {channel: beside.meanwhile(channel, slowest, own.turns) for channel in {**beside.share, **beside.eager} if moved}
        begin = {bundle: beside.meanwhile((bundle, False), *late) for bundle, write in others if opens and not write}
        return slowest, _together(moved, others), _together(opens, begin)

    def row(step: Sequence[Work]) -> Step:
        parts = []
        for work, beside in zip(step, side_by_side(step, program.bundles, program.fetch), strict=True):
            parts.append(tuple(part(one, beside.later() if number else beside) for number, one in enumerate(work.parts)))
        return tuple(parts), tuple(through(step, program.bundles).items())

    rows: Counter[Step] = Counter()
    for step, often in _often(program, steps).items():
        rows[row(step)] += often
    return rows


def rewired(
    program: Program, board: Board, steps: Sequence[tuple[Work, ...]], ports: dict[str, str], words_per_cycle: float
) -> dict[str, str]:
    """A memory port of the board for each memory interface: of what is nearly as good as `ports`, which `wired` has found, what is best by
    whole estimates, which count more of what a part waits for. Nothing changes for less than WORTHWHILE."""
    bundles, tags, often = list(ports), board.ports, _often(program, steps)
    near = nearly(_rows(program, steps), [tags.index(ports[bundle]) for bundle in bundles], bundles, tags)

    def cycles(places: Sequence[int]) -> int:
        pointers = {pointer: tags[places[bundles.index(bundle)]] for pointer, bundle in program.bundles.items()}
        costs = {step: _step_costs(step, pointers, words_per_cycle, program.fetch) for step in often}
        return sum(count * sum(call.counted for call in costs[step]) for step, count in often.items())

    best, before = [tags.index(ports[bundle]) for bundle in bundles], None
    first = least = cycles(best)
    while least != before:
        before = least
        for bundle in range(len(bundles)):
            for changed in changes(best, bundle, len(tags)):
                found = cycles(changed) if near(changed) else least
                if found < least:
                    least, best = found, changed
    return {bundle: tags[place] for bundle, place in zip(bundles, best, strict=True)} if least < (1 - WORTHWHILE) * first else ports


def _together(own: Mapping[Key, Passed], others: Mapping[Key, int]) -> tuple[tuple[Key, int], ...]:
    return tuple((key, own.get(key, Passed()).cycles + others.get(key, 0)) for key in {**own, **others})


def call_cost(instruction: Instruction, ports: Mapping[str, str], words_per_cycle: float, fetch: Fetch) -> CallCost:
    """Cycles of an instruction that runs alone."""
    work = Work.of(instruction)
    return _work_cost(work, side_by_side([work], ports, fetch)[0], ports, words_per_cycle, fetch)


def _work_cost(work: Work, beside: Beside, ports: Mapping[str, str], words_per_cycle: float, fetch: Fetch) -> CallCost:
    """Of each of its parts the slowest process, stream or port, or the DDR in all, plus start-up."""
    instruction, engine = work.instruction, work.instruction.engine
    found = in_turn(work.parts, ports, beside, words_per_cycle / engine.beat)
    busy: dict[str, int] = {}
    for name, cycles in (item for part in found for item in part.items()):
        busy[name] = busy.get(name, 0) + cycles
    words = sum(walk.words for walk in map(instruction.walk, engine.streams))
    busy["ddr"] = math.ceil(words / words_per_cycle)
    depths = [call.depth for _, call in instruction.active]
    processes = {name for _, call in instruction.active for name in (*call.cycles, *call.held)}
    slowest = [max(part, key=lambda name: part[name]) for part in found]
    own = max(depths, default=0) if processes & {*slowest} else 0  # among the cycles of the slowest
    # What does not bind alone does where a vector has to go through the kernel behind it.
    moving = [max((name for name in part if name not in processes), key=lambda name: part[name], default="") for part in found]
    if own and all(moving) and _total(found, moving) > _total(found, slowest) - own:
        slowest, own = moving, 0
    longest = max(zip(found, slowest, strict=True), key=lambda entry: entry[0][entry[1]])[1]
    total = _total(found, slowest)
    bound, total = ("ddr", busy["ddr"]) if busy["ddr"] > total else (longest, total)
    idle, taps = len(engine.slots) - len(depths), sum(slot.tap for slot in engine.slots)
    passed = FORWARD.loops[0].depth * idle + TEE.loops[0].depth * taps
    start = READ_LATENCY + WRITE_RESPONSE + CALL_OVERHEAD + sum(depths) - own + passed
    total = max(total, fetch.cycles - start)  # the next instruction comes meanwhile
    macs = sum(call.macs for _, call in instruction.active)
    return CallCost(instruction.chain.main.node.name, engine.name, total + start, bound, start, busy, words, macs)


def _total(found: Sequence[Mapping[str, int]], names: Sequence[str]) -> int:
    return sum(part[name] for part, name in zip(found, names, strict=True))


def _step_costs(step: Sequence[Work], ports: Mapping[str, str], words_per_cycle: float, fetch: Fetch) -> list[CallCost]:
    """Costs of the instructions of a step, hidden behind one by its place there."""
    shares = side_by_side(step, ports, fetch)
    alone = [_work_cost(work, share, ports, words_per_cycle, fetch) for work, share in zip(step, shares, strict=True)]
    shared = {f"{direction(channel)} (all streams)": moved for channel, moved in through(step, ports).items()}
    shared["ddr"] = math.ceil(sum(call.words for call in alone) / words_per_cycle)
    slowest = max(range(len(alone)), key=lambda index: alone[index].cycles)
    longest, bound = alone[slowest], max(shared, key=lambda name: shared[name])
    if shared[bound] + longest.start > longest.cycles:
        busy = {**longest.busy, bound: shared[bound]}
        longest = replace(longest, cycles=shared[bound] + longest.start, bound=bound, busy=busy)
    return [longest if index == slowest else replace(call, hidden=slowest) for index, call in enumerate(alone)]


def folded(program: Program, calls: Sequence[CallCost]) -> list[CallCost]:
    """Costs of all instructions of a program, from those of each time that they run."""
    if not program.queues:
        return [*calls]
    firsts = [0, *accumulate(len(step) for step in program.steps)]
    found: list[list[CallCost]] = [[] for _ in range(firsts[-1])]
    at = iter(calls)
    for number, step in program.runs:
        for place in range(firsts[number], firsts[number] + len(step)):
            found[place].append(next(at))
    result = []
    for number, step in enumerate(program.steps):
        members = found[firsts[number] : firsts[number] + len(step)]
        # What is slowest most of the time accounts for the cycles of all.
        main = max(range(len(step)), key=lambda index: sum(call.counted for call in members[index]))
        waits = _opening(program, number)
        for index, costs in enumerate(members):
            slowest = [sum(c.cycles for c in row if c.hidden is None) for row in zip(*members, strict=True)]
            cycles = slowest if index == main else [c.cycles for c in costs]
            result.append(_sum(costs, sum(cycles), None if index == main else firsts[number] + main, waits if index == main else 0))
    return result


def _sum(costs: Sequence[CallCost], cycles: int, hidden: int | None, waits: int) -> CallCost:
    busy: Counter[str] = Counter()
    bounds: Counter[str] = Counter()
    for call in costs:
        busy.update(call.busy)
        bounds[call.bound] += call.cycles
    start, words, macs = (sum(getattr(call, name) for call in costs) for name in ("start", "words", "macs"))
    one, bound = costs[0], bounds.most_common(1)[0][0]
    return CallCost(one.node, one.engine, cycles + waits, bound, start + waits, dict(busy), words, macs, hidden, one.times)


def _opening(program: Program, number: int) -> int:
    """Cycles behind a step in which the queue of those that follow is read, and then the first of these."""
    if number not in program.openings:
        return 0
    entries = program.queues[program.openings[number][0]].entries
    return READ_LATENCY + entries * 2 // program.design.beat + program.fetch.cycles


def program_costs(program: Program, steps: Sequence[tuple[Work, ...]], ports: Mapping[str, str], words_per_cycle: float) -> list[CallCost]:
    """Costs of all instructions of a program, with the `works` of its steps and `ports` by pointer."""
    known: dict[tuple[Work, ...], list[CallCost]] = {}
    calls: list[CallCost] = []
    starts = {run.start for run in program.entries.values()}
    for (number, step), alike in zip(program.runs, steps, strict=True):
        if alike not in known:
            known[alike] = _step_costs(alike, ports, words_per_cycle, program.fetch)
        first = len(calls)
        fetched = program.fetch.cycles if number in starts else 0  # beside the first step nothing runs
        for one, call in zip(step, known[alike], strict=True):
            hidden = None if call.hidden is None else first + call.hidden
            waits = 0 if call.hidden is not None else fetched
            cycles, start, main = call.cycles + waits, call.start + waits, one.chain.main.node
            calls.append(replace(call, node=main.name, hidden=hidden, cycles=cycles, start=start, times=main.times))
    return calls
