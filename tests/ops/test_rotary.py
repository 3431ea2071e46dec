"""rotary: golden against float, C++ against golden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, GraphError, Node
from attnc.kernels.design import Design
from attnc.ops import operator
from attnc.schedule.program import build_program
from builder import Builder, real
from harness import assert_exact, random_feeds, simulate, tensor_type


def angles(rows: int, turned: int, gain: float = 1.0) -> dict[str, Array]:
    """cos and sin as language models have them."""
    theta = np.arange(rows)[:, None] * 10000.0 ** (-np.arange(turned // 2) * 2 / turned)
    return {"cos": gain * np.cos(theta), "sin": gain * np.sin(theta)}


# rows per group, groups, heads, channels per head, turned channels, adjacent pairs, bits of x and y, gain of the table
CASES = [
    (7, 1, 2, 32, 32, False, 8, 8, 1.0),
    (7, 1, 2, 32, 32, True, 8, 8, 1.0),
    (13, 2, 3, 64, 32, False, 16, 16, 1.0),
    (13, 2, 3, 64, 24, True, 16, 8, 1.0),
    (1, 1, 1, 32, 32, False, 8, 16, 1.3),
    (5, 3, 4, 16, 10, True, 16, 16, 1.0),
    (9, 1, 2, 48, 32, False, 8, 16, 3.0),
    (4, 1, 5, 16, 2, True, 8, 8, 1.0),
]


def build(cases: list[tuple[int, int, int, int, int, bool, int, int, float]]) -> Graph:
    builder = Builder("rotary")
    for rows, groups, heads, head, turned, interleaved, x_bits, y_bits, gain in cases:
        attrs: dict[str, Any] = {"num_heads": heads, "groups": groups, "rotary_dims": turned, "interleaved": interleaved}
        x = tensor_type(x_bits, 1.0 / (1 << (x_bits - 1)))
        builder.add(
            "rotary",
            [((groups * rows, heads * head), x)],
            tensor_type(y_bits, 1.6 / (1 << (y_bits - 1))),
            attrs,
            angles(rows, turned, gain),
        )
    return builder.quantized()


@pytest.mark.parametrize(
    "design", [Design.of(16, 16, 64, 4), Design.of(8, 8, 5, 4), Design.of(4, 4, 3, 4)], ids=lambda d: f"L{d.lanes}-rows{d.rows}"
)
def test_cpp_equals_golden(design: Design) -> None:
    graph = build(CASES)
    assert_exact(graph, random_feeds(graph, 4), design)


def test_ap_types_equal_golden() -> None:
    graph = build([(3, 2, 2, 16, 16, False, 16, 16, 1.0), (3, 1, 2, 16, 6, True, 8, 8, 1.0)])
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 8, 2, 4), types="ap")


def floats(cases: list[tuple[int, int, int, int, int, bool, int, int, float]]) -> Graph:
    builder = Builder("rotary")
    for rows, groups, heads, head, turned, interleaved, *_, gain in cases:
        attrs = {"num_heads": heads, "groups": groups, "rotary_dims": turned, "interleaved": interleaved}
        builder.add("rotary", [((groups * rows, heads * head), tensor_type(8))], tensor_type(8), attrs, angles(rows, turned, gain))
    return builder.graph


def test_golden_is_near_float() -> None:
    graph, plain = build(CASES), floats(CASES)
    feeds = random_feeds(graph, 6)
    exact = run_reference(plain, {name: real(graph, name, feed) for name, feed in feeds.items()})
    found = run_golden(graph, feeds)
    for i, case in enumerate(CASES):
        scale = float(graph.type(f"n{i}.y").scale)
        limit = 1.6 - scale  # saturation
        error = np.abs(found[f"n{i}.y"] * scale - np.clip(exact[f"n{i}.y"], -1.6, limit)).max()
        bits = graph.nodes[i].attrs["fraction_bits"]
        print(f"case {i}: {error - scale / 2:.2e} of the largest |x|")
        assert bits == (13 if case[-1] > 2 else 14)
        assert error <= 2 * 2.0 ** -(bits + 1) + 1.6 * 2**-17 + scale / 2 + 1e-12


def test_reference_is_a_rotation() -> None:
    """As a complex product, whatever the spelling; channels past the turned ones stay."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 12, 3 * 8))
    params = angles(6, 6)
    turn = params["cos"] + 1j * params["sin"]
    for interleaved in (False, True):
        attrs = {"num_heads": 3, "groups": 2, "rotary_dims": 6, "interleaved": interleaved}
        found = operator(node := Node("n", "rotary", ["x"], "y", attrs, params)).reference(node, [x]).reshape(2, 2, 6, 3, 8)
        parts = x.reshape(2, 2, 6, 3, 8)
        first, second = (slice(0, 6, 2), slice(1, 6, 2)) if interleaved else (slice(0, 3), slice(3, 6))
        expected = (parts[..., first] + 1j * parts[..., second]) * turn[:, None, :]
        np.testing.assert_allclose(found[..., first] + 1j * found[..., second], expected, atol=1e-12)
        np.testing.assert_array_equal(found[..., 6:], parts[..., 6:])


def test_wrong_operands_are_refused() -> None:
    node = Node("n", "rotary", ["x"], "y", {"num_heads": 2, "rotary_dims": 8}, angles(4, 8))
    op = operator(node)
    assert op.shape(node, [(4, 32)]) == (4, 32)
    assert op.lane_divisor(node, [(4, 32)]) == 4
    for shape, attrs, message in [
        ((4, 33), {}, "do not divide"),
        ((5, 32), {}, "needs cos and sin of"),
        ((4, 32), {"rotary_dims": 7}, "even rotary_dims"),
        ((4, 32), {"rotary_dims": 18}, "even rotary_dims"),
    ]:
        with pytest.raises(GraphError, match=message):
            op.shape(Node("n", "rotary", ["x"], "y", node.attrs | attrs, node.params), [shape])
    graph = build([(3, 1, 2, 16, 16, False, 8, 8, 1.0)])
    with pytest.raises(GraphError, match="16 lanes must divide"):
        build_program(graph, Design.of(16), None)


def test_estimates_grow_with_the_work() -> None:
    few, many = (build_program(build([(rows, 1, 2, 64, 64, False, 8, 8, 1.0)]), Design.of(16), None) for rows in (16, 64))
    cycles = [sum(sum(call.cycles.values()) for _, call in program.calls) for program in (few, many)]
    assert 3 * cycles[0] < cycles[1] < 4 * cycles[0]
    found = operator(Node("n", "rotary", [], "")).resources(many.engines[0].kernel)
    assert min(found.astuple()[:4]) > 0


@pytest.mark.parametrize(("old", "new"), [("near.v[l | 1]", "near.v[l]"), ("second_half ? tile :", "second_half || true ? tile :")])
def test_a_planted_bug_is_caught(old: str, new: str) -> None:
    graph = build([(7, 1, 2, 32, 32, "tile" not in old, 8, 8, 1.0)])
    feeds = random_feeds(graph, 3)
    found = simulate(graph, feeds, patch={"rotary.hpp": (old, new)})
    assert (found["n0.y"] != run_golden(graph, feeds)["n0.y"]).any()
