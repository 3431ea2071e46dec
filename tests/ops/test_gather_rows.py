"""gather_rows: rows chosen in every way, golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from attnc.ops.gather_rows import row_patterns
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type


def windows(side: int, window: int) -> tuple[int, ...]:
    """The rows of a picture of side x side tokens, window by window."""
    index = np.arange(side * side).reshape(side // window, window, side // window, window)
    return tuple(int(row) for row in index.transpose(0, 2, 1, 3).ravel())


ROWS = {
    "first": ((0,), 1),
    "slice": (tuple(range(3, 40)), 1),
    "stride": (tuple(range(1, 60, 7)), 1),
    "reverse": (tuple(range(63, -1, -1)), 1),
    "twice": ((5, 5, 5), 1),
    "windows": (windows(8, 4), 2),
    "blocks": ((0, 1, 16, 17, 32, 33, 50, 51, 52), 2),
    "mixed": ((9, 0, 4, 4, 63), 3),
}


def gather_graph() -> Graph:
    """Every list of rows, exact copies and a change of scale."""
    builder = Builder("gather")
    for i, (rows, _) in enumerate(ROWS.values()):
        channels = (16, 5, 33)[i % 3]
        builder.add("gather_rows", [((64, channels), tensor_type(16, 0.01))], tensor_type(16, 0.01), {"rows": rows})
        builder.add(
            "gather_rows", [((64, channels), tensor_type(8, 0.1))], tensor_type(8, np.linspace(0.05, 0.4, channels)), {"rows": rows}
        )
    return builder.quantized()


@pytest.mark.parametrize("name", ROWS)
def test_patterns_give_the_rows_in_few_calls(name: str) -> None:
    rows, calls = ROWS[name]
    patterns, found = row_patterns(rows), []
    for p in patterns:
        found += [
            p.start + i * p.strides[0] + j * p.strides[1] + k
            for i in range(p.counts[0])
            for j in range(p.counts[1])
            for k in range(p.counts[2])
        ]
    assert tuple(found) == rows and len(patterns) == calls


def test_random_lists_of_rows_come_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows = rng.integers(0, 6, rng.integers(1, 30)).tolist()
        assert sum(p.size for p in row_patterns(rows)) == len(rows)
        found = [
            p.start + i * p.strides[0] + j * p.strides[1] + k
            for p in row_patterns(rows)
            for i in range(p.counts[0])
            for j in range(p.counts[1])
            for k in range(p.counts[2])
        ]
        assert found == rows


def test_golden_copies_exactly_or_within_half_a_step() -> None:
    graph = gather_graph()
    feeds = random_feeds(graph, 3)
    found = run_golden(graph, feeds)
    for i, node in enumerate(graph.nodes):
        x, y = feeds[node.inputs[0]][:, list(node.attrs["rows"])], graph.type(node.output)
        if i % 2 == 0:
            np.testing.assert_array_equal(found[node.output], x)
        else:
            inside = np.clip(x * 0.1 / y.scale, *y.range)
            assert (np.abs(found[node.output] - inside) <= 0.5 + np.abs(inside) * 2**-16).all()


def test_cpp_equals_golden() -> None:
    graph = gather_graph()
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 8, 4))


def test_ap_types_equal_golden() -> None:
    graph = gather_graph()
    assert_exact(graph, random_feeds(graph, 4), Design.of(16, 16, 4), types="ap")


def test_rows_outside_are_refused() -> None:
    for rows in ((), (-1,), (0, 4)):
        with pytest.raises(GraphError, match=r"needs rows in \[0, 4\)"):
            Builder("bad").add("gather_rows", [((4, 4), tensor_type(8))], tensor_type(8), {"rows": rows})


def test_a_planted_bug_is_caught() -> None:
    graph = gather_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"rescale.hpp": ("(r >> 24) & UInt<32>(0x3f)", "((r >> 24) - 1) & UInt<32>(0x3f)")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
