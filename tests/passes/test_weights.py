"""assign_weights: what lands on the nodes, smoothed inputs, weights that are carried over."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.errors import ConfigError
from attnc.ir import Graph, Node, TensorType
from attnc.passes import weights
from attnc.passes.types import assign_types, plan_types
from attnc.passes.weights import assign_weights, assigned, held_formats, input_factor, mark_lossless, quantized, weighted
from attnc.quant.calibration import Observer
from attnc.weights import QuantizedWeight, WeightFormat
from correlated import gram, layer, loss


def single(weight: Array, scale: Array | float) -> Graph:
    """One linear layer whose input has `scale`."""
    graph = Graph("single", inputs=["x"], outputs=["y"])
    graph.add_value("x", (4, weight.shape[1])).type = TensorType(8, True, np.asarray(scale, np.float64))
    graph.add_value("y", (4, weight.shape[0]))
    graph.nodes = [Node("up", "linear", ["x"], "y", {}, {"weight": weight.copy(), "bias": np.zeros(len(weight))})]
    return graph


def always(name: str, quantizer: str, size: int = 0):
    return lambda node: (WeightFormat.parse(name, size), quantizer)


@pytest.mark.parametrize(
    ("format", "size", "quantizer"), [("int8", 0, "minmax"), ("int4", 32, "gptq"), ("ternary", 64, "quantease"), ("binary3", 32, "binary")]
)
def test_what_lands_on_a_node(format: str, size: int, quantizer: str) -> None:
    weight, inputs = layer()
    graph = single(weight, 0.1)
    assign_weights(graph, always(format, quantizer, size), {"x": gram(inputs)})
    node = weighted(graph)[0]
    assert (node.attrs["weights"], node.attrs["group_size"], node.attrs["quantizer"]) == (format, size, quantizer)
    assert (node.params["weight"] == weight).all()
    planes, groups = WeightFormat.parse(format).bits if format.startswith("binary") else 0, 64 // size if size else 1
    assert node.params["weight_q"].dtype == np.int8
    assert node.params["weight_q"].shape == ((planes, 24, 64) if planes else (24, 64))
    assert node.params["weight_unit"].shape == (24,)
    assert node.params["weight_multiplier"].shape == ((planes, 24, groups) if planes else (24, groups))
    assert loss(inputs, weight, assigned(node).dequantize()) < 0.5 * loss(inputs, weight, np.zeros_like(weight))


@pytest.mark.parametrize("quantizer", ["quantease", "absmean_tensor"])
def test_experts_are_quantized_as_layers_of_their_own(quantizer: str) -> None:
    weight, inputs = layer()
    experts = np.stack([weight, 3 * weight[::-1], weight])
    graph = single(weight, 0.1)
    graph.nodes = [Node("moe", "experts", ["x", "queue"], "y", {}, {"weight": experts, "bias": np.zeros(experts.shape[:2])})]
    assign_weights(graph, always("ternary", quantizer), {"x": gram(inputs)})
    for number, one in enumerate(experts):
        alone = single(one, 0.1)
        assign_weights(alone, always("ternary", quantizer), {"x": gram(inputs)})
        for name in ("weight_q", "weight_unit", "weight_multiplier"):
            np.testing.assert_array_equal(graph.nodes[0].params[name][number], alone.nodes[0].params[name])


def test_factors_of_a_smoothed_input_belong_to_the_weight() -> None:
    weight, inputs = layer()
    scale = 0.01 * np.exp2(np.random.default_rng(0).integers(-3, 4, 64))
    graph = single(weight, scale)
    assign_weights(graph, always("int4", "gptq"), {"x": gram(inputs)})
    node = weighted(graph)[0]
    factor = input_factor(graph, node)
    assert factor.max() == 1.0
    real = assigned(node).dequantize() / factor
    plain = np.rint(weight * factor / np.abs(weight * factor).max(axis=1, keepdims=True) * 7)
    plain = plain * np.abs(weight * factor).max(axis=1, keepdims=True) / 7 / factor
    assert loss(inputs, weight, real) < 0.7 * loss(inputs, weight, plain)


def test_integers_of_a_layer_do_not_depend_on_its_neighbours() -> None:
    """A gram is there as soon as one reader of the input wants it; mse, which could use it, must not notice."""
    weight, inputs = layer()
    alone, beside = single(weight, 0.1), single(weight, 0.1)
    assign_weights(alone, always("int4", "mse"), {})
    assign_weights(beside, always("int4", "mse"), {"x": gram(inputs)})
    np.testing.assert_array_equal(alone.nodes[0].params["weight_q"], beside.nodes[0].params["weight_q"])
    np.testing.assert_array_equal(alone.nodes[0].params["weight_unit"], beside.nodes[0].params["weight_unit"])


def test_a_layer_that_comes_again_is_not_quantized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, inputs = layer()
    known: dict[bytes, QuantizedWeight] = {}
    metrics = {"same": gram(inputs), "other": gram(inputs[:50])}
    first, again, other = (single(weight, 0.1) for _ in range(3))
    assign_weights(first, always("int8", "quantease"), {"x": metrics["same"]}, known)
    made: list[str] = []
    monkeypatch.setattr(weights, "quantized", lambda node, *rest: made.append(node.name) or quantized(node, *rest))
    assign_weights(again, always("int8", "quantease"), {"x": metrics["same"].copy()}, known)
    assert made == [] and (again.nodes[0].params["weight_q"] == first.nodes[0].params["weight_q"]).all()
    assign_weights(other, always("int8", "quantease"), {"x": metrics["other"]}, known)
    assign_weights(single(weight, 0.1), always("int8", "mse"), {"x": metrics["other"]}, known)
    assert made == ["up", "up"]


def test_errors_name_the_layer() -> None:
    weight, _ = layer(k=40)
    with pytest.raises(ConfigError, match="weight of 'up': group_size 32 does not divide its 40 inputs"):
        assign_weights(single(weight, 0.1), always("int4", "mse", 32), {})
    with pytest.raises(ConfigError, match="layer 'up': absmean cannot make int4"):
        assign_weights(single(weight, 0.1), always("int4", "absmean"), {})
    with pytest.raises(ConfigError, match="weight of 'up': this quantizer needs the gram"):
        assign_weights(single(weight, 0.1), always("int4", "gptq"), {})


def ternary_weight(n: int = 24, k: int = 64) -> Array:
    rng = np.random.default_rng(7)
    return rng.integers(-1, 2, (n, k)) * rng.uniform(0.01, 0.1, (n, 1)).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(("wanted", "carried"), [("ternary", True), ("int4", True), ("int8", True), ("int2", True), ("binary2", False)])
def test_a_weight_on_a_grid_is_carried_over(wanted: str, carried: bool) -> None:
    weight = ternary_weight()
    graph = single(weight, 0.1)
    chooser = always(wanted, "binary" if wanted.startswith("binary") else "minmax")
    assert mark_lossless(graph, chooser, held_formats(graph)) == (["up"] if carried else [])
    assign_weights(graph, chooser, {})
    node = weighted(graph)[0]
    assert (node.attrs["quantizer"] == "lossless") == carried
    if carried:
        assert node.attrs["weights"] == "ternary"
        assert (assigned(node).dequantize() == weight).all()


def test_a_grid_wider_than_the_format_is_quantized() -> None:
    weight = np.random.default_rng(0).integers(-7, 8, (8, 32)) * 0.25
    graph = single(weight, 0.1)
    assert mark_lossless(graph, always("ternary", "mse"), held_formats(graph)) == []
    assert mark_lossless(graph, always("int4", "mse"), held_formats(graph)) == ["up"]


def test_inputs_of_carried_weights_are_not_smoothed() -> None:
    def types(lossless: bool) -> TensorType | None:
        graph = Graph("normed", inputs=["x"], outputs=["y"])
        for name, width in (("x", 64), ("n", 64), ("y", 24)):
            graph.add_value(name, (4, width))
        weight = ternary_weight() if lossless else layer()[0]
        norm = {"gamma": np.exp(np.random.default_rng(0).normal(size=64)), "beta": np.zeros(64)}
        graph.nodes = [
            Node("n", "layer_normalization", ["x"], "n", {"epsilon": 1e-5}, norm),
            Node("up", "linear", ["n"], "y", {}, {"weight": weight, "bias": np.zeros(24)}),
        ]
        chooser = always("int8", "minmax")
        mark_lossless(graph, chooser, held_formats(graph))
        plan = plan_types(graph)
        observer = Observer(2)
        rng = np.random.default_rng(1)
        for name, value in graph.values.items():
            observer(name, rng.normal(size=(2, *value.shape)))
        assign_types(graph, plan, observer.found, "mse")
        assign_weights(graph, chooser, {})
        assert (assigned(graph.nodes[-1]).format.name == "ternary") == lossless
        return graph.value("n").type

    smoothed, plain = types(False), types(True)
    assert smoothed is not None and smoothed.scale.shape == (64,)
    assert plain is not None and plain.scale.shape == ()
