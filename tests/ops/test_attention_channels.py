"""attention whose bias comes as channels of queries and keys: C++ against golden, in one pass and in two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_cases import Case, build, feeds_of
from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import GraphError
from attnc.kernels.design import Design
from attnc.ops import operator, verify
from attnc.ops.attention_channels import BIAS_LIMIT, channel_table
from attnc.schedule.program import build_program
from harness import assert_exact, simulate

PASSES: dict[int, dict[str, Any]] = {1: {"passes": 1, "key_step": 8}, 2: {"passes": 2}}


def factors(heads: int, queries: int, keys: int, channels: int, seed: int = 0) -> dict[str, Array]:
    """Random factors over their whole range, in a corner all at an end of it; biases from tiny to saturated, a scale of 0 among them."""
    rng = np.random.default_rng(seed)
    q, k = (rng.integers(-BIAS_LIMIT, BIAS_LIMIT + 1, (heads, rows, channels)).astype(np.int16) for rows in (queries, keys))
    q[0, 0], k[0, 0], k[0, -1] = BIAS_LIMIT, BIAS_LIMIT, -BIAS_LIMIT
    multiplier = rng.integers(1 << 16, 1 << 17, heads)
    shift = 16 + 15 + rng.integers(-2, 6, heads)
    multiplier[-1] = multiplier[-1] if heads < 3 else 0
    return {"bias_queries": q, "bias_keys": k, "bias_multiplier": multiplier, "bias_product_shift": shift,
            "bias": np.zeros((heads * queries, keys))}  # fmt: skip


def case(queries: int, keys: int, heads: int, kv_heads: int, channels: int, shared: bool = False, shift: int = 1, **more: Any) -> Case:
    """A node with random factors, one set for all heads where `shared`."""
    params = factors(1 if shared else heads, queries, keys, channels, seed=channels)
    attrs = {"bias_by": "channels", "bias_shift": shift, "bias_digest": f"{queries}.{keys}.{channels}", **more.pop("attrs", {})}
    return Case(queries, keys, heads, kv_heads, params=params, attrs=attrs, **more)


def cases(passes: int) -> list[Case]:
    """Ranks from 1 to more than a word holds, groups, shared heads, masks, split lanes, and a node without a bias beside them."""
    p, lanes = PASSES[passes], {"kv_lanes": 2} if passes == 1 else {}
    return [
        case(9, 13, 2, 2, 2, attrs=p),
        case(17, 17, 4, 2, 1, attrs={**p, "causal": True}, bits=16, y_scale=1e-4),
        case(6, 21, 3, 3, 7, groups=2, attrs=p),
        case(21, 30, 2, 1, 19, shared=True, head=32, shift=0, attrs={**p, "causal": True, "window": (9, 0)}),
        case(5, 8, 4, 1, 3, shared=True, groups=3, value=32, attrs={**p, "softcap": 5.0}),
        Case(7, 11, 2, 2, attrs={**p, "bias_by": "channels"}),
        case(11, 40, 2, 2, 5, shift=3, attrs={**p, **lanes}),
    ]


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize(
    "design", [Design.of(16, 16, 64, 4), Design.of(4, 4, 6, 2), Design.of(8, 8, 8, 1)], ids=lambda d: f"L{d.lanes}-P{d.attention.queries}"
)
def test_cpp_equals_golden(passes: int, design: Design) -> None:
    graph = build(cases(passes))
    assert_exact(graph, feeds_of(graph, 4), design)


def test_groups_of_queries_and_steps_of_channels() -> None:
    """Two groups of two queries, each in two steps of two channels, while q . k takes four tiles."""
    graph, design = build([case(11, 13, 2, 1, 3, attrs=PASSES[2])]), Design.of(4, 4, 16, 4)
    kernel = build_program(graph, design, None).engines[0].kernel
    assert (kernel.arg("P"), kernel.arg("Q"), kernel.arg("PER_STEP")) == (4, 2, 2)
    assert_exact(graph, feeds_of(graph, 4), design)


def widest() -> Case:
    """64 channels, all at the ends of their range: what the sum has to hold."""
    one = case(3, 5, 1, 1, 64, head=16, attrs=PASSES[2])
    ends = {name: np.full_like(one.params[name], BIAS_LIMIT) for name in ("bias_queries", "bias_keys")}
    ends["bias_keys"][0, 1:3] = -BIAS_LIMIT
    return replace(one, params={**one.params, **ends, "bias_multiplier": np.array([(1 << 17) - 1]), "bias_product_shift": np.array([39])})


@pytest.mark.slow
def test_ap_types_equal_golden() -> None:
    graph = build(
        [widest(), case(5, 9, 2, 1, 3, head=8, value=8, attrs=PASSES[2]), case(4, 19, 2, 2, 5, attrs={**PASSES[1], "kv_lanes": 2})]
    )
    assert_exact(graph, feeds_of(graph, 3), Design.of(8, 8, 4, 2), types="ap")


def test_a_narrower_sum_would_overflow() -> None:
    graph = build([widest()])
    feeds, patch = feeds_of(graph, 4), {"attention_channels.hpp": ("Int<31 + clog2", "Int<30 + clog2")}
    found = simulate(graph, feeds, Design.of(8, 8, 4, 2), types="ap", patch=patch)
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()


@pytest.mark.parametrize("passes", PASSES)
def test_channels_are_the_table_that_they_make(passes: int) -> None:
    one = case(12, 20, 3, 3, 4, attrs={**PASSES[passes], "causal": True})
    graph = build([one])
    attrs = {name: value for name, value in one.attrs.items() if not name.startswith("bias_")}
    dense = build([replace(one, params={}, bias_heads=3, bias_rows=12, shift=1, attrs=attrs)])
    feeds = feeds_of(graph, 3)
    table = channel_table(graph.nodes[0])
    assert (table == BIAS_LIMIT).any() and (table == -BIAS_LIMIT).any() and not table[24:].any() and len(np.unique(table)) > 100
    found = run_golden(dense, feeds | {"b0": np.broadcast_to(table, (3, *table.shape))})["y0"]
    np.testing.assert_array_equal(run_golden(graph, feeds)["y0"], found)


@pytest.mark.parametrize("passes", PASSES)
def test_masked_work_is_not_done(passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in C++: products of channels of one causal head, for the allowed pairs and the corners that a block of four queries cuts."""
    graph, log = build([case(32, 32, 1, 1, 2, head=8, value=8, attrs={**PASSES[passes], "causal": True})]), tmp_path / "count"
    monkeypatch.setenv("ATTNC_COUNT", str(log))
    old = "sum += bias_sum_t<CHANNELS_MAX>("
    counter = (
        'struct Count { long n = 0; ~Count() { std::FILE* f = std::fopen(std::getenv("ATTNC_COUNT"), "w"); '
        'std::fprintf(f, "%ld", n); std::fclose(f); } }; static Count count; ++count.n; '
    )
    simulate(graph, feeds_of(graph, 1), Design.of(8, 8, 16, 4), patch={"attention_channels.hpp": (old, counter + old)})
    pairs = 32 * 33 // 2
    assert 2 * pairs <= int(log.read_text()) <= 2 * (pairs + 8 * 6)


def test_table_is_rounded_half_up() -> None:
    graph = build([case(1, 3, 1, 1, 1)])
    p = graph.nodes[0].params
    p["bias_queries"], p["bias_keys"] = np.ones((1, 1, 1), np.int16), np.array([[[1], [3], [-3]]], np.int16)
    p["bias_multiplier"], p["bias_product_shift"] = np.array([1 << 16]), np.array([17])
    np.testing.assert_array_equal(channel_table(graph.nodes[0]), [[1, 2, -1]])


def test_words_are_shared_by_equal_factors_and_groups() -> None:
    design = Design.of(8, 8, 8, 2)
    one, two = case(16, 24, 2, 2, 3, groups=4, attrs=PASSES[2]), case(16, 24, 2, 2, 3, groups=4, attrs=PASSES[2])
    alone, both = (build_program(build(graph), design, None).weight_words for graph in ([one], [one, two]))
    # Two blocks of 8 queries, two heads: the scale, and a word for each of 8 queries and 24 keys.
    assert alone == both == 2 * 2 * (1 + 8 + 24)


def test_wrong_factors_are_refused() -> None:
    good = case(4, 6, 4, 2, 3)
    node = build([good]).nodes[0]
    shapes = [(4, 64), (6, 32), (6, 32)]
    assert operator(node).shape(node, shapes) == (4, 64)
    p = node.params
    for changed in (
        {"bias_keys": p["bias_keys"][:, :-1]},
        {"bias_queries": p["bias_queries"][:3]},
        {"bias_multiplier": p["bias_multiplier"][:1]},
        {name: np.repeat(p[name], 22, -1) for name in ("bias_queries", "bias_keys")},
    ):
        with pytest.raises(GraphError, match="needs factors of the bias of 1 or 4 heads and 1 to 64 channels"):
            operator(node).shape(replace(node, params=p | changed), shapes)
    with pytest.raises(GraphError, match="as a table or as channels, found both"):
        operator(node).shape(node, [*shapes, (1, 6)])
    with pytest.raises(GraphError, match='need bias_by = "channels", found None'):
        operator(node).shape(replace(node, attrs={**node.attrs, "bias_by": None}), shapes)


def test_words_of_two_bytes_hold_no_scale() -> None:
    with pytest.raises(GraphError, match="a bias in channels needs at least 4 lanes, found 2"):
        build_program(build([case(4, 6, 2, 2, 2)]), Design.of(2, 2, 8, 2), None)


def test_channels_take_less_memory_than_a_table() -> None:
    """A KiB or two of factors in place of a table of 64 queries and 256 keys; the multipliers are what it costs."""
    design, graph = Design.of(16, 16, 64, 4), build([case(64, 256, 4, 4, 2, attrs=PASSES[2])])
    dense = build([Case(64, 256, 4, 4, bias_heads=4, bias_rows=64, attrs=PASSES[2])])
    found, table = (operator(g.nodes[0]).resources(build_program(g, design, None).engines[0].kernel) for g in (graph, dense))
    assert found.bram36 < table.bram36 and found.dsp - table.dsp == 4 * (2 + 1)
    verify(graph)


@pytest.mark.parametrize(
    ("header", "old", "new"),
    [
        ("attention.hpp", "acc[b] = step == 0 ? products", "acc[b] = step <= 1 ? products"),
        ("attention_one_pass.hpp", "acc[j] = step == 0 ? products", "acc[j] = step <= 1 ? products"),
        ("attention_channels.hpp", "word.v[2 * c + 1]", "word.v[2 * c]"),
        ("attention_channels.hpp", "BIAS_LIMIT = 32766", "BIAS_LIMIT = 32765"),
    ],
)
def test_a_planted_bug_is_caught(header: str, old: str, new: str) -> None:
    graph = build([case(9, 20, 2, 1, 11, head=32, attrs=PASSES[1 if header == "attention_one_pass.hpp" else 2], bits=16, y_scale=1e-4)])
    feeds = feeds_of(graph, 4)
    found = simulate(graph, feeds, patch={header: (old, new)})
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()
