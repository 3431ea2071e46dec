"""attention: golden against float, C++ against golden."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_cases import Case, build, feeds_of, float_attention
from attnc.errors import OverflowRiskError
from attnc.fixedpoint import bits_for
from attnc.golden import run_golden
from attnc.ir import GraphError, Node
from attnc.kernels.design import AttentionNumbers, Design, EngineDesign
from attnc.kernels.lowering import Lowering
from attnc.ops import operator
from attnc.ops.attention import Attention
from attnc.ops.attention_bias import BIAS_EXCLUDED, BIAS_LIMIT, BIAS_UNIFORM, BIAS_UNIT, bias_shift, bias_type, quantize_bias
from attnc.ops.attention_sizes import Sizes, query_blocks, widths
from attnc.ops.attention_two_pass import kernel_of
from attnc.resources import data_path
from attnc.schedule.program import build_program
from attnc.verify.simulator import ap_include
from harness import assert_exact, simulate, tensor_type

MANY = [
    Case(1, 1),
    Case(5, 7, 2, 2),
    Case(17, 17, 4, 4, bits=16, y_scale=1e-4),
    Case(9, 13, 4, 2, 32, 16),
    Case(6, 4, 6, 1, 16, 48, groups=3),
    Case(23, 20, 2, 2, bias_heads=1, bias_rows=1, shift=3),
    Case(23, 20, 4, 2, bias_heads=1, bias_rows=23),
    Case(7, 33, 2, 1, bias_heads=2, bias_rows=1, shift=1),
    Case(21, 18, 3, 3, groups=2, bias_heads=3, bias_rows=21, shift=2),
    Case(4, 9, 2, 2, groups=3, bias_heads=1, bias_rows=4),
    Case(3, 5, scale=-0.25),
    Case(3, 5, scale=50.0),
]


@pytest.mark.parametrize(
    "design",
    [Design.of(16, 16, 64, 4), Design.of(8, 8, 8, 2), Design.of(4, 4, 6, 4), Design.of(16, 16, 5, 8), Design.of(8, 8, 16, 1)],
    ids=lambda d: f"L{d.lanes}-rows{d.rows}-P{d.attention.queries}",
)
def test_cpp_equals_golden(design: Design) -> None:
    graph = build(MANY)
    assert_exact(graph, feeds_of(graph, 4), design)


@pytest.mark.parametrize(
    ("case", "design", "expected"),
    [
        (Case(37, 70, 2, 1, 32, 32, bias_heads=2, bias_rows=37), Design.of(8, 8, 64, 4), (1, 0, 0, 2)),
        (Case(64, 72, 3, 3, 32, 32, bias_heads=1, bias_rows=1), Design.of(8, 8, 64, 16), (4, 0, 0, 1)),
        (Case(64, 71, 2, 2, 32, 32, bias_heads=1, bias_rows=64), Design.of(8, 8, 32, 16), (4, 0, 0, 1)),
        (Case(37, 70, 4, 2, 32, 16, attrs={"causal": True}), Design.of(8, 8, 16, 4), (1, 1, 0, 1)),
        (Case(30, 3, 4, 2, 32, 32, groups=2, bias_heads=4, bias_rows=30), Design.of(8, 8, 64, 8), (2, 0, 1, 2)),
        (Case(30, 40, 2, 2, 32, 48, attrs={"window": (1, 0), "offset": 0}), Design.of(16, 16, 64, 16), (8, 1, 0, 1)),
        (Case(40, 90, 2, 2, 24, 48), Design.of(8, 8, 64, 4), (2, 0, 0, 1)),
    ],
)
def test_what_an_engine_need_not_have(case: Case, design: Design, expected: tuple[int, ...]) -> None:
    """Queries whose softmax goes on per cycle, masks, a divider per cycle, a second buffer of biases: as few as the work allows."""
    graph = build([case])
    kernel = build_program(graph, design, None).engines[0].kernel
    assert tuple(kernel.arg(name) for name in ("Q", "MASKED", "FAST_DIVIDE", "BIAS_BUFFERS")) == expected
    assert_exact(graph, feeds_of(graph, 4), design)


@pytest.mark.parametrize("types", ["native", "ap"])
def test_serial_division_is_exact(types: str, tmp_path: Path) -> None:
    flags = ["-DATTNC_NATIVE_TYPES"] if types == "native" else ["-isystem", str(ap_include())]
    source, include = Path(__file__).with_name("serial_division.cpp"), data_path("hls_kernels") / "include"
    command = ["g++", "-std=c++14", "-O2", "-w", *flags, f"-I{include}", str(source), "-o", str(tmp_path / "division")]
    subprocess.run(command, check=True)
    seen = subprocess.run([tmp_path / "division"], check=True, capture_output=True, text=True).stdout
    assert seen.split() == [str(8 * (2**17 - 2**15 + 1)), "0"]


def test_extremes() -> None:
    graph = build([Case(5, 40, 2, 2, 64, 32), Case(3, 600, bits=16, y_scale=1e-4), Case(5, 9, bias_heads=1, bias_rows=5, shift=7)])
    feeds = feeds_of(graph, 8)
    for name in graph.inputs:  # every combination of extremes of q, k and v
        if name[0] in "qkv":
            bit = "qkv".index(name[0])
            for sample in range(8):
                feeds[name][sample] = 127 if sample >> bit & 1 else -128
    feeds["b2"][0] = 32767
    feeds["b2"][1] = -BIAS_LIMIT
    assert_exact(graph, feeds, Design.of(16, 16, 64, 4))


def test_ap_types_equal_golden() -> None:
    cases = [
        Case(5, 7, 2, 1, 8, 16, attrs={"causal": True, "window": (2, 0)}),
        Case(3, 9, 2, 2, 8, 8, 2, 2, 3, shift=2, bits=16, y_scale=1e-4),
        Case(2, 4, 1, 1, 8, 8, bias_heads=1, bias_rows=1),
    ]
    graph = build(cases)
    feeds = feeds_of(graph, 4)
    graph.inputs.remove("b2")  # a constant bias
    graph.constants["b2"] = feeds.pop("b2")[0]
    assert_exact(graph, feeds, Design.of(8, 8, 4, 2), types="ap")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    st.integers(1, 3),
    st.sampled_from([(0, 0), (1, 1), (1, 0), (0, 1)]),
    st.floats(1e-4, 10),
    st.integers(0, 99),
)
def test_golden_is_a_mean_of_values(
    queries: int, keys: int, heads: tuple[int, int], groups: int, bias: tuple[int, int], scale: float, seed: int
) -> None:
    """Every output lies between the smallest and the largest value of its head, and equals them where they are equal."""
    bias_heads, bias_rows = (heads[0] if bias[0] else 1, queries if bias[1] else 1) if any(bias) else (0, 0)
    case = Case(queries, keys, *heads, 4, 4, groups, bias_heads, bias_rows, scale=scale, y_scale=0.02)
    graph = build([case])
    feeds = feeds_of(graph, 3, seed)
    y = run_golden(graph, feeds)["y0"].reshape(3, groups, queries, heads[0], 4)
    v = feeds["v0"].reshape(3, groups, keys, heads[1], 4).repeat(heads[0] // heads[1], axis=3)
    assert (y <= np.maximum(v.max(2, keepdims=True), 0)).all()
    assert (y >= np.minimum(v.min(2, keepdims=True), 0)).all()
    if not bias_heads:
        np.testing.assert_array_equal(y[0], -128)
        np.testing.assert_array_equal(y[1], 127)


def test_golden_is_near_float() -> None:
    cases = [
        Case(64, 197, 2, 2, 64, 64, bits=16, y_scale=1e-4, qk_scale=0.04, scale=0.125),  # scores of sd 2.5
        Case(64, 197, 2, 2, 64, 64, y_scale=0.02, qk_scale=0.02, scale=0.125),
        Case(40, 50, 4, 2, 32, 32, bits=16, y_scale=1e-4, qk_scale=0.01),
        Case(40, 50, 2, 2, 32, 32, bias_heads=2, bias_rows=40, shift=1, bits=16, y_scale=1e-4, qk_scale=0.01),
        Case(10, 20, scale=1e-3, bits=16, y_scale=1e-4),
    ]
    graph = build(cases)
    feeds = feeds_of(graph, 3)
    for name in feeds:
        if name[0] in "qk":
            feeds[name] = np.clip(np.random.default_rng(3).normal(0, 40, feeds[name].shape), -128, 127).astype(np.int8)
    exact, found = float_attention(graph, feeds), run_golden(graph, feeds)
    for i, case in enumerate(cases):
        error = np.abs(found[f"y{i}"] * case.y_scale - exact[f"y{i}"])
        largest = 128 * case.v_scale
        worst = (error.max() - case.y_scale / 2) / largest
        print(f"case {i}: {worst:.2e} of the largest value")
        # The docstring's bound, with a sum of at least 1.
        assert error.max() <= largest * (2 * (6e-4 + case.keys * 2**-16) + 2**-15) + case.y_scale / 2
        assert worst <= 5e-4


def test_a_query_without_allowed_keys_gives_zeros() -> None:
    graph = build([Case(4, 6, bias_heads=1, bias_rows=4)])
    feeds = feeds_of(graph, 2)
    feeds["b0"][:] = 0
    feeds["b0"][:, 1] = BIAS_EXCLUDED
    feeds["b0"][:, 2, :5] = BIAS_EXCLUDED
    found = run_golden(graph, feeds)["y0"]
    np.testing.assert_array_equal(found[:, 1], 0)
    np.testing.assert_array_equal(float_attention(graph, feeds)["y0"][:, 1], 0)
    # One allowed key: its value, rescaled (0.02 / 0.01).
    np.testing.assert_array_equal(found[:, 2], np.clip(2 * feeds["v0"][:, 5].astype(int), -128, 127))


def test_an_excluded_key_is_never_the_maximum() -> None:
    graph = build([Case(1, 2, head=16, qk_scale=1.0, scale=-1.0, bias_heads=1, bias_rows=1, shift=3)])
    feeds = feeds_of(graph, 1)
    feeds["q0"][:], feeds["k0"][:] = 127, 127  # scores at the saturated smallest
    feeds["k0"][0, 1] = -127  # and the largest, which is excluded
    feeds["b0"][:] = [-BIAS_LIMIT, BIAS_EXCLUDED]
    np.testing.assert_array_equal(run_golden(graph, feeds)["y0"][0, 0], np.clip(2 * feeds["v0"][0, 0].astype(int), -128, 127))


def test_float_bias_to_integers() -> None:
    out, even, unit = BIAS_EXCLUDED, BIAS_UNIFORM, BIAS_UNIT * 8
    lowest = float(np.finfo(np.float32).min)
    rows = {
        (0.0, -1e4, -np.inf, -9999.0, lowest, np.nan, unit, -2 * unit): [0, out, out, -BIAS_LIMIT, out, 0, 1, -2],
        # The largest is beyond the range: it is taken off, and what is far below it leaves its key out.
        (1e30, 0.0, -1.0, 1e30, -np.inf, lowest, 5.0, 0.0): [0, out, out, 0, out, out, out, out],
        (1e4, 1e4 - 2 * unit, 1e4 - 100 * unit, 0.0, 1.0, -np.inf, lowest, 9e3): [0, -2, -100, out, -BIAS_LIMIT, out, out, -BIAS_LIMIT],
        (-1e4, -1e4 - unit, -2e4, -np.inf, lowest, -1e4, -1e4 - 300, -1e9): [0, -1, out, out, out, 0, -BIAS_LIMIT, out],
        (-1e9, -1e9, -2e9, -np.inf, lowest, -1e9, -1e9 - 64, -1e12): [even, even, out, out, out, even, out, out],
        (lowest,) * 8: [even] * 8,
        (-np.inf,) * 8: [out] * 8,
    }
    real, expected = np.array(list(rows)), list(rows.values())
    np.testing.assert_array_equal(quantize_bias(real, bias_type(3)), expected)
    attention, node = Attention(), build([Case(2, 2, bias_heads=1, bias_rows=2)]).nodes[0]
    np.testing.assert_array_equal(attention.quantize_operand(node, 3, real, bias_type(3)), expected)
    np.testing.assert_array_equal(attention.quantize_operand(node, 0, np.array([0.3, -9.0]), tensor_type(8, 0.05)), [6, -128])
    back = attention.dequantize_operand(node, 3, np.array([3, out, even, -3]), bias_type(3))
    np.testing.assert_array_equal(back, [3 * unit, -np.inf, lowest, -3 * unit])


def test_bias_shift_follows_the_range() -> None:
    shifts = {0.0: 0, 22.0: 0, 23.0: 1, 80.0: 2, 100.0: 3, 9000.0: 3}
    for peak, shift in shifts.items():
        assert bias_shift(np.array([peak / 2, -peak, -np.inf, -1e4])) == shift
    node = Node("n", "attention", [], "y", attrs={"bias_shift": 1})
    found = Attention().fixed_operand_type(node, 3)
    assert found is not None and float(found.scale) == 2 * BIAS_UNIT
    assert Attention().fixed_operand_type(node, 0) is None


def test_wrong_operands_are_refused() -> None:
    graph = build([Case(4, 6, 4, 2, bias_heads=4, bias_rows=4)])
    node = graph.nodes[0]
    shapes = [graph.value(name).shape for name in node.inputs]
    op = operator(node)
    assert op.shape(node, shapes) == (4, 64)
    assert op.lane_divisor(node, [(4, 96), (6, 48), (6, 32)]) == 8
    assert [op.excludes(node, index) for index in range(4)] == [False, False, False, True]
    for attrs in ({"num_kv_heads": 3}, {"num_heads": 8}, {"bias_heads": 2}, {"bias_rows": 3}, {"groups": 5}):
        with pytest.raises(GraphError, match="do not fit"):
            op.shape(replace(node, attrs=node.attrs | attrs), shapes)
    for bad in (tensor_type(16, 0.1), tensor_type(8, BIAS_UNIT)):
        with pytest.raises(GraphError, match="needs a bias in s16"):
            op.quantize(node, [*(graph.type(name) for name in node.inputs[:3]), bad], graph.type("y0"))
    with pytest.raises(GraphError, match="needs q, k and v in s8, s8, s8, found s16"):
        op.quantize(node, [tensor_type(16)] * 3, graph.type("y0"))
    with pytest.raises(GraphError, match="3 lanes must divide"):
        simulate(graph, feeds_of(graph, 1), Design.of(lanes=3))
    with pytest.raises(OverflowRiskError, match="at most 65536 are supported"):
        simulate(build([Case(1, 70_000, head=4, value=4)]), {}, Design.of(4, 4))


def usual(design: Design) -> EngineDesign[AttentionNumbers]:
    return design.engine(AttentionNumbers, "any")


def test_query_blocks_are_even() -> None:
    assert query_blocks(197, usual(Design.of(rows=64, queries=4))) == [(0, 52), (52, 52), (104, 52), (156, 41)]
    assert query_blocks(17, usual(Design.of(rows=64, queries=4))) == [(0, 17)]
    assert query_blocks(7, usual(Design.of(rows=3, queries=4))) == [(0, 3), (3, 3), (6, 1)]


def test_widths_hold_the_extremes() -> None:
    node = Node("n", "attention", [], "y")
    score, total, acc = widths(node, Sizes(1, 1, 197, 1, 1, 64, 64, 0, 0))
    assert score >= bits_for(64 * 128 * 128)
    assert 1 << total > 197 * 32768
    assert acc >= bits_for(197 * 32768 * 128)


def slowest(case: Case, design: Design) -> int:
    """Cycles of the first call of a node."""
    graph = build([case])
    ctx = Lowering(graph, design, dict.fromkeys(graph.values, 0), lambda key, make: 0)
    return operator(graph.nodes[0]).lower(graph.nodes[0], ctx)[0].span


def test_estimates_grow_with_the_work() -> None:
    node, sizes = Node("n", "attention", [], "y", {"implementation": "chord32"}), Sizes(1, 64, 197, 3, 3, 64, 64, 0, 0)
    slow, fast, case = Design.of(16, queries=4), Design.of(16, queries=8), Case(64, 197, 3, 3, 64, 64)
    assert slowest(case, fast) < slowest(case, slow)
    # No fewer cycles than multiply-adds of either product over the multipliers.
    assert slowest(case, slow) >= 3 * 64 * 197 * 64 / (16 * 4)
    small, large = (Attention().resources(kernel_of(node, sizes, usual(design), 64, 197)) for design in (slow, fast))
    assert all(a > 0 for a in small.astuple()[:4])
    # Memories may move from BRAM to LUTs as more banks make them shallower.
    assert all(a <= b for a, b in zip(small.astuple()[:3], large.astuple()[:3], strict=True))


@pytest.mark.parametrize(("rows", "bias_rows", "before"), [(128, 1, 2700), (64, 1, 2250), (128, 128, 5900)])
def test_what_is_not_hidden_behind_products(rows: int, bias_rows: int, before: int) -> None:
    """The first head's operands (and the table of biases), the first and the last block's softmax, the last head's outputs."""
    case, design = Case(128, 128, 12, 12, 32, 32, bias_heads=1, bias_rows=bias_rows), Design.of(8, rows=rows, queries=16)
    products = 12 * rows // 16 * 128 * 4
    assert products < slowest(case, design) <= products + before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bias.v[j % B],", "BiasT(bias.v[j % B] == BIAS_EXCLUDED && j > 0 ? -32766 : bias.v[j % B]),"),
        ("at.key == at.range.first || held < score.v[j]", "held < score.v[j]"),
        ("k_fill = 1 - k_held", "k_fill = k_held"),
        ("q_fill = (head + 1) & 1", "q_fill = head & 1"),
        ("use = head & 1, fill = (head + 1) & 1", "use = head & 1, fill = head & 1"),
        ("fill = call.bias_heads > 1 ? (head + 1) & (BIAS_BUFFERS - 1) : 0", "fill = call.bias_heads > 1 ? head & (BIAS_BUFFERS - 1) : 0"),
    ],
)
def test_a_planted_bug_is_caught(old: str, new: str) -> None:
    graph = build([Case(9, 3, 4, 2, 32, 32, bias_heads=4, bias_rows=9)])
    feeds, design = feeds_of(graph, 4), Design.of(8, 8, 64, 8)
    found = simulate(graph, feeds, design, patch={"attention.hpp": (old, new)})
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()


def test_sums_wait_until_those_before_have_left() -> None:
    """Three keys in a pass and eight vectors of sums that leave after it."""
    graph = build([Case(9, 3, 4, 2, 32, 32)])
    with pytest.raises(AssertionError, match=r"attention\.weighted"):
        simulate(graph, feeds_of(graph, 4), Design.of(8, 8, 64, 8), patch={"attention.hpp": ("&& !(last && done_rows > 1)", "")})
