"""rms_normalization, and normalisation of groups of channels: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, TensorType
from attnc.kernels.design import Design
from attnc.kernels.lowering import Lowering
from attnc.ops import operator
from builder import Builder, real
from harness import assert_exact, random_feeds, simulate, tensor_type

# (operator, rows and channels, group)
CASES = [
    ("rms_normalization", (1, 1), 0),
    ("rms_normalization", (3, 16), 0),
    ("rms_normalization", (17, 64), 16),
    ("layer_normalization", (17, 64), 32),
    ("rms_normalization", (5, 33), 0),
    ("layer_normalization", (5, 33), 0),
    ("rms_normalization", (70, 32), 16),
    ("rms_normalization", (2, 300), 0),
    ("rms_normalization", (1, 300), 0),
    ("layer_normalization", (1, 300), 0),
    ("rms_normalization", (1, 64), 32),
]
KINDS = [(16, 1e-3, 16, 2e-4), (16, 1e-3, 8, 0.04), (8, 0.05, 8, 0.04), (16, 0.1, 16, 3e-4)]


def norm_builder(epsilon: float = 1e-5, cases: list[tuple[str, tuple[int, int], int]] = CASES) -> Builder:
    """A node per case, input and output types in turn."""
    rng, builder = np.random.default_rng(0), Builder("norm")
    for i, (op, shape, group) in enumerate(cases):
        x_bits, x_scale, y_bits, y_scale = KINDS[i % len(KINDS)]
        params = {"gamma": rng.normal(1, 0.5, shape[1])}
        if op == "layer_normalization":
            params["beta"] = rng.normal(0, 0.5, shape[1])
        scale: float | Array = y_scale * 10 ** rng.uniform(-0.3, 0.5, shape[1]) if i % 3 == 1 else y_scale
        attrs = {"epsilon": epsilon} | ({"group": group} if group else {})
        builder.add(op, [(shape, tensor_type(x_bits, x_scale))], tensor_type(y_bits, scale), attrs, params)
    return builder


def hard_feeds(graph: Graph, samples: int = 6) -> dict[str, Array]:
    """Random rows, and rows that reach the bounds: the two extremes, a single outlier, alternating extremes, zeros but one step."""
    feeds = random_feeds(graph, samples, seed=3)
    for name, feed in feeds.items():
        low, high = graph.type(name).range
        feed[2], feed[2, :, 0] = low, high
        feed[3], feed[3, :, ::2] = high, low
        feed[4], feed[4, :, -1] = 0, 1
    return feeds


def bound(graph: Graph, index: int, x: Array) -> Array:
    """Steps of y that golden may differ from float, as in the docstrings of the operators."""
    node = graph.nodes[index]
    channels = node.attrs.get("group") or x.shape[-1]
    x = x.astype(np.int64).reshape(*x.shape[:-1], -1, channels)
    total = x.sum(-1, keepdims=True) if node.op == "layer_normalization" else 0
    spread = channels * np.square(x).sum(-1, keepdims=True) - total * total
    z = np.abs(channels * x - total) / np.sqrt(spread + node.attrs["epsilon_int"])
    flat = (graph.value(node.output).shape[1],)
    z, odd = (a.reshape(*a.shape[:-2], *flat) for a in (z, np.broadcast_to(z / (2 * np.maximum(spread, 1)), z.shape)))
    shift, gain = node.attrs["shift"], np.abs(node.params["gamma"]) * 2.0 ** (16 - node.attrs["shift"])
    result: Array = 0.5 + gain * (z * 2**-16 + odd + 2**-17) * 1.0001 + z * 2.0 ** (15 - shift) + 2.0 ** -(shift + 1)
    return result


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_golden_is_near_float(epsilon: float) -> None:
    builder = norm_builder(epsilon)
    params = [node.params for node in builder.graph.nodes]
    graph = builder.quantized()
    feeds = hard_feeds(graph, 8)
    found = run_golden(graph, feeds)
    for i, node in enumerate(graph.nodes):
        integers, y = node.params, graph.type(node.output)
        node.params = params[i]
        expected = operator(node).reference(node, [real(graph, node.inputs[0], feeds[node.inputs[0]])])
        node.params = integers
        error = np.abs(found[node.output] - np.clip(expected / y.scale, *y.range))
        assert (error <= bound(graph, i, feeds[node.inputs[0]])).all(), node.name


def test_reference_against_its_definition() -> None:
    x, gamma = np.random.default_rng(0).normal(size=(2, 3, 8)), np.arange(1.0, 9.0)
    node = norm_builder(0.01, [("rms_normalization", (3, 8), 4)]).graph.nodes[0]
    node.params = {"gamma": gamma}
    heads = [x[..., i : i + 4] / np.sqrt((x[..., i : i + 4] ** 2).mean(-1, keepdims=True) + 0.01) for i in (0, 4)]
    np.testing.assert_allclose(operator(node).reference(node, [x]), np.concatenate(heads, -1) * gamma)


def test_rows_of_zeros_give_zeros() -> None:
    graph = norm_builder(1e-6, [("rms_normalization", (3, 16), 0)]).quantized()
    found = run_golden(graph, {"n0.0": np.zeros((1, 3, 16), np.int16)})
    np.testing.assert_array_equal(found["n0.y"], 0)


def test_cpp_equals_golden() -> None:
    graph = norm_builder().quantized()
    assert_exact(graph, hard_feeds(graph), Design.of(16, 16, 64))


def test_ap_types_equal_golden_at_the_extremes() -> None:
    cases = [(op, (min(rows, 5), min(channels, 64)), min(group, 16)) for op, (rows, channels), group in CASES]
    graph = norm_builder(cases=cases).quantized()
    assert_exact(graph, hard_feeds(graph), Design.of(8, 8, 4), types="ap")


@pytest.mark.parametrize(
    ("cases", "old", "new"),
    [
        (CASES[1:3], "call.centred ? own : SumT(0)", "own"),
        (CASES[8:10], "lone ? tile % NORM_SLOTS : row", "lone ? 0 : row"),
        (CASES[1:3], "call.words > 3 ? norm_integer", "call.words > 2 ? norm_integer"),
    ],
)
def test_a_planted_bug_is_caught(cases: list[tuple[str, tuple[int, int], int]], old: str, new: str) -> None:
    graph = norm_builder(cases=cases).quantized()
    feeds = hard_feeds(graph)
    found = simulate(graph, feeds, patch={"layer_normalization.hpp": (old, new)})
    assert all((found[name] != array).any() for name, array in run_golden(graph, feeds).items())


def test_one_engine_serves_both_normalisations_and_every_group() -> None:
    graph = norm_builder(cases=CASES[1:4]).quantized()
    ctx = Lowering(graph, Design.of(16, 16, 64), dict.fromkeys(graph.values, 0), lambda key, make: 0)
    calls = [operator(node).lower(node, ctx) for node in graph.nodes]
    assert len({call.kernel.key for group in calls for call in group}) == 1
    assert [len(group) for group in calls] == [1, 4, 2]
    assert [call.walks[0].offset for call in calls[1]] == [0, 34, 68, 102]


def test_impossible_groups_are_refused() -> None:
    x: tuple[tuple[int, int], TensorType] = ((3, 16), tensor_type(16))
    for group in (5, -2, 32):
        with pytest.raises(GraphError, match="needs groups that divide 16 channels"):
            Builder("bad").add("rms_normalization", [x], tensor_type(8), {"epsilon": 1e-5, "group": group}, {"gamma": np.ones(16)})
    with pytest.raises(GraphError, match="gamma"):
        Builder("bad").add("rms_normalization", [x], tensor_type(8), {"epsilon": 1e-5}, {"gamma": np.ones(3)})
    graph = norm_builder(cases=[("rms_normalization", (3, 24), 12)]).quantized()
    node = graph.nodes[0]
    assert operator(node).lane_divisor(node, [(3, 24)]) == 12
    with pytest.raises(GraphError, match="8 lanes must divide groups of 12 channels"):
        operator(node).lower(node, Lowering(graph, Design.of(8, 8), dict.fromkeys(graph.values, 0), lambda key, make: 0))
