"""scale_rows: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from attnc.ops import operator
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type

SHAPES = [(1, 1), (3, 16), (17, 33), (70, 20), (2, 100), (5, 40)]
SCALES = [
    (3e-5, 1e-3, 1e-3, 16),
    (3e-5, 1e-3, 0.2, 8),
    (1e-3, 1e-3, 2.0**-11, 16),
    (1.0, 1.0, 1e-3, 16),
    (1e-9, 1e-6, 1.0, 8),
    (1e-4, 1e-3, 1e-2, 16),
]
"""x, peak, y, bits of y: usual ones, a product far above the range, one far below."""


def scale_graph(shapes: list[tuple[int, int]] = SHAPES) -> tuple[Graph, list[Array]]:
    """A node per shape, and the biases; one bias is far out of range."""
    rng, builder, biases = np.random.default_rng(0), Builder("scale"), []
    for i, (rows, channels) in enumerate(shapes):
        x, peak, y, bits = SCALES[i % len(SCALES)]
        bias = rng.normal(size=channels) * y * 2.0 ** (bits - 2)
        bias[0] = 1e9 if i % 2 else bias[0]
        biases.append(bias)
        operands = [((rows, channels), tensor_type(16, x)), ((rows, 1), tensor_type(16, peak))]
        builder.add("scale_rows", operands, tensor_type(bits, y), params={"bias": bias})
    return builder.quantized(), biases


def test_golden_is_near_float() -> None:
    graph, biases = scale_graph([(300, 33)] * len(SCALES))
    feeds = random_feeds(graph, 4)
    found = run_golden(graph, feeds)
    for node, bias in zip(graph.nodes, biases, strict=True):
        x, peak = (feeds[name].astype(np.float64) for name in node.inputs)
        (sx, sp), y = (float(graph.type(name).scale) for name in node.inputs), graph.type(node.output)
        factor, shift = sx * sp / float(y.scale), int(node.params["shift"])
        assert 8 <= shift <= 36
        if factor > 511:
            continue
        expected = x * peak * factor + np.clip(bias / float(y.scale), -(2**22), 2**22)
        bound = 0.5 + 2**-8 + np.abs(x * peak) * 2.0 ** -(shift + 1) + 1e-9
        # Saturation moves both the same way.
        assert (np.abs(found[node.output] - np.clip(expected, *y.range)) <= bound).all(), node.name
        assert (np.abs(x * peak) * 2.0 ** -(shift + 1) <= np.maximum(np.abs(x * peak) * factor * 2**-17, 2**-7) + 1e-12).all()


def test_a_peak_of_zero_gives_the_bias() -> None:
    graph, biases = scale_graph([(3, 16)])
    feeds = {"n0.0": np.full((1, 3, 16), 32767, np.int16), "n0.1": np.zeros((1, 3, 1), np.int16)}
    steps = np.clip(biases[0] / float(graph.type("n0.y").scale), -32768, 32767)
    assert (np.abs(run_golden(graph, feeds)["n0.y"] - steps) <= 0.5 + 2**-8).all()


@pytest.mark.parametrize(
    ("design", "types"), [(Design.of(16, 16, 64), "native"), (Design.of(4, 4, 3), "native"), (Design.of(8, 8, 4), "ap")], ids=str
)
def test_cpp_equals_golden(design: Design, types: str) -> None:
    graph, _ = scale_graph()
    assert_exact(graph, random_feeds(graph, 4), design, types=types)


def test_a_bias_of_other_channels_is_refused() -> None:
    builder = Builder("bad")
    with pytest.raises(GraphError, match="bias"):
        builder.add("scale_rows", [((2, 4), tensor_type(16)), ((2, 1), tensor_type(16))], tensor_type(16), params={"bias": np.ones(3)})


def test_resources_cover_the_multipliers() -> None:
    from attnc.kernels.lowering import Lowering

    graph, _ = scale_graph([(70, 33)])
    node = graph.nodes[0]
    calls = operator(node).lower(node, Lowering(graph, Design.of(16, 16, 64), dict.fromkeys(graph.values, 0), lambda key, make: 0))
    assert [call.scalars["rows"] for call in calls] == [64, 6]
    found = operator(node).resources(calls[0].kernel)
    assert found.dsp == 17 and min(found.lut, found.ff) > 0


def test_a_planted_bug_is_caught() -> None:
    graph, _ = scale_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"scale_rows.hpp": ("record[tile & 1][l]));", "record[0][l]));")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
