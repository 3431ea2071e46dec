"""concat_rows: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from builder import Builder, real
from harness import assert_exact, random_feeds, simulate, tensor_type


def concat_graph() -> Graph:
    """Two and three operands of different types, constants first and last."""
    rng, builder = np.random.default_rng(0), Builder("concat")
    for channels in (1, 16, 37):
        a, b, c = ((3, channels), tensor_type(16, 0.01)), ((1, channels), tensor_type(8, 0.2)), ((7, channels), tensor_type(16, 0.013))
        token = ((1, channels), tensor_type(16, 0.01), rng.normal(0, 50, (1, channels)))
        builder.add("concat_rows", [token, a], tensor_type(16, 0.01))
        builder.add("concat_rows", [a, b, c], tensor_type(16, 0.02))
        builder.add("concat_rows", [c, token], tensor_type(8, np.linspace(0.5, 2, channels)))
        builder.add("concat_rows", [b], tensor_type(16, 0.001))
    return builder.quantized()


def test_golden_is_near_float() -> None:
    graph = concat_graph()
    feeds = random_feeds(graph, 4)
    found = run_golden(graph, feeds)
    for node in graph.nodes:
        y = graph.type(node.output)
        parts = [real(graph, name, feeds[name] if name in feeds else graph.constants[name][None].repeat(4, 0)) for name in node.inputs]
        inside = np.clip(np.concatenate(parts, axis=1) / y.scale, *y.range)
        assert (np.abs(found[node.output] - inside) <= 0.5 + np.abs(inside) * 2**-16).all(), node.name


def test_equal_scales_copy_exactly() -> None:
    graph = concat_graph()
    feeds = random_feeds(graph, 4)
    np.testing.assert_array_equal(run_golden(graph, feeds)["n0.y"][:, 1:], feeds["n0.1"])


@pytest.mark.parametrize("types", ["native", "ap"])
def test_cpp_equals_golden(types: str) -> None:
    graph = concat_graph()
    assert_exact(graph, random_feeds(graph, 4), Design.of(8, 8, 4), types=types)


def test_operands_of_different_width_are_refused() -> None:
    with pytest.raises(GraphError, match="one number of channels"):
        Builder("bad").add("concat_rows", [((3, 4), tensor_type(8)), ((3, 5), tensor_type(8))], tensor_type(8))


def test_a_planted_bug_is_caught() -> None:
    graph = concat_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"rescale.hpp": ("<< (8 * i)", "<< (8 * (i & 1))")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
