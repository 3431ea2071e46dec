"""attention with masks and caps as attributes: equal to the same mask as a bias, and its masked work is not done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attention_cases import Case, build, feeds_of, float_attention
from attnc.arrays import Array
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.ops.attention_bias import BIAS_EXCLUDED, BIAS_UNIFORM, bias_shift, bias_type, quantize_bias
from attnc.ops.attention_sizes import UNLIMITED, Mask
from attnc.ops.exponential import LOG2_E
from attnc.ops.softcap import SOFTCAP_BITS, SOFTCAP_ERROR, SOFTCAP_LIMIT, cap_multiplier, softcap
from attnc.schedule.program import build_program
from harness import assert_exact, simulate

MASKS = [
    {"causal": True},
    {"window": (4, 2)},
    {"causal": True, "window": (6, -1)},
    {"window": (-1, 3)},
    {"causal": True, "offset": 0},
    {"causal": True, "offset": -30},
    {"window": (0, 0), "offset": 40},
]


def cases(passes: int) -> list[Case]:
    """Every mask with fewer, as many and more queries than keys, with and without a bias."""
    attrs = {"passes": passes, **({"key_step": 8} if passes == 1 else {})}
    found = []
    for i, mask in enumerate(MASKS):
        queries, keys = ((21, 21), (9, 30), (26, 17))[i % 3]
        found.append(Case(queries, keys, 2, 2 - i % 2, attrs={**attrs, **mask}))
        rows = queries if i % 2 else 1
        found.append(Case(queries, keys, 2, 1, 8, 8, 2, bias_heads=1 + i % 2, bias_rows=rows, attrs={**attrs, **mask}))
    return found


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(
    "design", [Design.of(8, 8, 64, 4), Design.of(8, 8, 6, 2), Design.of(4, 4, 64, 4)], ids=["one call", "many calls", "groups"]
)
def test_cpp_equals_golden(passes: int, design: Design) -> None:
    graph = build(cases(passes))
    assert_exact(graph, feeds_of(graph, 4), design)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("passes", [1, 2])
def test_golden_equals_the_same_mask_as_a_bias(mask: dict[str, object], passes: int) -> None:
    case = Case(14, 19, 2, 2, 8, 8, attrs={"passes": passes, "key_step": 4, **mask})
    graph, plain = build([case]), build([replace(case, bias_heads=1, bias_rows=14, attrs={"passes": passes, "key_step": 4})])
    feeds = feeds_of(graph, 3)
    allowed = Mask.of(graph.nodes[0], 14, 19).allowed(14, 19)
    assert allowed is not None
    biased = feeds | {"b0": np.broadcast_to(np.where(allowed, 0, BIAS_EXCLUDED), (3, 14, 19)).astype(np.int16)}
    np.testing.assert_array_equal(run_golden(graph, feeds)["y0"], run_golden(plain, biased)["y0"])
    np.testing.assert_allclose(float_attention(graph, feeds)["y0"], float_attention(plain, biased)["y0"], atol=1e-12)


def test_masks_mean_what_they_say() -> None:
    node = build([Case(3, 5, attrs={"causal": True})]).nodes[0]
    expected = np.tri(3, 5, 2, dtype=bool)
    np.testing.assert_array_equal(Mask.of(node, 3, 5).allowed(3, 5), expected)
    node.attrs["window"] = (1, 4)  # causal has the last word
    np.testing.assert_array_equal(Mask.of(node, 3, 5).allowed(3, 5), expected & ~np.tri(3, 5, 0, dtype=bool))
    node.attrs |= {"causal": False, "offset": 0}
    np.testing.assert_array_equal(Mask.of(node, 3, 5).allowed(3, 5), ~np.tri(3, 5, -2, dtype=bool))
    assert Mask().allowed(3, 5) is None and Mask(0, UNLIMITED, 0).limited


@pytest.mark.parametrize("passes", [1, 2])
def test_masked_work_is_not_done(passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in C++: multiply-adds of q . k in an instrumented copy of the kernel, equal to what the calls declare."""
    design = Design.of(8, 8, 16, 4)
    full = Case(64, 64, 2, 2, 8, 8, attrs={"passes": passes, "key_step": 16})
    masks: list[dict[str, object]] = [{}, {"causal": True}, {"causal": True, "window": (7, 0)}]
    graph = build([replace(full, attrs={**full.attrs, **mask}) for mask in masks])
    declared = [0, 0, 0]
    for _, call in build_program(graph, design, None).calls:
        declared[int(call.node[1:])] += call.macs // 2  # q . k and p . v are as wide
    assert counted(graph, design, tmp_path / "count", monkeypatch) == sum(declared)
    # Beyond the allowed pairs: at most the corners that a block of four queries cuts.
    pairs, corners = [64 * 64, 64 * 65 // 2, 64 * 8 - 28], [0, 16 * 6, 2 * 16 * 6]
    for found, least, extra in zip(declared, pairs, corners, strict=True):
        assert 2 * 8 * least <= found <= 2 * 8 * (least + extra)


def counted(graph: Graph, design: Design, log: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Multiply-adds of the scores of one sample."""
    monkeypatch.setenv("ATTNC_COUNT", str(log))
    old = "dot_pair<ScoreT, XT, XT, L, 128>("
    counter = (
        'struct Count { long n = 0; ~Count() { std::FILE* f = std::fopen(std::getenv("ATTNC_COUNT"), "w"); '
        'std::fprintf(f, "%ld", n); std::fclose(f); } }; static Count count; count.n += 2 * L; '
    )
    simulate(graph, feeds_of(graph, 1), design, patch={"attention_common.hpp": (old, counter + old)})
    return int(log.read_text())


def test_calls_load_only_the_keys_they_need() -> None:
    design = Design.of(8, 8, 16, 4)
    words = {}
    for window in ((-1, 0), (7, 0)):
        graph = build([Case(128, 128, 1, 1, 8, 8, attrs={"passes": 2, "window": window})])
        program = build_program(graph, design, None)
        words[window] = [call.walks[1].vectors for _, call in program.calls]
        assert max(words[window]) == program.engines[0].kernel.arg("KEYS_MAX")
    assert words[(-1, 0)] == [16 * i for i in range(1, 9)]
    assert words[(7, 0)] == [16, *[24] * 7]


def cap_error(cap: float) -> float:
    """Largest error of a capped score over all arguments, in natural units."""
    u = np.arange(-SOFTCAP_LIMIT, SOFTCAP_LIMIT + 1, 7)
    t = softcap(u, *cap_multiplier(cap))
    return float(np.abs(t / (LOG2_E * 1024) - cap * np.tanh(u / (1 << SOFTCAP_BITS))).max())


def test_softcap_is_near_float() -> None:
    for cap in (1.0, 30.0, 50.0):
        error = cap_error(cap)
        print(f"cap {cap:g}: {error:.2e}")
        # The ROM, the multiplier's 17 bits, and the rounding of t.
        assert error <= cap * (SOFTCAP_ERROR + 2**-17) + 0.5 / (LOG2_E * 1024)


def test_softcap_bounds_scores() -> None:
    """Attention with a cap: near float, and different from attention without one."""
    attrs = {"softcap": 5.0}
    case = Case(12, 40, 2, 2, 32, 32, bits=16, y_scale=1e-4, qk_scale=0.05, attrs=attrs)
    graph = build([case, replace(case, bias_heads=1, bias_rows=12, attrs={**attrs, "causal": True, "passes": 1, "key_step": 8})])
    feeds = feeds_of(graph, 3)
    exact, found = float_attention(graph, feeds), run_golden(graph, feeds)
    plain = run_golden(build([replace(case, attrs={})]), feeds)
    for i in range(2):
        error = np.abs(found[f"y{i}"] * case.y_scale - exact[f"y{i}"]).max() / (128 * case.v_scale)
        print(f"softcap, case {i}: {error:.2e} of the largest value")
        assert error <= 1e-3
    assert np.abs(found["y0"].astype(int) - plain["y0"]).max() > 1000


LOWEST = float(np.finfo(np.float32).min)
ROWS = {
    "scores": [0.0] * 9,
    "one key": [LOWEST] * 3 + [0.0] + [-np.inf] * 5,
    "masked alike, scores count": [-1e4] * 9,
    "some masked more": [-1e4, -3e4, -1e4, LOWEST, -np.inf, -1e4 - 2, -1e4, -1e4, -2e4],
    "scores vanish": [LOWEST] * 9,
    "scores vanish, some masked more": [-1e9, -2e9, -1e9, LOWEST, -np.inf, -1e9, -1e9, -1e9, -1e9],
    "no key": [-np.inf] * 9,
    "numbers far from 0": [1000.0, 1001.0, 999.5, 0.0, LOWEST, -np.inf, 1000.0, 1000.5, 900.0],
}
"""Biases of a query's keys, again and again."""
KERNELS: list[dict[str, object]] = [
    {"passes": 2},
    {"passes": 1, "key_step": 8},
    {"passes": 1, "key_step": 8, "kv_lanes": 2},
    {"passes": 1},
]


def float32_attention(s: Array, bias: Array, v: Array) -> Array:
    """As onnxruntime computes it, and zeros where that is NaN."""
    with np.errstate(invalid="ignore"):
        sums = s.astype(np.float32) + bias.astype(np.float32)
        p = np.exp(sums - sums.max(-1, keepdims=True))
        return np.nan_to_num(p / p.sum(-1, keepdims=True)) @ v


@pytest.mark.parametrize("passed", ["fed", "constant"])
def test_rows_whose_keys_are_all_masked(passed: str) -> None:
    """Every kind of row gives what float32 gives, in the reference, in golden and in the C++ of every kernel."""
    queries, keys = len(ROWS), 21
    first = Case(queries, keys, 2, 2, bias_heads=1, bias_rows=queries, shift=3, bits=16, y_scale=1e-4, qk_scale=0.02)
    graph = build([replace(first, attrs=attrs) for attrs in KERNELS])
    feeds, bias = feeds_of(graph, 3), np.stack([np.resize(row, keys) for row in ROWS.values()])
    feeds |= {f"b{i}": np.broadcast_to(quantize_bias(bias, bias_type(3)), (3, queries, keys)) for i in range(len(KERNELS))}
    rounded = float_attention(graph, feeds)
    real = {name: graph.type(name).dequantize(feeds[name]) if name[0] != "b" else bias + np.zeros((3, 1, 1)) for name in graph.inputs}
    reference = run_reference(graph, real)
    if passed == "constant":
        for i in range(len(KERNELS)):
            graph.inputs.remove(f"b{i}")
            graph.constants[f"b{i}"] = feeds.pop(f"b{i}")[0]
    golden = run_golden(graph, feeds)
    for i, attrs in enumerate(KERNELS):
        q, k, v = (real[f"{name}{i}"].reshape(3, -1, 2, 16).swapaxes(1, 2) for name in "qkv")
        expected = float32_attention(q @ k.swapaxes(-1, -2) * first.scale, bias, v).swapaxes(1, 2).reshape(3, queries, 32)
        largest = 128 * first.v_scale
        assert np.abs(reference[f"y{i}"] - expected).max() <= 1e-3 * largest  # scores beside -1e4 round to 2**-10
        assert np.abs(rounded[f"y{i}"] - reference[f"y{i}"]).max() <= 5e-3 * largest
        found = golden[f"y{i}"] * first.y_scale
        worst = dict(zip(ROWS, np.abs(found - expected).max(axis=(0, 2)) / largest, strict=True))
        print(attrs, {name: f"{error:.1e}" for name, error in worst.items()})
        assert max(worst.values()) <= 5e-3 and worst["scores vanish"] <= 1e-4 and not found[:, list(ROWS).index("no key")].any()
    assert_exact(graph, feeds, Design.of(8, 8, 64, 4))


def test_a_score_that_counts_where_it_should_not_is_caught() -> None:
    graph = build([Case(4, 9, bias_heads=1, bias_rows=1, attrs={"passes": passes}) for passes in (1, 2)])
    feeds = feeds_of(graph, 3)
    feeds |= {name: np.full_like(feeds[name], BIAS_UNIFORM) for name in ("b0", "b1")}
    found = simulate(graph, feeds, patch={"attention_common.hpp": ("uniform ? attention_score_t(0) : sum", "sum")})
    expected = run_golden(graph, feeds)
    assert all((found[name] != expected[name]).any() for name in graph.outputs)


def alibi(heads: int, queries: int) -> Array:
    """[heads, queries, queries]: slopes 2**(-8 h / heads), times the distance."""
    slopes = 2.0 ** (-8 * np.arange(1, heads + 1) / heads)
    return slopes[:, None, None] * (np.arange(queries) - np.arange(queries)[:, None])


@pytest.mark.parametrize("kind", ["alibi", "relative"])
def test_dense_position_biases_per_head(kind: str) -> None:
    """As a constant operand, in the finest unit that holds it; with a causal mask as an attribute."""
    rows, heads = 96, 4
    distance = np.arange(rows) - np.arange(rows)[:, None]
    relative = np.random.default_rng(5).normal(0, 3, (heads, 2 * rows - 1))[:, distance + rows - 1]
    bias = alibi(heads, rows) if kind == "alibi" else relative
    case = Case(rows, rows, heads, heads, 16, 16, bits=16, y_scale=1e-4, qk_scale=0.02)
    shift = bias_shift(bias)
    case = replace(case, bias_heads=heads, bias_rows=rows, shift=shift, attrs={"causal": True})
    graph = build([case])
    feeds = feeds_of(graph, 4)
    real = {name: graph.type(name).dequantize(feeds[name]) for name in graph.inputs}
    feeds["b0"] = np.broadcast_to(quantize_bias(bias.reshape(-1, rows), bias_type(shift)), feeds["b0"].shape)
    real["b0"] = np.broadcast_to(bias.reshape(-1, rows), feeds["b0"].shape)
    error = np.abs(run_golden(graph, feeds)["y0"] * case.y_scale - run_reference(graph, real)["y0"]).max() / (128 * case.v_scale)
    print(f"{kind}: bias_shift {shift}, {error:.2e} of the largest value")
    assert shift == (1 if kind == "alibi" else 0)
    assert error <= 1.5e-3


@pytest.mark.parametrize("scale", [0.05, 1.0, 1 / 3])
def test_any_scale(scale: float) -> None:
    case = Case(8, 24, 2, 2, 16, 16, bits=16, y_scale=1e-4, qk_scale=0.02, scale=scale)
    graph = build([case])
    feeds: dict[str, Array] = feeds_of(graph, 3)
    real = {name: graph.type(name).dequantize(feeds[name]) for name in graph.inputs}
    q, k, v = (real[f"{name}0"].reshape(3, -1, 2, 16).swapaxes(1, 2) for name in "qkv")
    s = q @ k.swapaxes(-1, -2) * scale
    p = np.exp(s - s.max(-1, keepdims=True))
    expected = (p @ v / p.sum(-1, keepdims=True)).swapaxes(1, 2).reshape(3, 8, 32)
    np.testing.assert_allclose(run_reference(graph, real)["y0"], expected, atol=1e-12)
    assert np.abs(run_golden(graph, feeds)["y0"] * case.y_scale - expected).max() <= 1e-3 * 128 * case.v_scale


@pytest.mark.parametrize(
    ("header", "old", "new"),
    [
        ("attention.hpp", "place - call.before <= key", "place - call.before < key"),
        ("attention_one_pass.hpp", "at - call.before <= key", "at - call.before < key"),
        ("attention_common.hpp", "call.position + end + call.after", "call.position + end + call.after - 1"),
        ("softcap.hpp", "negative ? chord_t(-chord) : chord", "chord"),
    ],
)
def test_a_planted_bug_is_caught(header: str, old: str, new: str) -> None:
    attrs = {"causal": True, "window": (3, 0), "softcap": 5.0, "passes": 2 if header == "attention.hpp" else 1, "key_step": 8}
    graph = build([Case(9, 20, 2, 1, qk_scale=0.2, attrs=attrs)])
    feeds = feeds_of(graph, 4)
    found = simulate(graph, feeds, patch={header: (old, new)})
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()
