"""Per-token activations: the same in float, and better in integers where tokens differ in size."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.ops import verify
from attnc.passes.tokens import operands, per_token
from attnc.passes.types import assign_types, plan_types, quantize_graph
from attnc.quant.calibration import Observer, Statistics
from harness import assert_exact, slowly

WIDTH = 24


def every(node: Node) -> bool:
    return True


def block(residual: bool, gain: float = 1.0) -> Graph:
    """norm -> two linear layers that share it, with or without a third reader; `gain` makes channel 3 an outlier."""
    rng = np.random.default_rng(0)
    graph = Graph("block", inputs=["x"], outputs=["left", "out"])
    gamma, beta = np.ones(WIDTH), rng.normal(size=WIDTH) * 0.1
    gamma[3] *= gain
    for name in ("x", "norm", "left", "right", "out"):
        graph.add_value(name, (7, WIDTH))

    def linear(name: str, x: str) -> Node:
        weight = rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5
        weight[:, 3] /= gain
        return Node(name, "linear", [x], name, {}, {"weight": weight, "bias": rng.normal(size=WIDTH)})

    graph.nodes = [
        Node("norm", "layer_normalization", ["x"], "norm", {"epsilon": 1e-5}, {"gamma": gamma, "beta": beta}),
        linear("left", "norm"),
        linear("right", "norm"),
        Node("out", "add", ["norm" if residual else "left", "right"], "out"),
    ]
    return graph


def uneven(seed: int = 1) -> dict[str, Array]:
    """Tokens of very different sizes, and one of zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, 7, WIDTH)) * 10 ** rng.uniform(-2, 1, (5, 7, 1))
    x[0, 0] = 0
    return {"x": x}


def statistics(graph: Graph, feeds: dict[str, Array]) -> dict[str, Statistics]:
    observer = Observer(5)
    run_reference(graph, feeds, observer)
    for name, array in graph.constants.items():
        observer.constant(name, array)
    return observer.found


def quantized(graph: Graph, feeds: dict[str, Array]) -> Graph:
    plan = plan_types(graph)
    assign_types(graph, plan, statistics(graph, feeds), "mse")
    quantize_graph(graph)
    verify(graph)
    return graph


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("residual", "gain"), [(False, 1.0), (True, 1.0), (False, 50.0), (True, 50.0)])
def test_float_meaning_stays(residual: bool, gain: float, smooth: bool) -> None:
    graph, feeds = block(residual, gain), uneven()
    expected = run_reference(graph, feeds)
    found = statistics(graph, feeds)
    assert operands(graph, every) == {"norm"}
    per_token(graph, every, found if smooth else None)
    verify(graph)
    for name, array in run_reference(graph, feeds).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-12)


def test_readers_share_the_front_and_keep_their_names() -> None:
    graph = block(residual=False)
    per_token(graph, every)
    ops = [node.op for node in graph.nodes]
    assert ops.count("row_absmax") == ops.count("normalize_rows") == 1 and ops.count("scale_rows") == 2
    assert [node.name for node in graph.nodes if node.op == "linear"] == ["left", "right"]
    assert not any(node.params["bias"].any() for node in graph.nodes if node.op == "linear")


def test_only_wanted_layers_change() -> None:
    graph, feeds = block(residual=False), uneven()
    expected = run_reference(graph, feeds)["out"]
    per_token(graph, lambda node: node.name == "right", statistics(graph, feeds))
    assert [node.op for node in graph.nodes].count("scale_rows") == 1
    assert next(node for node in graph.nodes if node.name == "left").inputs == ["norm"]
    np.testing.assert_allclose(run_reference(graph, feeds)["out"], expected, atol=1e-12)


def test_outliers_are_folded_into_the_norm_or_multiplied_away() -> None:
    for residual, extra in ((False, 0), (True, 1)):
        graph = block(residual, gain=50.0)
        per_token(graph, every, statistics(graph, uneven()))
        assert [node.op for node in graph.nodes].count("mul") == extra


def test_a_mul_that_does_not_pay_is_left_out() -> None:
    graph = block(residual=True)
    per_token(graph, every, statistics(graph, uneven()))
    assert "mul" not in [node.op for node in graph.nodes]


def test_tokens_of_all_sizes_keep_their_precision() -> None:
    """One layer on tokens that differ a thousandfold: with one scale the small ones vanish."""
    rng, sqnr = np.random.default_rng(3), {}
    x = rng.normal(size=(1, 16, WIDTH)) * np.geomspace(1e-2, 10, 16)[:, None]
    params = {"weight": rng.normal(size=(WIDTH, WIDTH)), "bias": np.zeros(WIDTH)}
    for dynamic in (False, True):
        graph = Graph("one", inputs=["x"], outputs=["y"])
        graph.add_value("x", (16, WIDTH))
        graph.add_value("y", (16, WIDTH))
        graph.nodes = [Node("n", "linear", ["x"], "y", {}, dict(params))]
        if dynamic:
            per_token(graph, every)
        quantized(graph, {"x": x})
        found = graph.type("y").dequantize(run_golden(graph, {"x": graph.type("x").quantize(x)})["y"])
        expected = x @ params["weight"].T
        sqnr[dynamic] = 10 * np.log10((np.square(expected).sum(-1) / np.square(found - expected).sum(-1)).min())
    assert sqnr[True] > 25 and sqnr[False] < 1


@pytest.mark.parametrize("types", ["native", *slowly(("ap",))])
def test_cpp_equals_golden(types: str) -> None:
    graph, feeds = block(residual=True, gain=50.0), uneven()
    per_token(graph, every, statistics(graph, feeds))
    quantized(graph, feeds)
    assert_exact(graph, {"x": graph.type("x").quantize(feeds["x"])}, Design.of(8, 8, 4), types=types)
