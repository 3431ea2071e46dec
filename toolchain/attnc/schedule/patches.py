"""What registers change in the instructions of a program: every integer is affine in them, which is checked; and what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attnc.ir import GraphError
from attnc.kernels.call import ENTRY, EXPERT, POSITION, PREFIX, REGISTERS, ROWS, SESSION, START, Derived
from attnc.kernels.latency import READ_LATENCY
from attnc.kernels.memory import FETCH
from attnc.kernels.network import Names
from attnc.schedule.queues import Queue, Step, each_of

PATCH_SHIFT = 16
"""Bits of the place of an integer in a patch."""


class Patch(NamedTuple):
    """An integer of a step that a register changes: its place, the register (of `Program.registers`), and by how much for each more in
    it."""

    place: int
    register: int
    slope: int


class Fetch(NamedTuple):
    """What brings the integers of a step: cycles in which they pass the port of the program, and those of patches behind them."""

    passing: int
    patching: int

    @staticmethod
    def of(passing: int, patches: int) -> Fetch:
        """With so many patches."""
        patch = FETCH.loops[-1]
        return Fetch(passing, patch.cycles(patch.runs(Names({}, {"more": patches}, {}))))

    @property
    def cycles(self) -> int:
        """From asking for the first integer until all are as they shall be."""
        return READ_LATENCY + self.passing + self.patching


@dataclass(frozen=True)
class Stated:
    """Steps as they are stated: where in a step the integers of each engine begin (then the end), whether each has its `own` place, and
    what is in the registers of its entry of the graph (`held`); in those of an entry of a queue, expert 0 and a whole block of rows."""

    steps: Sequence[Step]
    places: Sequence[int]
    own: bool
    held: Mapping[str, Mapping[str, int]]
    last: Mapping[str, int]
    derived: Sequence[Derived]
    queues: Mapping[str, Queue]

    @property
    def given(self) -> tuple[str, ...]:
        """Registers that come with a run, by name."""
        return tuple(name for name in REGISTERS if any(name in held for held in self.held.values()))

    @property
    def registers(self) -> tuple[str, ...]:
        """By name: those that come with a run, those that follow from them, and those of an entry of a queue."""
        derived = (each.name for each in self.derived) if self.held else ()
        return (*self.given, *derived, *(ENTRY if self.queues else ()))


def patches(stated: Stated) -> tuple[npt.NDArray[np.int64], list[list[Patch]]]:
    """The integers of every step where all registers are 0, and what each changes. Checked in the middle and at the last position of each
    entry of the graph, for other sessions and experts, and for as many rows as an entry of a queue may have."""
    names = stated.registers
    first = {**dict.fromkeys(names, 0), ROWS: 1}  # nothing is done with no rows
    moved = [row for row, step in enumerate(stated.steps) if step[0].entry in stated.held or each_of(step)]
    plain, some = integers(stated, [first] * len(stated.steps)), replace(stated, steps=[stated.steps[row] for row in moved])
    changes = [integers(some, [{**first, name: first[name] + 1}] * len(moved)) - plain[moved] for name in names]
    for part in (1, 2) if moved else ():
        settings = [_other(some, step, part) for step in some.steps]
        more = np.array([[setting[name] - first[name] for name in names] for setting in settings], np.int64)
        told = plain[moved] + sum(more[:, [number]] * change for number, change in enumerate(changes))
        if (integers(some, settings) != told).any():
            raise GraphError("an integer of the program does not follow from a register by a factor")
    if ROWS in names:
        plain[moved] -= changes[names.index(ROWS)]
    found: list[list[Patch]] = [[] for _ in stated.steps]
    for at, row in enumerate(moved):
        found[row] = [Patch(int(i), number, int(change[at, i])) for number, change in enumerate(changes) for i in change[at].nonzero()[0]]
    return plain, found


def _other(stated: Stated, step: Step, part: int) -> dict[str, int]:
    """Another setting of all registers."""
    position, each = stated.last.get(step[0].entry, 0) * part // 2, each_of(step)
    rows = 1 + (stated.queues[each].block - 1) // 2 * part if each else 1
    own = {POSITION: position, SESSION: part, PREFIX: position // part, EXPERT: part, START: 3 * part, ROWS: rows}
    return own | {one.name: one.at(own[one.of]) for one in stated.derived}


def integers(stated: Stated, settings: Sequence[Mapping[str, int]]) -> npt.NDArray[np.int64]:
    """The integers of every step, without patches, where registers hold what its setting says; others what steps are stated for."""
    code = np.zeros((len(stated.steps), stated.places[-1]), np.int64)
    for row, step, found in zip(code, stated.steps, settings, strict=True):
        each = each_of(step)
        held = {**stated.held.get(step[0].entry, {})}
        held |= {EXPERT: 0, START: 0, ROWS: stated.queues[each].block} if each else {}
        more = {register: found.get(register, value) - value for register, value in held.items()}
        for instruction in step:
            ints, at = instruction.at(more).encode(), stated.places[instruction.engine.index]
            row[at : at + len(ints)] = [1, *ints[1:]] if stated.own else ints
    return code
