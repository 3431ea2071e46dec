"""Queues of experts: steps that run again for each entry, and what they are stated for.

A queue lists the experts that have rows, each with its first row and how many it has. The steps of a group run for all of it, as many rows
at a time as engines take: what changes from one run to the next are the registers `ENTRY`. Which experts have how many rows is known to the
accelerator alone; a program is stated for a routing, by default one that gives all experts about the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from attnc.ir import Graph, GraphError
from attnc.kernels.call import EXPERT, ROWS, START
from attnc.schedule.engine import Instruction
from attnc.schedule.memory import MemoryMap

Step = tuple[Instruction, ...]
Routing = Mapping[str, tuple[int, ...]]
"""Rows of each expert that has any, by queue."""


@dataclass(frozen=True)
class Queue:
    """Where in memory it lies, in words; its entries, at most; pairs of a token and an expert; and the rows that run at a time, at most."""

    offset: int
    entries: int
    pairs: int
    block: int

    def balanced(self) -> tuple[int, ...]:
        """Rows where all experts that can have some have about the same."""
        least, more = divmod(self.pairs, self.entries)
        return (least + 1,) * more + (least,) * (self.entries - more)

    def settings(self, counts: Sequence[int]) -> list[dict[str, int]]:
        """What more there is in the registers, each time that the group runs, than in those that its instructions are stated for: expert 0,
        whole blocks from row 0 on."""
        found, first = [], 0
        for expert, count in enumerate(counts):
            for start in range(first, first + count, self.block):
                rows = min(self.block, first + count - start)
                found.append({EXPERT: expert, START: start, ROWS: rows - self.block})
            first += count
        return found


def queues(graph: Graph, memory: MemoryMap, block: int) -> dict[str, Queue]:
    """By the values that hold them."""
    found = {}
    for node in (node for node in graph.nodes if node.each):
        pairs, (entries, _) = graph.value(node.output).shape[0], graph.value(node.each).shape
        found[node.each] = Queue(memory.values[node.each].offset, entries, pairs, min(block, pairs))
    return found


def rows_of_experts(graph: Graph) -> int:
    """The fewest rows that an expert has where all have about the same; 0 where there are no experts."""
    found = (graph.value(node.output).shape[0] // graph.value(node.each).shape[0] for node in graph.nodes if node.each)
    return min(found, default=0)


def each_of(step: Sequence[Instruction]) -> str:
    """The queue for each of whose entries a step runs."""
    return step[0].chain.main.node.each


def groups(steps: Sequence[Sequence[Instruction]]) -> Iterator[tuple[str, range]]:
    """Runs of steps that follow each other and belong to one queue, or to none."""
    first = 0
    for number in range(1, len(steps) + 1):
        if number == len(steps) or each_of(steps[number]) != each_of(steps[first]):
            yield each_of(steps[first]), range(first, number)
            first = number


def openings(steps: Sequence[Step]) -> dict[int, tuple[str, int]]:
    """Steps behind which the group of a queue begins, with the queue and the steps of the group."""
    found = {}
    for each, members in groups(steps):
        if each and (not members.start or each_of(steps[members.start - 1])):
            raise GraphError(f"the steps of queue {each!r} follow no others")
        if each:
            found[members.start - 1] = each, len(members)
    return found


def unrolled(steps: Sequence[Step], known: Mapping[str, Queue], routing: Routing, apart: bool = False) -> list[tuple[int, Step]]:
    """Every step that runs, with its number in the program. Instructions for as many rows are the same ones, unless they are to be `apart`,
    each with its own rows and expert."""
    found: list[tuple[int, Step]] = []
    for each, members in groups(steps):
        if not each:
            found += [(number, steps[number]) for number in members]
            continue
        alike: dict[int, list[Step]] = {}
        for setting in known[each].settings(routing.get(each) or known[each].balanced()):
            more = setting if apart else {ROWS: setting[ROWS]}
            if apart or setting[ROWS] not in alike:
                alike[setting[ROWS]] = [tuple(one.at(more) for one in steps[number]) for number in members]
            found += zip(members, alike[setting[ROWS]], strict=True)
    return found
