"""layer_normalization: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.errors import OverflowRiskError
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, TensorType
from attnc.kernels.design import Design
from attnc.kernels.lowering import Lowering
from attnc.ops import operator
from builder import Builder, real
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type

SHAPES = [(1, 1), (3, 16), (17, 64), (5, 33), (70, 20), (2, 300)]


def norm_graph(cases: list[tuple[tuple[int, int], TensorType, TensorType]], seed: int = 0, epsilon: float = 1e-5) -> Graph:
    """Independent nodes of (shape, x type, y type)."""
    rng, builder = np.random.default_rng(seed), Builder("norm")
    for shape, x, y in cases:
        gamma, beta = rng.normal(1, 0.5, shape[1]), rng.normal(0, 0.5, shape[1])
        builder.add("layer_normalization", [(shape, x)], y, {"epsilon": epsilon}, {"gamma": gamma, "beta": beta})
    return builder.quantized()


def per_channel(channels: int, bits: int = 8) -> TensorType:
    """A smoothed type: scales that differ up to tenfold."""
    return tensor_type(bits, 0.03 * 10 ** np.random.default_rng(channels).uniform(-0.5, 0.5, channels))


def mixed(shapes: list[tuple[int, int]]) -> list[tuple[tuple[int, int], TensorType, TensorType]]:
    """All input and output types in turn."""
    kinds = [(tensor_type(16, 1e-3), 8), (tensor_type(16, 1e-3), 16), (tensor_type(8, 0.05), 8), (tensor_type(16, 0.1), 16)]
    outputs = [lambda c: per_channel(c), lambda c: tensor_type(16, 2e-4), lambda c: tensor_type(8, 0.04), lambda c: per_channel(c, 16)]
    return [(shape, kinds[i % 4][0], outputs[i % 4](shape[1])) for i, shape in enumerate(shapes)]


def hard_feeds(graph: Graph, samples: int = 6) -> dict[str, Array]:
    """Random rows, and rows that reach the bounds: constant, a single outlier, half smallest and half largest, one step apart."""
    feeds = random_feeds(graph, samples, seed=3)
    for name, feed in feeds.items():
        low, high = graph.type(name).range
        feed[2], feed[2, :, 0] = low, high
        feed[3], feed[3, :, ::2] = high, low
        feed[4], feed[4, :, -1] = 0, 1
    return feeds


def bound(graph: Graph, index: int, x: Array) -> Array:
    """Steps of y that golden may differ from float, as in the docstring of the operator."""
    node = graph.nodes[index]
    types, shift = (graph.type(node.inputs[0]), graph.type(node.output)), node.attrs["shift"]
    x, channels = x.astype(np.int64), x.shape[-1]
    centred = channels * x - x.sum(-1, keepdims=True)
    spread = channels * np.square(x).sum(-1, keepdims=True) - np.square(x.sum(-1, keepdims=True))
    z, gain = np.abs(centred) / np.sqrt(spread + node.attrs["epsilon_int"]), np.abs(node.params["gamma"]) * 2.0 ** (16 - shift)
    assert (z <= np.sqrt(max(channels - 1, 1))).all() and types[0].scale.ndim == 0
    result: Array = (
        0.5 + gain * (z * (2**-16 + 1 / (2 * np.maximum(spread, 1))) + 2**-17) * 1.0001 + z * 2.0 ** (15 - shift) + 2.0 ** -(shift + 1)
    )
    return result


@pytest.mark.parametrize("epsilon", [1e-5, 1e-12, 0.5])
def test_golden_is_near_float(epsilon: float) -> None:
    shapes = [(4, 16), (9, 64), (3, 192), (2, 1), (3, 1000), (3, 33), (2, 2), (3, 384)]
    cases = mixed(shapes)
    floats = Builder("float")
    rng = np.random.default_rng(0)
    for shape, x, y in cases:
        gamma, beta = rng.normal(1, 0.5, shape[1]), rng.normal(0, 0.5, shape[1])
        floats.add("layer_normalization", [(shape, x)], y, {"epsilon": epsilon}, {"gamma": gamma, "beta": beta})
    params = [node.params for node in floats.graph.nodes]
    graph = floats.quantized()
    feeds = hard_feeds(graph, 8)
    found = run_golden(graph, feeds)
    for i, node in enumerate(graph.nodes):
        integers, y = node.params, graph.type(node.output)
        x = real(graph, node.inputs[0], feeds[node.inputs[0]])
        node.params = params[i]
        expected = operator(node).reference(node, [x])
        node.params = integers
        steps = np.clip(expected / y.scale, *y.range)
        assert (np.abs(found[node.output] - steps) <= bound(graph, i, feeds[node.inputs[0]])).all(), node.name


@pytest.mark.parametrize("design", [Design.of(16, 16, 64), Design.of(4, 4, 3)], ids=str)
def test_cpp_equals_golden(design: Design) -> None:
    graph = norm_graph(mixed(SHAPES))
    assert_exact(graph, hard_feeds(graph), design)


def test_ap_types_equal_golden_at_the_extremes() -> None:
    graph = norm_graph(mixed([(1, 1), (9, 20), (3, 37), (2, 130)]))
    assert_exact(graph, hard_feeds(graph), Design.of(8, 8, 4), types="ap")


def test_ap_types_hold_a_large_epsilon() -> None:
    graph = norm_graph(
        [((2, 4), tensor_type(8, 1e-6), tensor_type(8, 0.01)), ((2, 4), tensor_type(8, 1e-11), tensor_type(8, 0.01))], epsilon=1.0
    )
    assert_exact(graph, hard_feeds(graph), Design.of(4, 4, 4), types="ap")


def test_padding_stays_zero_and_does_not_disturb() -> None:
    """The same rows give the same result, whatever the number of lanes that the last tile leaves empty."""
    graph = norm_graph([((3, 17), tensor_type(16, 1e-3), tensor_type(16, 1e-3))])
    feeds = hard_feeds(graph)
    assert_exact(graph, feeds, Design.of(32, 32, 8))


def test_impossible_parameters_are_refused() -> None:
    builder = Builder("bad")
    x = ((2, 4), tensor_type(16))
    with pytest.raises(GraphError, match="gamma"):
        builder.add("layer_normalization", [x], tensor_type(8), {"epsilon": 1e-5}, {"gamma": np.ones(3), "beta": np.ones(4)})
    builder = Builder("large")
    builder.add("layer_normalization", [x], tensor_type(8, 1e-12), {"epsilon": 1e-5}, {"gamma": np.ones(4), "beta": np.ones(4)})
    with pytest.raises(OverflowRiskError, match="too large"):
        quantized(builder.graph, builder.types)


BUGS = [
    ("VT(sum)) + epsilon", "VT(sum))"),
    ("offset_t(half - offset_t(sum)", "offset_t(offset_t(0) - offset_t(sum)"),
    ("norm_integer<Int<24>, 0, 3>", "norm_integer<Int<24>, 0, 2>"),
    ("record[(tile + 1) & 1][at][l] = word.v[l];", "record[0][at][l] = word.v[l];"),
]


@pytest.mark.parametrize(("right", "wrong"), BUGS)
def test_a_planted_bug_is_caught(right: str, wrong: str) -> None:
    graph = norm_graph(mixed(SHAPES[1:4]))
    feeds = hard_feeds(graph)
    found = simulate(graph, feeds, patch={"layer_normalization.hpp": (right, wrong)}, design=Design.of(16, 16, 64))
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())


def test_resources_and_cycles_follow_the_structure() -> None:
    graph = norm_graph([((70, 64), tensor_type(16, 1e-3), tensor_type(8, 0.03))])
    node = graph.nodes[0]
    ctx = Lowering(graph, Design.of(16, 16, 64), dict.fromkeys(graph.values, 0), lambda key, make: 0)
    calls = operator(node).lower(node, ctx)
    assert [call.scalars["rows"] for call in calls] == [64, 6]
    read, total, statistics, scale = calls[0].kernel.network.processes[0].loops
    # All tiles of all rows in one pipeline, behind the first statistics.
    for call, rows in zip(calls, (64, 8), strict=True):
        names = call.kernel.network.names(call.kernel.args, call.scalars)
        assert read.runs(names) == ((1, 4 * rows),) and not total.late(names) and statistics.late(names) == ((1, names.rows),)
        assert scale.late(names) == ((1, 4 * rows + 8),)
    found = operator(node).resources(calls[0].kernel)
    assert found.bram36 == 4 and found.dsp == 3 * 16 + 10 and min(found.lut, found.ff) > 0


# ---- groups with channels that do not count ----

PADDED = [((9, 16), 1, 8, 5), ((6, 48), 1, 24, 17), ((12, 24), 4, 8, 3), ((5, 8), 1, 8, 6)]
"""Shape, rows together, channels of a group, those that count."""


def padded_graph(pad: bool) -> Graph:
    """All cases, with the types in turn; or the same without the channels that do not count."""
    builder, rng = Builder("padded"), np.random.default_rng(0)
    for (shape, run, size, count), (_, x, y) in zip(PADDED, mixed([(1, 1)] * len(PADDED)), strict=True):
        kept = np.arange(shape[1]) % size < count
        params = {name: np.where(kept, rng.normal(1, 0.5, shape[1]), 0) for name in ("gamma", "beta")}
        attrs = {"epsilon": 1e-5, "rows_together": run, "group": size if pad else count} | ({"counted": count} if pad else {})
        params = params if pad else {name: array[kept] for name, array in params.items()}
        width = shape[1] if pad else int(kept.sum())
        builder.add("layer_normalization", [((shape[0], width), x)], tensor_type(y.bits, 2e-4 if y.bits > 8 else 0.04), attrs, params)
    return builder.quantized()


def test_channels_that_do_not_count() -> None:
    """As golden without them, and as the kernel."""
    graph, bare = padded_graph(True), padded_graph(False)
    few = hard_feeds(bare)
    feeds, places = {}, {}
    for array, node, (shape, _, size, count) in zip(few.values(), graph.nodes, PADDED, strict=True):
        kept = np.arange(shape[1]) % size < count
        feeds[node.inputs[0]] = np.zeros((len(array), *shape), array.dtype)
        feeds[node.inputs[0]][..., kept], places[node.output] = array, kept
    found, expected = run_golden(graph, feeds), run_golden(bare, few)
    for (name, kept), array in zip(places.items(), expected.values(), strict=True):
        np.testing.assert_array_equal(found[name][..., kept], array)
        assert not found[name][..., ~kept].any()
    assert_exact(graph, feeds, Design.of(8, 8, 5))
    assert_exact(graph, feeds, Design.of(4, 4, 16), types="ap")


# ---- rows that are normalised together ----

RUNS = [((12, 16), 12, 16), ((12, 33), 4, 33), ((20, 16), 10, 8), ((14, 24), 7, 24), ((6, 40), 2, 8)]
"""Shape, rows together, channels of a group."""


def together_graph() -> Graph:
    """All cases, with the types in turn."""
    builder, rng = Builder("together"), np.random.default_rng(0)
    for (shape, run, size), (_, x, y) in zip(RUNS, mixed([shape for shape, _, _ in RUNS]), strict=True):
        params = {"gamma": rng.normal(1, 0.5, shape[1]), "beta": rng.normal(0, 0.5, shape[1])}
        builder.add("layer_normalization", [(shape, x)], y, {"epsilon": 1e-5, "rows_together": run, "group": size}, params)
    return builder.quantized()


def test_rows_together_are_one_row() -> None:
    """As golden of the same numbers laid out as rows."""
    graph = together_graph()
    feeds = hard_feeds(graph)
    found = run_golden(graph, feeds)
    for node, (_, run, size) in zip(graph.nodes, RUNS, strict=True):
        x, (rows, channels) = feeds[node.inputs[0]], graph.value(node.inputs[0]).shape
        flat = x.reshape(len(x), rows // run, run, channels // size, size).swapaxes(2, 3).reshape(len(x), -1, run * size)
        gamma, beta = (
            np.tile(node.params[name].reshape(1, -1, 1, size), (rows // run, 1, run, 1)).reshape(-1, run * size)
            for name in ("gamma", "beta")
        )
        flat = flat.astype(np.float64)
        spread = run * size * np.square(flat).sum(-1, keepdims=True) - np.square(flat.sum(-1, keepdims=True)) + node.attrs["epsilon_int"]
        z = (run * size * flat - flat.sum(-1, keepdims=True)) / np.sqrt(spread)
        exact = np.clip(z * gamma * 2.0 ** (16 - node.attrs["shift"]) + beta * 2.0 ** -node.attrs["shift"], *graph.type(node.output).range)
        y = found[node.output].reshape(len(x), rows // run, run, channels // size, size).swapaxes(2, 3).reshape(exact.shape)
        assert (np.abs(y - exact) <= 0.51 + np.abs(gamma * 2.0 ** (16 - node.attrs["shift"])) * (np.abs(z) + 1) * 2**-15).all(), node.name


@pytest.mark.parametrize(("types", "lanes", "rows"), [("native", 8, 4), ("ap", 4, 16)])
def test_rows_together_equal_golden(types: str, lanes: int, rows: int) -> None:
    graph = together_graph()
    assert_exact(graph, hard_feeds(graph), Design.of(lanes, 8, rows), types=types)


def test_runs_that_do_not_divide_are_refused() -> None:
    params = {"gamma": np.ones(4), "beta": np.zeros(4)}
    with pytest.raises(GraphError, match="runs of rows that divide 6 rows, found runs of 4"):
        Builder("bad").add("layer_normalization", [((6, 4), tensor_type(8))], tensor_type(8), {"epsilon": 0.1, "rows_together": 4}, params)
