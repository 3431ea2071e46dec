"""The report of a build: what was compiled, how near it is to float, what it is estimated to cost, where the files are.

`report.json` has a schema version and is described in docs/report.md; `report.txt` and the command line show the same facts as tables
(report_tables.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import attnc
from attnc.errors import BuildError
from attnc.files import read_json
from attnc.ir import Graph, Node
from attnc.kernels.resources import Resources
from attnc.model import Model
from attnc.ops import operator
from attnc.ops.linear_weights import weight_format, weight_shape
from attnc.passes.tokens import has_scale_per_token
from attnc.passes.weights import weighted
from attnc.quant.weight_config import LayerChoices, LayerSettings
from attnc.schedule.cost import Estimate, buffer_costs, by_class, engine_total
from attnc.schedule.devices import CLASSES, Board
from attnc.schedule.energy import energy_mj, power_watts
from attnc.schedule.engine_choice import EngineChoice
from attnc.schedule.program import Program
from attnc.schedule.stages import by_entry, by_operator, losses, stages, summary

SCHEMA = 1
ESTIMATE_NOTE = "estimate: attnc's cost model, no synthesis run"


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), between -99 and 99."""
    if noise <= 0:
        return 99.0
    return float(np.clip(10 * math.log10(max(signal, 1e-300) / noise), -99, 99))


ERRORS = 2.0
"""Standard errors between a figure and what other samples are trusted to reach: 97.7 % of a normal distribution."""
SPREAD = 0.5
"""Deviation of a sample's noise from the mean that is assumed, as much as one more sample would say, since few samples say little of it."""


def margin(signal: Sequence[float], noise: Sequence[float]) -> float:
    """How many dB below the SQNR of some samples, from their energies, that of others may be."""
    s, n = np.asarray(signal), np.asarray(noise)
    if not n.sum() or not s.sum():
        return 0.0
    deviation = n / n.mean() - s / s.mean()  # the delta method: of a quotient of means
    error = math.sqrt((float(np.square(deviation).sum()) + SPREAD**2) / len(s)) / math.sqrt(len(s))
    return 10 * math.log10(1 + ERRORS * error)


def compile_report(
    model: Model,
    program: Program,
    cost: Estimate,
    board: Board,
    source: dict[str, str],
    layer_db: dict[str, float],
    float_check: dict[str, Any],
    calibration: dict[str, Any],
    check: dict[str, Any],
    widths: dict[str, Any],
    settings: LayerChoices,
    choice: EngineChoice | None,
    misfit: str | None = None,
) -> dict[str, Any]:
    """All facts of a compilation, ready for JSON; `misfit` says why the schedule does not fit the board, `choice` how engines were
    chosen (None: a schedule was given)."""
    graph, cycles = model.graph, cost.by_node()
    main = {node: stage.node for stage in stages(graph, program, cost) for node in stage.nodes}
    # Each layer once, however many entries it is in; what writes a second precision of keys is none.
    nodes = [node for node in graph.nodes if node.packed == node.name and node.output in layer_db]
    weights = {
        node.name: _weights_report(graph, node, settings.choose(node), choice) for node in weighted(graph) if node.packed == node.name
    }
    return {
        "schema": SCHEMA,
        "attnc": attnc.__version__,
        "model": source,
        "target": {"name": board.name, "part": board.part, "clock_mhz": cost.clock_mhz},
        "board": board.model_dump(mode="json"),
        "calibration": calibration,
        "activation_bits": widths,
        "float_check": float_check,
        "check": check,
        "placement": dict(sorted(Counter(p.where for p in model.placements).items())),
        "host_operators": [{"node": p.node, "operator": p.operator, "reason": p.reason} for p in model.placements if p.where == "host"],
        "made_sparse": [asdict(one) for one in model.made_sparse],
        "operators": dict(sorted(Counter(node.op for node in nodes).items())),
        "design": program.design_facts,
        "fifos": dict(program.depths),
        "engine_choice": None if choice is None or not choice.tried else {"chosen": choice.kind, "tried": choice.tried},
        "engines": [_engine_report(program, index, cost) for index in range(len(program.engines))],
        "layers": [
            {
                "node": node.name,
                "op": node.op,
                "implementation": node.attrs.get("implementation"),
                "bias": node.attrs.get("bias_report"),
                "weights": weights.get(node.name),
                "output": node.output,
                "shape": list(graph.value(node.output).shape),
                "type": graph.type(node.output).short,
                "float_graph_db": round(layer_db[node.output], 2),
                "cycles": cycles.get(node.name, 0),
                "with": main[node.name] if main[node.name] != node.name else None,
            }
            for node in nodes
        ],
        "estimate": estimate_facts(graph, program, cost, board, misfit),
        "files": {
            "hls": "hls/attnc_top.cpp",
            "weights": "weights/",
            "golden": "golden/",
            "manifest": "manifest.json",
            "schedule": "schedule.yaml",
            "report": "report.txt",
        },
    }


def _weights_report(graph: Graph, node: Node, settings: LayerSettings, choice: EngineChoice | None) -> dict[str, Any]:
    """Format and quantizer of a layer, its input, and the engine that serves it: `why` is "asked for", "the only one" (that takes this
    format and this input), "bytes" (which are what multipliers are made for), "cost" or "by format" (a schedule was given, so that
    nothing was searched)."""
    format, engines, quantizer = weight_format(node), operator(node).engines(node), node.attrs.get("quantizer", "imported")
    if len(engines) < 2:
        why = "the only one"
    elif settings.engine != "auto":
        why = "asked for"
    elif choice is not None and node.name in choice.nodes:
        why = "cost"
    else:
        why = "bytes" if format.bits == 8 else "by format"
    return {
        "format": format.name,
        "group_size": format.group_size,
        "quantizer": quantizer,
        "quantizer_why": {"imported": "integers of the model", "lossless": "on a grid already"}.get(quantizer, settings.quantizer_why),
        "count": math.prod(weight_shape(node)),
        "input": graph.type(node.inputs[0]).short,
        "activations": "dynamic" if has_scale_per_token(graph, node) else "static",
        "engine": operator(node).engine(node),
        "why": why,
    }


def estimate_facts(graph: Graph, program: Program, cost: Estimate, board: Board, misfit: str | None = None) -> dict[str, Any]:
    """What a program is estimated to cost; the fields are described in docs/report.md."""
    lanes, found, used = program.design.lanes, stages(graph, program, cost), cost.used()
    held = buffer_costs(program.engines, cost)
    return {
        "note": ESTIMATE_NOTE,
        "clock_mhz": cost.clock_mhz,
        "cycles": cost.cycles,
        "latency_ms": round(cost.latency_ms, 6),
        "multiply_adds_per_cycle": round(cost.macs / max(cost.cycles, 1), 3),
        "multipliers": cost.macs_per_cycle,
        **summary(found, cost, lanes),
        "instructions": len(program.instructions),
        "steps": len(program.steps),
        "hidden_cycles": sum(call.cycles for call in cost.calls if call.hidden is not None),
        "memory_bytes": program.memory.words * lanes,
        "weight_bytes": program.weight_words * lanes,
        "bound": dict(Counter(call.bound for call in cost.calls).most_common()),
        "fits": misfit is None,
        "misfit": misfit,
        "resources": {
            name: {"used": math.ceil(used[name]), "available": getattr(board, name), "limit": math.floor(board.limits[name])}
            for name in CLASSES
        },
        "power_watts": round(power_watts(cost), 2),
        "energy_mj": round(energy_mj(cost, lanes), 4),
        "buffers": [
            {
                "name": buffer.key,
                "banks": buffer.memory.banks,
                "depth": buffer.memory.depth,
                "bits": buffer.memory.width,
                "place": cost.places[buffer.key],
                "engines": {
                    engine: {name: round(n, 1) for name, n in by_class(taken).items() if n} for engine, taken in held[buffer.key].items()
                },
            }
            for buffer in cost.buffers
        ],
        "ports": dict(cost.ports),
        "operators": by_operator(found, cost, lanes),
        "lost": losses(found, cost),
        "entries": by_entry(found, cost, lanes),
        "stages": [stage.facts(cost, lanes) for stage in found],
    }


def _engine_report(program: Program, index: int, cost: Estimate) -> dict[str, Any]:
    engine = program.engines[index]
    return {
        "name": engine.name,
        "op": engine.op,
        "numbers": engine.choice or None,
        "kernels": [slot.kernel.function for slot in engine.slots],
        "calls": sum(instruction.engine is engine for instruction in program.instructions),
        "resources": _whole(engine_total(engine, cost)),
    }


def _whole(resources: Resources) -> dict[str, int]:
    """By class, rounded up."""
    return {name: math.ceil(n) for name, n in by_class(resources).items()}


def load_report(build: Path) -> dict[str, Any]:
    """report.json of a build."""
    facts = read_json(build / "report.json")
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise BuildError(
            f"{build}: report.json: needed schema {SCHEMA}, found {facts.get('schema') if isinstance(facts, dict) else facts!r}"
        )
    return facts
