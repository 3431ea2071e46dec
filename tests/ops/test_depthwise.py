"""depthwise: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from builder import Builder, real
from harness import assert_exact, random_feeds, simulate, tensor_type

CASES = [(5, 9, 16, 16), (1, 1, 3, 16), (70, 9, 20, 32), (7, 25, 32, 32), (12, 3, 1, 16)]


def depthwise_graph() -> Graph:
    """(rows, taps, channels, width) with one scale or one per channel for y, weights at their extremes."""
    rng, builder = np.random.default_rng(0), Builder("depthwise")
    for i, (rows, taps, channels, width) in enumerate(CASES):
        weight, bias = rng.standard_normal((channels, taps)), rng.standard_normal(channels)
        weight[0] = 0.0 if i % 2 else 3.0
        scale = 0.25 if i % 2 else np.linspace(0.1, 0.5, channels)
        operand = ((rows, taps * width), tensor_type(8, 0.05))
        builder.add("depthwise", [operand], tensor_type(16 if i == 2 else 8, scale), {"width": width}, {"weight": weight, "bias": bias})
    return builder.quantized()


def test_golden_is_near_float() -> None:
    rng, graph = np.random.default_rng(0), depthwise_graph()
    feeds = random_feeds(graph, 4)
    found = run_golden(graph, feeds)
    for node, (rows, taps, channels, width) in zip(graph.nodes, CASES, strict=True):
        weight, bias = rng.standard_normal((channels, taps)), rng.standard_normal(channels)
        weight[0] = 0.0 if CASES.index((rows, taps, channels, width)) % 2 else 3.0
        x = real(graph, node.inputs[0], feeds[node.inputs[0]]).reshape(4, rows, taps, width)[..., :channels]
        y = graph.type(node.output)
        inside = np.clip(((x * weight.T).sum(axis=2) + bias) / y.scale, *y.range)
        # Half a step of every weight and of the bias, then half a step of y.
        step = np.abs(weight).max(axis=1) / 127
        bound = 0.51 + (np.abs(x).sum(axis=2) * step / 2 + 0.05 * step) / y.scale + np.abs(inside) * 2**-16
        assert (np.abs(found[node.output] - inside) <= bound).all(), node.name


@pytest.mark.parametrize(("types", "design"), [("native", Design(8, 8, 4)), ("native", Design(16, 16, 16)), ("ap", Design(16, 16, 8))])
def test_cpp_equals_golden(types: str, design: Design) -> None:
    graph = depthwise_graph()
    assert_exact(graph, random_feeds(graph, 3), design, types=types)


def test_sizes_that_do_not_fit_are_refused() -> None:
    params = {"weight": np.ones((3, 2)), "bias": np.zeros(3)}
    with pytest.raises(GraphError, match="do not fit an input of"):
        Builder("bad").add("depthwise", [((4, 33), tensor_type(8))], tensor_type(8), {"width": 16}, params)


def test_a_planted_bug_is_caught() -> None:
    graph = depthwise_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"depthwise.hpp": ("tap == 0 ? AccT(Int<32>(bias[l]))", "i == 0 ? AccT(Int<32>(bias[l]))")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
