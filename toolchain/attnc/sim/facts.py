"""What simulations found, as plain values: cosim.json of a build, and what its report says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnc.codegen.folder import REPORT, SIMULATION
from attnc.codegen.project import write_json
from attnc.files import write_whole
from attnc.report import load_report
from attnc.report_tables import as_text, render
from attnc.sim.deadlock import Edge, circle
from attnc.sim.program import Listing, engine_of
from attnc.sim.timeline import as_facts, bin_cycles, timeline
from attnc.verify.cosim import CAUSES, CosimRun, Timing

SCHEMA = 1
NOTE = "simulated: the emitted C++ in time, no synthesis run"


def facts(
    listing: Listing,
    timing: Timing,
    runs: Sequence[CosimRun],
    deadlocks: Mapping[str, Sequence[Edge]],
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that is known of the runs, by style; `deadlocks` are the waits of those that stand still, `calibration` says which II and depths
    of loops come from a synthesis report. Runs in bins (`Simulator.binned`) give a timeline, of the one that is told of."""
    shown, width = told(runs), bin_cycles(listing.estimate)
    return {
        "schema": SCHEMA,
        "note": NOTE,
        "clock_mhz": listing.clock_mhz,
        "assumed": assumptions(timing, calibration),
        **({} if calibration is None else {"calibration": calibration}),
        "estimate_cycles": listing.estimate,
        "styles": {run.style: _run(listing, run, deadlocks.get(run.style)) for run in runs},
        **({"timeline": as_facts(timeline(shown, width, listing))} if shown.bins else {}),
    }


def told(runs: Sequence[CosimRun]) -> CosimRun:
    """The run that pictures and traces are of: one that stands still, or the slowest."""
    return max(runs, key=lambda run: (run.deadlock is not None, run.cycles))


def assumptions(timing: Timing, calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is assumed of the world."""
    loops = "reasoned"
    if calibration is not None:
        taken, missing = len(calibration["taken"]), len(calibration["not_in_the_report"])
        loops = f"{taken} of {taken + missing} from {calibration['source']}, the others reasoned"
    return {
        "read_latency": timing.read_latency,
        "write_response": timing.write_response,
        "ddr_bytes_per_cycle": round(timing.bytes_per_cycle, 3),
        "loops": loops,
    }


def _run(listing: Listing, run: CosimRun, edges: Sequence[Edge] | None) -> dict[str, Any]:
    waits: dict[str, list[dict[str, Any]]] = {}
    for process, cause, on, cycles in sorted(run.waits, key=lambda wait: -wait[3]):
        waits.setdefault(process, []).append({"cause": cause, "for": on, "cycles": cycles})
    return {
        "cycles": run.cycles,
        "latency_ms": round(run.cycles / listing.clock_mhz / 1000, 6),
        "bit_exact": run.bit_exact,
        "deadlock": None if edges is None else describe(listing, run, edges),
        "entries": {
            entry: {"cycles": cycles, "estimate_cycles": estimate} for entry, (cycles, estimate) in listing.entry_cycles(run).items()
        },
        "stages": [
            {
                "node": listing.stages[stage].node,
                "nodes": list(listing.stages[stage].nodes),
                "engine": listing.stages[stage].engine,
                "steps": steps,
                "cycles": cycles,
                "estimate_cycles": estimate,
            }
            for stage, (steps, cycles, estimate) in listing.stage_cycles(run).items()
        ],
        "processes": [
            {
                "process": p.path,
                "engine": engine_of(p.path),
                "runs": p.runs,
                "active": p.active,
                "working": p.working,
                "waiting": {cause: p.waited[cause] for cause in CAUSES},
                "waits": waits.get(p.path, []),
            }
            for p in run.processes
        ],
        "fifos": [
            {"fifo": f.name, "path": f.path, "depth": f.depth, "most": f.most, "tokens": f.tokens, "empty": f.empty, "full": f.full}
            for f in run.fifos
        ],
        "ports": [{"port": tag, "beats_read": read, "beats_written": written} for tag, read, written in run.ports],
    }


def describe(listing: Listing, run: CosimRun, edges: Sequence[Edge]) -> dict[str, Any]:
    """A deadlock: where, and who waits for what, those in a circle first."""
    round_ = circle(edges)
    return {
        "cycle": run.deadlock,
        "step": run.stages[-1][0] if run.stages else None,
        "instruction": listing.title(run.stages[-1][0]) if run.stages else "",
        "circle": [edge.wait.process for edge in round_],
        "waits": [
            {
                "process": edge.wait.process,
                "loop": edge.wait.loop,
                "since": edge.wait.cycle,
                "cause": edge.wait.cause,
                "fifo": edge.wait.fifo,
                "depth": edge.wait.depth,
                "for": edge.partner,
                "kept_in_its_pipeline": edge.held,
            }
            for edge in [*round_, *(edge for edge in edges if edge not in round_)]
        ],
    }


def fifo_depths(least: Mapping[str, int] | None, runs: Sequence[CosimRun]) -> dict[str, dict[str, int]]:
    """Depth and least depth by name."""
    depths = {name: max(f.depth for run in runs for f in run.fifos if f.name == name) for name in least or ()}
    return {name: {"depth": depths[name], "least": depth} for name, depth in (least or {}).items()}


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of simulations: cycles and milliseconds by style."""
    return {
        "note": found["note"],
        "assumed": found["assumed"],
        **{style: _style(run) for style, run in found["styles"].items()},
    }


def _style(run: Mapping[str, Any]) -> dict[str, Any]:
    found = {**{key: run[key] for key in ("cycles", "latency_ms", "bit_exact")}, "deadlock": run["deadlock"] is not None}
    return found | ({"entries": run["entries"]} if run["entries"] else {})


def write_facts(build: Path, found: Mapping[str, Any]) -> None:
    """cosim.json, and the summary in the report of the build where it has one."""
    write_json(build / SIMULATION, found)
    if (build / REPORT).is_file():
        report = load_report(build)
        report["simulation"] = summary(found)
        write_json(build / REPORT, report)
        write_whole(build / "report.txt", as_text(render(report)).encode())
