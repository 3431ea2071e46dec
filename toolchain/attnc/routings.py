"""What a report says of a mixture of experts: who gets how many rows, and what routings take.

Which experts a token gets follows from data, and so do cycles. Golden routes samples of the calibration; one is simulated that is estimated
nearest to the mean of all. Two more routings are made with other weights of the gates (gates.py), everything else being as it is. Of a
decoder samples are the first block of a prompt and a token, which costs its experts, whichever they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.codegen.data import pack_region
from attnc.decoding.plan import Decoder, Run, images
from attnc.gates import other_gates, with_gates_of
from attnc.golden import run_golden
from attnc.ir import Graph
from attnc.passes.decoding import renamed
from attnc.schedule.cost import Estimate, estimate
from attnc.schedule.devices import Board
from attnc.schedule.program import Program, build_program
from attnc.schedule.queues import Routing
from attnc.sim.check import Other
from attnc_host.caches import DECODE, PREFILL

FIRST, MEAN, FEW, MANY, TOKEN = "first sample", "mean of calibration", "fewest experts", "most experts", "token"
ROUTED = 32
"""Samples of the calibration that are routed, at most."""


@dataclass(frozen=True)
class Routed:
    """The experts of the tokens of some samples: of `graph`, over whole samples, what golden makes of `feeds`. `decoder` is what the graph
    became, if it is over sequences."""

    graph: Graph
    feeds: Mapping[str, Array]
    chosen: Mapping[str, Array]
    """By queue: [samples, tokens, experts of a token]."""
    decoder: Decoder | None = None

    @staticmethod
    def of(graph: Graph, feeds: Mapping[str, Array], decoder: Decoder | None = None) -> Routed:
        """By golden; nothing where there are no experts."""
        queues = {node.inputs[0]: node.output for node in graph.nodes if node.op == "expert_queue"}
        found: dict[str, list[Array]] = {queue: [] for queue in queues.values()}

        def see(name: str, array: Array) -> None:
            if name in queues:
                found[queues[name]].append(array[0].astype(np.int64))

        for sample in range(len(next(iter(feeds.values()))) if queues else 0):
            run_golden(graph, {name: array[sample : sample + 1] for name, array in feeds.items()}, see)
        return Routed(graph, feeds, {queue: np.stack(arrays) for queue, arrays in found.items()}, decoder)

    def experts(self, queue: str) -> int:
        """How many there are."""
        return next(int(node.attrs["experts"]) for node in self.graph.nodes if node.output == queue)

    def rows(self, queue: str, tokens: int | None = None) -> Array:
        """Rows of every expert [samples, experts], of the first tokens or of all."""
        chosen, experts = self.chosen[queue][:, :tokens], self.experts(queue)
        return np.stack([np.bincount(sample.reshape(-1), minlength=experts) for sample in chosen])

    def routing(self, sample: int = 0) -> dict[str, tuple[int, ...]]:
        """That of a sample; of a decoder, of the first block of it. A token has one row of each of its experts."""
        found = {}
        for queue in self.chosen:
            name, block = (queue, None) if self.decoder is None else (renamed(PREFILL, queue), self.decoder.block)
            found[name] = tuple(int(count) for count in self.rows(queue, block)[sample] if count)
        return found

    @property
    def samples(self) -> int:
        """How many."""
        return len(next(iter(self.chosen.values())))


@dataclass(frozen=True)
class Routings:
    """What may be simulated beside the first sample: routings by name, and runs. `mean` is the sample that stands for all, and the mean of
    their estimates."""

    routings: Mapping[str, Routing]
    runs: tuple[Other, ...]
    mean: tuple[int, float]


class Costs:
    """Estimated cycles of a program by routing; of a decoder those of a block."""

    def __init__(self, program: Program, cost: Estimate, board: Board) -> None:
        self._program, self._cost, self._board = program, cost, board
        self._known: dict[tuple[tuple[str, tuple[int, ...]], ...], Estimate] = {}

    def estimate(self, routing: Routing) -> Estimate:
        """On the memories and ports of the build."""
        key = tuple((queue, tuple(sorted(counts))) for queue, counts in sorted(routing.items()))
        if key not in self._known:
            cost, program = self._cost, replace(self._program, routing=routing)
            self._known[key] = estimate(program, self._board, cost.clock_mhz, cost.places, cost.ports)
        return self._known[key]

    def cycles(self, routing: Routing) -> int:
        """Of a sample, or of a block."""
        found = self.estimate(routing)
        return found.entries.get(PREFILL, found.cycles)


def mean_sample(routed: Routed, costs: Costs) -> tuple[int, float]:
    """The sample whose estimate is nearest to the mean of all, and that mean."""
    cycles = np.array([costs.cycles(routed.routing(sample)) for sample in range(routed.samples)], np.float64)
    return int(np.abs(cycles - cycles.mean()).argmin()), float(cycles.mean())


def other_routings(routed: Routed, program: Program, costs: Costs, folder: Path) -> Routings:
    """What there is beside the first sample; other weights come into `folder`."""
    mean = mean_sample(routed, costs)
    routings, runs = {FIRST: routed.routing(), MEAN: routed.routing(mean[0])}, list[Other]()
    if mean[0]:
        runs.append(_run(MEAN, routed, program, mean[0]))
    for name, spread in ((FEW, False), (MANY, True)):
        first = {value: array[:1] for value, array in routed.feeds.items()}
        changed = other_gates(routed.graph, first, spread, None if routed.decoder is None else routed.decoder.block)
        if changed is not None:
            other, path = Routed.of(changed, first, routed.decoder), folder / f"weights_{len(runs)}.bin"
            graph = changed if routed.decoder is None else with_gates_of(changed, routed.decoder.model.graph)
            with open(path, "wb") as weights:
                build_program(graph, program.design, weights.write)
            runs.append(replace(_run(name, other, program, 0), weights=path))
            routings[name] = other.routing()
    return Routings(routings, tuple(runs), mean)


def _run(name: str, routed: Routed, program: Program, sample: int) -> Other:
    """A sample, with what golden makes of it; or the first block of a sequence, with what is in memory left as it is."""
    feeds = {value: array[sample : sample + 1] for value, array in routed.feeds.items()}
    graph, regions = routed.graph, program.memory
    if routed.decoder is None:
        outputs = pack_region(graph, program, regions.outputs, graph.outputs, run_golden(graph, feeds))
        return Other(name, pack_region(graph, program, regions.inputs, graph.inputs, feeds)[0], outputs[0])
    graph = routed.decoder.model.graph
    (rows,) = feeds.values()
    given, _ = images([Run(PREFILL, 0, rows[0, : routed.decoder.block], {})], routed.decoder)
    return Other(name, pack_region(graph, program, regions.inputs, graph.inputs, given)[0], setting=program.start(PREFILL, 0))


def routing_report(routed: Routed, found: Routings, costs: Costs, simulated: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """As plain values; `simulated` are cycles by routing and style."""
    rows = []
    routings = {**found.routings, **({} if routed.decoder is None else {TOKEN: {}})}
    for name, routing in routings.items():
        told, entry = costs.estimate(routing), None if routed.decoder is None else DECODE if name == TOKEN else PREFILL
        experts = [len(counts) for counts in routing.values()] or [array.shape[2] for array in routed.chosen.values()]
        cycles = told.cycles if entry is None else told.entries[entry]
        rows.append({"routing": name, **({} if entry is None else {"entry": entry}), "experts": round(sum(experts) / len(experts), 2),
                     "estimate_cycles": cycles, "simulated": dict(simulated.get(name, {}))})  # fmt: skip
    return {
        "samples": routed.samples,
        "mean_sample": found.mean[0],
        "mean_estimate_cycles": round(found.mean[1]),
        "mixtures": [
            {
                "node": node.name,
                "experts": node.attrs["experts"],
                "of_a_token": routed.graph.value(node.inputs[0]).shape[1],
                "tokens": routed.graph.value(node.inputs[0]).shape[0],
                "rows": [round(float(count), 2) for count in routed.rows(node.output).mean(axis=0)],
            }
            for node in routed.graph.nodes
            if node.op == "expert_queue"
        ],
        "routings": rows,
    }
