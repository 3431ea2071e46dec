"""Estimates of what is built already, and tables over boards: `attnc estimate` and `attnc sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from attnc.codegen.graph_file import load_graph
from attnc.compiler import quantize_model
from attnc.config import CompileOptions, Objective
from attnc.errors import BuildError, ConfigError, FitError
from attnc.ir import Graph
from attnc.pipeline.phases import Progress
from attnc.report import estimate_facts, load_report
from attnc.schedule.cost import check_memory, engine_total, estimate
from attnc.schedule.design import check_fit, choose_design
from attnc.schedule.design_fields import DesignFields
from attnc.schedule.devices import CLASSES, Board, find_board, with_utilisation
from attnc.schedule.file import Depth, Place
from attnc.schedule.program import Program, build_program
from attnc.settings_file import validated
from attnc.verify.csynth import Module, read_csynth
from attnc_host import manifest as manifests

MAX_MODULES = 200
"""Modules of a synthesis report that are listed beside those of the engines."""


def estimate_build(build: Path, target: str | None, clock_mhz: float | None, utilisation: str | None) -> dict[str, Any]:
    """Cost of a build's own design, on its board or another; on another also of what compiling for it would choose."""
    graph, program, facts = open_build(build)
    design = program.design
    own = facts.board
    board = own if target is None else find_board(target)
    if utilisation is not None:
        board = with_utilisation(board, utilisation)
    if 8 * design.lanes > board.axi_bits:
        raise FitError(
            f"{build}: words of {design.lanes} bytes need memory ports of {8 * design.lanes} bits, {board.name} has {board.axi_bits}"
        )
    clock = clock_mhz or (facts.target.clock_mhz if target is None else board.clock_mhz)
    same = board.name == own.name
    places = facts.places if same else {}
    ports = facts.estimate.ports if same else {}
    cost = estimate(program, board, clock, places, ports, settled=True)
    result = {
        "build": str(build),
        "target": {"name": board.name, "part": board.part, "clock_mhz": clock},
        "design": program.design_facts,
        "estimate": estimate_facts(graph, program, cost, board, check_fit(graph, design, cost, board, clock)),
    }
    if not same:
        result["recompiled"] = _row(graph, board, clock, "latency")
    return result


class _Target(BaseModel):
    clock_mhz: float = Field(ge=1, le=1000)


class _Buffer(BaseModel):
    name: str
    place: Place


class _Estimate(BaseModel):
    buffers: tuple[_Buffer, ...]
    ports: dict[str, str]


class _Decoder(BaseModel):
    simulated_at: dict[str, Annotated[int, Field(ge=0)]]


class _Facts(BaseModel):
    """What an estimate needs of report.json, which no checksum covers."""

    target: _Target
    design: DesignFields
    board: Board
    estimate: _Estimate
    fifos: dict[str, Depth]
    decoder: _Decoder | None = None

    @property
    def places(self) -> dict[str, str]:
        """Kind of memory of each buffer."""
        return {buffer.name: buffer.place for buffer in self.estimate.buffers}


def open_build(build: Path) -> tuple[Graph, Program, _Facts]:
    """The quantized graph of a build, its program without data, and what its report says of the design."""
    manifests.load(build, edited=True)
    try:
        where = f"{build}/report.json"
        facts = validated(_Facts, load_report(build), where)
        design = facts.design.design(where)
    except ConfigError as error:
        raise BuildError(f"{error}; compile the model again") from error
    graph = load_graph(build / "golden")
    # How many integers registers change depends on where values lie, so those of a decoder are placed, weights too.
    program = replace(build_program(graph, design, None if facts.decoder is None else lambda packed: None), depths=facts.fifos)
    if facts.decoder is not None:
        positions = facts.decoder.simulated_at
        if positions.keys() != program.last.keys() or any(at > program.last[entry] for entry, at in positions.items()):
            raise BuildError(f"{where}: decoder: simulated_at: needed positions of entries up to {program.last}; compile the model again")
        program = program.at(positions)
    return graph, program, facts


def calibrate(build: Path, report: Path) -> dict[str, Any]:
    """Estimate against a synthesis report, for the whole, per engine and per module: `ratio` is tool / estimate."""
    _, program, facts = open_build(build)
    board, found = facts.board, read_csynth(report)
    cost = estimate(program, board, facts.target.clock_mhz, facts.places, facts.estimate.ports)
    rows, matched = [_beside("whole design", found.top, cost.used(), cost.cycles)], {found.top.name}
    for engine in program.engines:
        module = found.engine(engine.index)
        matched.update({module.name} if module else ())
        cycles = [c.cycles for c in cost.calls if c.engine == engine.name]
        used = dict(zip(CLASSES, engine_total(engine, cost).astuple(), strict=True))
        rows.append(_beside(f"{engine.name} ({engine.op})", module, used, max(cycles, default=0)))
    others = [_module_facts(module) for module in found.modules if module.name not in matched]
    return {
        "build": str(build),
        "report": {
            "file": report.name,
            "version": found.version,
            "part": found.part,
            "target_ns": found.target_ns,
            "clock_ns": found.top.clock_ns,
        },
        "estimate_part": board.part,
        "rows": rows,
        "modules": others[:MAX_MODULES],
        "modules_left_out": max(0, len(others) - MAX_MODULES),
    }


def _module_facts(module: Module) -> dict[str, Any]:
    return asdict(module)


def _beside(name: str, module: Module | None, used: dict[str, float], cycles: int) -> dict[str, Any]:
    """One row: what was estimated, what the tool reports. Cycles are of the longest call, or of a whole sample."""
    estimated = {**{kind: round(number, 1) for kind, number in used.items()}, "cycles": cycles}
    tool = None if module is None else {**module.resources, "cycles": module.latency_worst}
    ratios = {key: round(tool[key] / number, 3) if tool and tool[key] is not None and number else None for key, number in estimated.items()}  # type: ignore[operator]
    return {
        "name": name,
        "module": module.name if module else None,
        "estimate": estimated,
        "tool": tool,
        "ratio": ratios,
        "interval": module.interval if module else None,
    }


def sweep(
    model: Path,
    options: CompileOptions,
    targets: Sequence[str],
    clocks: Sequence[float],
    objectives: Sequence[Objective],
    progress: Progress = lambda text: None,
) -> dict[str, Any]:
    """The best design for every board, clock and objective; a row with "error" where none fits. The model is quantized once."""
    boards = [find_board(target) for target in targets]
    if not boards:
        raise ConfigError("--targets: needed at least one board")
    if options.utilisation is not None:
        boards = [with_utilisation(board, options.utilisation) for board in boards]
    graph = quantize_model(model, options, progress).graph
    rows = []
    for board in boards:
        for clock in clocks or (board.clock_mhz,):
            for objective in objectives:
                progress(f"{board.name} at {clock:g} MHz, {objective}")
                rows.append(_row(graph, board, clock, objective))
    return {"model": str(model), "note": "estimates: attnc's cost model, no synthesis run", "rows": rows}


def _row(graph: Graph, board: Board, clock: float, objective: Objective) -> dict[str, Any]:
    row: dict[str, Any] = {"target": board.name, "clock_mhz": clock, "objective": objective}
    try:
        design = choose_design(graph, board, clock, objective)
        program = build_program(graph, design, None)
        check_memory(program, board)
    except FitError as error:
        return {**row, "error": str(error)}
    cost = estimate(program, board, clock, settled=True)
    facts = estimate_facts(graph, program, cost, board)
    kept = (
        "cycles",
        "latency_ms",
        "multipliers_busy_percent",
        "dsp_roof_percent",
        "ddr_roof_percent",
        "ddr_bytes",
        "energy_mj",
        "power_watts",
        "resources",
    )
    return {**row, "design": program.design_facts, **{key: facts[key] for key in kept}, "lost": facts["lost"][:1]}
