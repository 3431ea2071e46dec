"""Graphs that a search looks at in place of deeper ones."""

from __future__ import annotations

import pytest

from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.schedule import design as design_search
from attnc.schedule.cost import estimate, program_resources
from attnc.schedule.devices import BOARDS
from attnc.schedule.lowered import Calls
from attnc.schedule.program import Programs
from attnc.schedule.shorter import shortened
from schedule.graphs import transformer_graph
from schedule.random_graphs import random_graph

BOARD = BOARDS["kv260"]
DESIGNS = (Design.of(8, 16, 12, 2), Design.of(8, 32, 6, 4, rows_at_once=3, parallel=2, copies=2, beat=2, weight_ports=2))


def short(graph: Graph) -> Graph:
    return shortened(graph, Calls(graph).lower(Design.of(8, 8))[2])


def deep_graph(layers: int) -> Graph:
    """Of two kinds of layers, one of them with an accumulator that is wider than those of all others."""
    graph = transformer_graph(layers)
    for node in graph.nodes:
        if node.op == "attention" and int(node.name[1:]) % 3 == 2:
            node.attrs["causal"] = True  # less work
    wide = next(node for node in graph.nodes if node.name == f"u{layers - 3}")
    wide.attrs["acc_bits"] += 3
    return graph


@pytest.mark.parametrize("layers", [8, 16])
def test_estimates_of_a_short_graph_are_those_of_the_whole(layers: int) -> None:
    whole = deep_graph(layers)
    few = short(whole)
    few.verify()
    assert len(few.nodes) < 4.5 * len(whole.nodes) / layers and sum(node.times for node in few.nodes) == len(whole.nodes)
    for design in DESIGNS:
        one, other = (Programs(graph).build(design) for graph in (few, whole))
        assert program_resources(one, BOARD) == program_resources(other, BOARD)
        found, expected = (estimate(program, BOARD, 250.0) for program in (one, other))
        assert found.macs == expected.macs and found.words == pytest.approx(expected.words, rel=0.01)
        assert found.cycles == pytest.approx(expected.cycles, rel=0.01)
        assert Programs(few).least_cycles(design) == Programs(whole).least_cycles(design) <= found.cycles


def test_what_is_nowhere_alike_stays() -> None:
    for seed in range(20):
        graph = random_graph(seed)
        assert short(graph) is graph


def test_the_search_finds_what_it_finds_in_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(design_search, "PE_FACTORS", (1, 2))  # fewer of all that are tried
    monkeypatch.setattr(design_search, "AT_ONCE_CHOICES", (1, 4))
    graph = transformer_graph(5, rows=8, width=16)
    found, (expected, _) = design_search.choose_design(graph, BOARD, 250.0), design_search._best(graph, BOARD, 250.0, "latency")
    assert expected is not None
    cycles = [estimate(Programs(graph).build(design).in_use, BOARD, 250.0).served for design in (found, expected)]
    assert cycles[0] <= 1.01 * cycles[1]
