"""row_absmax: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type

SHAPES = [(1, 1), (3, 16), (17, 33), (70, 20), (2, 100), (1, 20), (1, 155)]
EVERY = np.arange(-32768, 32768, dtype=np.int16).reshape(1, 65536, 1)


def absmax_graph(shapes: list[tuple[int, int]] = SHAPES) -> Graph:
    """Equal scales, and a factor up and down, from bytes and words."""
    builder = Builder("absmax")
    for i, shape in enumerate(shapes):
        bits, x, y = [(16, 0.1, 0.1), (16, 0.1, 0.03), (16, 0.01, 0.2), (8, 0.5, 0.004)][i % 4]
        builder.add("row_absmax", [(shape, tensor_type(bits, x))], tensor_type(16, y))
    return builder.quantized()


def hard_feeds(graph: Graph) -> dict[str, Array]:
    """Random rows, the extremes, rows of zeros, and a single largest or smallest element at either end."""
    feeds = random_feeds(graph, 6, seed=2)
    for name, feed in feeds.items():
        low, high = graph.type(name).range
        feed[2:] = 0
        feed[3, :, 0], feed[4, :, -1], feed[5, ::2] = low, high, 1
    return feeds


@pytest.mark.parametrize("ratio", [1.0, 0.37, 3.0, 1e-6])
def test_golden_is_near_float_for_every_word(ratio: float) -> None:
    builder = Builder("every")
    builder.add("row_absmax", [((65536, 1), tensor_type(16, ratio))], tensor_type(16, 1.0))
    graph = builder.quantized()
    found = run_golden(graph, {"n0.0": EVERY})["n0.y"]
    expected = np.minimum(np.abs(EVERY.astype(np.int64)) * ratio, 32767)
    assert (np.abs(found - expected) <= (0 if ratio == 1 else 0.5 + expected * 2**-17)).all()


@pytest.mark.parametrize(
    ("design", "types"), [(Design.of(16, 16, 64), "native"), (Design.of(4, 4, 3), "native"), (Design.of(8, 8, 4), "ap")], ids=str
)
def test_cpp_equals_golden(design: Design, types: str) -> None:
    graph = absmax_graph()
    assert_exact(graph, hard_feeds(graph), design, types=types)


def test_types_that_the_streams_cannot_carry_are_refused() -> None:
    builder = Builder("bad")
    builder.add("row_absmax", [((1, 4), tensor_type(16, np.ones(4)))], tensor_type(16))
    with pytest.raises(GraphError, match="one scale per tensor"):
        builder.quantized()


@pytest.mark.parametrize(
    ("old", "new"),
    [("magnitude_t peak = tile < (lone ? SLOTS : 1)", "magnitude_t peak = tile >= 0"), ("lone ? tile % SLOTS : row", "lone ? 0 : row")],
)
def test_a_planted_bug_is_caught(old: str, new: str) -> None:
    graph = absmax_graph()
    feeds = hard_feeds(graph)
    found = simulate(graph, feeds, patch={"row_absmax.hpp": (old, new)})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
