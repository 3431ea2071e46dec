"""add: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from builder import Builder, real
from harness import assert_exact, random_feeds, simulate, tensor_type


def add_graph(scale: tuple[float, float, float] = (0.02, 0.013, 0.03)) -> Graph:
    """All pairs of types, broadcast operands and constants on either side."""
    rng, builder = np.random.default_rng(0), Builder("add")
    for i, (a, b, y) in enumerate([(8, 8, 8), (16, 8, 16), (8, 16, 16), (16, 16, 8), (16, 16, 16)]):
        types = [tensor_type(bits, s) for bits, s in zip((a, b, y), scale, strict=True)]
        rows, channels = [(1, 1), (7, 16), (5, 33), (1, 20), (9, 40)][i]
        row = rng.normal(0, 1, (1, channels))
        whole = rng.normal(0, 1, (rows, channels))
        builder.add("add", [((rows, channels), types[0]), ((rows, channels), types[1])], types[2])
        builder.add("add", [((rows, channels), types[0]), ((1, channels), types[1], row)], types[2])
        builder.add("add", [((1, channels), types[0], row), ((rows, channels), types[1])], types[2])
        builder.add("add", [((rows, channels), types[0], whole), ((rows, channels), types[1])], types[2])
        builder.add("add", [((1, channels), types[0]), ((rows, channels), types[1])], types[2])
    return builder.quantized()


def every_pair() -> dict[str, Array]:
    """All pairs of bytes."""
    byte = np.arange(-128, 128, dtype=np.int8)
    return {"n0.0": np.repeat(byte, 256).reshape(1, 256, 256), "n0.1": np.tile(byte, 256).reshape(1, 256, 256)}


def pair_graph(scales: tuple[float, float, float], bits: int = 8) -> Graph:
    """One addition of bytes."""
    builder, shape = Builder("pairs"), (256, 256)
    builder.add("add", [(shape, tensor_type(8, scales[0])), (shape, tensor_type(8, scales[1]))], tensor_type(bits, scales[2]))
    return builder.quantized()


@pytest.mark.parametrize("scales", [(0.02, 0.013, 0.03), (1.0, 1e-3, 0.9), (3e-9, 1e-9, 1.0), (1e-4, 0.5, 0.5)])
@pytest.mark.parametrize("bits", [8, 16])
def test_golden_is_near_float_for_all_bytes(scales: tuple[float, float, float], bits: int) -> None:
    graph, feeds = pair_graph(scales, bits), every_pair()
    a, b = (feeds[name].astype(np.int64) for name in graph.inputs)
    y = graph.type("n0.y")
    expected = np.clip((a * scales[0] + b * scales[1]) / y.scale, *y.range)
    bound = 0.5 + (np.abs(a) + np.abs(b)) * 2.0 ** -(float(graph.nodes[0].params["shift"]) + 1) + 1e-9
    assert (np.abs(run_golden(graph, feeds)["n0.y"] - expected) <= bound).all()


def test_golden_is_near_float_for_words() -> None:
    graph = add_graph()
    feeds = random_feeds(graph, 4)
    found = run_golden(graph, feeds)
    for node in graph.nodes:
        values = [feeds[name] if name in feeds else graph.constants[name][None] for name in node.inputs]
        y = graph.type(node.output)
        exact = sum(real(graph, name, value) for name, value in zip(node.inputs, values, strict=True)) / y.scale
        bound = 0.5 + sum(np.abs(value.astype(np.int64)) for value in values) * 2.0 ** -(float(node.params["shift"]) + 1) + 1e-9
        assert (np.abs(found[node.output] - np.clip(exact, *y.range)) <= bound).all(), node.name


def test_equal_scales_add_exactly() -> None:
    graph, feeds = pair_graph((0.1, 0.1, 0.1), 16), every_pair()
    np.testing.assert_array_equal(run_golden(graph, feeds)["n0.y"], feeds["n0.0"].astype(int) + feeds["n0.1"])


@pytest.mark.parametrize("types", ["native", "ap"])
def test_cpp_equals_golden(types: str) -> None:
    graph = add_graph()
    assert_exact(graph, random_feeds(graph, 4), Design.of(8, 8, 4), types=types)


def test_ap_types_equal_golden_for_small_factors() -> None:
    graph = add_graph((3e-9, 1e-9, 1.0))
    assert_exact(graph, random_feeds(graph, 3), Design.of(4, 4, 4), types="ap")


def test_cpp_equals_golden_for_all_bytes() -> None:
    assert_exact(pair_graph((0.02, 0.013, 0.03)), every_pair(), Design.of(32, 32))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GraphError, match="equal shapes, or one row"):
        Builder("bad").add("add", [((3, 4), tensor_type(8)), ((2, 4), tensor_type(8))], tensor_type(8))


def test_a_planted_bug_is_caught() -> None:
    graph = add_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"add.hpp": ("multiplier_t(call.multiplier_b)", "multiplier_t(call.multiplier_a)")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
