"""max_rows: golden against NumPy, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type


def max_graph() -> Graph:
    """(groups, rows per group, channels) with all types."""
    builder = Builder("max")
    for i, (groups, length, channels) in enumerate([(1, 1, 1), (1, 16, 33), (4, 7, 16), (1, 197, 20), (3, 2, 40)]):
        x, y = [(16, 8), (8, 8), (16, 16), (8, 16)][i % 4]
        type_ = tensor_type(y, 0.01 if x == y else 0.6)
        builder.add("max_rows", [((groups * length, channels), tensor_type(x, 0.01))], type_, {"groups": groups})
    return builder.quantized()


def test_golden_is_the_largest() -> None:
    graph = max_graph()
    feeds = random_feeds(graph, 4)
    found = run_golden(graph, feeds)
    for node in graph.nodes:
        x, y = feeds[node.inputs[0]], graph.type(node.output)
        largest = x.reshape(4, node.attrs["groups"], -1, x.shape[2]).max(axis=2)
        inside = np.clip(largest * 0.01 / y.scale, *y.range)
        assert (np.abs(found[node.output] - inside) <= 0.5 + np.abs(inside) * 2**-16).all(), node.name
        assert y.scale != 0.01 or (found[node.output] == largest).all()


@pytest.mark.parametrize("types", ["native", "ap"])
def test_cpp_equals_golden(types: str) -> None:
    graph = max_graph()
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 8, 4), types=types)


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(GraphError, match="needs rows that 3 groups divide, found 7"):
        Builder("bad").add("max_rows", [((7, 4), tensor_type(8))], tensor_type(8), {"groups": 3})


def test_a_planted_bug_is_caught() -> None:
    graph = max_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"max_rows.hpp": ("row == 0 || largest", "i == 0 || largest")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
