"""Zero points: taken off by loaders and put on by storers, or by the bias where the multipliers read bytes."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, Node, TensorType
from attnc.kernels.design import Design
from harness import quantized, random_feeds, simulate, slowly

ROWS, CHANNELS, HEADS, HEAD = 3, 6, 2, 8


def asymmetric(zero_point: int, scale: float = 0.05, bits: int = 8) -> TensorType:
    return TensorType(bits, True, np.asarray(scale), zero_point)


def every_operator() -> tuple[Graph, dict[str, Array]]:
    """Operators that read and write asymmetric values; channels do not fill the last tile, so that padding is seen too."""
    rng = np.random.default_rng(3)
    graph = Graph("zero points", inputs=["a", "b", "c"])
    types = {"a": asymmetric(-128), "b": asymmetric(57, 0.03), "c": asymmetric(-90, 0.04)}
    for name, channels in zip(graph.inputs, (CHANNELS, CHANNELS, HEADS * HEAD), strict=True):
        graph.add_value(name, (ROWS, channels))

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
    node(
        "rms_normalization", ["c"], ROWS, HEADS * HEAD, asymmetric(-31), {"epsilon": 1e-5, "group": HEAD}, {"gamma": np.ones(HEADS * HEAD)}
    )
    for name, zero in (("a", 0), ("b", -19)):
        table = {"function": "gelu", "input_bits": 8}
        node("unary", [name], ROWS, CHANNELS, asymmetric(zero, 0.03), table)
        window = {"count": 1, "size": (1, ROWS), "out": (1, ROWS), "strides": (1, 1), "width": 8, "taps": ((0, -1), (0, 0), (0, 1))}
        node("patches", [name], ROWS, 3 * 8, asymmetric(zero, 0.05), window)
    angles = rng.normal(size=(2, ROWS, HEAD // 2))
    for interleaved in (False, True):
        turn = {"num_heads": HEADS, "interleaved": interleaved}
        node("rotary", ["c"], ROWS, HEADS * HEAD, asymmetric(23, 0.06), turn, {"cos": np.cos(angles[0]), "sin": np.sin(angles[0])})
    node("row_absmax", ["b"], ROWS, 1, asymmetric(0, 0.03, 16))
    graph.nodes[-1].output, peak = "peak", graph.nodes[-1].output
    graph.values["peak"], types["peak"] = graph.values.pop(peak), types.pop(peak)
    graph.outputs[-1] = "peak"
    node("normalize_rows", ["b", "peak"], ROWS, CHANNELS, asymmetric(0))
    node("scale_rows", ["b", "peak"], ROWS, CHANNELS, asymmetric(-77, 0.5), params={"bias": rng.normal(size=CHANNELS)})
    node("concat_channels", ["c", "a"], ROWS, HEADS * HEAD + CHANNELS, asymmetric(99, 0.05))
    quantized(graph, types)
    return graph, random_feeds(graph, 5)


@pytest.mark.parametrize("types", ["native", *slowly(("ap",))])
def test_every_operator(types: str) -> None:
    graph, feeds = every_operator()
    if types == "ap":
        pytest.importorskip("hls4ml")
    expected, found = run_golden(graph, feeds), simulate(graph, feeds, Design.of(lanes=4, pe=4), types)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        low, high = graph.type(name).range
        assert expected[name].min() >= low and expected[name].max() <= high


def test_a_forgotten_zero_point_is_caught() -> None:
    graph, feeds = every_operator()
    expected = run_golden(graph, feeds)
    found = simulate(graph, feeds, Design.of(lanes=4, pe=4), patch={"memory.hpp": ("T(Int<8>(word.v[l]) - zero)", "T(Int<8>(word.v[l]))")})
    assert any((found[name] != expected[name]).any() for name in graph.outputs)


def test_types_saturate_around_their_zero_point() -> None:
    type_ = asymmetric(-128, 0.1)
    assert type_.range == (0, 255) and type_.dtype == np.int16
    np.testing.assert_array_equal(type_.quantize([-1.0, 0.04, 25.5, 99.0, np.nan]), [0, 0, 255, 255, 0])
    stored = type_.to_memory(type_.quantize([0.0, 25.5]))
    np.testing.assert_array_equal(stored, [-128, 127])
    np.testing.assert_array_equal(type_.from_memory(stored), [0, 255])
