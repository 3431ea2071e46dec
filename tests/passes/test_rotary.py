"""Half-split rotary embeddings become adjacent pairs, with the same attention behind them."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.errors import UnsupportedError
from attnc.golden import run_reference
from attnc.ir import Graph, Node
from attnc.ops import operator, verify
from attnc.passes.rotary import check_halves, pair_rotary


def decoder(turned: int = 8, kv_heads: int = 1, sources: tuple[str, str] = ("linear", "linear"), group: int = 8) -> Graph:
    """x -> q, k, v -> rotary on q and k -> causal attention."""
    rng = np.random.default_rng(1)
    graph = Graph("g", ["x"], ["y"])
    graph.add_value("x", (6, 16))
    theta = np.arange(6)[:, None] * np.arange(1, turned // 2 + 1)
    for name, heads in (("q", 2), ("k", kv_heads), ("v", kv_heads)):
        graph.add_value(name, (6, heads * 8))
        params = {"weight": rng.normal(size=(heads * 8, 16)), "bias": rng.normal(size=heads * 8)}
        graph.nodes.append(Node(name, "linear", ["x"], name, {}, params))
    for name, heads, source in (("q", 2, sources[0]), ("k", kv_heads, sources[1])):
        if source != "linear":
            graph.add_value(f"{name}f", (6, heads * 8))
            attrs = {"function": "relu"} if source == "unary" else {"epsilon": 1e-5, "group": group}
            norm = {"gamma": rng.normal(size=heads * 8), "beta": rng.normal(size=heads * 8)} if source != "unary" else {}
            graph.nodes.append(Node(f"{name}f", source, [name], f"{name}f", attrs, norm))
        graph.add_value(f"{name}r", (6, heads * 8))
        attrs = {"num_heads": heads, "rotary_dims": turned, "interleaved": False}
        tables = {"cos": np.cos(theta), "sin": np.sin(theta)}
        graph.nodes.append(Node(f"{name}r", "rotary", [name if source == "linear" else f"{name}f"], f"{name}r", attrs, tables))
    graph.add_value("y", (6, 16))
    attention = {"num_heads": 2, "num_kv_heads": kv_heads, "scale": 0.35, "causal": True}
    graph.nodes.append(Node("y", "attention", ["qr", "kr", "v"], "y", attention))
    verify(graph)
    return graph


@pytest.mark.parametrize("turned", [8, 4])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_pairs_become_adjacent(turned: int, kv_heads: int) -> None:
    graph, x = decoder(turned, kv_heads), {"x": np.random.default_rng(0).normal(size=(3, 6, 16))}
    before = run_reference(graph, x)["y"]
    assert pair_rotary(graph) == 2
    verify(graph)
    rotaries = [node for node in graph.nodes if node.op == "rotary"]
    assert all(node.attrs["interleaved"] for node in rotaries)
    assert [operator(node).lane_divisor(node, [graph.value(node.output).shape]) for node in rotaries] == [8, 8]
    np.testing.assert_allclose(run_reference(graph, x)["y"], before, atol=1e-12)
    assert pair_rotary(graph) == 0


@pytest.mark.parametrize(("op", "group"), [("rms_normalization", 8), ("layer_normalization", 8), ("rms_normalization", 0)])
def test_norms_in_between_follow(op: str, group: int) -> None:
    """Of each head, as Qwen3 has them, or of all together."""
    graph, x = decoder(4, 2, (op, op), group), {"x": np.random.default_rng(0).normal(size=(3, 6, 16))}
    before = run_reference(graph, x)["y"]
    assert pair_rotary(graph) == 2
    verify(graph)
    np.testing.assert_allclose(run_reference(graph, x)["y"], before, atol=1e-12)


def test_norms_of_parts_of_heads_stay() -> None:
    assert pair_rotary(decoder(sources=("rms_normalization", "rms_normalization"), kv_heads=2, group=4)) == 0


def test_halves_that_no_word_divides() -> None:
    graph = decoder(6, sources=("unary", "unary"))
    assert pair_rotary(graph) == 0
    with pytest.raises(UnsupportedError, match=r"'qr'.* halves of 3 channels, an odd number"):
        check_halves(graph)
    graph = decoder(6)
    assert pair_rotary(graph) == 2
    check_halves(graph)


def test_only_both_sides_together() -> None:
    graph = decoder(sources=("linear", "unary"))
    assert pair_rotary(graph) == 0
    graph = decoder()
    graph.outputs.append("kr")  # somebody else sees the keys
    assert pair_rotary(graph) == 0
    graph = decoder()
    graph.nodes[0].params = dict(graph.nodes[0].params)
    next(node for node in graph.nodes if node.name == "kr").attrs["rotary_dims"] = 4
    assert pair_rotary(graph) == 0
