"""Implementations of nonlinear functions: as asked for, and one for all nodes that can share an engine."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.errors import ConfigError
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, Node
from attnc.passes.approximations import set_implementations, share_implementations
from attnc.passes.types import assign_types, plan_types, quantize_graph
from attnc.quant.calibration import Observer
from harness import assert_exact

WIDTH = 16


def stack() -> Graph:
    """Two feed-forward layers whose activations differ in size, and a softmax."""
    rng, graph = np.random.default_rng(0), Graph("stack", inputs=["x"], outputs=["p"])
    for name in ("x", "a", "f", "b", "g", "c", "p"):
        graph.add_value(name, (4, WIDTH))
    for target, source, gain in (("a", "x", 1.0), ("b", "f", 0.05), ("c", "g", 20.0)):
        weight = {"weight": gain * rng.normal(size=(WIDTH, WIDTH)) / 4, "bias": np.zeros(WIDTH)}
        graph.nodes.append(Node(target, "linear", [source], target, {}, weight))
        if target != "c":
            out = "f" if target == "a" else "g"
            graph.nodes.append(Node(out, "unary", [target], out, {"function": "gelu"}))
    graph.nodes.append(Node("p", "softmax", ["c"], "p"))
    return graph


def compiled(wanted: dict[str, str], error_target: float | None = None) -> tuple[Graph, float]:
    """Quantized through the passes; and the largest error of the result."""
    graph = stack()
    set_implementations(graph, wanted, error_target)
    plan, seen = plan_types(graph), Observer(8)
    x = np.random.default_rng(1).normal(size=(8, 4, WIDTH))
    exact = run_reference(graph, {"x": x}, seen)["p"]
    assign_types(graph, plan, seen.found, "mse")
    share_implementations(graph)
    quantize_graph(graph)
    feeds = {"x": graph.type("x").quantize(x)}
    found = graph.type("p").dequantize(run_golden(graph, feeds)["p"])
    if wanted:
        assert_exact(graph, feeds)
    return graph, float(np.abs(found - exact).max())


def chosen(graph: Graph) -> dict[str, str]:
    return {node.name: node.attrs["implementation"] for node in graph.nodes if "implementation" in node.attrs}


def test_auto_shares() -> None:
    graph, error = compiled({})
    # The second layer, whose output is small, needs delta16; the first would make do with delta8.
    assert chosen(graph) == {"f": "delta16", "g": "delta16", "p": "chord32"} and error < 0.06
    steps = [float(graph.type(name).scale) / 2 for name in "fg"]
    assert steps[0] > 1.2e-3 > steps[1] > 3e-4
    graph, _ = compiled({}, 2e-4)
    assert chosen(graph) == {"f": "delta32", "g": "delta32", "p": "chord32"}


def test_the_smallest_target_decides() -> None:
    graph = stack()
    graph.nodes[3].attrs["error_target"] = 4e-4
    plan, seen = plan_types(graph), Observer(1)
    run_reference(graph, {"x": np.ones((1, 4, WIDTH))}, seen)
    assign_types(graph, plan, seen.found, "mse")
    share_implementations(graph)
    assert chosen(graph) == {"f": "delta16", "g": "delta16", "p": "chord32"}


def test_what_the_user_asked_for() -> None:
    graph, error = compiled({"gelu": "table", "softmax": "polynomial"})
    assert chosen(graph) == {"f": "table", "g": "table", "p": "polynomial"}
    assert graph.type("a").bits == 8 and error < 0.12


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"gelu": "cordic"}, "implementation of gelu: needed one of auto, delta8, .*, table, found 'cordic'"),
        ({"tanh": "chord"}, r"implementation of 'tanh': needed one of the functions that the model has on the device \(gelu, softmax\)"),
    ],
)
def test_unknown_names_are_refused(wanted: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_implementations(stack(), wanted)


def test_softmax_means_that_of_attention_too() -> None:
    graph = Graph("g", inputs=["q", "k", "v"], outputs=["y"])
    for name in ("q", "k", "v", "y"):
        graph.add_value(name, (4, WIDTH))
    attrs = {"num_heads": 1, "num_kv_heads": 1, "groups": 1, "scale": 0.25}
    graph.nodes.append(Node("y", "attention", ["q", "k", "v"], "y", attrs))
    set_implementations(graph, {"softmax": "polynomial"})
    assert chosen(graph) == {"y": "polynomial"}
    with pytest.raises(ConfigError, match=r"implementation of softmax: needed one of auto, chord4, .*log2, found 'ibert'"):
        set_implementations(graph, {"softmax": "ibert"})
