"""Operands and weights that are brought into a kernel while it computes with others.

A kernel with scalars `FILL` holds two operands. While it computes with one, the first slots of its engine can bring the next: that of the
instruction behind it, where nothing that this one needs is written in between; what they store on the way is then stored earlier. An
instruction may also find an operand that one before it left (`Link.kept`). Where neither is so, it waits for its operand, and its first
slots then serve no other one; or an instruction of its own brings the operand, which takes longer, but leaves the slots to the next. Which
of these is quickest in all is found by going through the instructions of an engine once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attnc.kernels.call import Call
from attnc.schedule.chains import OPERANDS
from attnc.schedule.engine import Instruction
from attnc.schedule.overlap import overlap

START = 300
"""Cycles that an instruction more costs, about what `cycles.call_cost` adds to each."""
WAITS, BROUGHT, ALONE, KEPT, NONE = "waits", "brought", "alone", "kept", "none"
"""How an operand comes: its instruction waits for it, the one before brings it, or one of its own does; it is there still; the main
kernel does not work and needs none."""
_Way = tuple[int, str, "_Way | None"]
"""Cycles so far, how the last operand came, and the way to there."""


@dataclass(frozen=True)
class _Run:
    """An instruction of the engine."""

    place: int
    """In the program."""
    instruction: Instruction
    front: int
    """Cycles until its operand and its first weights are there, where it waits for them."""
    brought: int
    """Cycles that bringing the operand takes."""
    after: int
    """Cycles from then on where it waited."""
    ready: int
    """Cycles where the operand was there before."""
    fixed: str | None
    """How the operand comes, where there is no choice."""


def _cycles(calls: Sequence[Call]) -> int:
    return max((call.span for call in calls), default=0)


def _run(place: int, instruction: Instruction) -> _Run:
    slot = instruction.engine.operand_slot
    assert slot is not None
    main = instruction.calls[slot]
    if main is None:
        return _Run(place, instruction, 0, 0, 0, 0, NONE)
    before = [call for call in instruction.calls[:slot] if call is not None]
    arriving = max(main.bringing.cycles.values(), default=0)
    front, brought = (max(_cycles(before), cycles) for cycles in (max(main.cycles.values(), default=0), arriving))
    after, ready = max(main.held.values(), default=0), main.waiting.span
    return _Run(place, instruction, front, brought, after, ready, KEPT if instruction.ready else None)


def _untouched(steps: Sequence[Sequence[Instruction]], before: _Run, run: _Run) -> bool:
    """Whether what brings the operand of `run` may work while `before` does: all that it reads was written earlier, and nobody still needs
    what it writes over."""
    reads, writes = run.instruction.operand_reads(), run.instruction.operand_writes()
    between = [one for step in steps[before.place : run.place] for one in step]
    stored = ((mine, write) for one in between for write in one.moves("store") for mine in (*reads, *writes))
    loaded = ((mine, read) for one in between for read in one.moves("load") for mine in writes)
    return not any(overlap(*pair) for pair in (*stored, *loaded))


def _choose(steps: Sequence[Sequence[Instruction]], runs: Sequence[_Run]) -> list[str]:
    """How the operand of each run comes: the quickest way through two states, in which the first slots served the run before (False), or
    are free to bring the operand of the next one (True)."""
    best: dict[bool, _Way] = {False: (0, "", None)}
    previous: _Run | None = None
    for run in runs:
        moves: list[tuple[bool, int, str, _Way]] = []
        early = previous is not None and best.get(True) is not None and _untouched(steps, previous, run)
        for free, before in best.items():
            cycles = before[0]
            if run.fixed is not None:
                moves.append((run.fixed == KEPT, cycles + run.ready, run.fixed, before))
                continue
            moves.append((False, cycles + run.front + run.after, WAITS, before))
            moves.append((True, cycles + START + run.brought + run.ready, ALONE, before))
            if free and early and previous is not None:
                moves.append((True, cycles + max(run.brought - previous.ready, 0) + run.ready, BROUGHT, before))
        best = {}
        for free, cycles, way, before in moves:
            if free not in best or cycles < best[free][0]:
                best[free] = cycles, way, before
        previous = run
    ways: list[str] = []
    step: _Way | None = min(best.values(), key=lambda entry: entry[0])
    while step is not None and step[1]:
        ways.append(step[1])
        step = step[2]
    return ways[::-1]


def _sides(runs: Sequence[_Run], ways: Sequence[str]) -> list[int]:
    """Where each operand lies: in side 0 where one is enough, else in turn, so that the one in use is not written over, and of two that are
    kept neither."""
    if BROUGHT not in ways and not any(way == KEPT and run.instruction.block for run, way in zip(runs, ways, strict=True)):
        return [0] * len(runs)
    sides: list[int] = []
    last, of_block = 1, [0] * OPERANDS
    for run, way in zip(runs, ways, strict=True):
        block = run.instruction.block % OPERANDS
        if way in (WAITS, BROUGHT, ALONE):
            last = of_block[block] = 1 - last
        sides.append(of_block[block] if way != NONE else 0)
    return sides


def weights_ahead(steps: Sequence[Sequence[Instruction]]) -> list[list[Instruction]]:
    """The steps of a program in which each instruction loads the first weights of the one that follows it on its engine, behind its own:
    they depend on nothing. The groups of a run alternate between two sides, and so do those of the runs that follow each other."""
    found = [list(step) for step in steps]
    last: dict[int, tuple[int, int]] = {}
    for place, step in enumerate(steps):
        for index, one in enumerate(step):
            slot = one.engine.operand_slot
            call = one.calls[slot] if slot is not None else None
            if call is None or call.weights is None:
                continue
            side, ready = 0, False
            if one.engine.index in last:
                before_place, before_index = last[one.engine.index]
                before = found[before_place][before_index]
                main = before.calls[slot or 0]
                assert main is not None and main.weights is not None
                side, ready = (before.weights_side + main.weights.groups) % 2, call.weights.words > 0
                if ready:
                    found[before_place][before_index] = replace(before, weights_next=call)
            found[place][index] = replace(one, weights_side=side, weights_ready=ready)
            last[one.engine.index] = place, index
    return found


def prefetch(steps: Sequence[Sequence[Instruction]]) -> list[list[Instruction]]:
    """The steps of a program with operands brought as early as it pays; what brings one alone has a step of its own."""
    found = [list(step) for step in steps]
    alone: list[list[Instruction]] = [[] for _ in steps]
    for engine in {one.engine.index: one.engine for step in steps for one in step if one.engine.operand_slot is not None}.values():
        runs = [_run(place, one) for place, step in enumerate(steps) for one in step if one.engine.index == engine.index]
        ways = _choose(steps, runs)
        placed = [replace(run.instruction, side=side) for run, side in zip(runs, _sides(runs, ways), strict=True)]
        nexts = [*(one if way == BROUGHT else None for one, way in zip(placed[1:], ways[1:], strict=True)), None]
        for run, way, one, brings in zip(runs, ways, placed, nexts, strict=True):
            ready = one if way in (WAITS, NONE) else one.waiting()
            found[run.place] = [replace(ready, brings=brings) if old is run.instruction else old for old in found[run.place]]
            alone[run.place] += [one.bringing()] if way == ALONE else []
    return [step for before, after in zip(alone, found, strict=True) for step in (before, after) if step]
