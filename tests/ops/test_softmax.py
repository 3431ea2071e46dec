"""softmax and the exponential that it shares with attention: against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.errors import OverflowRiskError
from attnc.golden import run_golden
from attnc.ir import Graph, Node
from attnc.ops.base import Design
from attnc.ops.exponential import (
    EXP2_ROM,
    FRACTION_BITS,
    PROBABILITY_BITS,
    exp2_negative,
    output_multiplier,
    score_multiplier,
    softmax_scale,
    sum_bits,
)
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type


def softmax_graph(shapes: list[tuple[int, int, int, float]]) -> Graph:
    """Independent softmax nodes of (rows, channels, bits, scale)."""
    graph, types = Graph("softmax"), {}
    for i, (rows, channels, bits, scale) in enumerate(shapes):
        x, y = f"x{i}", f"y{i}"
        graph.add_value(x, (rows, channels))
        graph.add_value(y, (rows, channels))
        graph.inputs.append(x)
        graph.outputs.append(y)
        graph.nodes.append(Node(f"n{i}", "softmax", [x], y))
        types[x] = tensor_type(bits, scale)
    return quantized(graph, types)


def float_softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


SHAPES = [(1, 1, 8, 0.1), (3, 16, 8, 0.05), (17, 10, 8, 0.02), (5, 47, 16, 3e-4), (9, 100, 16, 2.0), (2, 33, 8, 300.0), (4, 20, 8, 1e-9)]


def test_rom_is_the_float_function() -> None:
    exact = 2.0 ** (PROBABILITY_BITS - np.arange(33) / 32)
    assert np.abs(np.array(EXP2_ROM.values) - exact).max() <= 0.5


def test_exponential_over_its_whole_domain() -> None:
    d = np.arange(1 << 16)
    p = exp2_negative(d) / 2**PROBABILITY_BITS
    error = np.abs(p - 2.0 ** (-d / 2**FRACTION_BITS))
    assert error.max() <= 8.5e-5
    assert p[0] == 1.0
    assert (np.diff(p) <= 0).all()
    np.testing.assert_array_equal(exp2_negative(np.array([16 << FRACTION_BITS, 1 << 26])), 0)


def test_reciprocal_is_within_its_bound() -> None:
    rng = np.random.default_rng(0)
    edges = [2 ** np.arange(15, 32), 2 ** np.arange(16, 32) - 1]
    total = np.concatenate([2**15 + np.arange(1 << 17), rng.integers(2**15, 2**31, 100_000), *edges])
    for factor in (1.0, 2.0**15, 0.37, 7.3, 1.0000001):
        multiplier, shift = softmax_scale(total, *output_multiplier(factor))
        assert multiplier.max() < 1 << 17
        assert shift.max() <= 62
        found = multiplier / 2.0**shift
        assert (np.abs(found * total / factor - 1)).max() <= 3.1e-5 + 2**-17
    assert softmax_scale(np.array([0]), 1 << 16, 17)[0] == 0


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


@pytest.mark.parametrize("design", [Design(16, 16, 64, 4), Design(4, 4, 3, 4)], ids=str)
def test_cpp_equals_golden(design: Design) -> None:
    graph = softmax_graph(SHAPES)
    assert_exact(graph, random_feeds(graph, 4), design)


def test_ap_types_equal_golden() -> None:
    graph = softmax_graph([(3, 10, 8, 0.05), (5, 17, 16, 3e-4), (2, 9, 16, 2.0)])
    assert_exact(graph, random_feeds(graph, 3), Design(8, 8, 4), types="ap")


def test_every_byte_against_every_maximum() -> None:
    graph = softmax_graph([(256, 2, 8, 0.04)])
    pairs = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij"), -1).astype(np.int8)
    assert_exact(graph, {"x0": pairs}, Design(4, 4, 64))


def test_a_planted_bug_is_caught() -> None:
    graph = softmax_graph([(5, 33, 8, 0.05)])
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"softmax.hpp": ("tile == 0 || maximum < largest", "maximum < largest")})
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()
