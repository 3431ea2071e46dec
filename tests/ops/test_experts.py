"""Mixtures of experts: golden against float, whatever the router."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.errors import UnsupportedError
from attnc.frontend.mixture import Mixture
from attnc.golden import run_golden, run_reference
from attnc.ir import GraphError, Node
from attnc.kernels.design import Design
from attnc.ops import operator
from attnc.ops.linear_weights import whole_weight
from attnc.passes.decoding import with_cache
from attnc.schedule.program import build_program
from attnc.weights import WeightFormat
from mixture_cases import feeds_of, integers, mixture, mixture_graph, quantized

EXPERTS, TOKENS, WIDTH = 8, 17, 32
ROUTERS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "one": {"k": 1},
    "renormalised": {"k": 4, "renormalise": True},
    "sigmoid": {"k": 3, "score": "sigmoid", "renormalise": True, "scale": 2.5},
    "biased": {"k": 2, "score": "sigmoid", "selection_bias": np.linspace(0, 1, EXPERTS)},
    "gated": {"gated": True, "activation": "silu"},
    "all": {"k": EXPERTS},
    "groups": {"k": 3, "groups": 4, "kept_groups": 2},
    "groups of two": {
        "k": 2,
        "score": "sigmoid",
        "selection_bias": np.linspace(-0.5, 0.5, EXPERTS),
        "groups": 2,
        "kept_groups": 1,
        "group_best": 2,
    },
    "zeros": {
        "k": 2,
        "score": "sigmoid",
        "selection_bias": np.linspace(-1.0, -0.2, EXPERTS),
        "groups": 4,
        "kept_groups": 1,
        "left_out": 0.0,
    },
}


def dense(found: Mixture, x: Array, logits: Array) -> Array:
    """All experts of every token, those that it did not choose times zero."""
    router, experts = found.router, found.experts
    scores = 1 / (1 + np.exp(-logits))
    if router.score == "softmax":
        scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
    choice = scores if router.selection_bias is None else scores + router.selection_bias
    if router.groups > 1:
        grouped = choice.reshape(*choice.shape[:2], router.groups, -1)
        worth = np.sort(grouped, axis=-1)[..., -router.group_best :].sum(axis=-1, keepdims=True)
        beaten = (worth < np.sort(worth, axis=-2)[..., -router.kept_groups :, :][..., :1, :]).repeat(grouped.shape[-1], axis=-1)
        choice = np.where(beaten, router.left_out, grouped).reshape(choice.shape)
    chosen = np.argsort(-choice, axis=-1, kind="stable")[..., : router.k]
    weights = np.take_along_axis(scores, chosen, axis=-1)
    weights = router.scale * (weights / weights.sum(axis=-1, keepdims=True) if router.renormalise else weights)
    result = np.zeros((*x.shape[:2], experts.down.shape[1]))
    for expert in range(router.experts):
        assert experts.up_bias is not None and experts.down_bias is not None
        hidden = x @ experts.up[expert].T + experts.up_bias[expert]
        if experts.gate is None:
            hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        else:
            gate = x @ experts.gate[expert].T
            hidden *= gate / (1 + np.exp(-gate))
        share = np.where(chosen == expert, weights, 0).sum(axis=-1, keepdims=True)
        result += share * (hidden @ experts.down[expert].T + experts.down_bias[expert])
    return result


@pytest.mark.parametrize("router", ROUTERS)
def test_golden_is_near_float(router: str) -> None:
    found = mixture(EXPERTS, WIDTH, 48, **ROUTERS[router])
    graph = mixture_graph(found, TOKENS, WIDTH)
    feeds = feeds_of(graph, 4)
    (output,) = graph.outputs
    float_ = run_reference(graph, feeds)[output]
    exact = dense(found, feeds["x"], feeds["logits"])
    np.testing.assert_allclose(float_, exact, atol=1e-12)
    graph = quantized(graph, feeds)
    real = graph.type(output).dequantize(run_golden(graph, integers(graph, feeds))[output])
    noise = ((real - exact) ** 2).mean()
    assert 10 * np.log10((exact**2).mean() / noise) > 27


@pytest.mark.parametrize(("name", "group"), [("ternary", 0), ("int4", 16), ("int2", 0)])
def test_weights_of_few_bits(name: str, group: int) -> None:
    """Golden computes with the weights that the integers stand for, expert by expert."""
    found = mixture(EXPERTS, WIDTH, 48, **ROUTERS["gated"])
    graph = mixture_graph(found, TOKENS, WIDTH)
    feeds = feeds_of(graph, 4)
    (output,) = graph.outputs
    graph = quantized(graph, feeds, {"": WeightFormat.parse(name, group)})
    nodes = [node for node in graph.nodes if node.op == "experts"]
    assert {(node.attrs["weights"], node.attrs["group_size"], operator(node).engine(node)) for node in nodes} == {(name, group, "dsp")}
    real = [whole_weight(node) * node.params["weight_scale"][..., None] for node in nodes]
    up, gate, down = sorted(real, key=lambda weight: -float((weight * found.experts.up).sum() if weight.shape[1] == 48 else -1e9))
    exact = dense(Mixture(found.router, replace(found.experts, up=up, gate=gate, down=down)), feeds["x"], feeds["logits"])
    made = graph.type(output).dequantize(run_golden(graph, integers(graph, feeds))[output])
    assert 10 * np.log10((exact**2).mean() / ((made - exact) ** 2).mean()) > 25


def _alone(op: str, shapes: list[tuple[int, int]], **attrs: Any) -> Node:
    return Node("n", op, [f"v{i}" for i in range(len(shapes))], "y", attrs)


def test_equal_ones_come_in_order() -> None:
    x = np.array([[[3, 7, 7, 7, 1], [0, 0, 0, 0, 0], [-5, -4, -5, -4, -9]]])
    node = _alone("top_experts", [(3, 5)], k=3)
    assert operator(node).reference(node, [x]).tolist() == [[[1, 2, 3], [0, 1, 2], [1, 3, 0]]]


def test_groups_that_are_worth_as_much_come_in_order() -> None:
    x = np.array([[[3, 1, 2, 2, 4, 0, 0, 4], [1, 1, 0, 2, 0, 0, 0, 0], [-1, -9, -2, -2, -3, -3, -4, -4]]])
    found = []
    for best in (1, 2):
        node = _alone("keep_groups", [(3, 8)], groups=4, kept=2, best=best)
        found.append(operator(node).reference(node, [x])[0].tolist())
    assert found[0] == [[0, 0, 0, 0, 4, 0, 0, 4], [1, 1, 0, 2, 0, 0, 0, 0], [-1, -9, -2, -2, 0, 0, 0, 0]]
    assert found[1] == [[3, 1, 2, 2, 0, 0, 0, 0], [1, 1, 0, 2, 0, 0, 0, 0], [0, 0, -2, -2, -3, -3, 0, 0]]
    for attrs in ({"groups": 3}, {"kept": 5}, {"best": 3}, {"groups": 8, "best": 2}):
        wrong = _alone("keep_groups", [(3, 8)], **{"groups": 4, "kept": 2, "best": 1, **attrs})
        with pytest.raises(GraphError, match="needs some of equal groups"):
            operator(wrong).shape(wrong, [(3, 8)])


def test_queue_and_places() -> None:
    chosen = np.array([[[4, 1], [1, 4], [6, 1], [1, 2]]])
    queue, order = _alone("expert_queue", [(4, 2)], experts=7), _alone("expert_order", [(4, 2)], experts=7)
    found = operator(queue).reference(queue, [chosen])
    assert found.tolist() == [[[1, 0, 4], [2, 4, 1], [4, 5, 2], [6, 7, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]]
    assert operator(order).reference(order, [chosen]).tolist() == [[[5, 0], [1, 6], [7, 2], [3, 4]]]


def test_a_sum_of_zeros_gives_zeros() -> None:
    node = _alone("expert_scores", [(1, 4), (1, 2)], normalise=True)
    assert operator(node).reference(node, [np.zeros((1, 1, 4)), np.array([[[3, 1]]])]).tolist() == [[[0, 0]]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": 9}, "takes 9 of 8 experts"),
        ({"groups": 2, "kept_groups": 1, "group_best": 3}, "the sum of their 3 best ones: needed 1 or 2"),
        ({"selection_bias": np.full(8, np.nan)}, "NaN"),
        ({"scale": float("inf")}, "inf"),
    ],
)
def test_routers_that_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        mixture_graph(mixture(EXPERTS, WIDTH, 48, **changes), TOKENS, WIDTH)


def test_too_many_experts_for_a_token() -> None:
    node = _alone("top_experts", [(3, 4)], k=5)
    with pytest.raises(GraphError, match="k of 1 to 4"):
        operator(node).shape(node, [(3, 4)])


def test_a_token_alone_gets_what_it_got_among_others() -> None:
    """In a decoder it costs its experts: the queue has no entries for more."""
    graph = mixture_graph(mixture(EXPERTS, WIDTH, 48, renormalise=True), TOKENS, WIDTH, logits=False)
    real = feeds_of(graph, 2)
    graph = quantized(graph, real)
    feeds, (output,) = integers(graph, real), graph.outputs
    whole, alone = run_golden(graph, feeds)[output], with_cache(graph, TOKENS, 4)
    (queue,) = {node.each for node in alone.nodes if node.each}
    assert alone.value(queue).shape == (2, 3)
    for token in (0, 7, TOKENS - 1):
        one = run_golden(alone, {name: array[:, token : token + 1] for name, array in feeds.items()})
        np.testing.assert_array_equal(one[output], whole[:, token : token + 1])


def test_the_experts_of_a_token_lie_in_one_vector() -> None:
    graph = mixture_graph(mixture(16, WIDTH, 48, k=8), TOKENS, WIDTH)
    graph = quantized(graph, feeds_of(graph, 2))
    assert max(operator(node).least_lanes(node) for node in graph.nodes) == 8
    with pytest.raises(UnsupportedError, match="8 experts of a token need 8 lanes, the design has 4"):
        build_program(graph, Design.of(4, 4, 8), None)
