"""mask_bias: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from attnc.ops.attention_bias import BIAS_EXCLUDED, BIAS_LIMIT, BIAS_UNIFORM, bias_type
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type

CASES = [(1, 1, 1), (12, 1, 33), (12, 4, 16), (20, 20, 7), (6, 3, 40)]
"""Rows, rows of the mask, keys."""


def mask_graph() -> Graph:
    """Numbers of both widths, fine and coarse."""
    rng, builder = np.random.default_rng(0), Builder("mask")
    for i, (rows, period, keys) in enumerate(CASES):
        numbers = ((rows, keys), tensor_type(16 if i % 2 else 8, (0.002, 0.5, 0.01)[i % 3]))
        builder.add("mask_bias", [numbers, ((period, keys), bias_type(3))], bias_type(3))
        constant = np.where(rng.random((period, keys)) < 0.5, 0.0, -np.inf)
        builder.add("mask_bias", [numbers, ((period, keys), bias_type(3), constant)], bias_type(3))
        if i == 0:
            continue
        constant = np.where(np.arange(period)[:, None] % 2 == 0, -(2.0**40), -(2.0**40) * (rng.random((period, keys)) < 0.5))
        builder.add("mask_bias", [numbers, ((period, keys), bias_type(3), constant)], bias_type(3))
    graph = builder.quantized()
    for node in graph.nodes:  # the harness rounds constants by their types alone
        if node.inputs[1] in graph.constants:
            array = graph.constants[node.inputs[1]]
            graph.constants[node.inputs[1]] = np.where(rng.random(array.shape) < 0.2, BIAS_UNIFORM, array).astype(array.dtype)
    return graph


def feeds_of(graph: Graph) -> dict[str, np.ndarray]:
    """Random numbers; of masks a third leaves keys out, or takes the place of scores."""
    feeds, rng = random_feeds(graph, 4), np.random.default_rng(1)
    for node in graph.nodes:
        if node.inputs[1] in feeds:
            mask = feeds[node.inputs[1]]
            kind = rng.integers(0, 6, mask.shape)
            feeds[node.inputs[1]] = np.select([kind == 0, kind == 1], [BIAS_EXCLUDED, BIAS_UNIFORM], mask).astype(mask.dtype)
    return feeds


def test_golden_is_near_float_and_leaves_the_mask_alone() -> None:
    graph = mask_graph()
    feeds = feeds_of(graph)
    found = run_golden(graph, feeds)
    for node in graph.nodes:
        x = feeds[node.inputs[0]] * float(graph.type(node.inputs[0]).scale) / float(graph.type(node.output).scale)
        mask = feeds[node.inputs[1]] if node.inputs[1] in feeds else graph.constants[node.inputs[1]][None]
        mask = np.tile(mask, (x.shape[0] // mask.shape[0], x.shape[1] // mask.shape[1], 1)).astype(np.int64)
        special, y = mask < -BIAS_LIMIT, found[node.output]
        np.testing.assert_array_equal(y[special], mask[special])
        off = np.abs(y - np.clip(x + mask, -BIAS_LIMIT, BIAS_LIMIT))[~special]
        assert (off <= 0.5 + np.abs(x[~special]) * 2**-16).all() and (np.abs(y[~special]) <= BIAS_LIMIT).all()


@pytest.mark.parametrize(("types", "rows"), [("native", 3), ("ap", 8)])
def test_cpp_equals_golden(types: str, rows: int) -> None:
    graph = mask_graph()
    assert_exact(graph, feeds_of(graph), Design.of(8, 8, rows), types=types)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GraphError, match="a mask of 5 keys whose rows divide 6"):
        Builder("bad").add("mask_bias", [((6, 5), tensor_type(8)), ((4, 5), bias_type(3))], bias_type(3))


def test_a_planted_bug_is_caught() -> None:
    graph = mask_graph()
    feeds = feeds_of(graph)
    found = simulate(graph, feeds, patch={"mask_bias.hpp": ("added.v[l] < -LIMIT", "added.v[l] < -LIMIT - 1")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
