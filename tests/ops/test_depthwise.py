"""depthwise: golden against float, C++ against golden."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.errors import OverflowRiskError
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, Node
from attnc.kernels.design import Design
from attnc.kernels.ports import IntType
from attnc.ops import operator
from attnc.schedule.program import build_program
from builder import Builder, real
from harness import assert_exact, random_feeds, simulate, tensor_type

CASES = [(5, 9, 16, 16, 8), (1, 1, 3, 16, 8), (70, 9, 20, 32, 8), (7, 25, 32, 32, 8), (12, 3, 1, 16, 8)]
CASES += [(9, 9, 20, 32, 16), (3, 25, 16, 16, 16)]


def depthwise_graph(cases: list[tuple[int, int, int, int, int]] = CASES) -> Graph:
    """(rows, taps, channels, width, bits of x) with one scale or one per channel for y, weights at their extremes."""
    rng, builder = np.random.default_rng(0), Builder("depthwise")
    for i, (rows, taps, channels, width, bits) in enumerate(cases):
        weight, bias = rng.standard_normal((channels, taps)), rng.standard_normal(channels)
        weight[0] = 0.0 if i % 2 else 3.0
        scale = 0.25 if i % 2 else np.linspace(0.1, 0.5, channels)
        operand = ((rows, taps * width), tensor_type(bits, 0.05 / (1 << bits - 8)))
        attrs = {"width": width, "wide_operands": (0,) if bits > 8 else ()}
        builder.add("depthwise", [operand], tensor_type(16 if i == 2 else 8, scale), attrs, {"weight": weight, "bias": bias})
    return builder.quantized()


def test_golden_is_near_float() -> None:
    rng, graph = np.random.default_rng(0), depthwise_graph()
    feeds = random_feeds(graph, 4)
    found = run_golden(graph, feeds)
    for node, case in zip(graph.nodes, CASES, strict=True):
        rows, taps, channels, width, _ = case
        weight, bias = rng.standard_normal((channels, taps)), rng.standard_normal(channels)
        weight[0] = 0.0 if CASES.index(case) % 2 else 3.0
        x = real(graph, node.inputs[0], feeds[node.inputs[0]]).reshape(4, rows, taps, width)[..., :channels]
        y = graph.type(node.output)
        inside = np.clip(((x * weight.T).sum(axis=2) + bias) / y.scale, *y.range)
        # Half a step of every weight and of the bias, then half a step of y.
        step = np.abs(weight).max(axis=1) / 127
        bound = 0.51 + (np.abs(x).sum(axis=2) * step / 2 + 0.05 * step) / y.scale + np.abs(inside) * 2**-16
        assert (np.abs(found[node.output] - inside) <= bound).all(), node.name


@pytest.mark.parametrize(
    ("types", "design"), [("native", Design.of(8, 8, 4)), ("native", Design.of(16, 16, 16)), ("ap", Design.of(16, 16, 8))]
)
def test_cpp_equals_golden(types: str, design: Design) -> None:
    graph = depthwise_graph()
    assert_exact(graph, random_feeds(graph, 3), design, types=types)


def test_inputs_of_16_bits_are_asked_for_and_take_the_multipliers_alone() -> None:
    with pytest.raises(GraphError, match="needs an input in s8, found s16"):
        params = {"weight": np.ones((3, 2)), "bias": np.zeros(3)}
        builder = Builder("bad")
        builder.add("depthwise", [((4, 32), tensor_type(16))], tensor_type(8), {"width": 16}, params)
        builder.quantized()
    narrow, mixed = (build_program(depthwise_graph(cases), Design.of(8, 8, 4), None).engines for cases in (CASES[:5], CASES))
    assert len(narrow) == len(mixed) == 1, "one engine serves both"
    assert (narrow[0].kernel.arg("XT"), mixed[0].kernel.arg("XT")) == (8, 16)
    assert mixed[0].kernel.ports[0].type == IntType(16) and narrow[0].kernel.ports[0].type == IntType(8)
    dsp = [operator(depthwise_graph().nodes[0]).logic(engines[0].kernel.with_arg("AccT", 32)).dsp for engines in (narrow, mixed)]
    assert dsp[1] - dsp[0] == 8 / 2


@pytest.mark.parametrize(("taps", "bits"), [(49, 32), (600, 33), (200_000, None)])
def test_the_accumulator_holds_the_largest_sum_of_16_bits(taps: int, bits: int | None) -> None:
    node = Node("n", "depthwise", ["x"], "y", {"width": 16, "wide_operands": (0,)}, {"weight": np.ones((1, taps)), "bias": np.zeros(1)})
    if bits is None:
        with pytest.raises(OverflowRiskError, match="needs 41 bits"):
            operator(node).quantize(node, [tensor_type(16)], tensor_type(16))
        return
    operator(node).quantize(node, [tensor_type(16)], tensor_type(16))
    largest = taps * 127 << 15
    assert node.attrs["acc_bits"] == bits and largest < 1 << (bits - 1) and (bits == 32 or largest >= 1 << (bits - 2))


def test_sizes_that_do_not_fit_are_refused() -> None:
    params = {"weight": np.ones((3, 2)), "bias": np.zeros(3)}
    with pytest.raises(GraphError, match="do not fit an input of"):
        Builder("bad").add("depthwise", [((4, 33), tensor_type(8))], tensor_type(8), {"width": 16}, params)


def test_a_planted_bug_is_caught() -> None:
    graph = depthwise_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"depthwise.hpp": ("tap == 0 ? AccT(Int<32>(bias[l]))", "i == 0 ? AccT(Int<32>(bias[l]))")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
