"""mul: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.ops.base import Array, Design
from builder import Builder, real
from harness import assert_exact, random_feeds, simulate, tensor_type


def mul_graph() -> Graph:
    """All pairs of types, broadcast operands and constants on either side."""
    rng, builder = np.random.default_rng(0), Builder("mul")
    for i, (a, b, y, scale) in enumerate([(8, 8, 8, 1e-4), (16, 8, 16, 0.2), (8, 16, 16, 1.0), (16, 16, 8, 900.0), (16, 16, 16, 7.0)]):
        types = [tensor_type(a, 0.02), tensor_type(b, 0.013), tensor_type(y, scale)]
        rows, channels = [(1, 1), (7, 16), (5, 33), (1, 20), (9, 40)][i]
        row = rng.normal(0, 1, (1, channels))
        builder.add("mul", [((rows, channels), types[0]), ((rows, channels), types[1])], types[2])
        builder.add("mul", [((rows, channels), types[0]), ((1, channels), types[1], row)], types[2])
        builder.add("mul", [((1, channels), types[0], row), ((rows, channels), types[1])], types[2])
        builder.add("mul", [((1, channels), types[0]), ((rows, channels), types[1])], types[2])
    return builder.quantized()


def every_pair() -> tuple[Graph, dict[str, Array]]:
    """All pairs of bytes."""
    builder, shape = Builder("pairs"), (256, 256)
    builder.add("mul", [(shape, tensor_type(8, 0.02)), (shape, tensor_type(8, 0.013))], tensor_type(8, 0.03))
    byte = np.arange(-128, 128, dtype=np.int8)
    return builder.quantized(), {"n0.0": np.repeat(byte, 256).reshape(1, 256, 256), "n0.1": np.tile(byte, 256).reshape(1, 256, 256)}


def check_near_float(graph: Graph, feeds: dict[str, Array]) -> None:
    """Every output within the bound of the operator's docstring."""
    found = run_golden(graph, feeds)
    for node in graph.nodes:
        a, b = (real(graph, name, feeds[name] if name in feeds else graph.constants[name][None]) for name in node.inputs)
        y = graph.type(node.output)
        exact = a * b / y.scale
        inside = np.clip(exact, *y.range)
        assert (np.abs(found[node.output] - inside) <= 0.5 + np.abs(inside) * 2**-16).all(), node.name


def test_golden_is_near_float() -> None:
    check_near_float(*every_pair())
    graph = mul_graph()
    check_near_float(graph, random_feeds(graph, 4))


@pytest.mark.parametrize("types", ["native", "ap"])
def test_cpp_equals_golden(types: str) -> None:
    graph = mul_graph()
    assert_exact(graph, random_feeds(graph, 4), Design(8, 8, 4), types=types)


def test_cpp_equals_golden_for_all_bytes() -> None:
    graph, feeds = every_pair()
    assert_exact(graph, feeds, Design(32, 32))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GraphError, match="equal shapes, or one row"):
        Builder("bad").add("mul", [((3, 4), tensor_type(8)), ((3, 5), tensor_type(8))], tensor_type(8))


def test_a_planted_bug_is_caught() -> None:
    graph = mul_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"mul.hpp": ("a_vec.v[l]) * product_t(b_vec.v[l])", "a_vec.v[l]) + product_t(b_vec.v[l])")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
