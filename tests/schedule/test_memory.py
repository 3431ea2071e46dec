"""The memory plan: regions that are live together never overlap."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.ir import Graph, GraphError, Node
from attnc.schedule.memory import plan_memory


def random_graph(seed: int, nodes: int = 40) -> Graph:
    rng = np.random.default_rng(seed)
    graph = Graph("random", inputs=["in"])
    graph.add_value("in", (4, 4))
    graph.add_value("const", (4, 4))
    graph.constants["const"] = np.zeros((4, 4))
    known = ["in", "const"]
    for i in range(nodes):
        operands = [known[int(k)] for k in rng.integers(max(0, len(known) - 6), len(known), 2)]
        name = f"v{i}"
        graph.add_value(name, (4, 4))
        graph.nodes.append(Node(name, "add", operands, name))
        known.append(name)
    graph.outputs = [known[-1], known[nodes // 2]]
    return graph


def one_by_one(graph: Graph) -> list[tuple[list[str], list[str]]]:
    """Every node is a step that stores its value."""
    return [(node.inputs, [node.output]) for node in graph.nodes]


def test_live_values_do_not_overlap() -> None:
    for seed in range(20):
        graph = random_graph(seed)
        rng = np.random.default_rng(seed)
        words = {name: int(rng.integers(1, 50)) for name in graph.values}
        plan = plan_memory(graph, words, one_by_one(graph))
        last = {name: step for step, node in enumerate(graph.nodes) for name in node.inputs}
        born = {node.output: step for step, node in enumerate(graph.nodes)}
        always = {*graph.inputs, *graph.constants, *graph.outputs}
        for a, region_a in plan.values.items():
            assert region_a.words == words[a] and region_a.end <= plan.words
            for b, region_b in plan.values.items():
                if a >= b or region_a.end <= region_b.offset or region_b.end <= region_a.offset:
                    continue
                assert a not in always and b not in always
                # They share words: one must be dead before the other is written.
                assert last.get(a, born[a]) < born[b] or last.get(b, born[b]) < born[a]


def test_what_no_step_stores_takes_no_memory() -> None:
    graph = random_graph(5)
    kept = {node.output for node in graph.nodes[::2]} | {*graph.outputs}
    held, words = kept | {*graph.inputs, *graph.constants}, dict.fromkeys(graph.values, 10)
    steps = [([name for name in node.inputs if name in held], [node.output] if node.output in kept else []) for node in graph.nodes]
    assert set(plan_memory(graph, words, steps).values) == held


def test_what_is_read_before_it_is_stored_is_refused() -> None:
    graph = random_graph(5)
    words, steps = dict.fromkeys(graph.values, 10), one_by_one(graph)
    with pytest.raises(GraphError, match=r"step \d+ reads 'v\d+' from memory, which does not hold it"):
        plan_memory(graph, words, steps[::-1])


def test_memory_is_reused() -> None:
    graph = random_graph(3, nodes=200)
    plan = plan_memory(graph, dict.fromkeys(graph.values, 10), one_by_one(graph))
    assert plan.words < 10 * len(graph.values) / 3
