"""attention in one pass: golden against float and against two passes, C++ against golden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attention_cases import Case, build, feeds_of, float_attention
from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import GraphError, Node
from attnc.kernels.design import AttentionNumbers, Design
from attnc.ops.attention import Attention
from attnc.ops.attention_one_pass import kernel_of as one_pass_kernel
from attnc.ops.attention_one_pass import one_pass
from attnc.ops.attention_sizes import SCORE_EXCLUDED, Mask, Sizes, key_blocks, passes_of, two_pass_bits
from attnc.ops.exponential import EXP2_ROM
from attnc.schedule.program import build_program
from harness import assert_exact, simulate
from ops.test_attention import slowest

ONE = {"passes": 1}


def sliced(step: int, lanes: int = 1, **attrs: object) -> dict[str, object]:
    """Attributes of one pass over small blocks of keys."""
    return {"passes": 1, "key_step": step, "kv_lanes": lanes, **attrs}


MANY = [
    Case(1, 1, attrs=ONE),
    Case(5, 37, 2, 2, attrs=sliced(8)),
    Case(17, 61, 4, 4, bits=16, y_scale=1e-4, attrs=sliced(16)),
    Case(9, 33, 4, 2, 32, 16, attrs=sliced(16)),
    Case(6, 20, 6, 1, 16, 48, groups=3, attrs=sliced(4)),
    Case(23, 50, 2, 2, bias_heads=1, bias_rows=1, shift=3, attrs=sliced(16)),
    Case(23, 39, 4, 2, bias_heads=1, bias_rows=23, attrs=sliced(16)),
    Case(21, 40, 3, 3, groups=2, bias_heads=3, bias_rows=21, shift=2, attrs=sliced(32)),
    Case(21, 21, 2, 1, attrs=sliced(4, causal=True)),
    Case(30, 41, 2, 2, attrs=sliced(8, window=(5, 3), causal=False)),
    Case(9, 4, 1, 1, attrs=sliced(2, causal=True)),
    Case(3, 50, scale=50.0, attrs=sliced(8)),
    Case(11, 30, bits=16, y_scale=1e-4, qk_scale=0.5, attrs=sliced(8, softcap=4.0)),
]


@pytest.mark.parametrize(
    "design",
    [Design.of(16, 16, 64, 4), Design.of(8, 8, 6, 2), Design.of(16, 16, 8, 8)],
    ids=lambda d: f"L{d.lanes}-rows{d.rows}-P{d.attention.queries}",
)
def test_cpp_equals_golden(design: Design) -> None:
    graph = build(MANY)
    assert_exact(graph, feeds_of(graph, 4), design)


def test_keys_split_over_lanes() -> None:
    cases = [
        Case(5, 37, 2, 2, attrs=sliced(8)),
        Case(5, 37, 2, 2, attrs=sliced(8, 2)),
        Case(17, 61, 2, 1, bits=16, y_scale=1e-4, attrs=sliced(16, 4)),
        Case(3, 1, attrs=sliced(8, 4)),
        Case(23, 39, 2, 2, bias_heads=2, bias_rows=23, attrs=sliced(16, 4, causal=True)),
        Case(20, 50, 2, 2, groups=2, attrs=sliced(8, 2, causal=True, window=(7, -1))),
        Case(9, 70, attrs=sliced(16, 4, window=(9, 2))),
    ]
    graph, design = build(cases), Design.of(8, 8, 8, 4)
    # The number of lanes changes the results, so it is never shared between nodes that differ in it.
    assert [engine.kernel.arg("S") for engine in build_program(graph, design, None).engines] == [1, 2, 4]
    assert_exact(graph, feeds_of(graph, 4), design)


@pytest.mark.slow
def test_ap_types_equal_golden() -> None:
    cases = [
        Case(5, 13, 2, 1, 8, 16, attrs=sliced(4, 2, causal=True)),
        Case(3, 19, 2, 2, 8, 8, 2, 2, 3, shift=2, bits=16, y_scale=1e-4, attrs=sliced(8, 2, softcap=3.0)),
    ]
    graph = build(cases)
    assert_exact(graph, feeds_of(graph, 3), Design.of(8, 8, 4, 2), types="ap")


def test_extremes() -> None:
    graph = build([Case(5, 300, 1, 1, 64, 32, attrs=ONE), Case(3, 600, bits=16, y_scale=1e-4, attrs=sliced(64, 4))])
    feeds = feeds_of(graph, 8)
    for name in graph.inputs:  # every combination of extremes of q, k and v
        for sample in range(8):
            feeds[name][sample] = 127 if sample >> "qkv".index(name[0]) & 1 else -128
    # Scores that rise from the smallest to the largest, so that every block rescales.
    feeds["k1"][7] = np.linspace(-128, 127, 600)[:, None]
    assert_exact(graph, feeds, Design.of(16, 16, 64, 4))


def test_golden_is_near_float_and_two_passes() -> None:
    """Bounds of the docstring of attention.py, and what is reached."""
    cases = [
        Case(32, 197, 2, 2, 64, 64, bits=16, y_scale=1e-4, qk_scale=0.04, scale=0.125, attrs=sliced(32)),
        Case(32, 197, 2, 2, 64, 64, bits=16, y_scale=1e-4, qk_scale=0.04, scale=0.125, attrs=sliced(32, 4)),
        Case(16, 2000, 1, 1, 64, 64, bits=16, y_scale=1e-4, qk_scale=0.04, scale=0.125, attrs=ONE),
        Case(40, 50, 2, 2, 32, 32, bits=16, y_scale=1e-4, qk_scale=0.01, attrs=sliced(8, causal=True)),
    ]
    graph, two = build(cases), build([replace(case, attrs={**case.attrs, "passes": 2, "kv_lanes": 1}) for case in cases])
    feeds = feeds_of(graph, 3)
    rng = np.random.default_rng(3)
    for name in feeds:
        if name[0] in "qk":
            feeds[name] = np.clip(rng.normal(0, 40, feeds[name].shape), -128, 127).astype(np.int8)
    exact, found, other = float_attention(graph, feeds), run_golden(graph, feeds), run_golden(two, feeds)
    for i, case in enumerate(cases):
        largest = 128 * case.v_scale
        worst = (np.abs(found[f"y{i}"] * case.y_scale - exact[f"y{i}"]).max() - case.y_scale / 2) / largest
        reach = (np.abs(other[f"y{i}"] * case.y_scale - exact[f"y{i}"]).max() - case.y_scale / 2) / largest
        apart = np.abs(found[f"y{i}"].astype(int) - other[f"y{i}"]).max() * case.y_scale / largest
        print(f"case {i}: {worst:.2e} of the largest value from float (two passes {reach:.2e}), {apart:.2e} from two passes")
        assert worst <= 2 * (6e-4 + case.keys * 2**-15) + 2**-15 + 2**-14 * (2 + int(str(case.attrs.get("kv_lanes", 1))))
        limit = 5e-4 if case.keys < 1000 else 1e-3
        assert worst <= limit and apart <= limit


def test_blocks_see_the_same_whatever_the_order_of_scores() -> None:
    """A maximum that comes first, last or in steps: sums differ by the rounding of the rescales alone."""
    v = np.full((1, 64, 1), 127, np.int64)
    rise = np.linspace(-9000, 9000, 64).astype(np.int64)
    results = []
    for t in (rise, rise[::-1], np.roll(rise, 20)):
        acc, total = one_pass(t[None, None], v, 8, 1, 8, EXP2_ROM)
        results.append(float(acc[0, 0, 0] / total[0, 0, 0]))
        assert total[0, 0, 0] >= 1 << 14
    assert np.abs(np.array(results) - 127).max() <= 127 * 2**-12


def test_no_allowed_key_gives_zero_sums() -> None:
    t = np.full((1, 2, 16), SCORE_EXCLUDED, np.int64)
    t[0, 1, 5] = -(1 << 23)
    acc, total = one_pass(t, np.full((1, 16, 2), -7, np.int64), 8, 2, 4, EXP2_ROM)
    assert total[0, 0, 0] == 0 and not acc[0, 0].any()
    np.testing.assert_array_equal(acc[0, 1], np.broadcast_to(-7 * total[0, 1], 2))


def test_key_blocks_cover_the_keys() -> None:
    for keys in [*range(1, 300), 577, 1024, 1025, 1500, 4095, 4096, 65536]:
        count, step = key_blocks(keys)
        length = keys - step * (count - 1)
        assert length >= min(step, keys) and length < 512
        assert count == 1 or step % 32 == 0
        assert count * length <= 1.35 * keys
    assert key_blocks(50, 16) == (3, 16) and key_blocks(7, 16) == (1, 16)


def test_passes_follow_what_two_passes_would_keep() -> None:
    small, large = Sizes(1, 64, 197, 3, 3, 64, 64, 0, 0), Sizes(1, 64, 8192, 3, 3, 64, 64, 0, 0)
    node = Node("n", "attention", [], "y")
    assert (passes_of(node, small), passes_of(node, large)) == (2, 1)
    assert two_pass_bits(node, large) == 8192 * (8 * 128 + 4 * 42)
    # A window bounds the keys that a call sees.
    assert passes_of(node, replace(large, mask=Mask(0, 128, 0))) == 2
    for passes in (1, 2):
        node.attrs["passes"] = passes
        assert passes_of(node, small) == passes_of(node, large) == passes
    node.attrs["kv_lanes"] = 2
    with pytest.raises(GraphError, match="kv_lanes need passes of 1"):
        passes_of(node, small)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"passes": 3}, "needs passes of 1, 2"),
        ({"passes": 1, "kv_lanes": 3}, "needs kv_lanes of"),
        ({"passes": 1, "kv_lanes": 4, "key_step": 6}, "that divide key_step"),
        ({"window": (-2, 0)}, "needs a window"),
        ({"softcap": -1.0}, "needs a softcap above 0"),
        ({"offset": 1 << 20}, "needs an offset"),
    ],
)
def test_wrong_attributes_are_refused(attrs: dict[str, object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        build([Case(4, 6, attrs=attrs)])


def test_memories_do_not_grow_with_the_keys() -> None:
    node, design = Node("n", "attention", [], "y", attrs={"passes": 1, "implementation": "chord32"}), Design.of(16, queries=4)
    found = []
    for keys in (1024, 65536):
        sizes = Sizes(1, 64, keys, 3, 3, 64, 64, 0, 0)
        count, step = key_blocks(keys)
        found.append(
            Attention().resources(one_pass_kernel(node, sizes, design.engine(AttentionNumbers, "any"), 64, keys - step * (count - 1)))
        )
    assert found[1].bram36 <= found[0].bram36 * 1.1


def test_cycles_hold_the_work() -> None:
    """No fewer cycles than multiply-adds over multipliers, and not half as many again."""
    for lanes in (1, 2):
        cycles = slowest(
            Case(64, 4096, head=64, value=64, attrs={"passes": 1, "kv_lanes": lanes, "key_step": 128}), Design.of(16, queries=4)
        )
        work = 64 * 4096 * 64 / (16 * 4 * lanes)
        assert work <= cycles <= 1.8 * work


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("top = top < old.v[p * S + s]", "top = old.v[p * S + s] < top"),
        ("update.v[p * S + s].shift);\n                acc", "shift_t(0));\n                acc"),
    ],
)
def test_a_planted_bug_is_caught(old: str, new: str) -> None:
    graph = build([Case(9, 40, 2, 1, attrs=sliced(8, 2))])
    feeds: dict[str, Array] = feeds_of(graph, 4)
    found = simulate(graph, feeds, patch={"attention_one_pass.hpp": (old, new)})
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()
