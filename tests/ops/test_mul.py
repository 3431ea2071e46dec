"""mul: golden against float, C++ against golden."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from attnc.schedule.program import build_program
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


def by_row_graph() -> Graph:
    """A row that multiplies every row, on either side, and no pair of whole operands: few rows and many, the ends of 16 bits."""
    rng, builder = np.random.default_rng(1), Builder("by_row")
    shapes = [(2, 16), (3, 33), (9, 40), (17, 8), (8, 20)]
    for i, (a, b, y, scale) in enumerate([(8, 8, 8, 1e-4), (16, 8, 16, 0.2), (8, 16, 16, 1.0), (16, 16, 8, 900.0), (16, 16, 16, 7.0)]):
        types, (rows, channels) = [tensor_type(a, 0.02), tensor_type(b, 0.013), tensor_type(y, scale)], shapes[i]
        row = np.where(rng.random((1, channels)) < 0.3, 1e4, 1) * rng.normal(0, 1, (1, channels))
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
    for graph in (mul_graph(), by_row_graph()):
        check_near_float(graph, random_feeds(graph, 4))


def test_a_row_alone_takes_half_the_multipliers() -> None:
    """One DSP per lane and one that makes the factors, or two per lane."""

    def dsps(graph: Graph) -> float:
        (engine,) = build_program(graph, Design.of(8, 8, 4), None).engines
        return engine.slots[0].resources.dsp

    assert (dsps(by_row_graph()), dsps(mul_graph())) == (9, 16)


@pytest.mark.parametrize("build", [mul_graph, by_row_graph])
@pytest.mark.parametrize("types", ["native", "ap"])
def test_cpp_equals_golden(types: str, build: Callable[[], Graph]) -> None:
    graph = build()
    assert_exact(graph, random_feeds(graph, 4), Design.of(8, 8, 4), types=types)


def test_cpp_equals_golden_for_all_bytes() -> None:
    graph, feeds = every_pair()
    assert_exact(graph, feeds, Design.of(32, 32))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GraphError, match="equal shapes, or one row"):
        Builder("bad").add("mul", [((3, 4), tensor_type(8)), ((3, 5), tensor_type(8))], tensor_type(8))


BUGS = [
    (mul_graph, ("a_vec.v[l]) * factor_t(b_vec.v[l])", "a_vec.v[l]) + factor_t(b_vec.v[l])")),
    (by_row_graph, ("factors[tile & 1]", "factors[(tile + 1) & 1]")),
    (by_row_graph, ("factor_t(b_vec.v[at])", "factor_t(b_vec.v[0])")),
]


@pytest.mark.parametrize(("build", "bug"), BUGS)
def test_a_planted_bug_is_caught(build: Callable[[], Graph], bug: tuple[str, str]) -> None:
    graph = build()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"mul.hpp": bug})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
