"""The commands that run Vitis HLS on a build: `attnc csynth`, `attnc export`, and `--tool vitis` of `csim` and `cosim`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attnc import cost_tables
from attnc.console import Build, Json, State, Verbose, Verify, print_json, tell
from attnc.errors import BuildError, ConfigError
from attnc.messages import clean
from attnc_host import manifest as manifests
from attnc_host.progress import Progress

if TYPE_CHECKING:
    from attnc.vendor.vitis import Run

VitisOption = Annotated[
    Path | None,
    typer.Option("--vitis", metavar="PATH", help="Where Vitis is: its folder, or vitis_hls, vitis-run or v++ itself; else from PATH."),
]
WorkOption = Annotated[
    Path | None,
    typer.Option("--work", metavar="DIR", help="Where the tool works, and leaves project and log; BUILD.vitis (or .bambu) by default."),
]
ToolOption = Annotated[Literal["vitis"], typer.Option("--tool", help="What synthesizes; there is one so far.")]

RUNS = (
    "\b\nThe tool works on a copy of the build's sources, in BUILD.vitis/STEP or where --work says; a run replaces what the last run of\n"
    "the same step left there. Its log is vitis.log; -v shows it as it grows. What runs: `vitis_hls -f STEP.tcl` or\n"
    "`vitis-run --mode hls --tcl STEP.tcl`, whichever is there; with `--vitis .../v++` the unified flow of Vitis 2024.2 and later,\n"
    "`v++ -c --mode hls --config hls_config_ip.cfg`. Sourcing settings64.sh of the installation puts them on PATH.\n\n"
)
CSYNTH: dict[str, Any] = {
    "name": "csynth",
    "short_help": "Synthesize with Vitis HLS, beside the estimates.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc csynth build/\n"
    "  attnc csynth build/ --vitis /tools/Xilinx/Vitis_HLS/2023.2 --json\n"
    "  attnc cosim build/ --calibrate build.vitis/csynth/attnc_top_project/solution     (then: II and depths as synthesized)\n\n"
    + RUNS
    + "\b\nExit code: 0 when it is synthesized, 2 after an error, which shows the end of the log.",
}
EXPORT: dict[str, Any] = {
    "name": "export",
    "short_help": "Package for Vivado (ip) or for v++ (xo).",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc export build/ --format ip\n"
    "  vivado -mode batch -source build/vivado/build.tcl -tclargs build.vitis/export_ip/attnc_top_ip.zip     (docs/board.md)\n"
    "  attnc export build/ --format xo\n"
    "  v++ -l -t hw --platform PLATFORM build.vitis/export_xo/attnc_top.xo --config build/vitis/link.cfg -o attnc.xclbin\n\n"
    "\b\nKinds of export:\n"
    "  ip   a zip for the IP catalog of Vivado; build/vivado/build.tcl places it in a block design\n"
    "  xo   a kernel for `v++ -l`, which connects it as vitis/link.cfg says\n\n"
    + RUNS
    + "\b\nExit code: 0 when it is made, 2 after an error, which shows the end of the log.",
}


def csynth(
    build: Build,
    tool: ToolOption = "vitis",
    vitis: VitisOption = None,
    work: WorkOption = None,
    verify: Verify = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Synthesize a build with Vitis HLS: cycles and resources of the tool beside the estimates, whole and by engine."""
    from attnc import estimation

    run = _run(build, "csynth", vitis, work, verify)
    report = run.report("syn/report/csynth.xml")
    facts = {**estimation.calibrate(build, report), **_facts(run), "report_file": str(report)}
    tell(facts, cost_tables.calibration(facts), as_json)
    if not as_json:
        print(f"II and depth of its loops, for `attnc cosim --calibrate`: {clean(str(run.reports))}")


def export(
    build: Build,
    form: Annotated[Literal["ip", "xo"], typer.Option("--format", help="ip: for a block design of Vivado; xo: a kernel for v++.")],
    tool: ToolOption = "vitis",
    vitis: VitisOption = None,
    work: WorkOption = None,
    verify: Verify = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Synthesize a build with Vitis HLS and package it for the tool that places it."""
    from attnc.codegen.render import EXPORTS
    from attnc.vendor.vitis import exported

    run = _run(build, "export", vitis, work, verify, form)
    path = exported(run, form)
    if as_json:
        print_json({"build": str(build), **_facts(run), "format": form, "output": str(path), "bytes": path.stat().st_size})
    else:
        print(f"{clean(str(path))}: {path.stat().st_size:,} bytes, {EXPORTS[form].purpose}")


def csim_in_vitis(build: Path, vitis: Path | None, work: Path | None, verify: bool, as_json: bool) -> None:
    """`attnc csim --tool vitis`: the test bench in the tool's own C simulation, on all vectors of the build."""
    from attnc.vendor import tables

    run = _run(build, "csim", vitis, work, verify)
    if run.compared is None:
        raise BuildError(f"{run.vitis.name} ended well, but the test bench said nothing of a comparison; its log: {run.log}")
    facts = {"build": str(build), **_facts(run), "bytes": run.compared[0], "mismatches": run.compared[1], "bit_exact": not run.differs}
    tell(facts, tables.csim(facts), as_json, run.differs)


def cosim_in_vitis(build: Path, vitis: Path | None, work: Path | None, verify: bool, as_json: bool) -> None:
    """`attnc cosim --tool vitis`: RTL that the tool made, simulated on the first of the build's vectors."""
    from attnc.report import load_report
    from attnc.vendor import tables
    from attnc.verify.csynth import read_csynth

    report = load_report(build)
    run = _run(build, "cosim", vitis, work, verify)
    found = run.co_simulation
    if found is None and not run.differs:
        raise BuildError(f"{run.vitis.name} ended well, but left no report of a co-simulation; its log: {run.log}")
    simulated = report.get("simulation", {})
    facts = {
        "build": str(build),
        **_facts(run),
        "bit_exact": not run.differs,
        "status": found.status if found else "Fail",
        "cycles": {
            "estimate": report["estimate"]["cycles"],
            **{style: simulated.get(style, {}).get("cycles") for style in ("stp", "flp")},
            "synthesis": read_csynth(run.report("syn/report/csynth.xml")).top.latency_worst,
            "rtl": found.latency[2] if found else None,
        },
        "latency": dict(zip(("least", "mean", "largest"), found.latency, strict=True)) if found else None,
    }
    tell(facts, tables.cosim(facts), as_json, run.differs)


def check_nothing_else(given: dict[str, bool], tool: str) -> None:
    """Refuse options that have no meaning for a tool, or for attnc's own simulation."""
    wrong = [option for option, used in given.items() if used]
    if wrong:
        raise ConfigError(f"--tool {tool}: {', '.join(wrong)} {'means' if len(wrong) == 1 else 'mean'} nothing to it; leave it out")


def _run(build: Path, step: str, where: Path | None, work: Path | None, verify: bool, kind: str = "ip") -> Run:
    """Run a step with the program that is there."""
    from attnc.vendor.vitis import find_vitis, run_step

    vitis = find_vitis(where)
    manifest = manifests.load(build, verify, edited=True)
    with Progress() as progress:
        progress.stage(f"{vitis.name}: {step}")
        return run_step(vitis, manifest, step, work, teller(progress, vitis.name), kind)


def teller(progress: Progress, name: str) -> Callable[[str], None]:
    """Takes the lines of a tool: what it says that it is at is the stage; with --verbose every line is shown."""

    def told(line: str) -> None:
        phase = re.match(r"INFO: \[[^\]]*\]\s*(.*\w.*)", line)
        if State.verbose:
            print(clean(line), file=sys.stderr)
        elif phase:
            progress.stage(f"{name}: {clean(phase[1])[:100]}")

    return told


def _facts(run: Run) -> dict[str, Any]:
    return {"tool": run.vitis.name, "program": str(run.vitis.program), "folder": str(run.folder), "log": str(run.log)}
