"""requantize: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, TensorType
from attnc.kernels.design import Design
from attnc.ops.requantize import byte_planes
from builder import Builder, real
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type

EVERY = np.arange(-32768, 32768, dtype=np.int16).reshape(1, 256, 256)


def requantize_graph(shapes: list[tuple[int, int]]) -> Graph:
    """Scalar and per-channel scales on both sides, factors from nothing to large."""
    rng, builder = np.random.default_rng(0), Builder("requantize")
    for shape in shapes:
        wide = 10 ** rng.uniform(-6, 2, shape[1])
        builder.add("requantize", [(shape, tensor_type(16, 1e-3))], tensor_type(8, 0.3))
        builder.add("requantize", [(shape, tensor_type(8, 0.1))], tensor_type(16, 1e-3))
        builder.add("requantize", [(shape, tensor_type(16, 1e-3))], tensor_type(8, wide))
        builder.add("requantize", [(shape, tensor_type(16, wide))], tensor_type(16, 1.0))
        builder.add("requantize", [(shape, tensor_type(16, 1e-14))], tensor_type(16, 1.0))
    return builder.quantized()


def check_near_float(graph: Graph, feeds: dict[str, Array]) -> None:
    """Every output within the bound of the operator's docstring."""
    found = run_golden(graph, feeds)
    for node in graph.nodes:
        y = graph.type(node.output)
        inside = np.clip(real(graph, node.inputs[0], feeds[node.inputs[0]]) / y.scale, *y.range)
        assert (np.abs(found[node.output] - inside) <= 0.5 + np.abs(inside) * 2**-16).all(), node.name


def test_golden_is_near_float() -> None:
    graph = requantize_graph([(256, 256)])
    feeds = {name: EVERY if graph.type(name).bits == 16 else (EVERY >> 8).astype(np.int8) for name in graph.inputs}
    check_near_float(graph, feeds)
    # One synthesis for every 16-bit input.
    assert_exact(graph, feeds, Design.of(32, 32))


def test_equal_scales_copy_exactly() -> None:
    builder = Builder("copy")
    for scale in (1.0, 0.1, 3e-7):
        builder.add("requantize", [((256, 256), tensor_type(16, scale))], tensor_type(16, scale))
    graph = builder.quantized()
    for array in run_golden(graph, dict.fromkeys(graph.inputs, EVERY)).values():
        np.testing.assert_array_equal(array, EVERY)


@pytest.mark.parametrize("types", ["native", "ap"])
def test_cpp_equals_golden(types: str) -> None:
    graph = requantize_graph([(1, 1), (3, 16), (5, 33), (9, 7)])
    assert_exact(graph, random_feeds(graph, 4), Design.of(8, 8, 4), types=types)


def test_byte_planes_hold_every_byte() -> None:
    planes = byte_planes(np.array([1, -2, 0x123456, -(1 << 39), (1 << 39) - 1]), 5, 4)
    assert planes.shape == (2, 5, 4)
    found = [int.from_bytes(planes[c // 4, :, c % 4].tobytes(), "little", signed=True) for c in range(8)]
    assert found == [1, -2, 0x123456, -(1 << 39), (1 << 39) - 1, 0, 0, 0]


def test_types_that_the_streams_cannot_carry_are_refused() -> None:
    for type_ in (TensorType(8, False, np.asarray(1.0)), TensorType(16, True, np.asarray(1.0), 3)):
        builder = Builder("bad")
        builder.add("requantize", [((1, 4), type_)], tensor_type(8))
        with pytest.raises(GraphError, match="needs integers of 16 bits"):
            quantized(builder.graph, builder.types)


def test_a_planted_bug_is_caught() -> None:
    graph = requantize_graph([(5, 33)])
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"rescale.hpp": ("record[tile & 1][l];", "record[0][l];")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
