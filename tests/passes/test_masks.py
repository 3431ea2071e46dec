"""Constant masks as attributes: recognised, removed, and without effect on the meaning."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_reference
from attnc.ir import Graph, Node
from attnc.ops import verify
from attnc.ops.attention_sizes import Mask
from attnc.passes.masks import BandMask, fold_masks, recognise_mask

LOWEST = float(np.finfo(np.float32).min)


def additive(allowed: Array) -> Array:
    return np.where(allowed, 0.0, LOWEST)


def test_known_masks() -> None:
    tri = np.tri
    assert recognise_mask(additive(tri(6, 6, dtype=bool))) == BandMask(True, (-1, 0), 0)
    assert recognise_mask(additive(tri(4, 9, 5, dtype=bool))) == BandMask(True, (-1, 0), 5)
    assert recognise_mask(additive(tri(4, 9, 0, dtype=bool))) == BandMask(True, (-1, 0), 0)
    band = tri(8, 8, 2, dtype=bool) & ~tri(8, 8, -4, dtype=bool)
    assert recognise_mask(additive(band)) == BandMask(False, (3, 2), 0)
    assert recognise_mask(additive(tri(8, 8, dtype=bool) & ~tri(8, 8, -4, dtype=bool))) == BandMask(True, (3, 0), 0)
    assert recognise_mask(np.where(tri(3, 3, dtype=bool), 0.0, -np.inf)) == BandMask(True, (-1, 0), 0)
    assert recognise_mask(np.zeros((4, 4))) is None
    assert recognise_mask(np.full((4, 4), LOWEST)) is None
    padding = np.zeros((4, 4))
    padding[:, 3] = LOWEST
    assert recognise_mask(padding) is None
    hole = additive(tri(5, 5, dtype=bool))
    hole[3, 1] = LOWEST
    assert recognise_mask(hole) is None


@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 4), (1, 6), (6, 1)])
def test_every_band_is_recognised(shape: tuple[int, int]) -> None:
    queries, keys = shape
    distance = np.arange(keys) - np.arange(queries)[:, None]
    for low in range(-queries, keys + 1):
        for high in range(low, keys + 1):
            allowed = (distance >= low) & (distance <= high)
            found = recognise_mask(additive(allowed))
            if allowed.all() or not allowed.any():
                assert found is None
                continue
            assert found is not None, (shape, low, high)
            node = Node("n", "attention", [], "y", attrs=found.attributes())
            np.testing.assert_array_equal(Mask.of(node, queries, keys).allowed(queries, keys), allowed, err_msg=str((low, high, found)))


def graph_with(bias: Array, heads: int, rows: int, keys: int) -> Graph:
    graph = Graph("g", ["q", "k", "v"], ["y"])
    graph.add_value("q", (8, 16))
    for name in "kv":
        graph.add_value(name, (keys, 16))
    graph.add_value("b", (heads * rows, keys))
    graph.constants["b"] = bias.reshape(heads * rows, keys)
    graph.add_value("y", (8, 16))
    attrs = {"num_heads": 2, "num_kv_heads": 2, "groups": 1, "scale": 0.5, "bias_heads": heads, "bias_rows": rows}
    graph.nodes.append(Node("n", "attention", ["q", "k", "v", "b"], "y", attrs))
    verify(graph)
    return graph


def result(graph: Graph, keys: int) -> Array:
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(2, 8 if name == "q" else keys, 16)) for name in "qkv"}
    return run_reference(graph, feeds)["y"]


@pytest.mark.parametrize("keys", [8, 11])
def test_a_mask_disappears(keys: int) -> None:
    graph = graph_with(additive(np.tri(8, keys, keys - 8, dtype=bool)), 1, 8, keys)
    before = result(graph, keys)
    assert fold_masks(graph) == 1
    verify(graph)
    assert graph.nodes[0].inputs == ["q", "k", "v"] and not graph.constants and graph.nodes[0].attrs["causal"]
    np.testing.assert_allclose(result(graph, keys), before, atol=1e-12)


def test_numbers_inside_the_band_stay() -> None:
    slopes = np.array([0.5, 0.25])[:, None, None]
    alibi = slopes * (np.arange(8) - np.arange(8)[:, None])
    graph = graph_with(np.where(np.tri(8, dtype=bool), alibi, -np.inf), 2, 8, 8)
    before = result(graph, 8)
    assert fold_masks(graph) == 1
    verify(graph)
    assert graph.nodes[0].attrs["causal"] and np.isfinite(graph.constants[graph.nodes[0].inputs[3]]).all()
    np.testing.assert_allclose(result(graph, 8), before, atol=1e-12)


def test_numbers_too_large_for_integers_are_lowered() -> None:
    """BLOOM's spelling of ALiBi, slope times key, where late keys would saturate: softmax does not see what a query adds to all of them."""
    bias = np.where(np.tri(8, dtype=bool), 40.0 * np.arange(8), -np.inf)[None]
    graph = graph_with(bias, 1, 8, 8)
    before = result(graph, 8)
    assert fold_masks(graph) == 1
    found = graph.constants[graph.nodes[0].inputs[3]]
    np.testing.assert_allclose(found, np.where(np.tri(8, dtype=bool), 40.0 * (np.arange(8) - np.arange(8)[:, None]), 0.0))
    np.testing.assert_allclose(result(graph, 8), before, atol=1e-12)


def test_other_masks_stay() -> None:
    per_head = np.stack([additive(np.tri(8, dtype=bool)), additive(np.tri(8, k=1, dtype=bool))])
    one_row = additive(np.arange(8) < 6)
    for graph in (graph_with(per_head, 2, 8, 8), graph_with(one_row, 1, 1, 8)):
        assert fold_masks(graph) == 0
        assert "b" in graph.constants
