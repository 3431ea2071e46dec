"""Which port of the board serves which memory interface: the assignment with the fewest cycles that a search from one bundle to the next
finds, where a part of an instruction takes its slowest process or the port that moves most in it, in either direction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Moved = tuple[tuple[tuple[str, bool], int], ...]
"""Cycles in which something passes, by bundle and whether it is written."""
Opens = tuple[tuple[str, int], ...]
"""The same of what has to pass before anything else begins, all of it read."""
Part = tuple[int, Moved, Opens]
"""What overlaps: cycles of its slowest process behind what it opens with, what its streams move, and that opening."""
Step = tuple[tuple[tuple[Part, ...], ...], Moved]
"""What runs at the same time: the parts of each instruction, one after the other, and what all of them move."""
Numbers = npt.NDArray[np.int64]


NEAR = 0.005
"""Share of the cycles that assignments may differ by and still be as good: what the search counts is no closer than that."""


class _Program(NamedTuple):
    """Steps as rows: cycles of the slowest process and of what moves per bundle and direction. `parts` says where the parts of an
    instruction begin, `instructions` where those of a step do, `often` how often each step is run; a row per step comes last. `passing` has
    rows of what is read, of what is written, and, without those of steps, of what has to pass first: whole numbers, which products of
    float64 add up exactly."""

    slowest: Numbers
    moved: Numbers
    passing: npt.NDArray[np.float64]
    parts: Numbers
    instructions: Numbers
    often: Numbers

    def cycles(self, ports: Sequence[int], size: int) -> tuple[int, int]:
        """With bundle i at port `ports[i]` of `size`; then those of the ports that move most in each part, for a tie: where they hide
        behind a process, streams that share a port still begin later."""
        rows, everything = len(self.slowest), len(self.moved)
        placed = np.zeros((len(ports), size))
        placed[np.arange(len(ports)), ports] = 1
        largest = (self.passing @ placed).max(axis=1).astype(np.int64)
        most, opens = np.maximum(largest[:everything], largest[everything : 2 * everything]), largest[2 * everything :]
        in_order = np.add.reduceat(np.maximum(self.slowest + opens, most[:rows]), self.parts)
        at_once = np.maximum(np.maximum.reduceat(in_order, self.instructions), most[rows:])
        moved = np.add.reduceat(np.add.reduceat(most[:rows], self.parts), self.instructions)
        return int(at_once @ self.often), int(moved @ self.often)


def wire(steps: Counter[Step], bundles: Sequence[str], tags: Sequence[str]) -> dict[str, str]:
    """A port for each bundle. It starts with what moves most at the port that moves least, and moves bundles one by one, or swaps two,
    while that saves something."""
    program = _rows(steps, bundles)
    totals = (program.moved[len(program.slowest) :] * program.often[:, None, None]).sum(axis=0)
    ports, loads = [0] * len(bundles), np.zeros((len(tags), 2), np.int64)
    for bundle in sorted(range(len(bundles)), key=lambda i: -int(totals[i].max())):
        ports[bundle] = min(range(len(tags)), key=lambda tag: int((loads[tag] + totals[bundle]).max()))
        loads[ports[bundle]] += totals[bundle]
    best, before = program.cycles(ports, len(tags)), None
    while best != before:
        before = best
        for bundle in range(len(bundles)):
            for changed in changes(ports, bundle, len(tags)):
                found = program.cycles(changed, len(tags))
                if found < best:
                    best, ports = found, changed
    return {bundle: tags[port] for bundle, port in zip(bundles, ports, strict=True)}


def nearly(steps: Counter[Step], places: Sequence[int], bundles: Sequence[str], tags: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Whether an assignment takes hardly more cycles than that of bundle i to port `places[i]`."""
    program = _rows(steps, bundles)
    most = (1 + NEAR) * program.cycles(places, len(tags))[0]
    return lambda changed: program.cycles(changed, len(tags))[0] <= most


def changes(ports: list[int], bundle: int, size: int) -> list[list[int]]:
    """The assignments with `bundle` at each other port, and with it in the place of each bundle behind it there."""
    moved = [[*ports[:bundle], port, *ports[bundle + 1 :]] for port in range(size) if port != ports[bundle]]
    swapped = []
    for other in range(bundle + 1, len(ports)):
        if ports[other] != ports[bundle]:
            changed = list(ports)
            changed[bundle], changed[other] = ports[other], ports[bundle]
            swapped.append(changed)
    return moved + swapped


def _rows(steps: Counter[Step], bundles: Sequence[str]) -> _Program:
    place = {bundle: i for i, bundle in enumerate(bundles)}
    slowest: list[int] = []
    moves: list[Moved] = []
    opens: list[Opens] = []
    parts: list[int] = []
    instructions: list[int] = []
    for instructions_of, _ in steps:
        instructions.append(len(parts))
        for parts_of in instructions_of:
            parts.append(len(slowest))
            for cycles, moved, opening in parts_of:
                slowest.append(cycles)
                moves.append(moved)
                opens.append(opening)
    moves += [moved for _, moved in steps]
    table = np.zeros((len(moves), len(bundles), 2), np.int64)
    for row, moved in enumerate(moves):
        for (bundle, write), cycles in moved:
            table[row, place[bundle], int(write)] += cycles
    first = np.zeros((len(opens), len(bundles)), np.int64)
    for row, opening in enumerate(opens):
        for bundle, cycles in opening:
            first[row, place[bundle]] += cycles
    passing = np.concatenate([table[:, :, 0], table[:, :, 1], first]).astype(np.float64)
    return _Program(np.array(slowest), table, passing, np.array(parts), np.array(instructions), np.array(list(steps.values())))
