"""Random stalls: what `attnc cosim --stalls` runs. Hardware waits where a simulation with one set of latencies does not: what a design
computes must not depend on when a value comes, and no timing may make its processes wait for each other for ever.

Each seed is a run in which reads, writes and beats of memory wait a random number of cycles now and then, and `empty` is true at random
(sim/attnc_cosim.h has the odds).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attnc.errors import BuildError
from attnc.sim.command import Request, explained
from attnc.sim.facts import assumptions, describe
from attnc.sim.program import load_listing
from attnc.sim.simulator import Simulator, in_styles, open_simulator
from attnc.sim.tables import STYLE_NAMES
from attnc.verify.cosim import CosimRun
from attnc_host.progress import Progress

WORKERS = 2
SHOWN = 8
"""Seeds that failed, of which the facts name so many."""


def stall(build: Path, request: Request, seeds: Sequence[int], progress: Progress) -> dict[str, Any]:
    """Run a build with each seed in every style, and return what was found; the build stays as it is."""
    listing = load_listing(build)
    progress.stage("compiling the simulator")
    with open_simulator(build, request.timing(listing), listing) as simulator:
        simulator.depths.update(request.depths)
        progress.stage("simulating without stalls")
        calm = in_styles(simulator.run, request.styles)
        styles = {}
        for run in calm:
            progress.stage(f"simulating with random stalls, {STYLE_NAMES[run.style]} pipelines")
            styles[run.style] = _style(simulator, run, seeds, progress.update)
    progress.finish()
    return {
        "note": "simulation with random stalls: how it computes, not how long it takes",
        "seeds": [seeds[0], seeds[-1]],
        "assumed": assumptions(simulator.timing, request.calibrated(calm)),
        "styles": styles,
    }


def _style(simulator: Simulator, calm: CosimRun, seeds: Sequence[int], update: Callable[[int, int], None]) -> dict[str, Any]:
    """The runs in one style. Where processes wait for each other for ever, who for what, with the first seed that shows it."""
    runs: dict[int, CosimRun] = {}

    def one(seed: int) -> CosimRun:
        try:
            return simulator.run(calm.style, stalls=seed)
        except BuildError as error:
            raise BuildError(f"random stalls, seed {seed}, {STYLE_NAMES[calm.style]} pipelines: {error}") from error

    with ThreadPoolExecutor(WORKERS) as pool:
        for seed, run in zip(seeds, pool.map(one, seeds), strict=True):
            runs[seed] = run
            update(len(runs), len(seeds))
    stuck = [seed for seed, run in runs.items() if run.deadlock is not None]
    differ = [seed for seed, run in runs.items() if run.deadlock is None and not run.bit_exact]
    cycles = sorted(run.cycles for run in runs.values() if run.deadlock is None)
    waits = explained(simulator, runs[stuck[0]]) if stuck else None
    return {
        "bit_exact": not stuck and not differ and calm.bit_exact,
        "cycles_without": calm.cycles,
        "cycles": {"least": cycles[0], "median": int(statistics.median(cycles)), "most": cycles[-1]} if cycles else None,
        "runs": len(runs),
        "deadlocks": len(stuck),
        "deadlock_seeds": stuck[:SHOWN],
        "different": len(differ),
        "different_seeds": differ[:SHOWN],
        "deadlock": describe(simulator.listing, runs[stuck[0]], waits) if waits else None,
    }
