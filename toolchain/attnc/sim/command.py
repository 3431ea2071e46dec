"""What `attnc cosim` does: every style, deadlocks explained, facts written into the build."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnc.errors import ConfigError
from attnc.kernels.latency import READ_LATENCY, WRITE_RESPONSE
from attnc.kernels.loops import LOOPS
from attnc.sim.calibration import Calibration
from attnc.sim.deadlock import Edge, edges, freeing
from attnc.sim.facts import facts, fifo_depths, told, write_facts
from attnc.sim.program import Listing, load_listing
from attnc.sim.simulator import Simulator, in_styles, open_simulator
from attnc.sim.timeline import bin_cycles, timeline
from attnc.sim.trace import read_trace, tracing, write_perfetto, write_vcd
from attnc.verify.cosim import STYLES, CosimRun, Timing
from attnc_host.progress import Progress

Note = Callable[[str], None]


@dataclass(frozen=True)
class Outputs:
    """Files to write of the run in one style."""

    trace: Path | None = None
    vcd: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True)
class Request:
    """What is asked for; `title` stands over a picture. II and depth of loops are reasoned where there is no `calibration`."""

    styles: tuple[str, ...] = STYLES
    read_latency: int = READ_LATENCY
    write_response: int = WRITE_RESPONSE
    depths: Mapping[str, int] = field(default_factory=dict)
    outputs: Outputs = Outputs()
    title: str = ""
    calibration: Calibration | None = None

    def timing(self, listing: Listing) -> Timing:
        """What is assumed of the world."""
        return listing.timing(self.read_latency, self.write_response, self.calibration.timing if self.calibration else LOOPS)

    def calibrated(self, runs: Sequence[CosimRun]) -> dict[str, Any] | None:
        """What synthesis reports said of the loops of these runs."""
        return self.calibration.facts({loop for run in runs for loop in run.loops}) if self.calibration else None


def simulate(build: Path, request: Request, progress: Progress, note: Note) -> dict[str, Any]:
    """Simulate a build and return what was found; a run of the build as it is, is written into it."""
    listing = load_listing(build)
    timing = request.timing(listing)
    progress.stage("compiling the simulator")
    with open_simulator(build, timing, listing) as simulator:
        simulator.depths.update(request.depths)
        progress.stage("simulating")
        runs = in_styles(simulator.binned, request.styles)
        _check_names(request.depths, runs[0])
        stuck = {run.style: explained(simulator, run) for run in runs if run.deadlock is not None}
        found = facts(listing, timing, runs, stuck, request.calibrated(runs))
        _write(simulator, told(runs), request, progress)
        if stuck:
            progress.stage("searching for depths that free it")
            least = freeing(lambda depths: in_styles(lambda style: simulator.run(style, depths), request.styles), runs)
            for style in stuck:
                found["styles"][style]["deadlock"]["least_depths"] = fifo_depths(least, runs)
    progress.finish()
    if request.depths:
        note("depths were given, so the build's cosim.json and report stay as they are")
    elif not os.access(build, os.W_OK):
        note(f"{build} cannot be written: it gets no cosim.json")
    else:
        write_facts(build, found)
    return found


def _write(simulator: Simulator, run: CosimRun, request: Request, progress: Progress) -> None:
    """The files that were asked for, each of a further run that tells more."""
    outputs, listing = request.outputs, simulator.listing
    if outputs.trace or outputs.vcd:
        progress.stage("writing the trace")
        with tempfile.TemporaryDirectory(prefix="attnc-trace-") as temporary:
            how = tracing(Path(temporary) / "trace.txt", run)
            simulator.run(run.style, trace=how)
            trace = read_trace(how.path)
        if outputs.trace:
            write_perfetto(outputs.trace, trace, run, listing)
        if outputs.vcd:
            write_vcd(outputs.vcd, trace, run, listing)
    if outputs.plot:
        progress.stage("drawing")
        from attnc.sim import plot

        width = bin_cycles(run.cycles, plot.BINS)
        again = timeline(simulator.run(run.style, bin_cycles=width), width, listing)
        plot.draw(outputs.plot, again, listing.clock_mhz, listing.estimate, request.title)


def _check_names(depths: Mapping[str, int], run: CosimRun) -> None:
    known = {fifo.name for fifo in run.fifos} | {fifo.path for fifo in run.fifos}
    for name in depths.keys() - known:
        raise ConfigError(f"--depth: needed a FIFO of this build ({', '.join(sorted({f.name for f in run.fifos}))}), found {name!r}")


def explained(simulator: Simulator, run: CosimRun) -> list[Edge]:
    """Who waits for whom in a run that stands still. The same run without bounds shows who is at the ends of FIFOs that it did not use."""
    return edges(run, simulator.run(run.style, unbounded=True).fifos)
