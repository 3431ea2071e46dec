"""attention with operands of 16 bits: golden against float, C++ against golden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attention_cases import Case, build, feeds_of, float_attention
from attnc.arrays import Array
from attnc.errors import OverflowRiskError
from attnc.fixedpoint import bits_for
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from attnc.kernels.ports import IntType
from attnc.ops import operator
from attnc.ops.attention import Attention
from attnc.ops.attention_sizes import Sizes, passes_of, two_pass_bits, widths
from attnc.schedule.program import build_program
from harness import assert_exact, simulate

QK, V, ALL = (0, 1), (2,), (0, 1, 2)
ONE = {"passes": 1, "key_step": 8, "kv_lanes": 2}
MIXED = [
    Case(5, 7, 2, 2),
    Case(9, 13, 4, 2, 32, 16, wide=QK),
    Case(6, 4, 6, 1, 16, 48, groups=3, wide=V),
    Case(17, 17, 2, 2, bits=16, y_scale=1e-4, wide=ALL, attrs={"causal": True}),
    Case(21, 18, 3, 3, groups=2, bias_heads=3, bias_rows=21, shift=2, wide=ALL),
    Case(3, 5, scale=50.0, wide=ALL),
    Case(11, 9, bits=16, y_scale=1e-4, qk_scale=0.5, wide=ALL, attrs={"softcap": 4.0}),
    Case(5, 37, 2, 2, wide=V, attrs=ONE),
    Case(17, 61, 4, 2, bits=16, y_scale=1e-4, wide=ALL, attrs=ONE),
]


def extremes(graph: Graph) -> dict[str, Array]:
    """Every combination of the smallest and the largest of q, k and v, sample by sample."""
    feeds = feeds_of(graph, 8)
    for name in graph.inputs:
        if name[0] in "qkv":
            low, high = graph.type(name).range
            for sample in range(8):
                feeds[name][sample] = high if sample >> "qkv".index(name[0]) & 1 else low
    return feeds


@pytest.mark.parametrize("design", [Design.of(8, 8, 8, 4), Design.of(16, 16, 64, 1)], ids=lambda d: f"L{d.lanes}-P{d.attention.queries}")
def test_cpp_equals_golden(design: Design) -> None:
    """Engines that serve operands of 8 and of 16 bits, in one and in two passes."""
    graph = build(MIXED if design.lanes == 8 else [MIXED[0], *MIXED[3:5]])
    assert_exact(graph, feeds_of(graph, 3), design)


def test_extremes_and_ap_types() -> None:
    cases = [Case(5, 9, 1, 1, 16, 8, wide=ALL), Case(3, 19, bits=16, y_scale=1e-4, head=8, value=8, wide=ALL, attrs=ONE)]
    graph = build(cases)
    assert_exact(graph, extremes(graph), Design.of(8, 8, 4, 2), types="ap")
    assert_exact(graph, extremes(graph), Design.of(8, 8, 4, 2))


def test_golden_is_nearer_to_float_than_with_bytes() -> None:
    """Real operands, rounded to 8 and to 16 bits: the noise of each kind of operand goes."""
    case = Case(40, 60, 2, 2, 32, 32, bits=16, y_scale=1e-4, qk_scale=0.03, v_scale=0.03)
    rng, noise = np.random.default_rng(0), {}
    real = {name: rng.normal(size=(2, rows, 64)).clip(-3.8, 3.8) for name, rows in (("q0", 40), ("k0", 60), ("v0", 60))}
    for wide in ((), QK, V, ALL):
        graph = build([replace(case, wide=wide)])
        q = {name: graph.type(name).quantize(array) for name, array in real.items()}
        fine = build([replace(case, wide=ALL, qk_scale=1e-5, v_scale=1e-5)])  # next to no rounding: the float operator on what is real
        exact = float_attention(fine, {name: array / (1e-5 / 256) for name, array in real.items()})["y0"]
        noise[wide] = np.square(run_golden(graph, q)["y0"] * case.y_scale - exact).sum() / np.square(exact).sum()
    assert noise[ALL] < 0.02 * noise[()] and noise[ALL] < noise[QK] < noise[()] and noise[ALL] < noise[V] < noise[()]
    assert -10 * np.log10(noise[ALL]) > 60


def test_accumulators_hold_the_largest_sums() -> None:
    node, sizes = build([Case(1, 1, wide=ALL)]).nodes[0], Sizes(1, 1, 197, 1, 1, 64, 64, 0, 0)
    score, _, acc = widths(node, sizes)
    assert (score, acc) == (bits_for(64 << 30), bits_for(197 * 32768 << 15))
    # Room ends at 2**14 keys: values of 16 bits are not offered beyond, and refused.
    longest = replace(sizes, keys=(1 << 14) - 1)
    assert widths(node, longest)[2] == 45
    with pytest.raises(OverflowRiskError, match="weighted sum: needs 46 bits, 45 are available"):
        widths(node, replace(sizes, keys=1 << 14))
    for keys, offered in ((16383, ["queries and keys", "values"]), (16384, ["queries and keys"])):
        assert [w.name for w in operator(node).widenings(node, [(1, 16), (keys, 16), (keys, 16)])] == offered


def test_what_16_bits_cost() -> None:
    """Multipliers that bytes share, memories, and passes: a row that no longer fits goes in one."""
    narrow, qk, v = (build_program(build([Case(16, 33, 2, 2, 32, 32, wide=wide)]), Design.of(8, 8, 16, 4), None) for wide in ((), QK, V))
    kernels = [program.engines[0].kernel for program in (narrow, qk, v)]
    assert [kernel.ports[0].type for kernel in kernels] == [IntType(8), IntType(16), IntType(8)]
    assert [kernel.ports[2].type for kernel in kernels] == [IntType(8), IntType(8), IntType(16)]
    logic = [Attention().logic(kernel.with_arg("AccT", 40).with_arg("ScoreT", 30)) for kernel in kernels]
    assert logic[1].dsp - logic[0].dsp == 4 * 8 / 2 and logic[2].dsp == logic[0].dsp
    node, sizes = build([Case(1, 1, wide=ALL)]).nodes[0], Sizes(1, 64, 1200, 3, 3, 64, 64, 0, 0)
    assert two_pass_bits(node, sizes) - two_pass_bits(build([Case(1, 1)]).nodes[0], sizes) == 1200 * 8 * 128
    assert passes_of(node, sizes) == 1 and passes_of(build([Case(1, 1)]).nodes[0], sizes) == 2
    macs = [w.cost for w in operator(node).widenings(node, [(16, 32), (33, 32), (33, 64)])]
    assert macs == [16 * 33 * 32, 16 * 33 * 64 // 8]


def test_16_bits_are_asked_for() -> None:
    graph = build([Case(4, 6, wide=QK)])
    node = graph.nodes[0]
    types = [graph.type(name) for name in node.inputs]
    with pytest.raises(GraphError, match="needs q, k and v in s16, s16, s8, found s16, s16, s16"):
        operator(node).quantize(node, [types[0]] * 3, graph.type("y0"))


def test_a_lost_high_byte_is_caught() -> None:
    graph = build([Case(5, 7, 2, 2, wide=V)])
    feeds = feeds_of(graph, 3)
    patch = {"attention.hpp": ("* values.v[l]);", "* Int<8>(values.v[l]));")}
    assert (simulate(graph, feeds, Design.of(8, 8, 8, 4), patch=patch)["y0"] != run_golden(graph, feeds)["y0"]).any()
