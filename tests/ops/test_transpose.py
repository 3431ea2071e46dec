"""transpose: golden against NumPy, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph
from attnc.kernels.design import Design
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type

SHAPES = [(1, 1), (16, 16), (5, 33), (40, 7), (8, 24), (17, 9)]


def transpose_graph() -> Graph:
    """Every shape copied exactly, and with a change of type."""
    builder = Builder("transpose")
    for shape in SHAPES:
        builder.add("transpose", [(shape, tensor_type(16, 0.1))], tensor_type(16, 0.1))
        builder.add("transpose", [(shape, tensor_type(8, 0.1))], tensor_type(8, 0.07))
    return builder.quantized()


def test_golden_moves_every_element_and_rounds_by_half_a_step_at_most() -> None:
    graph = transpose_graph()
    feeds = random_feeds(graph, 3)
    found = run_golden(graph, feeds)
    for i, node in enumerate(graph.nodes):
        x, y = feeds[node.inputs[0]].swapaxes(1, 2), graph.type(node.output)
        if i % 2 == 0:
            np.testing.assert_array_equal(found[node.output], x)
        else:
            inside = np.clip(x * 0.1 / y.scale, *y.range)
            assert (np.abs(found[node.output] - inside) <= 0.5 + np.abs(inside) * 2**-16).all()


@pytest.mark.parametrize(("types", "lanes"), [("native", 16), ("ap", 4)])
def test_cpp_equals_golden(types: str, lanes: int) -> None:
    graph = transpose_graph()
    assert_exact(graph, random_feeds(graph, 3), Design.of(lanes, 8, 4), types=types)


def test_a_planted_bug_is_caught() -> None:
    graph = transpose_graph()
    feeds = random_feeds(graph, 3)
    found = simulate(graph, feeds, patch={"transpose.hpp": ("(number + 1) & 1", "number & 1")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
