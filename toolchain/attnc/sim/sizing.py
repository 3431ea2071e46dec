"""Least depths of FIFOs: what `attnc cosim --size-fifos` finds, by simulation alone.

A run takes as long as before if every FIFO is as deep as the most that it held: from there on depths fall, all FIFOs at once first, then
halves of them, each as far as the runs of both styles still last no longer than they may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnc.codegen.folder import SCHEDULE
from attnc.errors import BuildError, DeadlockError, DifferenceError
from attnc.files import check_writable
from attnc.kernels.resources import Resources
from attnc.schedule.edit import with_fifos
from attnc.schedule.fifos import Queue
from attnc.sim.command import Request
from attnc.sim.deadlock import freeing, least
from attnc.sim.facts import assumptions
from attnc.sim.program import load_listing
from attnc.sim.simulator import Simulator, in_styles, open_simulator
from attnc.verify.cosim import CosimRun
from attnc_host.progress import Progress

SLACK = 0.01
"""Share of the cycles that shallower FIFOs may cost."""
SHALLOWEST = 2
"""Elements that a FIFO needs to be written and read in every cycle: one can be written again a cycle after it was read."""
OTHER_LATENCIES = (0, 4)
"""Times the read latency of the memory, with which nothing may stand still either."""


def size_fifos(build: Path, request: Request, progress: Progress) -> dict[str, Any]:
    """Find least depths, write them into the schedule of the build, and return what was found."""
    listing, schedule = load_listing(build), build / SCHEDULE
    with_fifos(schedule, {})  # a schedule that cannot be edited is refused before the work
    check_writable(schedule)
    progress.stage("compiling the simulator")
    with open_simulator(build, request.timing(listing), listing) as simulator:
        progress.stage("sizing FIFOs")
        sized = Sizing.of(simulator, progress.update)
        depths = sized.search()
        progress.stage("running with other latencies of the memory")
        depths = _lasting(simulator, depths)
        after = sized.runs(depths)
    progress.finish()
    if not sized.fit(after):
        raise BuildError(f"{build}: the depths that were found take more cycles than they may, which is a bug in attnc; {schedule} stays")
    with_fifos(schedule, depths, write=True)
    return {**_facts(sized, depths, after), "assumed": assumptions(simulator.timing, request.calibrated(after)), "schedule": str(schedule)}


@dataclass
class Sizing:
    """A search among depths: the runs with those that are emitted and without bounds, and so the most cycles that others may take, by
    style."""

    simulator: Simulator
    emitted: Sequence[CosimRun]
    unbounded: Sequence[CosimRun]
    limits: Mapping[str, int]
    told: Callable[[int, int], None]

    @staticmethod
    def of(simulator: Simulator, told: Callable[[int, int], None]) -> Sizing:
        """Of a build; `told` hears how many FIFOs of how many are settled."""
        emitted, unbounded = in_styles(simulator.run), in_styles(lambda style: simulator.run(style, unbounded=True))
        for run in emitted:
            if run.deadlock is not None:
                raise DeadlockError(f"the build stands still with {run.style} pipelines as it is: attnc cosim says who waits for what")
            if not run.bit_exact:
                raise DifferenceError(f"the outputs differ from golden with {run.style} pipelines: attnc csim says where")
        limits = {a.style: int((1 + SLACK) * min(a.cycles, b.cycles)) for a, b in zip(emitted, unbounded, strict=True)}
        return Sizing(simulator, emitted, unbounded, limits, told)

    @property
    def queues(self) -> Mapping[str, Queue]:
        """The FIFOs as they are emitted."""
        return self.simulator.listing.fifos

    def search(self) -> dict[str, int]:
        """Least depths, each where the others are as they are. Those are lessened first that take most."""
        depths = self._start()
        order = sorted(depths, key=lambda name: -depths[name] * self.queues[name].bits)
        self._lessen(order, depths)
        return {name: depths[name] for name in self.queues}

    def _start(self) -> dict[str, int]:
        """The most that each FIFO held, in the run without bounds where those that are emitted cost more than they may."""
        runs = self.emitted if all(run.cycles <= self.limits[run.style] for run in self.emitted) else self.unbounded
        most = {name: max([SHALLOWEST, *(f.most for run in runs for f in run.fifos if f.name == name)]) for name in self.queues}
        return {name: min(most[name], queue.depth) if runs is self.emitted else most[name] for name, queue in self.queues.items()}

    def _lessen(self, names: Sequence[str], depths: dict[str, int], settled: int = 0) -> None:
        """The depths of some FIFOs, where `settled` others are least already."""
        fewer = {name: min(SHALLOWEST, depths[name]) for name in names}
        if self.fit(self.runs({**depths, **fewer})):
            depths.update(fewer)
        elif len(names) == 1:
            (name,) = names
            depths[name] = least(lambda depth: self.fit(self.runs({**depths, name: depth})), SHALLOWEST + 1, depths[name])
        else:
            half = len(names) // 2
            self._lessen(names[:half], depths, settled)
            self._lessen(names[half:], depths, settled + half)
        self.told(settled + len(names), len(depths))

    def runs(self, depths: Mapping[str, int]) -> list[CosimRun]:
        """A run in each style."""
        return in_styles(lambda style: self.simulator.run(style, depths))

    def fit(self, runs: Sequence[CosimRun]) -> bool:
        """Whether all end, with the right outputs, in no more cycles than they may."""
        return all(run.bit_exact and run.cycles <= self.limits[run.style] for run in runs)


def _lasting(simulator: Simulator, depths: Mapping[str, int]) -> dict[str, int]:
    """Deeper ones where processes would wait for each other for ever with a faster or slower memory."""
    found = dict(depths)
    for factor in OTHER_LATENCIES:
        latency = factor * simulator.timing.read_latency
        other = replace(simulator, timing=replace(simulator.timing, read_latency=latency), depths={**simulator.depths, **found})

        def run(more: Mapping[str, int], other: Simulator = other) -> list[CosimRun]:
            return in_styles(lambda style: other.run(style, more))

        deeper = freeing(run, run({}))
        if deeper is None:
            why = f"where the memory answers after {latency} cycles: attnc cosim --read-latency {latency} says who waits"
            raise BuildError(f"no depths of FIFOs free the build {why}")
        found |= deeper
    return found


def _facts(sized: Sizing, depths: Mapping[str, int], after: Sequence[CosimRun]) -> dict[str, Any]:
    most = {name: max((f.most for run in sized.emitted for f in run.fifos if f.name == name), default=0) for name in depths}
    least_ = {name: replace(queue, depth=depths[name]) for name, queue in sized.queues.items()}
    return {
        "slack": SLACK,
        "runs": sized.simulator.runs,
        "styles": {
            a.style: {"cycles": b.cycles, "cycles_emitted": a.cycles, "cycles_unbounded": free.cycles, "bit_exact": b.bit_exact}
            for a, b, free in zip(sized.emitted, after, sized.unbounded, strict=True)
        },
        "fifos": [
            {"fifo": name, "bits": queue.bits, "emitted": queue.depth, "most": most[name], "least": depths[name]}
            for name, queue in sized.queues.items()
        ],
        "storage": {"emitted": _storage(sized.queues), "least": _storage(least_)},
    }


def _storage(queues: Mapping[str, Queue]) -> dict[str, float]:
    """What FIFOs are estimated to take, and the bits that they hold."""
    total = sum((queue.resources for queue in queues.values()), Resources())
    bits = sum(queue.depth * queue.bits for queue in queues.values())
    return {"bits": bits, "lut": total.lut, "ff": total.ff, "bram36": total.bram36}
