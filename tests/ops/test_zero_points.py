"""Zero points: taken off by loaders and put on by storers, or by the bias where the multipliers read bytes."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, Node, TensorType
from attnc.kernels.design import Design
from harness import quantized, random_feeds, simulate

ROWS, CHANNELS = 3, 6


def asymmetric(zero_point: int, scale: float = 0.05, bits: int = 8) -> TensorType:
    return TensorType(bits, True, np.asarray(scale), zero_point)


def every_operator() -> tuple[Graph, dict[str, Array]]:
    """Operators that read and write asymmetric values; channels do not fill the last tile, so that padding is seen too."""
    rng = np.random.default_rng(3)
    graph = Graph("zero points", inputs=["a", "b"])
    types = {"a": asymmetric(-128), "b": asymmetric(57, 0.03)}
    for name in graph.inputs:
        graph.add_value(name, (ROWS, CHANNELS))

    def node(op: str, inputs: list[str], rows: int, channels: int, type_: TensorType, attrs=None, params=None) -> None:
        name = f"{op}{len(graph.nodes)}"
        graph.add_value(name, (rows, channels))
        types[name] = type_
        graph.nodes.append(Node(name, op, inputs, name, attrs or {}, params or {}))
        graph.outputs.append(name)

    for zero in (-128, 3, 127):
        weight = {"weight": rng.normal(size=(5, CHANNELS)), "bias": rng.normal(size=5)}
        node("linear", ["a"], ROWS, 5, asymmetric(zero, 0.1), params=dict(weight))
        node("linear", ["b"], ROWS, 5, asymmetric(0, 0.1), params=dict(weight))
    node("add", ["a", "b"], ROWS, CHANNELS, asymmetric(-40, 0.1))
    node("mul", ["a", "b"], ROWS, CHANNELS, asymmetric(20, 0.4))
    node("requantize", ["a"], ROWS, CHANNELS, asymmetric(-8, 0.5, 4))
    node("requantize", ["b"], ROWS, CHANNELS, asymmetric(0, 0.001, 16))
    node("gather_rows", ["b"], 4, CHANNELS, asymmetric(11, 0.04), {"rows": (2, 0, 0, 1)})
    node("concat_rows", ["a", "b"], 2 * ROWS, CHANNELS, asymmetric(-100, 0.06))
    node("mean_rows", ["a"], 1, CHANNELS, asymmetric(-128, 0.05), {"groups": 1, "length": ROWS})
    node("unary", ["b"], ROWS, CHANNELS, asymmetric(-128, 0.02), {"function": "relu"})
    node("softmax", ["b"], ROWS, CHANNELS, asymmetric(0))
    affine = {"gamma": rng.normal(size=CHANNELS), "beta": rng.normal(size=CHANNELS)}
    node("layer_normalization", ["a"], ROWS, CHANNELS, asymmetric(31), {"epsilon": 1e-5}, affine)
    quantized(graph, types)
    return graph, random_feeds(graph, 5)


@pytest.mark.parametrize("types", ["native", "ap"])
def test_every_operator(types: str) -> None:
    graph, feeds = every_operator()
    if types == "ap":
        pytest.importorskip("hls4ml")
    expected, found = run_golden(graph, feeds), simulate(graph, feeds, Design(lanes=4, pe=4), types)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        low, high = graph.type(name).range
        assert expected[name].min() >= low and expected[name].max() <= high


def test_a_forgotten_zero_point_is_caught() -> None:
    graph, feeds = every_operator()
    expected = run_golden(graph, feeds)
    found = simulate(graph, feeds, Design(lanes=4, pe=4), patch={"memory.hpp": ("T(Int<8>(word.v[l]) - zero)", "T(Int<8>(word.v[l]))")})
    assert any((found[name] != expected[name]).any() for name in graph.outputs)


def test_types_saturate_around_their_zero_point() -> None:
    type_ = asymmetric(-128, 0.1)
    assert type_.range == (0, 255) and type_.dtype == np.int16
    np.testing.assert_array_equal(type_.quantize([-1.0, 0.04, 25.5, 99.0, np.nan]), [0, 0, 255, 255, 0])
    stored = type_.to_memory(type_.quantize([0.0, 25.5]))
    np.testing.assert_array_equal(stored, [-128, 127])
    np.testing.assert_array_equal(type_.from_memory(stored), [0, 255])
