"""Which operands of an engine one loader serves: those of few words, such as a number per row, a bias, a row for all rows.

A loader and its memory interface take more logic than many a kernel, and most of them rest. A shared loader walks through its operands one
after the other, so it must never wait for room in the FIFO of one operand while the chain waits for a later one. It serves

1. operands that a kernel takes whole before it takes anything else (`Port.first`): they depend on nothing, so they never wait for long;
2. operands that their FIFO holds whole: there is always room;
3. operands that a kernel reads while vectors of the chain pass it, slot by slot. Such a one waits until the kernels behind it take these
   vectors, and they may wait for operands of their own. All of those must have been loaded, so two operands of this kind may follow each
   other only where a kernel between them (or the second one's own) swallows all its vectors before it gives any: then the first operand
   was read to its end before the second is needed. `Run.needed` and `Run.done` count such kernels. A kernel that brings the operand of
   a later instruction (prefetch.py) waits for those behind it without being waited for: its operands are not of this kind.

An operand that fits none of these keeps a loader of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnc.kernels.call import Walk
from attnc.kernels.storage import SHALLOW

FEW = 8
"""What moves at most 1/8 as many words in an instruction as the busiest load stream of its engine in one has few words."""
DEEPEST = 512
"""Vectors that a FIFO in block memory holds: one of 16 bits on 8 lanes takes the blocks that an interface would, and hardly any logic."""


@dataclass(frozen=True)
class Run:
    """What an instruction has a stream do. Of the kernels that swallow all vectors before they give any, `needed` have done so when its
    first vector may be needed, and `done` by the time when its last one is taken."""

    walk: Walk
    needed: int
    done: int


@dataclass(frozen=True)
class Operand:
    """A stream from memory; `kind` and `first` as those of its `Port`, `alone` where it keeps its loader whatever it moves, `ahead` where
    its kernel may work for a later instruction than those behind it, `runs` by the number of the instruction."""

    name: str
    kind: str
    first: bool
    alone: bool
    ahead: bool
    runs: Mapping[int, Run]

    @property
    def words(self) -> int:
        """Most words that an instruction moves."""
        return max((run.walk.words for run in self.runs.values()), default=0)

    @property
    def depth(self) -> int:
        """Of a FIFO that holds what any instruction moves."""
        return SHALLOW * math.ceil(max(run.walk.vectors for run in self.runs.values()) / SHALLOW)

    @property
    def stretch(self) -> bool:
        """Whether every instruction reads words that follow each other."""
        return all(math.prod(run.walk.counts[:3]) == 1 for run in self.runs.values())

    def ends_before(self, other: Operand) -> bool:
        """Whether it is read to its end before `other` is needed, in every instruction that moves both."""
        return all(run.done < other.runs[number].needed for number, run in self.runs.items() if number in other.runs)


def share(operands: Sequence[Operand]) -> tuple[tuple[str, int], ...]:
    """Names of those of the operands of an engine (in the order of its slots) that one loader serves, in its order, each with the depth
    of its FIFO; none where there would be one."""
    busiest = max((operand.words for operand in operands if operand.kind == "load"), default=0)
    few = [o for o in operands if not o.alone and o.runs and FEW * o.words <= busiest and o.stretch]
    whole: list[Operand] = []
    along: list[Operand] = []
    for operand in few:
        if operand.first:
            continue
        if not operand.ahead and operand.depth > SHALLOW and all(earlier.ends_before(operand) for earlier in along):
            along.append(operand)
        elif operand.depth <= DEEPEST:
            whole.append(operand)
    found = [(operand.name, SHALLOW) for operand in few if operand.first]
    found += [(operand.name, operand.depth) for operand in whole]
    found += [(operand.name, SHALLOW) for operand in along]
    return tuple(found) if len(found) > 1 else ()
