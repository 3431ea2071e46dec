"""concat_channels: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from builder import Builder, real
from harness import assert_exact, random_feeds, simulate, tensor_type


def concat_graph() -> Graph:
    """Two and three operands of several types; the last one need not fill its tiles."""
    builder = Builder("concat")
    for i, (rows, channels) in enumerate([(1, (16, 16)), (5, (16, 32, 7)), (9, (48, 3)), (3, (16, 16, 16))]):
        operands = [((rows, c), tensor_type(8 if j % 2 else 16, 0.01 * (j + 1))) for j, c in enumerate(channels)]
        builder.add("concat_channels", operands, tensor_type(16 if i % 2 else 8, 0.01 if i % 2 else 2.0))
    return builder.quantized()


def test_golden_is_near_float() -> None:
    graph = concat_graph()
    feeds = random_feeds(graph, 3)
    found = run_golden(graph, feeds)
    for node in graph.nodes:
        y = graph.type(node.output)
        x = np.concatenate([real(graph, name, feeds[name]) for name in node.inputs], axis=2)
        inside = np.clip(x / y.scale, *y.range)
        assert (np.abs(found[node.output] - inside) <= 0.5 + np.abs(inside) * 2**-16).all(), node.name


@pytest.mark.parametrize(("types", "lanes"), [("native", 8), ("native", 16), ("ap", 16)])
def test_cpp_equals_golden(types: str, lanes: int) -> None:
    graph = concat_graph()
    assert_exact(graph, random_feeds(graph, 3), Design.of(lanes, lanes, 4), types=types)


def test_rows_that_differ_are_refused() -> None:
    with pytest.raises(GraphError, match=r"needs one number of rows, found \[2, 3\]"):
        Builder("bad").add("concat_channels", [((2, 4), tensor_type(8)), ((3, 4), tensor_type(8))], tensor_type(8))


def test_a_planted_bug_is_caught() -> None:
    graph = concat_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"rescale.hpp": ("(r >> 24) & UInt<32>(0x3f)", "((r >> 24) - 1) & UInt<32>(0x3f)")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
