"""linear with inputs of 16 bits: two bytes, one after the other, on the multipliers of the dsp engine."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.errors import AttncError
from attnc.fixedpoint import bits_for
from attnc.golden import run_golden
from attnc.ir import Graph, Node, TensorType
from attnc.kernels.design import Design
from attnc.kernels.linear import SETTLE
from attnc.kernels.lowering import Lowering
from attnc.ops import operator
from attnc.schedule.program import build_program
from harness import assert_exact, quantized, random_feeds, simulate, slowly, tensor_type
from low_bit import Spec, low_bit_graph

FORMATS = ("int8", "int6", "int4", "int2", "ternary")
DESIGNS = [
    Design.of(16, 16, 64, 4),
    Design.of(8, 32, 3, 4, rows_at_once=2),
    Design.of(4, 4, 2, 4),
    Design.of(8, 16, 8, rows_at_once=3, beat=2),
]


def plain(shapes: list[tuple[int, int, int, int, int]], seed: int = 0, extreme: bool = False) -> Graph:
    """Independent linear nodes of (rows, K, N, bits, zero point of the input); `extreme`: weights of one magnitude."""
    rng = np.random.default_rng(seed)
    graph, types = Graph("wide"), {}
    for i, (rows, k, n, bits, zero_point) in enumerate(shapes):
        x, y = f"x{i}", f"y{i}"
        graph.add_value(x, (rows, k))
        graph.add_value(y, (rows, n))
        graph.inputs.append(x)
        graph.outputs.append(y)
        weight = np.sign(rng.normal(size=(n, k))) if extreme else rng.normal(size=(n, k))
        if extreme:
            weight[0], weight[-1] = 1, -1
        graph.nodes.append(Node(f"n{i}", "linear", [x], y, params={"weight": weight, "bias": rng.normal(size=n)}))
        types[x] = TensorType(bits, True, np.asarray(0.02 if bits == 8 else 8e-5), zero_point)
        types[y] = tensor_type(16, 1e-3 if extreme else 3e-4)
    return quantized(graph, types)


SHAPES = [(1, 1, 1, 16, 0), (3, 16, 16, 16, 0), (17, 64, 40, 8, 0), (5, 33, 47, 16, 0), (70, 20, 10, 8, 5), (9, 50, 24, 16, -700)]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_cpp_equals_golden(design: Design) -> None:
    """One engine serves inputs of 8 and of 16 bits, some with zero points."""
    graph = plain(SHAPES)
    assert_exact(graph, random_feeds(graph, 3), design)


@pytest.mark.parametrize("types", ["native", *slowly(("ap",))])
def test_every_input(types: str) -> None:
    """All 65,536 inputs, a channel each; the identity brings them back."""
    graph = Graph("identity", inputs=["x"], outputs=["y"])
    graph.add_value("x", (1024, 64))
    graph.add_value("y", (1024, 64))
    graph.nodes.append(Node("n", "linear", ["x"], "y", params={"weight": np.eye(64), "bias": np.zeros(64)}))
    quantized(graph, {"x": tensor_type(16, 1.0), "y": tensor_type(16, 1.0)})
    feeds = {"x": np.arange(-32768, 32768).astype(np.int16).reshape(1, 1024, 64)}
    assert np.abs(run_golden(graph, feeds)["y"].astype(np.int32) - feeds["x"]).max() <= 1
    assert_exact(graph, feeds, Design.of(16, 32, 128), types=types)


@pytest.mark.parametrize("types", ["native", "ap"])
def test_extremes(types: str) -> None:
    """Bytes at their ends in every combination, weights of one sign and of both."""
    graph = plain([(16, 64, 16, 16, 0), (8, 40, 9, 8, 0)], extreme=True)
    corners = np.array([high * 256 + low for high in (-128, -1, 0, 127) for low in (0, 127, 128, 255)])
    feeds = random_feeds(graph, 4)
    feeds["x0"][2] = corners[:, None]
    feeds["x0"][3] = np.random.default_rng(0).choice(corners, (16, 64))
    assert_exact(graph, feeds, Design.of(8, 16, 16), types=types)


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_packed_weights_and_group_scales(design: Design) -> None:
    specs: list[Spec] = [(name, size, (3 + i, 150 + 37 * i, 20 + 13 * i), "dsp") for i, name in enumerate(FORMATS) for size in (0, 32, 128)]
    for extreme in (False, True):
        graph = low_bit_graph(specs, extreme=extreme, bits=16, wide=True)
        assert_exact(graph, random_feeds(graph, 3), design)


def test_packed_weights_and_group_scales_in_ap_types() -> None:
    graph = low_bit_graph([(name, size, (2, 70, 19), "dsp") for name in ("int8", "int3", "ternary") for size in (0, 32)], wide=True)
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 8, 4), types="ap")


def test_golden_is_the_plain_sum() -> None:
    """In exact integers, element by element."""
    graph = low_bit_graph([("int4", 32, (3, 70, 5), "dsp")], bits=16, wide=True)
    feeds, p = random_feeds(graph, 2), graph.nodes[0].params
    factor = p["group_multiplier"].astype(object)[:, [c // 32 for c in range(70)]]
    acc = feeds["x0"].astype(object) @ (p["weight"].astype(object) * factor).T + p["bias"]
    real = acc * (8e-5 * p["weight_scale"])
    np.testing.assert_allclose(run_golden(graph, feeds)["y0"] * 3e-4, np.clip(real.astype(float), -9.83, 9.83), atol=4e-4)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("XT(xs.v[l] ^ XT(-128))", "xs.v[l]"),
        ("high ? 256 : 1", "high ? 128 : 1"),
        ("const bool first = !high && ", "const bool first = "),
        ("byte = whole ? 0 : byte + 1;", "byte = 0;"),
    ],
)
def test_a_planted_bug_is_caught(old: str, new: str) -> None:
    graph = plain([(3, 8, 16, 16, 0)])
    feeds = random_feeds(graph, 2)
    if new == "byte = 0;":  # never gets to the end of a row
        with pytest.raises(AssertionError):
            simulate(graph, feeds, patch={"linear.hpp": (old, new)})
        return
    found = simulate(graph, feeds, patch={"linear.hpp": (old, new)})
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()


def test_accumulator_and_bias_hold_their_bounds() -> None:
    node = plain([(1, 300, 4, 16, 0)], extreme=True).nodes[0]
    total = np.abs(node.params["weight"]).astype(np.int64).sum(1)
    assert node.attrs["acc_bits"] >= bits_for(int((total * (32768 + 128) + np.abs(node.params["bias"])).max()))
    np.testing.assert_array_equal(node.params["stored_bias"] - node.params["bias"], 128 * node.params["weight"].astype(np.int64).sum(1))


def test_only_multipliers_take_them() -> None:
    graph = low_bit_graph([("int4", 0, (1, 40, 4), "lookup"), ("ternary", 0, (1, 40, 4), "dsp")], wide=True)
    for node in graph.nodes:
        assert operator(node).engines(node) == ("dsp",)
    with pytest.raises(AttncError, match=r"int4 on inputs of 16 bits run on the engine dsp, found 'lookup'"):
        simulate(graph, random_feeds(graph, 1))
    graph = low_bit_graph([("binary2", 0, (1, 40, 4), "lookup")], wide=True)
    with pytest.raises(AttncError, match="none"):
        simulate(graph, random_feeds(graph, 1))


def test_steps_double_and_nothing_else_grows_for_bytes() -> None:
    narrow, wide = (plain([(64, 256, 64, bits, 0)]) for bits in (8, 16))
    calls = []
    for graph in (narrow, wide):
        ctx = Lowering(graph, Design.of(16, 64, 64), dict.fromkeys(graph.values, 0), lambda key, make: 0)
        calls.append(operator(graph.nodes[0]).lower(graph.nodes[0], ctx)[0])
    steps = 64 * 16
    runs = []
    for call in calls:
        accumulate = call.kernel.network.processes[0].loops[0]
        runs.append(accumulate.runs(call.kernel.network.names(call.kernel.args, call.scalars)))
    # All of x; then products, while the records and the weights of the next run come.
    assert runs[0] == ((1, steps + SETTLE + 64 * 16 + 32),) and runs[1] == ((1, 2 * steps + SETTLE + 2 * steps),)
    assert calls[1].held["linear_accumulate"] > calls[0].held["linear_accumulate"]
    assert [call.kernel.arg("X_BYTES") for call in calls] == [1, 2]
    assert [call.walks[0].vectors * call.walks[0].bytes for call in calls] == [steps, 2 * steps]
    assert calls[1].macs == calls[0].macs
    merged = build_program(plain([(64, 256, 64, 8, 0), (64, 64, 64, 16, 0)]), Design.of(16, 64, 64), None).engines[0].kernel
    assert (merged.arg("UNITS_MAX"), merged.arg("X_TILES_MAX"), merged.arg("X_BYTES")) == (16, 16, 2)
