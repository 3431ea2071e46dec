"""Other routings than that of the test bench, for the report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.decoding.plan import Decoder
from attnc.gates import other_gates, with_gates_of
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.ops.linear_weights import magnitude_bound, weight_format
from attnc.passes.decoding import with_cache
from attnc.routings import FIRST, MEAN, Costs, Routed, mean_sample, other_routings, routing_report
from attnc.schedule.cost import estimate
from attnc.schedule.devices import find_board
from attnc.schedule.program import build_program
from attnc.weights import QuantizedWeight, WeightFormat
from mixture_cases import feeds_of, integers, mixture, mixture_graph, quantized


def case(samples: int, name: str = "int8", group: int = 0) -> tuple[Graph, dict[str, Array]]:
    graph = mixture_graph(mixture(8, 32, 48, k=2), 40, 32, logits=False)
    real = feeds_of(graph, samples)
    graph = quantized(graph, real, None if name == "int8" else {"": WeightFormat.parse(name, group)})
    return graph, integers(graph, real)


@pytest.mark.parametrize(("name", "group"), [("int8", 0), ("int4", 16), ("ternary", 0)])
def test_other_gates(name: str, group: int) -> None:
    """All tokens to the same experts, or to all of them; sums stay as small as those of the model, whose accumulators are there."""
    graph, feeds = case(3, name, group)
    (queue,) = Routed.of(graph, feeds).chosen
    rows = Routed.of(graph, feeds).rows(queue)
    assert rows.shape == (3, 8) and (rows.sum(axis=1) == 80).all()
    few, many = (other_gates(graph, feeds, spread) for spread in (False, True))
    assert few is not None and many is not None
    assert Routed.of(few, feeds).routing() == {queue: (40, 40)}
    assert len(Routed.of(many, feeds).routing()[queue]) == 8
    assert np.array_equal(Routed.of(graph, feeds).rows(queue), rows)  # the graph stays as it is
    old, new = (next(node for node in one.nodes if node.op == "linear") for one in (graph, many))
    assert sums(new) <= sums(old)


def sums(node: Node) -> int:
    """The most that products with inputs of 1 add up to."""
    q = node.params["weight"]
    ones = np.ones((len(q), 1), np.int64)
    return int(magnitude_bound(QuantizedWeight(weight_format(node), q, ones[:, 0], node.params.get("group_multiplier", ones)), 1).max())


def test_gates_of_a_decoder() -> None:
    """Both entries have them; a sample is the first block of a sequence, and a token has its experts."""
    graph, feeds = case(2)
    decoder = cast("Decoder", SimpleNamespace(block=6))
    routed = Routed.of(graph, feeds, decoder)
    (queue,) = routed.chosen
    assert list(routed.routing()) == [f"prefill.{queue}"] and sum(routed.routing()[f"prefill.{queue}"]) == 12
    changed = other_gates(graph, {name: array[:1] for name, array in feeds.items()}, False, 6)
    assert changed is not None
    gates = [node for node in with_gates_of(changed, with_cache(graph, 40, 6)).nodes if node.op == "linear"]
    assert [node.entry for node in gates] == ["decode"] and not any(node.params["weight"].any() for node in gates)


def test_experts_behind_no_gate() -> None:
    graph = mixture_graph(mixture(4, 16, 16, k=1), 5, 16)
    real = feeds_of(graph, 2)
    assert other_gates(quantized(graph, real), integers(graph, real), False) is None


def test_the_mean_is_a_sample(tmp_path: Path) -> None:
    """The one whose estimate is nearest to the mean of all; the report has its routing and estimate."""
    graph, feeds = case(5)
    routed, board = Routed.of(graph, feeds), find_board("zcu104")
    program = build_program(graph, Design.of(8, 16, 8), None)
    costs = Costs(program, estimate(program, board, 250), board)
    cycles = np.array([costs.cycles(routed.routing(sample)) for sample in range(5)])
    sample, mean = mean_sample(routed, costs)
    assert mean == cycles.mean() and abs(cycles[sample] - mean) == np.abs(cycles - mean).min() and len(set(cycles)) > 1
    found = other_routings(routed, program, costs, tmp_path)
    assert found.routings[MEAN] == routed.routing(sample) and next(run.name for run in found.runs) == (MEAN if sample else "fewest experts")
    facts = routing_report(routed, found, costs, {FIRST: {"stp": 1}})
    assert (facts["samples"], facts["mean_sample"], facts["mean_estimate_cycles"]) == (5, sample, round(mean))
    rows = {row["routing"]: row for row in facts["routings"]}
    assert rows[FIRST]["simulated"] == {"stp": 1} and rows[MEAN]["estimate_cycles"] == cycles[sample]
    assert rows["fewest experts"]["estimate_cycles"] < min(cycles) and round(sum(facts["mixtures"][0]["rows"])) == 80
