"""linear: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.fixedpoint import bits_for
from attnc.golden import run_golden
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.kernels.linear import SETTLE
from attnc.schedule.cost import engine_resources, estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.program import build_program
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type


def linear_graph(shapes: list[tuple[int, int, int]], seed: int = 0, extreme: bool = False, bits: int = 8) -> Graph:
    """Independent linear nodes of (rows, K, N); `extreme` uses weights of one magnitude so that accumulators reach their bound."""
    rng = np.random.default_rng(seed)
    graph, types = Graph("linear"), {}
    for i, (rows, k, n) in enumerate(shapes):
        x, y = f"x{i}", f"y{i}"
        graph.add_value(x, (rows, k))
        graph.add_value(y, (rows, n))
        graph.inputs.append(x)
        graph.outputs.append(y)
        weight = np.sign(rng.normal(size=(n, k))) if extreme else rng.normal(size=(n, k))
        graph.nodes.append(Node(f"n{i}", "linear", [x], y, params={"weight": weight, "bias": rng.normal(size=n) * (100 if extreme else 1)}))
        types[x] = tensor_type(8, 0.02)
        types[y] = tensor_type(bits, 0.05 if bits == 8 else 3e-4)
    return quantized(graph, types)


SHAPES = [(1, 1, 1), (3, 16, 16), (17, 64, 192), (5, 33, 47), (70, 20, 10), (64, 100, 64)]


DESIGNS = [
    Design.of(16, 16, 64, 4),
    Design.of(8, 32, 16, 4),
    Design.of(4, 4, 3, 4),
    Design.of(16, 16, 64, 4, rows_at_once=4),
    Design.of(8, 32, 16, 4, rows_at_once=3),
    Design.of(4, 4, 3, 4, rows_at_once=8),
]
"""Rows at once that divide neither the rows nor the rows of a call, and more than there are; sums that leave more slowly than they come."""


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_cpp_equals_golden(design: Design) -> None:
    graph = linear_graph(SHAPES)
    assert_exact(graph, random_feeds(graph, 4), design)


@pytest.mark.parametrize("bits", [8, 16])
def test_extremes(bits: int) -> None:
    graph = linear_graph([(3, 64, 32), (2, 300, 16)], extreme=True, bits=bits)
    assert_exact(graph, random_feeds(graph, 3), Design.of(16, 32, 4, rows_at_once=2))


@pytest.mark.parametrize("at_once", [1, 3])
def test_ap_types_equal_golden(at_once: int) -> None:
    graph = linear_graph([(3, 20, 19), (5, 33, 8)])
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 16, 4, rows_at_once=at_once), types="ap")


def test_golden_is_near_float() -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(24, 64)), rng.normal(size=24)
    graph = linear_graph([(9, 64, 24)], bits=16)
    node = graph.nodes[0]
    node.params, node.attrs = {"weight": weight, "bias": bias}, {}
    graph.value("x0").type, graph.value("y0").type = tensor_type(8, 0.02), tensor_type(16, 0.01)
    from attnc.ops import operator

    operator(node).quantize(node, [graph.type("x0")], graph.type("y0"))
    feeds = random_feeds(graph, 5)
    real = feeds["x0"] * 0.02 @ weight.T + bias
    found = run_golden(graph, feeds)["y0"] * 0.01
    # Half a step of each weight (times the sum of |x|), half a step of the output and of the multiplier.
    bound = np.abs(feeds["x0"] * 0.02).sum(-1, keepdims=True) * np.abs(weight).max(1) / 254 + 0.006 + np.abs(real) * 2**-16
    assert (np.abs(found - real) <= bound).all()


def test_zero_channels_and_zero_inputs() -> None:
    graph = Graph("zeros", inputs=["x"], outputs=["y"])
    graph.add_value("x", (2, 8))
    graph.add_value("y", (2, 4))
    weight = np.zeros((4, 8))
    weight[1] = 1
    graph.nodes.append(Node("n", "linear", ["x"], "y", params={"weight": weight, "bias": np.array([0.0, 0.0, 1.0, -1e6])}))
    quantized(graph, {"x": tensor_type(8, 0.1), "y": tensor_type(8, 0.1)})
    feeds = {"x": np.zeros((1, 2, 8), np.int8)}
    np.testing.assert_array_equal(run_golden(graph, feeds)["y"][0, 0], [0, 0, 10, -128])
    assert_exact(graph, random_feeds(graph, 3), Design.of(4, 4, 2))


@pytest.mark.parametrize("input_scale", [1e-4, 3.0, 1e4])
def test_channels_of_zeros_keep_their_bias(input_scale: float) -> None:
    """As pruning leaves them: however coarse the products of the input would be, and for weights that a quantizer made too."""
    bias = np.array([0.37, 0.0, -0.02, 0.5])
    weight = np.zeros((4, 3))
    weight[3] = 0.1 / input_scale
    unit, ones = np.array([1.0, 1.0, 1.0, 0.1 / input_scale]), np.ones((4, 1), np.int64)
    given = {"weight_q": np.sign(weight).astype(np.int8), "weight_unit": unit, "weight_multiplier": ones}
    for params in ({"weight": weight}, given):
        graph = Graph("zeros", inputs=["x"], outputs=["y"])
        graph.add_value("x", (1, 3))
        graph.add_value("y", (1, 4))
        graph.nodes.append(Node("n", "linear", ["x"], "y", params={**params, "bias": bias}))
        quantized(graph, {"x": tensor_type(8, input_scale), "y": tensor_type(16, 1e-4)})
        found = run_golden(graph, {"x": np.full((1, 1, 3), 9, np.int8)})["y"][0, 0]
        np.testing.assert_allclose(found[:3] * 1e-4, bias[:3], atol=0.6e-4)


def test_accumulator_width_holds_the_bound() -> None:
    node = linear_graph([(1, 300, 4)], extreme=True).nodes[0]
    bound = (np.abs(node.params["weight"]).astype(np.int64).sum(1) * 128 + np.abs(node.params["bias"])).max()
    assert node.attrs["acc_bits"] >= bits_for(int(bound))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AccT((first ? AccT(0) : part[r][pe]) + AccT(a) *", "AccT(part[r][pe] + AccT(a) *"),
        ("[block][step][r], pair", "[block][step][0], pair"),
        ("x_bank = x_left == 0 || x_bank + 1 == R", "x_bank = x_bank + 1 == R"),
        ("row_slots = max_of(products, R * TILES), steps", "row_slots = products, steps"),
    ],
)
def test_a_planted_bug_is_caught(old: str, new: str) -> None:
    graph = linear_graph([(5, 33, 47), (5, 8, 47)])
    feeds = random_feeds(graph, 3)
    expected = run_golden(graph, feeds)
    try:
        found = simulate(graph, feeds, Design.of(8, 16, 4, rows_at_once=3), patch={"linear.hpp": (old, new)})
    except AssertionError as error:
        assert "hls::stream" in str(error)  # too many sums, or too few
    else:
        assert any((found[name] != expected[name]).any() for name in graph.outputs)


@pytest.mark.parametrize("design", DESIGNS[3:], ids=str)
def test_cycles_and_resources_by_hand(design: Design) -> None:
    """A weight that is read once serves several rows: multiply-adds by rows at once, banks of weights by channels."""
    graph, board = linear_graph([(64, 1024, 1024)]), BOARDS["zcu102"]
    program = build_program(graph, design.having(rows=64), None)
    (engine, call), at_once, pe = program.calls[0], design.linear.rows_at_once, design.linear.pe
    k_tiles, groups, tiles = 1024 // design.lanes, 1024 // pe, pe // design.lanes
    steps, load = -(-64 // at_once) * k_tiles, pe * 8 // design.lanes + pe * k_tiles
    names = call.kernel.network.names(call.kernel.args, call.scalars)
    accumulate, rescale = call.kernel.network.processes
    computing = (groups - 1) * max(steps, load + SETTLE) + max(steps, load)
    assert accumulate.loops[0].runs(names) == ((1, 64 * k_tiles + SETTLE + computing),)
    assert (accumulate.loops[0].going_on(names), accumulate.loops[0].late(names)) == (computing, ((1, at_once * tiles),))
    last = (64 * tiles + SETTLE) if tiles > 1 else 0
    assert rescale.loops[0].late(names) == ((1, (8 + 64) * groups * tiles + last),)
    assert call.held["linear_accumulate"] > computing + at_once * tiles
    resources = engine_resources(engine, design.lanes)
    banks = {memory.name: memory.banks for memory in resources.memories}
    assert banks["x_buffer"] == at_once and banks["w_buffer"] == pe and ("y_buffer" in banks) == (tiles > 1)
    assert resources.dsp == design.lanes * pe * at_once / 2 + design.lanes
    # It is alone: its first weights are not there before, and no others follow.
    timed = program.instructions[0].timed(0)
    assert timed is not None and timed.scalars["w_ready"] == timed.scalars["next_k_tiles"] == 0
    busy = estimate(program, board, 250).calls[0].busy["linear_accumulate"]
    assert busy == timed.cycles["linear_accumulate"] + timed.held["linear_accumulate"]


@pytest.mark.parametrize("types", ["native", "ap"])
def test_shifts_beyond_the_width_of_the_product(types: str) -> None:
    graph = Graph("tiny", inputs=["x"], outputs=["y"])
    graph.add_value("x", (2, 8))
    graph.add_value("y", (2, 4))
    weight = np.ones((4, 8)) * np.array([[2e-9], [3e-11], [4e-12], [1.0]])
    graph.nodes.append(Node("n", "linear", ["x"], "y", params={"weight": weight, "bias": np.zeros(4)}))
    quantized(graph, {"x": tensor_type(8, 0.1), "y": tensor_type(8, 0.1)})
    assert graph.nodes[0].params["shift"].max() > 57
    assert_exact(graph, random_feeds(graph, 4), Design.of(4, 4, 2), types=types)
