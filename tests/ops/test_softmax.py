"""softmax: against float with every exponential and division, C++ against golden."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from attnc.errors import OverflowRiskError
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, Node
from attnc.kernels.design import Design
from attnc.kernels.lowering import Lowering
from attnc.ops import operator
from attnc.ops.exponential import (
    EXP2,
    output_multiplier,
    score_multiplier,
    sum_bits,
)
from attnc.ops.reciprocal import DIVISIONS
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type


def softmax_graph(shapes: list[tuple[int, int, int, float]], **attrs: str) -> Graph:
    """Independent softmax nodes of (rows, channels, bits, scale)."""
    graph, types = Graph("softmax"), {}
    for i, (rows, channels, bits, scale) in enumerate(shapes):
        x, y = f"x{i}", f"y{i}"
        graph.add_value(x, (rows, channels))
        graph.add_value(y, (rows, channels))
        graph.inputs.append(x)
        graph.outputs.append(y)
        graph.nodes.append(Node(f"n{i}", "softmax", [x], y, dict(attrs)))
        types[x] = tensor_type(bits, scale)
    return quantized(graph, types)


def float_softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


SHAPES = [(1, 1, 8, 0.1), (3, 16, 8, 0.05), (17, 10, 8, 0.02), (5, 47, 16, 3e-4), (9, 100, 16, 2.0), (2, 33, 8, 300.0), (4, 20, 8, 1e-9)]


def test_multipliers_at_the_edges() -> None:
    assert score_multiplier(0.0) == (0, 0)
    positive, negative = score_multiplier(0.3), score_multiplier(-0.3)
    assert negative == (-positive[0], positive[1])
    assert output_multiplier(1e-12) == (0, 0)
    assert score_multiplier(1e9) == ((1 << 17) - 1, 0)
    with pytest.raises(OverflowRiskError, match="a softmax over 70000 values, at most 65536"):
        sum_bits(70_000, "here")


def test_golden_is_near_float() -> None:
    graph = softmax_graph([(64, 197, 8, 0.05), (64, 197, 16, 3e-4)])
    feeds = random_feeds(graph, 4)
    found = run_golden(graph, feeds)
    for i, scale in enumerate((0.05, 3e-4)):
        exact = float_softmax(feeds[f"x{i}"] * scale)
        error = np.abs(found[f"y{i}"] * 2.0**-15 - exact)
        total = (exact / exact.max(-1, keepdims=True)).sum(-1, keepdims=True)
        # The docstring's bound; |t| stays below 20 log2 units here.
        assert (error <= exact * (6.8e-4 + 20 * 2**-17 + 1.1e-4) + (1 + 197 * exact) * 2**-16 / total + 2**-15).all()
        print(f"scale {scale}: {error.max():.2e}")
        assert error.max() <= 6e-5


def test_one_channel_and_equal_channels() -> None:
    graph = softmax_graph([(1, 1, 8, 0.1), (1, 8, 8, 0.1)])
    found = run_golden(graph, {"x0": np.full((1, 1, 1), -128, np.int8), "x1": np.full((1, 1, 8), 127, np.int8)})
    assert found["y0"].item() == 32767
    np.testing.assert_array_equal(found["y1"], 4096)


@pytest.mark.parametrize("design", [Design.of(16, 16, 64, 4), Design.of(4, 4, 3, 4)], ids=str)
def test_cpp_equals_golden(design: Design) -> None:
    graph = softmax_graph(SHAPES)
    assert_exact(graph, random_feeds(graph, 4), design)


def test_ap_types_equal_golden() -> None:
    graph = softmax_graph([(3, 10, 8, 0.05), (5, 17, 16, 3e-4), (2, 9, 16, 2.0)])
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 8, 4), types="ap")


def test_every_byte_against_every_maximum() -> None:
    graph = softmax_graph([(256, 2, 8, 0.04)])
    pairs = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij"), -1).astype(np.int8)
    assert_exact(graph, {"x0": pairs}, Design.of(4, 4, 64))


WHOLE = {"chord4": 9e-4, "chord8": 4e-4, "chord16": 2.5e-4, "chord32": 2.5e-4, "table": 2.5e-4, "polynomial": 4e-4, "log2": 6e-2}
"""Largest error of a probability below: the scores round at 3.4e-4, relative, whatever the exponential, which alone is 2.3e-4 here."""


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("name", EXP2)
def test_golden_of_every_implementation_is_near_float(name: str, division: str) -> None:
    """197 keys of standard deviation 2: four chords move a probability by at most 8.4e-4, and SOLE's powers of two by 1.2e-1."""
    graph = softmax_graph([(256, 197, 16, 3e-4)], implementation=name, reciprocal=division)
    x = graph.type("x0").quantize(np.random.default_rng(0).normal(0, 2, (1, 256, 197)))
    exact = float_softmax(x * 3e-4)
    error = np.abs(run_golden(graph, {"x0": x})["y0"] * 2.0**-15 - exact)
    print(f"{name} {division}: max {error.max():.2e}, rms {np.sqrt(np.square(error).mean()):.2e}")
    assert error.max() <= WHOLE[name]
    e = EXP2[name].error
    total = (exact / exact.max(-1, keepdims=True)).sum(-1, keepdims=True)
    assert (error <= exact * (2 * e + 6.8e-4 + 20 * 2**-17 + 5e-5) + e / total + (1 + 197 * exact) * 2**-16 / total + 2**-15).all()


def test_cpp_equals_golden_with_every_implementation() -> None:
    graph = softmax_graph([])
    types = {}
    for i, (name, division) in enumerate(product(EXP2, DIVISIONS)):
        rows, channels, bits, scale = SHAPES[i % len(SHAPES)]
        graph.add_value(f"x{i}", (rows, channels))
        graph.add_value(f"y{i}", (rows, channels))
        graph.inputs.append(f"x{i}")
        graph.outputs.append(f"y{i}")
        graph.nodes.append(Node(f"n{i}", "softmax", [f"x{i}"], f"y{i}", {"implementation": name, "reciprocal": division}))
        types[f"x{i}"] = tensor_type(bits, scale)
    graph = quantized(graph, types)
    feeds = random_feeds(graph, 4)
    assert_exact(graph, feeds, Design.of(8, 8, 16))
    assert_exact(graph, {name: feed[:2] for name, feed in feeds.items()}, Design.of(4, 4, 16), types="ap")


def test_auto_and_unknown_implementations() -> None:
    assert softmax_graph([(1, 8, 8, 0.1)]).nodes[0].attrs["implementation"] == "chord32"
    graph = Graph("target", ["x"], ["y"], [Node("n", "softmax", ["x"], "y", {"error_target": 0.5})])
    for name in "xy":
        graph.add_value(name, (1, 8))
    assert quantized(graph, {"x": tensor_type(8, 0.1)}).nodes[0].attrs["implementation"] == "log2"
    with pytest.raises(GraphError, match="needs one of the implementations auto, chord4"):
        softmax_graph([(1, 8, 8, 0.1)], implementation="cordic")
    with pytest.raises(GraphError, match="needs one of the divisions divide, newton"):
        softmax_graph([(1, 8, 8, 0.1)], reciprocal="cordic")


def test_resources_follow_the_implementation() -> None:
    found = {}
    for name, division in (("chord32", "divide"), ("table", "divide"), ("polynomial", "divide"), ("log2", "newton")):
        graph = softmax_graph([(4, 64, 8, 0.1)], implementation=name, reciprocal=division)
        node = graph.nodes[0]
        ctx = Lowering(graph, Design.of(8, 8), dict.fromkeys(graph.values, 0), lambda key, make: 0)
        found[name] = operator(node).resources(operator(node).lower(node, ctx)[0].kernel)
    assert found["table"].bram36 == found["chord32"].bram36 + 4 and found["polynomial"].dsp == found["chord32"].dsp + 16
    assert found["log2"].lut < found["chord32"].lut and found["log2"].dsp == found["chord32"].dsp + 3


def test_a_planted_bug_is_caught() -> None:
    graph = softmax_graph([(5, 33, 8, 0.05)])
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"softmax.hpp": ("tile == 0 || maximum < largest", "maximum < largest")})
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()


def test_bugs_planted_into_the_exponential_and_the_reciprocal_are_caught() -> None:
    graph = softmax_graph([])
    names = ("chord8", "table", "polynomial", "log2")
    for i, name in enumerate(names):
        graph.add_value(f"x{i}", (5, 33))
        graph.add_value(f"y{i}", (5, 33))
        graph.inputs.append(f"x{i}")
        graph.outputs.append(f"y{i}")
        graph.nodes.append(Node(f"n{i}", "softmax", [f"x{i}"], f"y{i}", {"implementation": name, "reciprocal": "newton"}))
    graph = quantized(graph, {f"x{i}": tensor_type(16, 3e-4) for i in range(len(names))})
    feeds, expected = random_feeds(graph, 4), run_golden(graph, random_feeds(graph, 4))
    found = simulate(graph, feeds, patch={"exponential.hpp": ("(1 << FRACTION_BITS) - 1);", "(1 << (FRACTION_BITS - 1)) - 1);")})
    assert all((found[name] != array).any() for name, array in expected.items())
    found = simulate(graph, feeds, patch={"reciprocal.hpp": ("shift_t(19)", "shift_t(20)")})
    assert all((found[name] != array).any() for name, array in expected.items())
