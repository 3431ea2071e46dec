"""mean_rows: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from builder import Builder, real
from harness import assert_exact, random_feeds, simulate, tensor_type


def mean_graph() -> Graph:
    """(groups, rows per group, channels) with all types."""
    builder = Builder("mean")
    for i, (groups, length, channels) in enumerate([(1, 1, 1), (1, 16, 33), (4, 7, 16), (1, 197, 20), (3, 2, 40), (1, 3000, 3)]):
        x, y = [(16, 8), (8, 8), (16, 16), (8, 16)][i % 4]
        type_ = tensor_type(y, 0.02 if y == 16 else 1.5)
        builder.add("mean_rows", [((groups * length, channels), tensor_type(x, 0.01))], type_, {"groups": groups})
    return builder.quantized()


def test_golden_is_near_float() -> None:
    graph = mean_graph()
    feeds = random_feeds(graph, 4)
    found = run_golden(graph, feeds)
    for node in graph.nodes:
        y, groups = graph.type(node.output), node.attrs["groups"]
        x = real(graph, node.inputs[0], feeds[node.inputs[0]])
        mean = x.reshape(4, groups, -1, x.shape[2]).mean(axis=2)
        inside = np.clip(mean / y.scale, *y.range)
        assert (np.abs(found[node.output] - inside) <= 0.5 + np.abs(inside) * 2**-16).all(), node.name


@pytest.mark.parametrize("types", ["native", "ap"])
def test_cpp_equals_golden(types: str) -> None:
    graph = mean_graph()
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 8, 4), types=types)


def test_accumulator_holds_the_sum() -> None:
    assert [node.attrs["acc_bits"] for node in mean_graph().nodes] == [17, 13, 19, 16, 18, 20]


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(GraphError, match="needs rows that 3 groups divide, found 7"):
        Builder("bad").add("mean_rows", [((7, 4), tensor_type(8))], tensor_type(8), {"groups": 3})


def test_a_planted_bug_is_caught() -> None:
    graph = mean_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"mean_rows.hpp": ("row == 0 ? AccT(0) : acc[l]", "i == 0 ? AccT(0) : acc[l]")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
