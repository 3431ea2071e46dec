"""What a report says of a mixture of experts: who gets how many rows, and what other routings than that of the test bench take.

Which experts a token gets follows from data, and so do cycles. Two more routings are made with other weights of the gates, everything else
being as it is: gates of zeros send all tokens to the same experts, as few as there can be; gates that are rows of their own input spread
tokens over many. Both are run by golden and simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.codegen.data import pack_region
from attnc.golden import run_golden
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.ops.linear import LOW_BYTE_OFFSET
from attnc.schedule.cost import Estimate, estimate
from attnc.schedule.devices import Board
from attnc.schedule.program import Program, build_program
from attnc.schedule.queues import Routing
from attnc.sim.check import Other

FIRST, MEAN, FEW, MANY = "first sample", "mean of calibration", "fewest experts", "most experts"
BEFORE_CHOICE = ("add", "expert_scores", "mul", "requantize", "softmax", "unary")
"""Operators that may stand between a gate and the choice."""


def rows_by_queue(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """For each queue the rows of every expert [samples, experts], by golden."""
    experts = {node.output: node.attrs["experts"] for node in graph.nodes if node.op == "expert_queue"}
    found: dict[str, Array] = {}

    def see(name: str, array: Array) -> None:
        if name in experts:
            found[name] = np.zeros((len(array), experts[name]), np.int64)
            for sample, entries in enumerate(array.astype(np.int64)):
                np.add.at(found[name][sample], entries[:, 0], entries[:, 2])

    run_golden(graph, feeds, see)
    return found


def routing_of(rows: Mapping[str, Array], sample: int = 0) -> dict[str, tuple[int, ...]]:
    """The routing of a sample."""
    return {name: tuple(int(count) for count in array[sample] if count) for name, array in rows.items()}


def _gates(graph: Graph, chooser: Node) -> list[Node]:
    """The linear layers that a choice of experts follows from."""
    left, found = [chooser.inputs[0]], []
    while left:
        node = graph.producer(left.pop())
        if node is not None and node.op == "linear":
            found.append(node)
        elif node is not None and node.op in BEFORE_CHOICE:
            left += node.inputs
    return found


def other_gates(graph: Graph, feeds: Mapping[str, Array], spread: bool) -> Graph | None:
    """The quantized graph with other integers in its gates: zeros, or (`spread`) rows of their inputs in the first sample, less the mean.
    None where a gate has no weights of a byte each."""
    changed, inputs = graph.copy(), dict[str, Array]()
    gates = [gate for node in changed.nodes if node.op == "top_experts" for gate in _gates(changed, node)]
    if not gates or any(gate.params["weight"].ndim != 2 or "group_multiplier" in gate.params for gate in gates):
        return None
    wanted = {gate.inputs[0] for gate in gates}
    if spread:
        run_golden(graph, feeds, lambda name, array: inputs.update({name: array[0]} if name in wanted else {}))
    for gate in gates:
        weight, x = np.zeros_like(gate.params["weight"]), graph.type(gate.inputs[0])
        if spread:
            rows = inputs[gate.inputs[0]].astype(np.float64)
            chosen = rows[np.linspace(0, len(rows) - 1, len(weight)).astype(int)] - rows.mean(axis=0)
            peak = np.abs(chosen).max(axis=1, keepdims=True)
            weight = np.asfortranarray(np.rint(chosen / np.where(peak > 0, peak, 1) * 127).astype(np.int8))
        stored = ((LOW_BYTE_OFFSET if x.bits > 8 else 0) - x.zero_point) * weight.sum(axis=1, dtype=np.int64)
        gate.params = {**gate.params, "weight": weight, "bias": np.zeros_like(gate.params["bias"]), "stored_bias": stored}
        gate.attrs["weight_magnitude"] = 127
    return changed


def other_routings(
    graph: Graph, feeds: Mapping[str, Array], design: Design, program: Program, folder: Path
) -> tuple[list[Other], dict[str, Routing]]:
    """Weights (in `folder`) and outputs of the first sample for the other routings, and these by name."""
    first, others, routings = {name: array[:1] for name, array in feeds.items()}, list[Other](), dict[str, Routing]()
    for name, spread in ((FEW, False), (MANY, True)):
        changed = other_gates(graph, first, spread)
        if changed is not None:
            path = folder / f"weights_{len(others)}.bin"
            with open(path, "wb") as weights:
                build_program(changed, design, weights.write)
            image = pack_region(changed, program, program.memory.outputs, changed.outputs, run_golden(changed, first))
            others.append(Other(name, path, image[0]))
            routings[name] = routing_of(rows_by_queue(changed, first))
    return others, routings


def routing_report(
    graph: Graph,
    rows: Mapping[str, Array],
    program: Program,
    cost: Estimate,
    board: Board,
    others: Mapping[str, Routing],
    simulated: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """As plain values. `rows` are those of the calibration, the first sample first; `simulated` are cycles by routing and style."""
    queues = {node.output: node for node in graph.nodes if node.op == "expert_queue"}
    mean = {name: tuple(round(count) for count in array.mean(axis=0) if round(count)) for name, array in rows.items()}
    routings = {FIRST: dict(program.routing), MEAN: mean, **others}
    found = []
    for name, routing in routings.items():
        told = estimate(replace(program, routing=routing), board, cost.clock_mhz, cost.places, cost.ports)
        experts = [len(counts) for counts in routing.values()]
        found.append({"routing": name, "experts": round(sum(experts) / len(experts), 2), "estimate_cycles": told.cycles,
                      "simulated": dict(simulated.get(name, {}))})  # fmt: skip
    return {
        "samples": len(next(iter(rows.values()))),
        "mixtures": [
            {
                "node": node.name,
                "experts": node.attrs["experts"],
                "of_a_token": graph.value(node.inputs[0]).shape[1],
                "tokens": graph.value(node.inputs[0]).shape[0],
                "rows": [round(float(count), 2) for count in rows[name].mean(axis=0)],
            }
            for name, node in queues.items()
        ],
        "routings": found,
    }
