"""The command `attnc cosim`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attnc import pictures
from attnc.cli_bambu import KernelOption, cosim_in_bambu
from attnc.cli_vitis import VitisOption, WorkOption, check_nothing_else, cosim_in_vitis
from attnc.console import Build, Json, Verbose, Verify, note, tell
from attnc.errors import ConfigError
from attnc.files import check_replaceable
from attnc.kernels.latency import READ_LATENCY, WRITE_RESPONSE
from attnc.verify.cosim import STYLES
from attnc_host import manifest as manifests
from attnc_host.progress import Progress

COSIM: dict[str, Any] = {
    "name": "cosim",
    "short_help": "Run the C++ in simulated time: cycles, waiting, deadlocks.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc cosim build/\n"
    "  attnc cosim build/ --plot timeline.png\n"
    "  attnc cosim build/ --style flp --trace trace.json      (open it in ui.perfetto.dev)\n"
    "  attnc cosim build/ --depth engine_0_3_linear.sums=8     (what if, without compiling anything)\n"
    "  attnc cosim build/ --size-fifos                        (then: attnc compile MODEL --schedule build/schedule.yaml)\n"
    "  attnc cosim build/ --stalls 100                        (and of a seed that fails: --stalls 1 --seed K)\n"
    "  attnc cosim build/ --calibrate solution/syn/report\n"
    "  attnc cosim build/ --tool vitis                        (synthesized, and its RTL simulated; see attnc csynth --help)\n"
    "  attnc cosim build/ --tool bambu --kernel softmax       (RTL of one kernel, in Verilator)\n\n"
    "\b\nWhat is simulated: the emitted sources, on the first of the build's own vectors. Every process of a\n"
    "dataflow region has a clock; every FIFO its depth; a loop begins an iteration per II cycles, and writes\n"
    "what it computes when that leaves the pipeline; memory answers late, and ports and DDR move so many\n"
    "bytes per cycle. What is assumed: depths of loops (a table with its reasons in kernels/loops.py, or a\n"
    "synthesis report with --calibrate), and the latencies of the memory.\n\n"
    "\b\nBoth styles of pipelines are run, since a tool may build either, and a design has to live with both:\n"
    "  stp   a pipeline that waits stops as a whole, and keeps what is in it\n"
    "  flp   what is in it goes on and leaves\n\n"
    "\b\n--size-fifos runs the build many times and writes `fifos` into its schedule.yaml: least depths with which\n"
    "both styles take at most 1 % more cycles, and with which nothing stands still, with memory of no latency and\n"
    "of four times the usual one too. The build itself stays as it is.\n\n"
    "\b\n--stalls lets reads, writes and beats of memory wait at random, and `empty` be true at random: what a design\n"
    "computes must not depend on when values come, and no timing may make processes wait for each other.\n\n"
    "\b\n--calibrate takes II and depth of the loops that a synthesis report names (csynth.xml, or a folder of them,\n"
    "as Vitis HLS leaves it in solution/syn/report), the largest where several modules have a loop.\n\n"
    "\b\n--tool bambu makes RTL of every kernel of the build, or of the one that --kernel names, with PandA-bambu where that and\n"
    "Verilator are on PATH, and compares what it gives with what golden gives, bit for bit, on the first calls of a sample. A kernel\n"
    "that bambu does not take is listed with its log, in BUILD.bambu/KERNEL or below --work.\n\n"
    "A trace, a VCD and a picture are of the slower style unless --style says which, or of one that stands still.\n\n"
    "\b\nExit code: 0 when outputs equal golden in every style, 1 when not or when processes wait for each\n"
    "other for ever (it says who, for which FIFO, since when, and the least depths that free them), 2 after\n"
    "an error. The build gets cosim.json, and its report the cycles.",
}


def cosim(
    build: Build,
    style: Annotated[Literal["stp", "flp"] | None, typer.Option("--style", help="Only this style of pipelines; by default both.")] = None,
    read_latency: Annotated[
        int, typer.Option("--read-latency", metavar="CYCLES", min=0, max=100_000, help="From a read request to its first word.")
    ] = READ_LATENCY,
    write_response: Annotated[
        int, typer.Option("--write-response", metavar="CYCLES", min=0, max=100_000, help="From the last word written to the answer.")
    ] = WRITE_RESPONSE,
    depth: Annotated[
        list[str] | None, typer.Option("--depth", metavar="FIFO=N", help="Another depth of a FIFO (0: no bound); may be repeated.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="JSON", help="Write a trace for ui.perfetto.dev: instructions, processes, FIFOs."),
    ] = None,
    vcd: Annotated[Path | None, typer.Option("--vcd", metavar="VCD", help="Write the levels of all FIFOs for a waveform viewer.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PNG", help="Draw what every process does over time (needs matplotlib).")
    ] = None,
    size_fifos: Annotated[
        bool, typer.Option("--size-fifos", help="Find least depths of FIFOs and write them into the build's schedule.yaml.")
    ] = False,
    stalls: Annotated[
        int | None,
        typer.Option(
            "--stalls", metavar="N", min=1, max=1_000_000, help="Run N times with random stalls: outputs must stay, and no process stand."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=1 << 48, help="With --stalls: the seed of the first run.  [default: 0]")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="CSYNTH_XML", help="II and depth of loops from a report of Vitis HLS, or a folder."),
    ] = None,
    tool: Annotated[
        Literal["attnc", "vitis", "bambu"],
        typer.Option("--tool", help="What simulates: attnc the C++ in time, vitis its RTL of the design, bambu that of single kernels."),
    ] = "attnc",
    kernel: KernelOption = None,
    vitis: VitisOption = None,
    work: WorkOption = None,
    verify: Verify = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run the emitted C++ in simulated time: outputs against golden, cycles by stage and process, what waits for what, levels of FIFOs."""
    if tool != "attnc":
        times = {"--read-latency": read_latency != READ_LATENCY, "--write-response": write_response != WRITE_RESPONSE}
        random = {"--stalls": stalls is not None, "--seed": seed is not None}
        own = {"--style": style, "--depth": depth, "--trace": trace, "--vcd": vcd, "--plot": plot, "--calibrate": calibrate}
        check_nothing_else({**times, **{name: bool(given) for name, given in own.items()}, "--size-fifos": size_fifos, **random}, tool)
    check_nothing_else({"--vitis": vitis is not None and tool != "vitis", "--kernel": kernel is not None and tool != "bambu"}, tool)
    check_nothing_else({"--work": work is not None and tool == "attnc"}, tool)
    if tool == "vitis":
        return cosim_in_vitis(build, vitis, work, verify, as_json)
    if tool == "bambu":
        return cosim_in_bambu(build, kernel, work, verify, as_json)
    from attnc.sim import command, sizing, tables
    from attnc.sim import stalls as stalling
    from attnc.sim.calibration import read_calibration
    from attnc.sim.trace import made_by_attnc

    depths = _depths(depth)
    if size_fifos and (style or depths or trace or vcd or plot):
        raise ConfigError("--size-fifos: runs both styles with depths of its own; leave out --style, --depth, --trace, --vcd and --plot")
    if stalls is not None and (size_fifos or trace or vcd or plot):
        raise ConfigError("--stalls: every run is another; leave out --size-fifos, --trace, --vcd and --plot")
    if seed is not None and stalls is None:
        raise ConfigError("--seed: needed --stalls N, the runs that begin with it")
    for path, made in ((trace, made_by_attnc), (vcd, made_by_attnc), (plot, pictures.made_by_attnc)):
        if path is not None:
            check_replaceable(path, made, [build])
    with Progress() as progress:
        styles = STYLES if style is None else (style,)
        manifest = manifests.load(build, verify, edited=True)
        calibration = None if calibrate is None else read_calibration(calibrate)
        outputs = command.Outputs(trace, vcd, plot)
        request = command.Request(styles, read_latency, write_response, depths, outputs, manifest.name, calibration)
        if size_fifos:
            found, table = sizing.size_fifos(build, request, progress), tables.sizing
        elif stalls is not None:
            found, table = stalling.stall(build, request, range(seed or 0, (seed or 0) + stalls), progress), tables.stalls
        else:
            found, table = command.simulate(build, request, progress, note), tables.simulation
    tell({"build": str(build), **found}, table(found), as_json, not all(run["bit_exact"] for run in found["styles"].values()))


def _depths(given: list[str] | None) -> dict[str, int]:
    """FIFO=N to {FIFO: N}."""
    found: dict[str, int] = {}
    for text in given or ():
        name, equals, number = text.rpartition("=")
        if not equals or not name or any(c.isspace() for c in name) or not number.isdecimal() or int(number) > 1 << 20:
            raise ConfigError(f"--depth: needed FIFO=N with a whole number up to {1 << 20}, found {text!r}")
        found[name] = int(number)
    return found
