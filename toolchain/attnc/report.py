"""The report of a build: what was compiled, how near it is to float, what it is estimated to cost, where the files are.

`report.json` has a schema version; `report.txt` and the command line show the same facts as tables.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

import attnc
from attnc.errors import BuildError, DataError
from attnc.model import Model
from attnc.ops.base import Array
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
    float_error: float,
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
        "float_check": {"against": "onnxruntime", "largest_relative_error": round(float_error, 9)},
        "placement": dict(sorted(Counter(p.where for p in model.placements).items())),
        "host_operators": [{"node": p.node, "operator": p.operator, "reason": p.reason} for p in model.placements if p.where == "host"],
        "operators": dict(sorted(Counter(node.op for node in graph.nodes).items())),
        "design": {**vars(program.design)},
        "engines": [_engine_report(program, index) for index in range(len(program.engines))],
        "layers": [
            {
                "node": node.name,
                "op": node.op,
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


def evaluate(
    build: Path,
    inputs: dict[str, Array],
    labels: Array | None,
    model: Path | None,
    progress: Callable[[str], None] = lambda text: None,
    types: str = "native",
) -> dict[str, Any]:
    """Run float (onnxruntime on `model`, if given), golden and C++ on all samples; add accuracy, mismatches and output SQNR to
    the report, write it, and return it."""
    from attnc.codegen.project import write_json
    from attnc.verify.csim import compare_build
    from attnc.verify.golden_backend import GoldenBackend
    from attnc_host import Accelerator

    facts = load_report(build)
    progress("simulating the emitted C++ and golden")
    started = time.monotonic()
    compared = compare_build(build, inputs, types)
    with Accelerator.open(build, backend="csim", types=types) as accelerator:
        runs = {"C++": accelerator.run(inputs)}
    with Accelerator.open(build, backend=GoldenBackend(build)) as accelerator:
        runs["golden"] = accelerator.run(inputs)
    evaluation: dict[str, Any] = {
        "samples": compared.samples,
        "elements": compared.elements,
        "mismatches": compared.mismatches,
        "bit_exact": compared.bit_exact,
        "types": types,
        "seconds": round(time.monotonic() - started, 3),
    }
    if model is not None:
        progress("running the float model")
        evaluation["float_model"] = "onnxruntime"
        runs = {"float": _run_float(model, inputs, compared.samples), **runs}
        evaluation["output_sqnr_db"] = {
            name: round(
                decibels(
                    float(np.square(real, dtype=np.float64).sum()), float(np.square(runs["golden"][name] - real, dtype=np.float64).sum())
                ),
                2,
            )
            for name, real in runs["float"].items()
            if real.dtype.kind == "f"
        }
    if labels is not None:
        evaluation["accuracy_percent"] = {kind: _accuracy(outputs, labels) for kind, outputs in runs.items()}
    facts["evaluation"] = evaluation
    write_json(build / "report.json", facts)
    (build / "report.txt").write_text(as_text(facts))
    return facts


def _run_float(model: Path, inputs: dict[str, Array], samples: int) -> dict[str, Array]:
    """Outputs of the original model, joined along the samples."""
    from attnc.frontend.load import QONNX_DOMAINS, load_model
    from attnc.frontend.quantized import lower_quantization
    from attnc.quant.samples import session

    proto = load_model(model)
    found = lower_quantization(proto) if any(node.domain in QONNX_DOMAINS for node in proto.graph.node) else None
    runtime = session(proto if found is None else found.runnable(), "the model")
    names = [output.name for output in runtime.get_outputs()]
    rows = []
    for index in range(samples):
        feed = {}
        for spec in runtime.get_inputs():
            array = inputs[spec.name]
            one = array[index : index + 1] if array.ndim and array.shape[0] == samples else array
            feed[spec.name] = one.astype(_numpy_type(spec.type))
        rows.append(runtime.run(names, feed))
    return {name: np.concatenate([np.atleast_1d(row[i]) for row in rows]) for i, name in enumerate(names)}


def _numpy_type(name: str) -> np.dtype[Any]:
    """The NumPy type of an onnxruntime type name such as `tensor(float)`."""
    kind = name.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))


def _accuracy(outputs: dict[str, Array], labels: Array) -> float:
    """Percent of samples whose largest element of the first output is the label."""
    scores = next(iter(outputs.values()))
    scores = scores.reshape(scores.shape[0], -1)
    if labels.shape != (scores.shape[0],):
        raise DataError(f"labels: needed one per sample [{scores.shape[0]}], found shape {list(labels.shape)}")
    return round(100 * float((scores.argmax(axis=1) == labels).mean()), 3)


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
    imported = facts.get("import")
    if imported:
        counts = f"{len(imported['weights'])} weights and {imported['activation_types']} types of activations as imported"
        table.add_row("quantized by", f"{' and '.join(imported['dialects'])}: {counts}, {len(imported['left_out'])} pairs left out")
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
            layer["op"],
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
