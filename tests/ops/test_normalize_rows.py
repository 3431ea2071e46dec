"""normalize_rows: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, Node
from attnc.kernels.design import Design
from attnc.ops import operator
from attnc.ops.normalize_rows import LIMIT, reciprocal
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type

SHAPES = [(1, 1), (3, 16), (17, 33), (70, 20), (2, 100)]
OUTPUT = tensor_type(8, 1 / LIMIT)


def rows_graph(
    shapes: list[tuple[int, int]] = SHAPES, scales: tuple[tuple[float, float], ...] = ((0.1, 0.1), (0.3, 0.02), (1e-3, 5.0))
) -> Graph:
    """(scale of x, scale of the peak) in turn."""
    builder = Builder("rows")
    for i, (rows, channels) in enumerate(shapes):
        x, peak = scales[i % len(scales)]
        builder.add("normalize_rows", [((rows, channels), tensor_type(16, x)), ((rows, 1), tensor_type(16, peak))], OUTPUT)
    return builder.quantized()


def consistent(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    """The first half of the samples gets peaks that belong to x; the others stay anything, negative ones and zeros too."""
    for node in graph.nodes:
        x, peak = (feeds[name] for name in node.inputs)
        half = len(x) // 2
        peak[:half] = np.minimum(np.abs(x[:half].astype(np.int64)).max(axis=-1, keepdims=True), 32767)
        x[half - 1], peak[half - 1] = 0, 0
    return feeds


def test_reciprocals_of_every_peak() -> None:
    peak = np.arange(-2, 32768)
    for multiplier, shift in ((130048, 10), (65536, 0), (131071, 40), (0, 0)):
        factor, total = reciprocal(peak, multiplier, shift)
        assert factor.max() < 1 << 18 and (factor[peak <= 0] == 0).all()
        exact = multiplier / 2.0**shift / np.maximum(peak, 1)
        assert (np.abs(factor / 2.0**total - exact)[peak > 0] <= exact[peak > 0] * 2**-17 * (1 + 1e-9)).all()


def test_golden_is_near_float() -> None:
    graph = rows_graph([(4000, 33)] * 3)
    rng = np.random.default_rng(0)
    for node in graph.nodes:
        scales = [float(graph.type(name).scale) for name in node.inputs]
        x = (rng.integers(-32768, 32768, (1, 4000, 33)) >> rng.integers(0, 15, (1, 4000, 1))).astype(np.int16)
        peak = rng.integers(0, 32768, (1, 4000, 1)).astype(np.int16) >> rng.integers(0, 15, (1, 4000, 1)).astype(np.int16)
        types = [graph.type(name) for name in node.inputs]
        found = operator(node).golden(node, [x, peak], types, OUTPUT)
        expected = operator(node).reference(node, [x * scales[0], peak * scales[1]]) * LIMIT
        inside = np.abs(expected) <= LIMIT
        assert (np.abs(found - expected)[inside] <= 0.5 + np.abs(expected[inside]) * 2**-15.8).all()
        assert (np.abs(found[~inside]) == LIMIT).all()


def test_own_peaks_reach_the_limit_and_zero_rows_stay_zero() -> None:
    graph = rows_graph([(70, 20)])
    feeds = consistent(graph, random_feeds(graph, 8))
    found = run_golden(graph, feeds)["n0.y"]
    assert (np.abs(found[:3]).max(axis=-1) == LIMIT).all() and not found[3].any()


@pytest.mark.parametrize(
    ("design", "types"), [(Design.of(16, 16, 64), "native"), (Design.of(4, 4, 3), "native"), (Design.of(8, 8, 4), "ap")], ids=str
)
def test_cpp_equals_golden(design: Design, types: str) -> None:
    graph = rows_graph()
    assert_exact(graph, consistent(graph, random_feeds(graph, 6)), design, types=types)


@pytest.mark.parametrize("types", ["native", "ap"])
def test_extreme_factors(types: str) -> None:
    graph = rows_graph([(9, 17)] * 4, ((1.0, 1e-3), (1e-20, 1.0), (1e-12, 1.0), (1e-9, 3.0)))
    assert_exact(graph, consistent(graph, random_feeds(graph, 4)), Design.of(8, 8, 4), types=types)


def test_a_peak_of_other_rows_is_refused() -> None:
    with pytest.raises(GraphError, match="a peak per row"):
        operator(Node("n", "normalize_rows", ["x", "p"], "y")).shape(Node("n", "normalize_rows", ["x", "p"], "y"), [(3, 4), (2, 1)])


def test_a_planted_bug_is_caught() -> None:
    graph = rows_graph()
    feeds = consistent(graph, random_feeds(graph, 6))
    found = simulate(graph, feeds, patch={"normalize_rows.hpp": ("PEAK_BITS - left);", "PEAK_BITS);")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
