"""Constants that are folded into their neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.frontend.cleanup import drop_unused, fold_constants
from attnc.ir import Graph, Node

TOKENS, WIDTH = 4, 8


def branching(weights: list[np.ndarray]) -> tuple[Graph, list[np.ndarray]]:
    """A normalization whose readers have gains of their own, each before a linear with one of `weights`; and the gains."""
    rng = np.random.default_rng(0)
    gains = [rng.uniform(0.5, 2, WIDTH) for _ in weights]
    graph = Graph("branching", inputs=["x"], outputs=[f"y{i}" for i in range(len(weights))])
    for name in ("x", "normal", *graph.outputs, *(f"scaled{i}" for i in range(len(weights)))):
        graph.add_value(name, (TOKENS, WIDTH))
    graph.nodes.append(Node("norm", "rms_normalization", ["x"], "normal", {"epsilon": 1e-5}, {"gamma": np.ones(WIDTH)}))
    for i, (gain, weight) in enumerate(zip(gains, weights, strict=True)):
        graph.add_value(f"gain{i}", (1, WIDTH))
        graph.constants[f"gain{i}"] = gain[None]
        graph.nodes.append(Node(f"mul{i}", "mul", ["normal", f"gain{i}"], f"scaled{i}"))
        graph.nodes.append(Node(f"linear{i}", "linear", [f"scaled{i}"], f"y{i}", {}, {"weight": weight, "bias": np.zeros(WIDTH)}))
    return graph, gains


@pytest.mark.parametrize("ternary", [True, False])
def test_gains_do_not_take_weights_off_their_grid(ternary: bool) -> None:
    rng = np.random.default_rng(1)
    weights = [rng.integers(-1, 2, (WIDTH, WIDTH)) * 0.1 if ternary else rng.standard_normal((WIDTH, WIDTH)) for _ in range(3)]
    graph, gains = branching([weight.copy() for weight in weights])
    fold_constants(graph)
    drop_unused(graph)
    assert sorted({node.op for node in graph.nodes}) == ["linear", "rms_normalization"]
    makers = {node.output: node for node in graph.nodes}
    for i, (gain, weight) in enumerate(zip(gains, weights, strict=True)):
        linear = makers[f"y{i}"]
        norm = makers[linear.inputs[0]]
        np.testing.assert_allclose(norm.params["gamma"] * linear.params["weight"], gain * weight)
        np.testing.assert_array_equal(linear.params["weight"] == weight, np.full_like(weight, True) if ternary else weight == gain * weight)
    assert sum(node.op == "rms_normalization" for node in graph.nodes) == (3 if ternary else 1)
