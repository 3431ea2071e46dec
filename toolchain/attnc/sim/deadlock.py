"""Deadlocks: who waits for whom in a circle, and the least depths of FIFOs that free it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from attnc.verify.cosim import Blocked, CosimRun, Fifo, fifo_name

Run = Callable[[Mapping[str, int]], Sequence[CosimRun]]
"""Simulates with these depths by name (0: no bound), in every style that has to live."""


@dataclass(frozen=True)
class Edge:
    """A process that waits for a FIFO, and who would have to write or read it: None where nobody ever did."""

    wait: Blocked
    partner: str | None
    held: int
    """Results for this FIFO that the partner keeps in a pipeline that stands."""


def edges(run: CosimRun, known: Sequence[Fifo] = ()) -> list[Edge]:
    """Every wait of a deadlock. `known` FIFOs, of a run that went on, tell who is at their ends where this run has not seen it."""
    ends = {fifo.path: (fifo.writer, fifo.reader) for fifo in known}
    for fifo in run.fifos:
        before = ends.get(fifo.path, (None, None))
        ends[fifo.path] = fifo.writer or before[0], fifo.reader or before[1]
    found = []
    for wait in run.blocked:
        writer, reader = ends.get(wait.fifo, (None, None))
        partner = writer if wait.cause == "empty" else reader
        found.append(Edge(wait, partner, run.held.get((partner or "", wait.fifo), 0)))
    return found


def circle(found: Sequence[Edge]) -> list[Edge]:
    """Waits that follow each other in a circle, the one with the earliest first; empty where there is none (somebody waits for a process
    that has ended)."""
    by_process: dict[str, list[Edge]] = {}
    for edge in found:
        by_process.setdefault(edge.wait.process, []).append(edge)

    def walk(path: list[Edge]) -> list[Edge]:
        for number, edge in enumerate(path):
            if edge.wait.process == path[-1].partner:
                return path[number:]
        for edge in by_process.get(path[-1].partner or "", []):
            back = walk([*path, edge])
            if back:
                return back
        return []

    circles = [back for edge in found if (back := walk([edge]))]
    # One that a deeper FIFO can part says more than one of empty FIFOs alone.
    best = min(circles, key=lambda c: (not any(e.wait.cause == "full" for e in c), len(c)), default=[])
    first = min(range(len(best)), key=lambda i: best[i].wait.cycle, default=0)
    return best[first:] + best[:first]


def freeing(run: Run, runs: Sequence[CosimRun]) -> dict[str, int] | None:
    """Least depths by name with which nothing stands for ever: the full FIFOs have no bound at first, then each the least that does. None
    where no depths help."""
    start: dict[str, int] = {}
    while True:
        stuck = [one for one in runs if one.deadlock is not None]
        if not stuck:
            break
        full = {fifo_name(wait.fifo) for one in stuck for wait in one.blocked if wait.cause == "full"} - start.keys()
        if not full:
            return None
        start |= dict.fromkeys(sorted(full), 0)
        runs = run(start)
    marks = {name: max(f.most for one in runs for f in one.fifos if f.name == name) for name in start}
    emitted = {name: max(f.depth for f in run({})[0].fifos if f.name == name) for name in start}
    found = dict(marks)
    for name in start:
        found[name] = least(lambda depth, name=name: _lives(run({**found, name: depth})), emitted[name], marks[name])  # type: ignore[misc]
    return {name: depth for name, depth in found.items() if depth > emitted[name]}


def _lives(runs: Sequence[CosimRun]) -> bool:
    return all(one.deadlock is None for one in runs)


def least(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number from `low` to `high` for which it holds; it does for `high`."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
