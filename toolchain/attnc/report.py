"""The report of a build: what was compiled, how near it is to float, what it is estimated to cost, where the files are.

`report.json` has a schema version; `report.txt` and the command line show the same facts as tables.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

import attnc
from attnc.errors import BuildError
from attnc.model import Model
from attnc.schedule.cost import UTILISATION, Estimate, engine_resources, limits
from attnc.schedule.devices import Board
from attnc.schedule.program import Program

SCHEMA = 1
ESTIMATE_NOTE = "estimate: attnc's cost model, no synthesis run"


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), between -99 and 99."""
    if noise <= 0:
        return 99.0
    return float(np.clip(10 * math.log10(max(signal, 1e-300) / noise), -99, 99))


def compile_report(
    model: Model,
    program: Program,
    cost: Estimate,
    board: Board,
    source: dict[str, str],
    sqnr: dict[str, float],
    float_check: dict[str, Any],
    calibration: dict[str, Any],
) -> dict[str, Any]:
    """All facts of a compilation, ready for JSON."""
    graph, cycles = model.graph, cost.by_node()
    used = dict(zip(UTILISATION, cost.resources.astuple(), strict=True))
    resources = {
        name: {"used": math.ceil(used[name]), "available": getattr(board, name), "limit": math.floor(limits(board)[name])}
        for name in UTILISATION
    }
    return {
        "schema": SCHEMA,
        "attnc": attnc.__version__,
        "model": source,
        "target": {"name": board.name, "part": board.part, "clock_mhz": cost.clock_mhz},
        "calibration": calibration,
        "float_check": float_check,
        "placement": dict(sorted(Counter(p.where for p in model.placements).items())),
        "host_operators": [{"node": p.node, "operator": p.operator, "reason": p.reason} for p in model.placements if p.where == "host"],
        "operators": dict(sorted(Counter(node.op for node in graph.nodes).items())),
        "design": {**vars(program.design)},
        "engines": [_engine_report(program, index) for index in range(len(program.engines))],
        "layers": [
            {
                "node": node.name,
                "op": node.op,
                "implementation": node.attrs.get("implementation"),
                "output": node.output,
                "shape": list(graph.value(node.output).shape),
                "type": graph.type(node.output).short,
                "sqnr_db": round(sqnr[node.output], 2),
                "cycles": cycles.get(node.name, 0),
            }
            for node in graph.nodes
        ],
        "estimate": {
            "note": ESTIMATE_NOTE,
            "clock_mhz": cost.clock_mhz,
            "cycles": cost.cycles,
            "latency_ms": round(cost.latency_ms, 6),
            "multiply_adds": cost.macs,
            "multiply_adds_per_cycle": round(cost.macs / max(cost.cycles, 1), 3),
            "instructions": len(program.calls),
            "memory_bytes": program.memory.words * program.design.lanes,
            "weight_bytes": program.weight_words * program.design.lanes,
            "ddr_bytes": sum(call.words for call in cost.calls) * program.design.lanes,
            "bound": dict(Counter(call.bound for call in cost.calls).most_common()),
            "resources": resources,
        },
        "files": {
            "hls": "hls/attnc_top.cpp",
            "weights": "weights/",
            "golden": "golden/",
            "manifest": "manifest.json",
            "report": "report.txt",
        },
    }


def _engine_report(program: Program, index: int) -> dict[str, Any]:
    engine = program.engines[index]
    used = engine_resources(engine, program.design.lanes).astuple()
    return {
        "name": engine.name,
        "op": engine.op,
        "kernel": engine.kernel.function,
        "calls": sum(e is engine for e, _ in program.calls),
        "resources": {name: math.ceil(n) for name, n in zip(UTILISATION, used, strict=True)},
    }


def load_report(build: Path) -> dict[str, Any]:
    """report.json of a build."""
    try:
        facts = json.loads((build / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise BuildError(f"{build}: report.json is missing or damaged ({error})") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise BuildError(
            f"{build}: report.json: needed schema {SCHEMA}, found {facts.get('schema') if isinstance(facts, dict) else facts!r}"
        )
    return facts


def render(facts: dict[str, Any]) -> RenderableType:
    """The report as tables."""
    return Group(_summary(facts), _resources(facts), _layers(facts))


def _summary(facts: dict[str, Any]) -> Table:
    cost, target = facts["estimate"], facts["target"]
    table = Table(title=f"{escape(facts['model']['file'])} on {target['name']}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    calibration = facts["calibration"]
    synthetic = " (made-up inputs: accuracy is a guess until --calib is given)" if calibration["source"] == "synthetic" else ""
    table.add_row("calibration", f"{calibration['samples']} samples, {calibration['source']}, {calibration['method']}{synthetic}")
    evaluation = facts.get("evaluation")
    if evaluation:
        for kind, percent in evaluation.get("accuracy_percent", {}).items():
            name = {"float": "float (onnxruntime)"}.get(kind, kind)
            table.add_row(f"accuracy {name}", f"{percent:.2f} % of {evaluation['samples']} samples")
        table.add_row("elements compared", f"{evaluation['elements']:,} (C++ against golden, {evaluation['samples']} samples)")
        table.add_row("mismatches", f"{evaluation['mismatches']}")
        for name, value in evaluation.get("output_sqnr_db", {}).items():
            table.add_row(f"SQNR of {escape(name)}", f"{value:.1f} dB against float")
    table.add_row("cycles", f"{cost['cycles']:,} per sample (estimate)")
    table.add_row("latency", f"{cost['latency_ms']:.4f} ms at {cost['clock_mhz']:g} MHz (estimate)")
    table.add_row("multiply-adds", f"{cost['multiply_adds']:,}, {cost['multiply_adds_per_cycle']:.1f} per cycle (estimate)")
    table.add_row("memory", f"weights {cost['weight_bytes']:,} bytes, activations {cost['memory_bytes']:,} bytes")
    table.add_row("files", ", ".join(facts["files"].values()))
    return table


def _resources(facts: dict[str, Any]) -> Table:
    table = Table(title=f"Resources ({facts['estimate']['note']})", title_justify="left")
    for name in ("", "used", "of", "share", "limit"):
        table.add_column(name, justify="left" if not name else "right")
    for name, entry in facts["estimate"]["resources"].items():
        share = f"{100 * entry['used'] / entry['available']:.1f} %" if entry["available"] else "-"
        table.add_row(name.upper(), f"{entry['used']:,}", f"{entry['available']:,}", share, f"{entry['limit']:,}")
    return table


def _layers(facts: dict[str, Any]) -> Table:
    table = Table(title="Layers (SQNR of golden against float; cycles are estimates)", title_justify="left")
    for name, side in (
        ("node", "left"),
        ("operator", "left"),
        ("output", "right"),
        ("type", "left"),
        ("SQNR dB", "right"),
        ("cycles", "right"),
    ):
        table.add_column(name, justify=side, overflow="ellipsis", max_width=44)  # type: ignore[arg-type]
    for layer in facts["layers"]:
        rows, channels = layer["shape"]
        table.add_row(
            escape(layer["node"]),
            layer["op"] + (f" ({layer['implementation']})" if layer.get("implementation") else ""),
            f"{rows}x{channels}",
            layer["type"],
            f"{layer['sqnr_db']:.1f}",
            f"{layer['cycles']:,}",
            end_section=False,
        )
    return table


def as_text(facts: dict[str, Any]) -> str:
    """The tables as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=140, color_system=None, legacy_windows=False).print(render(facts), markup=False, highlight=False)
    return stream.getvalue()
