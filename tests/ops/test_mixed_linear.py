"""linear layers of different formats on one engine: what its buffer of weights holds is as wide as the widest, and narrow ones fill it."""

from __future__ import annotations

import pytest

from attnc.golden import run_golden
from attnc.kernels.design import Design
from attnc.kernels.kernel import KernelCall
from attnc.schedule.program import build_program
from harness import assert_exact, random_feeds, simulate
from low_bit import Spec, low_bit_graph

DESIGNS = [Design.of(8, 16, 4, rows_at_once=3, beat=2), Design.of(8, 32, 64, rows_at_once=2, beat=2, weight_ports=4), Design.of(4, 4, 3)]


def beside_bytes(*names: str, rows: int = 2) -> list[Spec]:
    """Bytes of few tiles, and of each format layers of more: 0 to 3 tiles are left of the last unit, with a scale and with more."""
    sizes = [(0, 128), (0, 137), (32, 144), (32, 152)]
    return [
        ("int8", 0, (3, 40, 33), "dsp"),
        *((name, group, (rows, k, 20 + 9 * i), "dsp") for name in names for i, (group, k) in enumerate(sizes)),
    ]


def kernel(specs: list[Spec], design: Design) -> KernelCall:
    """That serves them all."""
    program = build_program(low_bit_graph(specs), design, None)
    assert len(program.engines) == 1
    return program.engines[0].kernel


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_cpp_equals_golden(design: Design) -> None:
    graph = low_bit_graph(beside_bytes("ternary", "int2", "int3", "int4", "int6"), extreme=True)
    assert_exact(graph, random_feeds(graph, 3), design)


@pytest.mark.parametrize("names", [("ternary",), ("int4",), ("int2",)], ids=str)
def test_ap_types_equal_golden(names: tuple[str, ...]) -> None:
    graph = low_bit_graph(beside_bytes(*names))
    assert_exact(graph, random_feeds(graph, 2), DESIGNS[0], types="ap")


def test_inputs_of_two_bytes() -> None:
    graph = low_bit_graph(beside_bytes("ternary", "int4", "int2"), wide=True)
    assert_exact(graph, random_feeds(graph, 3), DESIGNS[0])


@pytest.mark.parametrize(
    ("wide", "narrow", "bits", "units"),
    [
        ("int8", "ternary", 8, 10),
        ("int8", "int4", 8, 15),
        ("int8", "int3", 8, 15),
        ("int8", "int2", 8, 8),
        ("int6", "int2", 6, 15),
        ("int4", "int2", 4, 15),
        ("int6", "int4", 6, 30),
        ("ternary", "int4", 6, 30),
        ("int8", "int6", 8, 30),
    ],
)
def test_narrow_weights_fill_the_buffer(wide: str, narrow: str, bits: int, units: int) -> None:
    """Of 5 tiles, and of 30."""
    specs: list[Spec] = [(wide, 0, (1, 40, 16), "dsp"), (narrow, 0, (1, 240, 16), "dsp")]
    found = kernel(specs, DESIGNS[0])
    assert (found.arg("STORED"), found.arg("UNITS_MAX")) == (bits, units)
    memory = next(memory for memory in found.storage.memories if memory.name == "w_buffer")
    assert (memory.depth, memory.width, memory.banks) == (2 * units, bits * 8, 16)


def test_nothing_is_chosen_where_it_saves_nothing() -> None:
    """One format, or wide weights of as many tiles."""
    for specs in ([("int4", 0, (1, 240, 16), "dsp")], [("int8", 0, (1, 240, 16), "dsp"), ("int4", 0, (1, 240, 16), "dsp")]):
        found = kernel(specs, DESIGNS[0])
        assert found.arg("HALVES") == found.arg("QUARTERS") == 0 and found.arg("UNITS_MAX") == 30


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("ternary", "in_unit + 1 == call.unit_tiles ? 0", "in_unit + 1 == 2 ? 0"),
        ("ternary", "whole_beats : tail_beats)", "whole_beats : whole_beats)"),
        ("int4", ">> (4 * tile)", ">> (2 * tile)"),
        ("int3", "bits == 3 ? code >> 3", "bits == 4 ? code >> 3"),
        ("int2", "(unit_tiles > 2 || bits == 2)", "unit_tiles > 4"),
    ],
)
def test_a_planted_bug_is_caught(name: str, old: str, new: str) -> None:
    graph = low_bit_graph(beside_bytes(name))
    feeds = random_feeds(graph, 2)
    try:
        found = simulate(graph, feeds, DESIGNS[0], patch={"linear.hpp": (old, new)})
    except AssertionError as error:
        assert "hls::stream" in str(error)  # too many words, or too few
    else:
        expected = run_golden(graph, feeds)
        assert any((found[name] != expected[name]).any() for name in graph.outputs)
