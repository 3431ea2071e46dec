"""patches: every kind of window against a padded convolution's input, C++ against golden."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from attnc.golden import run_golden, run_reference
from attnc.ir import Graph, GraphError
from attnc.kernels.design import Design
from attnc.ops.patches import Window
from builder import Builder
from harness import assert_exact, random_feeds, simulate, tensor_type


def attrs(
    size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int, int, int], width: int, count: int = 1
) -> dict[str, Any]:
    """Attributes of a convolution; pads are top, left, bottom, right."""
    out = tuple((size[i] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in range(2))
    taps = tuple((y - pads[0], x - pads[1]) for y in range(kernel[0]) for x in range(kernel[1]))
    return {"count": count, "size": size, "out": out, "strides": strides, "taps": taps, "width": width}


CASES = {
    "same": (attrs((5, 7), (3, 3), (1, 1), (1, 1, 1, 1), 16), 16),
    "strided": (attrs((8, 9), (3, 3), (2, 2), (1, 1, 1, 1), 32), 20),
    "line": (attrs((1, 12), (1, 3), (1, 2), (0, 1, 0, 1), 16), 5),
    "pictures": (attrs((4, 4), (2, 2), (2, 2), (0, 0, 0, 0), 16, 3), 16),
    "far": (attrs((3, 3), (7, 7), (4, 4), (3, 3, 3, 3), 16), 9),
    "outside": (attrs((2, 2), (5, 1), (1, 1), (4, 0, 4, 0), 16), 1),
}


def patches_graph() -> Graph:
    """Every case with bytes copied exactly and with a change of type."""
    builder = Builder("patches")
    for case, channels in CASES.values():
        shape = (case["count"] * case["size"][0] * case["size"][1], channels)
        builder.add("patches", [(shape, tensor_type(8, 0.1))], tensor_type(8, 0.1), case)
        builder.add("patches", [(shape, tensor_type(16, 0.001))], tensor_type(8, 0.2), case)
    return builder.quantized()


def expected(case: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """One pixel after the other."""
    samples, _, channels = x.shape
    (height, width), (out_height, out_width), (sy, sx) = case["size"], case["out"], case["strides"]
    picture = x.reshape(samples, case["count"], height, width, channels)
    y = np.zeros((samples, case["count"], out_height, out_width, len(case["taps"]), case["width"]), x.dtype)
    for oy, ox, (tap, (dy, dx)) in itertools.product(range(out_height), range(out_width), enumerate(case["taps"])):
        row, column = oy * sy + dy, ox * sx + dx
        if 0 <= row < height and 0 <= column < width:
            y[:, :, oy, ox, tap, :channels] = picture[:, :, row, column]
    return y.reshape(samples, -1, len(case["taps"]) * case["width"])


def test_reference_takes_every_pixel_from_its_place() -> None:
    for i, (case, channels) in enumerate(CASES.values()):
        builder = Builder(f"case{i}")
        shape = (case["count"] * case["size"][0] * case["size"][1], channels)
        name = builder.add("patches", [(shape, tensor_type(16))], tensor_type(16), case)
        x = np.random.default_rng(i).standard_normal((2, *shape))
        np.testing.assert_array_equal(run_reference(builder.graph, {f"{name}.0": x})[f"{name}.y"], expected(case, x))


def test_golden_copies_exactly_or_within_half_a_step() -> None:
    graph = patches_graph()
    feeds = random_feeds(graph, 3)
    found = run_golden(graph, feeds)
    for i, (node, (case, _)) in enumerate(zip(graph.nodes, [case for case in CASES.values() for _ in range(2)], strict=True)):
        x, y = expected(case, feeds[node.inputs[0]]), graph.type(node.output)
        if i % 2 == 0:
            np.testing.assert_array_equal(found[node.output], x)
        else:
            inside = np.clip(x * 0.001 / y.scale, *y.range)
            assert (np.abs(found[node.output] - inside) <= 0.5 + np.abs(inside) * 2**-16).all()


@pytest.mark.parametrize(
    ("types", "design"), [("native", Design.of(8, 8, 4)), ("native", Design.of(16, 16, 8)), ("ap", Design.of(4, 8, 4))]
)
def test_cpp_equals_golden(types: str, design: Design) -> None:
    graph = patches_graph()
    assert_exact(graph, random_feeds(graph, 3), design, types=types)


def test_windows_count_the_positions_inside() -> None:
    for offset, stride, size, out in itertools.product(range(-5, 6), (1, 2, 3), (1, 4), (1, 5)):
        inside = [o for o in range(out) if 0 <= o * stride + offset < size]
        window = Window.of(offset, stride, size, out)
        assert list(range(window.first, window.last)) == inside
        assert not inside or window.start == inside[0] * stride + offset


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GraphError, match="1 pictures of 2 x 2 and taps of 16 channels do not fit an input of 5 x 4"):
        Builder("bad").add("patches", [((5, 4), tensor_type(8))], tensor_type(8), attrs((2, 2), (1, 1), (1, 1), (0, 0, 0, 0), 16))


def test_a_planted_bug_is_caught() -> None:
    graph = patches_graph()
    feeds = random_feeds(graph, 4)
    found = simulate(graph, feeds, patch={"patches.hpp": ("inside ? in.v[l] : XT(0)", "in.v[l]")})
    assert any((found[name] != array).any() for name, array in run_golden(graph, feeds).items())
