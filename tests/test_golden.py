"""The walk through a graph: blocks of samples, cuts of the work."""

from __future__ import annotations

import numpy as np
import pytest

from attention_cases import Case, build, feeds_of
from attnc import golden
from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ops import attention_sizes, operator
from attnc.ops.unary_method import tabulated

CASES = [
    Case(7, 9, 4, 2, 4, 4, bias_heads=4, bias_rows=7, qk_scale=0.02),
    Case(5, 5, 3, 3, 4, 8, groups=2, bias_heads=1, bias_rows=1, qk_scale=0.02),
    Case(6, 40, 2, 1, 4, 4, attrs={"passes": 1, "kv_lanes": 2, "key_step": 8}, qk_scale=0.02),
]


def test_blocks_of_samples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build(CASES)
    feeds = feeds_of(graph, 7, 1)
    whole: dict[str, Array] = {}
    run_golden(graph, feeds, whole.__setitem__)
    largest = max(rows * channels for rows, channels in (value.shape for value in graph.values.values()))
    for samples in (1, 2, 7):
        monkeypatch.setattr(golden, "BLOCK_ELEMENTS", samples * largest)
        for name, array in run_golden(graph, feeds).items():
            np.testing.assert_array_equal(array, whole[name])


def test_an_error_in_a_block_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build(CASES[:1])
    monkeypatch.setattr(golden, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(type(operator(graph.nodes[0])), "golden", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run_golden(graph, feeds_of(graph, 3, 1))


def test_cuts_of_attention_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build(CASES)
    feeds = feeds_of(graph, 3, 2)
    whole = run_golden(graph, feeds)
    for scores in (1, 2 * 7 * 9, 4 * 7 * 9, 9 * 7 * 9):
        monkeypatch.setattr(attention_sizes, "CHUNK", scores)
        for name, array in run_golden(graph, feeds).items():
            np.testing.assert_array_equal(array, whole[name])


@pytest.mark.parametrize(("low", "high", "size"), [(-5, 9, 3), (-5, 9, 300), (4, 9, 300), (-9, -4, 300), (7, 7, 1), (0, 0, 0)])
def test_a_table_gives_what_the_function_does(low: int, high: int, size: int) -> None:
    x = np.random.default_rng(0).integers(low, high + 1, (2, size))
    seen = []

    def cube(v: Array) -> Array:
        seen.append(v.size)
        return v**3

    np.testing.assert_array_equal(tabulated(cube, x), x**3)
    assert seen[0] <= max(x.size, 1)
