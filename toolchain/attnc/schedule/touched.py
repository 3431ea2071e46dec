"""What the steps of a program read and store, for the placement of values."""

from __future__ import annotations

from collections.abc import Sequence

from attnc.schedule.engine import Instruction
from attnc.schedule.queues import groups

Touched = tuple[set[str], list[str]]


def touched(steps: Sequence[Sequence[Instruction]]) -> list[Touched]:
    """Values that the instructions of each step read, each for its own block of rows, and those that they store, or parts of. What is
    stored on the way to an operand may be stored while the engine runs the instruction before."""
    found = [
        ({walk.value for one in step for walk in one.moves("load") if walk.vectors}, [name for one in step for name in one.chain.stores()])
        for step in steps
    ]
    last: dict[int, int] = {}
    for place, one in ((place, one) for place, step in enumerate(steps) for one in step):
        if one.engine.index in last:
            found[last[one.engine.index]][1].extend(one.chain.stores()[:-1])
        last[one.engine.index] = place
    return [pair for each, members in groups(steps) for pair in _together(each, [found[place] for place in members])]


def _together(each: str, found: list[Touched]) -> list[Touched]:
    """Steps that run again for each entry of a queue write over nothing that any of them reads: as one."""
    if not each:
        return found
    stored = [name for _, names in found for name in names]
    return [({each, *(name for reads, _ in found for name in reads)} - {*stored}, stored)]
