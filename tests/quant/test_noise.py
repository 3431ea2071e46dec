"""Noise of single parts: it adds up to that of the whole, and its causes are named."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, Node
from attnc.passes.types import assign_types, plan_types, quantize_graph
from attnc.quant.calibration import Observer
from attnc.quant.noise import Probe

ROWS, WIDTH = 32, 48


def quantized(tail: float) -> tuple[Probe, float, dict[str, np.ndarray]]:
    """x -> linear -> mul -> linear, weights of rank `WIDTH`; `tail` is the share of outliers in a constant factor. Returns the probe,
    measured noise, and feeds."""
    rng = np.random.default_rng(0)
    graph = Graph("chain", inputs=["x"], outputs=["y"])
    for name in ("x", "up", "gate", "y"):
        graph.add_value(name, (ROWS, WIDTH))
    graph.add_value("factor", (1, WIDTH))
    graph.constants["factor"] = np.where(rng.random((1, WIDTH)) < tail, 40.0, 1.0)

    def linear(name: str, x: str, y: str) -> Node:
        weight = rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5
        if name == "down":
            weight[:, graph.constants["factor"][0] > 1] /= 40
        return Node(name, "linear", [x], y, {}, {"weight": weight, "bias": rng.normal(size=WIDTH)})

    graph.nodes = [linear("up", "x", "up"), Node("gate", "mul", ["up", "factor"], "gate"), linear("down", "gate", "y")]
    feeds = {"x": rng.normal(size=(4, ROWS, WIDTH))}
    observer, plan = Observer(4), plan_types(graph)
    run_reference(graph, feeds, observer)
    observer("factor", graph.constants["factor"][np.newaxis])
    assign_types(graph, plan, observer.found, "mse")
    float_graph = graph.copy()
    quantize_graph(graph)
    values: dict[str, np.ndarray] = {}
    expected = run_reference(float_graph, feeds, values.__setitem__)["y"]
    found = graph.type("y").dequantize(run_golden(graph, {"x": graph.type("x").quantize(feeds["x"])})["y"])
    noise = np.square(found - expected).sum() / np.square(expected).sum()
    return Probe(float_graph, graph, values), float(noise), feeds


@pytest.mark.parametrize("tail", [0.0, 0.1])
def test_parts_add_up(tail: float) -> None:
    probe, measured, _ = quantized(tail)
    parts = [probe.rounding("x"), *(probe.node(node) for node in probe.float_graph.nodes)]
    assert sum(parts)[0] == pytest.approx(measured, rel=0.15)


def test_causes() -> None:
    probe, measured, _ = quantized(0.1)
    up, gate, down = probe.float_graph.nodes
    noise = probe.node(gate)
    assert probe.cause(gate) == "output of 8 bits, read by linear" and noise[0] > 0.5 * measured
    assert noise[0] == pytest.approx(probe.rounding("gate")[0], rel=0.2)
    for node in (up, down):
        assert probe.cause(node) == "weights of int8" and probe.node(node)[0] == pytest.approx(probe.weights(node)[0], rel=0.1)


def test_weights_take_the_factors_of_smoothed_inputs_in() -> None:
    """A weight times the factors of a smoothed input is not taken for a wrong one."""
    probe, _, _ = quantized(0.1)
    probe.graph.value("x").type = type(probe.graph.type("x"))(8, True, np.where(np.arange(WIDTH) % 2, 0.02, 0.05))
    up = probe.float_graph.nodes[0]
    scale = probe.graph.type("x").scale
    quantized_up = probe.quantized["up"]
    folded = up.params["weight"] * scale / scale.max()
    unit = np.abs(folded).max(axis=1) / 127
    quantized_up.params = {"weight": np.rint(folded / unit[:, None]).astype(np.int8), "weight_scale": unit}
    assert probe.weights(up)[0] < 1e-3


def test_nothing_changes_nothing() -> None:
    probe, _, _ = quantized(0.0)
    assert probe._arriving({"gate": probe.values["gate"]})[0] < 1e-12  # single precision
    np.testing.assert_array_equal(probe._arriving({}), [0.0])


def test_a_copy_of_a_graph_is_independent() -> None:
    probe, _, _ = quantized(0.0)
    graph = probe.float_graph.copy()
    graph.nodes[0].attrs["new"], graph.nodes[0].inputs[0], graph.nodes[0].params["bias"] = 1, "other", np.zeros(1)
    graph.value("x").type = None
    graph.constants.clear()
    node = probe.float_graph.nodes[0]
    assert "new" not in node.attrs and node.inputs == ["x"] and node.params["bias"].shape == (WIDTH,)
    assert probe.float_graph.value("x").type is not None and "factor" in probe.float_graph.constants
