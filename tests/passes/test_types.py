"""Types: the widest that all readers take, requantize nodes where they disagree, smoothing where it can be absorbed."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.errors import OverflowRiskError
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, Node, TensorType
from attnc.ops import verify
from attnc.passes.types import assign_types, plan_types, quantize_graph
from attnc.quant.calibration import Observer

WIDTH = 32


def block(post_norm: bool, seed: int = 0, outlier: float = 1.0) -> Graph:
    """A feed-forward block with its residual; `outlier` scales one channel of the normalisation's gamma."""
    rng = np.random.default_rng(seed)
    graph = Graph("block", inputs=["x"], outputs=["out"])
    gamma = np.ones(WIDTH)
    gamma[3] *= outlier
    norm = {"gamma": gamma, "beta": rng.normal(size=WIDTH) * 0.1}
    up = {"weight": rng.normal(size=(2 * WIDTH, WIDTH)) / WIDTH**0.5, "bias": rng.normal(size=2 * WIDTH) * 0.1}
    if outlier != 1:
        up["weight"][:, 3] /= outlier
    down = {"weight": rng.normal(size=(WIDTH, 2 * WIDTH)) / WIDTH**0.5, "bias": np.zeros(WIDTH)}
    for name, channels in (("x", WIDTH), ("norm", WIDTH), ("up", 2 * WIDTH), ("act", 2 * WIDTH), ("down", WIDTH), ("out", WIDTH)):
        graph.add_value(name, (8, channels))
    graph.nodes = [
        Node("norm", "layer_normalization", ["x"], "norm", {"epsilon": 1e-5}, norm),
        Node("up", "linear", ["norm"], "up", {}, up),
        Node("act", "unary", ["up"], "act", {"function": "gelu"}),
        Node("down", "linear", ["act"], "down", {}, down),
        Node("out", "add", ["norm" if post_norm else "x", "down"], "out"),
    ]
    return graph


def compile_block(graph: Graph, smooth: bool = True) -> tuple[float, Graph]:
    """SQNR of the output in dB, and the quantized graph."""
    feeds = {"x": np.random.default_rng(5).normal(size=(6, 8, WIDTH))}
    plan = plan_types(graph)
    verify(graph)
    observer = Observer(6)
    expected = run_reference(graph, feeds, observer)["out"]
    for name, array in graph.constants.items():
        observer(name, array[np.newaxis])
    assign_types(graph, plan, observer.found, "mse")
    if not smooth:
        for value in graph.values.values():
            assert value.type is not None
            object.__setattr__(value.type, "scale", np.asarray(value.type.scale.max()))
    quantize_graph(graph)
    verify(graph)
    found = run_golden(graph, {"x": graph.type("x").quantize(feeds["x"])})["out"]
    noise = graph.type("out").dequantize(found) - expected
    return 10 * np.log10(np.square(expected).sum() / np.square(noise).sum()), graph


def test_residuals_are_16_bits_and_operands_of_products_8() -> None:
    _, graph = compile_block(block(post_norm=False))
    bits = {name: value.type.bits for name, value in graph.values.items() if value.type}
    assert bits == {"x": 16, "norm": 8, "up": 16, "act": 8, "down": 16, "out": 16}


def test_readers_that_disagree_get_a_requantize_node() -> None:
    _, graph = compile_block(block(post_norm=True))
    assert [node.op for node in graph.nodes].count("requantize") == 1
    assert graph.type("norm").bits == 16
    up = next(node for node in graph.nodes if node.name == "up")
    assert graph.type(up.inputs[0]).bits == 8


@pytest.mark.parametrize("post_norm", [False, True])
def test_quality(post_norm: bool) -> None:
    sqnr, _ = compile_block(block(post_norm))
    assert sqnr > 30


@pytest.mark.parametrize("post_norm", [False, True])
def test_outliers_are_smoothed_into_the_weights(post_norm: bool) -> None:
    smoothed, graph = compile_block(block(post_norm, outlier=100.0))
    up = next(node for node in graph.nodes if node.name == "up")
    assert graph.type(up.inputs[0]).scale.shape == (WIDTH,)
    plain, _ = compile_block(block(post_norm, outlier=100.0), smooth=False)
    assert smoothed > plain + 6


@pytest.mark.parametrize("name", ["up", "norm"])
def test_a_range_that_is_no_more_than_rounding_is_named(name: str) -> None:
    graph = block(post_norm=False)
    for value in graph.values.values():
        value.type = TensorType(16 if value.name in ("x", "up") else 8, True, np.asarray(2.0**-11))
    graph.values[name].type = TensorType(16, True, np.asarray(1e-13))
    with pytest.raises(OverflowRiskError, match=rf"node '{name}'.*; a step of its output, from calibration, is 1e-13"):
        quantize_graph(graph)
