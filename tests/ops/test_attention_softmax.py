"""attention with every exponential of softmax, in one pass and in two: C++ against golden, golden against float."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attention_cases import Case, build, feeds_of, float_attention
from attnc.golden import run_golden
from attnc.ir import GraphError
from attnc.kernels.design import Design
from attnc.kernels.numbers import PROBABILITY_BITS
from attnc.ops import operator
from attnc.ops.exponential import EXP2, FRACTION_BITS, exp2_negative
from attnc.schedule.program import build_program
from harness import assert_exact, simulate

OTHERS = [name for name in EXP2 if name != "chord32"]
"""All but the one that "auto" takes, which the other tests of attention cover."""
PASSES: dict[int, dict[str, object]] = {1: {"passes": 1, "key_step": 8, "kv_lanes": 2}, 2: {"passes": 2}}


def cases(names: list[str], passes: int) -> list[Case]:
    """A causal node per implementation, with keys split over lanes in one pass."""
    return [Case(9, 21, 2, 1, 8, 8, qk_scale=0.1, attrs={**PASSES[passes], "causal": True, "implementation": name}) for name in names]


@pytest.mark.parametrize("passes", PASSES)
def test_cpp_equals_golden(passes: int) -> None:
    graph, design = build(cases(OTHERS, passes)), Design.of(8, 8, 16, 2)
    assert len(build_program(graph, design, None).engines) == len(OTHERS)
    feeds = feeds_of(graph, 4)
    assert_exact(graph, feeds, design)
    found = run_golden(graph, feeds)
    assert all((found["y0"] != found[f"y{i}"]).any() for i in range(1, len(OTHERS)))


@pytest.mark.slow
def test_ap_types_equal_golden() -> None:
    graph = build([*cases(["polynomial"], 1), *cases(["log2", "table"], 2)])
    assert_exact(graph, feeds_of(graph, 3), Design.of(8, 8, 4, 2), types="ap")


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("name", EXP2)
def test_golden_is_within_the_stated_bound(name: str, passes: int) -> None:
    case = Case(32, 96, 2, 2, 32, 32, bits=16, y_scale=1e-4, qk_scale=0.05, scale=0.18)  # scores of sd 2.5
    graph = build([replace(case, attrs={**PASSES[passes], "implementation": name})])
    feeds, rng = feeds_of(graph, 3), np.random.default_rng(3)
    for value in ("q0", "k0"):
        feeds[value] = np.clip(rng.normal(0, 32, feeds[value].shape), -128, 127).astype(np.int8)
    largest = 128 * case.v_scale
    error = np.abs(run_golden(graph, feeds)["y0"] * case.y_scale - float_attention(graph, feeds)["y0"])
    print(f"{name}, passes {passes}: max {error.max() / largest:.2e}, rms {np.sqrt(np.square(error).mean()) / largest:.2e} of the value")
    # The docstring's bound of attention.py, with a sum of at least 1 (1/2 in one pass).
    rounding = case.keys * 2**-16 * (2 if passes == 1 else 1)
    exponential = 2 * EXP2[name].error if name != "chord32" else 0.0
    bound = 2 * (6e-4 + exponential + rounding) + 2**-15 + (4 * 2**-14 if passes == 1 else 0)
    assert error.max() <= largest * bound + case.y_scale / 2


@pytest.mark.parametrize("name", EXP2)
def test_the_largest_probability_of_one_pass_is_at_least_half(name: str) -> None:
    """What its reciprocal relies on (SPARE): the maximum is less than one log2 unit above the largest score."""
    assert exp2_negative(np.arange(1 << FRACTION_BITS), EXP2[name].rom).min() >= 1 << (PROBABILITY_BITS - 1)


def test_auto_and_wrong_names() -> None:
    assert build([Case(4, 6)]).nodes[0].attrs["implementation"] == "chord32"
    cheapest = min((c for c in EXP2.values() if c.error <= 1e-2), key=lambda c: c.cost)
    assert build([Case(4, 6, attrs={"error_target": 1e-2})]).nodes[0].attrs["implementation"] == cheapest.name != "chord32"
    with pytest.raises(GraphError, match="needs one of the implementations auto, chord4"):
        build([Case(4, 6, attrs={"implementation": "ibert"})])


def test_resources_follow_the_implementation() -> None:
    found = {}
    for name in ("chord32", "table", "polynomial"):
        graph = build(cases([name], 2))
        engine = build_program(graph, Design.of(8, 8, 16, 2), None).engines[0]
        found[name] = operator(graph.nodes[0]).resources(engine.kernel)
    assert found["table"].bram36 == found["chord32"].bram36 + 2 * 0.5
    assert found["polynomial"].dsp == found["chord32"].dsp + 2 * 2


@pytest.mark.parametrize("passes", PASSES)
def test_a_planted_bug_is_caught(passes: int) -> None:
    graph = build(cases(["table"], passes))
    feeds = feeds_of(graph, 4)
    found = simulate(graph, feeds, Design.of(8, 8, 16, 2), patch={"exponential.hpp": ("Rom::at(fraction)", "Rom::at(fraction ^ 8)")})
    assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()
