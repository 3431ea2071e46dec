"""gather_channels: golden against NumPy, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type

CASES = [(1, 1, 1, 1), (6, 1, 33, 40), (12, 12, 23, 12), (24, 8, 40, 5), (7, 1, 16, 16), (10, 5, 9, 20)]
"""Rows, period of the indices, channels, channels of the output."""


def gather_graph() -> Graph:
    """Every case copied exactly, and with a change of type."""
    rng, builder = np.random.default_rng(0), Builder("gather")
    for i, (rows, period, channels, count) in enumerate(CASES):
        shift = np.arange(count) - np.arange(period)[:, None] + channels // 2  # as relative positions have it
        index = np.clip(shift, 0, channels - 1) if i % 2 == 0 else rng.integers(0, channels, (period, count))
        builder.add("gather_channels", [((rows, channels), tensor_type(16, 0.1))], tensor_type(16, 0.1), params={"index": index})
        builder.add("gather_channels", [((rows, channels), tensor_type(8, 0.1))], tensor_type(16, 0.07), params={"index": index})
    return builder.quantized()


def test_golden_takes_every_element_from_its_place() -> None:
    graph = gather_graph()
    feeds = random_feeds(graph, 3)
    found = run_golden(graph, feeds)
    for i, node in enumerate(graph.nodes):
        x, index, y = feeds[node.inputs[0]], node.params["index"], graph.type(node.output)
        rows = [x[:, row, index[row % len(index)]] for row in range(x.shape[1])]
        inside = np.clip(np.stack(rows, axis=1) * 0.1 / y.scale, *y.range)
        assert (np.abs(found[node.output] - inside) <= (1e-9 if i % 2 == 0 else 0.5 + np.abs(inside) * 2**-16)).all()


@pytest.mark.parametrize(("types", "lanes", "rows"), [("native", 16, 5), ("ap", 4, 8), ("native", 2, 8)])
def test_cpp_equals_golden(types: str, lanes: int, rows: int) -> None:
    graph = gather_graph()
    assert_exact(graph, random_feeds(graph, 3), Design.of(lanes, 8, rows), types=types)


def test_what_does_not_fit_is_refused() -> None:
    operand = [((7, 4), tensor_type(8))]
    with pytest.raises(GraphError, match="P dividing 7"):
        Builder("bad").add("gather_channels", operand, tensor_type(8), params={"index": np.zeros((2, 3), int)})
    with pytest.raises(GraphError, match=r"needs channels in \[0, 4\), found up to 4"):
        Builder("bad").add("gather_channels", operand, tensor_type(8), params={"index": np.full((1, 3), 4)})


def test_a_planted_bug_is_caught() -> None:
    graph = gather_graph()
    feeds = random_feeds(graph, 3)
    found = simulate(graph, feeds, patch={"gather_channels.hpp": ("lane_of<1>(read, from % L, 0)", "read.v[k]")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
