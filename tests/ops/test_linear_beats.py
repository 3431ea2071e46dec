"""linear whose weights arrive two words per cycle: C++ against golden in every format, the same bytes in memory, half the cycles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnc.codegen.render import write_sources
from attnc.golden import run_golden
from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.kernels.linear import SETTLE
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import NEXT
from attnc.ops import operator
from attnc.ops.linear import dsp_layout
from attnc.ops.packing import payload
from attnc.schedule.cost import estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.program import build_program
from harness import assert_exact, random_feeds, simulate
from low_bit import Spec, low_bit_graph
from synthesis.compilers import warnings_of_builds

FORMATS = ("int8", "int6", "int5", "int4", "int3", "int2", "ternary")
DESIGNS = [
    Design.of(4, 4, 3, 4, rows_at_once=2, beat=2),
    Design.of(4, 12, 5, 4, beat=2),
    Design.of(8, 8, 4, 4, rows_at_once=3, beat=2),
    Design.of(8, 32, 64, 4, beat=2),
    Design.of(16, 16, 64, 4, rows_at_once=4, beat=2),
    Design.of(16, 64, 64, 4, rows_at_once=16, beat=2),
]
"""PE = L, where a word holds the multipliers of all channels; odd and even multiples of it."""


def every_format() -> list[Spec]:
    """Each without groups, with 3 of them (an odd number of words where PE = L) and with more; K and N of odd and even numbers of tiles,
    most of them not full; ternary units of 1, 2 and 3 tiles at the end."""
    shapes = [(1, 1, 1), (3, 96, 48), (5, 33, 47), (2, 200, 70), (4, 80, 130)]
    specs: list[Spec] = []
    for i, name in enumerate(FORMATS):
        specs.append((name, 0, shapes[i % 5], "dsp"))
        specs.append((name, 32, (1 + i % 4, 70 + 3 * i, 20 + 13 * i), "dsp"))
        specs.append((name, 64, (2, 150 + 37 * i, 33), "dsp"))
    return specs + [("ternary", 0, (2, tiles * 16, 40), "dsp") for tiles in (1, 2, 3)]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_cpp_equals_golden(design: Design) -> None:
    """Beside tables, whose weights come word by word."""
    graph = low_bit_graph([*every_format(), ("ternary", 0, (2, 50, 20), "lookup"), ("int4", 32, (2, 70, 20), "lookup")])
    assert_exact(graph, random_feeds(graph, 3), design)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_alone(name: str) -> None:
    """On an engine that has the hardware for this one only."""
    graph = low_bit_graph([(name, 0, (5, 56, 47), "dsp"), (name, 0, (3, 8, 8), "dsp")], extreme=True)
    assert_exact(graph, random_feeds(graph, 3), Design.of(8, 16, 4, rows_at_once=2, beat=2))


@pytest.mark.parametrize("design", [Design.of(4, 12, 4, rows_at_once=3, beat=2), Design.of(8, 8, 4, beat=2)], ids=str)
def test_ap_types_equal_golden(design: Design) -> None:
    graph = low_bit_graph([(name, size, (2, 70, 19), "dsp") for name in ("int8", "int3", "ternary") for size in (0, 32)])
    assert_exact(graph, random_feeds(graph, 3), design, types="ap")


@pytest.mark.parametrize(
    ("spec", "old", "new"),
    [
        (("int8", 0), "[row][load_k]", "[1 - row][load_k]"),
        (("int5", 0), "word % W_WORDS), bit)", "0), bit)"),
        (("ternary", 0), "digits[tile] + UInt<8>(3)", "digits[tile] + UInt<8>(2)"),
        (("int4", 32), "(g * PE + pe) % BEAT]", "pe % L]"),
        (("int4", 32), "scale_part + 1 == SCALE_PARTS", "scale_part == SCALE_PARTS"),
    ],
)
def test_a_planted_bug_is_caught(spec: tuple[str, int], old: str, new: str) -> None:
    graph = low_bit_graph([(*spec, (3, 96, 23), "dsp")])
    feeds = random_feeds(graph, 2)
    try:
        found = simulate(graph, feeds, Design.of(4, 12, 4, beat=2), patch={"linear.hpp": (old, new)})
    except AssertionError as error:
        assert "hls::stream" in str(error)  # too many words, or too few
    else:
        assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()


def lowering(graph: Graph, design: Design) -> Lowering:
    """Where offsets do not matter."""
    return Lowering(graph, design, dict.fromkeys(graph.values, 0), lambda key, make: 0)


@pytest.mark.parametrize("name", FORMATS)
def test_memory_holds_the_same_bytes(name: str) -> None:
    """Bytes take turns in pairs of channels, everything else lies as it does for one word per cycle; nothing is filled up."""
    graph = low_bit_graph([(name, 32, (1, 100, 50), "dsp")])
    node, packed = graph.nodes[0], []
    for beat in (1, 2):
        layout = dsp_layout(node, lowering(graph, Design.of(8, 16, 4, beat=beat)))
        packed.append(np.frombuffer(b"".join(payload(node, layout)), np.uint8).reshape(4, -1))
        assert packed[-1].shape[1] == 8 * layout.words(13)
    if name == "int8":
        at, end = 16 * 4, -16 * 8  # multipliers before the weights, records behind them
        np.testing.assert_array_equal(packed[1][:, :at], packed[0][:, :at])
        np.testing.assert_array_equal(packed[1][:, end:], packed[0][:, end:])
        rows, turns = packed[0][:, at:end].reshape(4, 8, 2, 13, 8), packed[1][:, at:end].reshape(4, 8, 13, 2, 8)
        np.testing.assert_array_equal(turns, rows.transpose(0, 1, 3, 2, 4))
    else:
        np.testing.assert_array_equal(packed[1], packed[0])


WORDS_PER_TILE = {"int8": 16, "int6": 12, "int5": 10, "int4": 8, "int3": 6, "int2": 4, "ternary": 10 / 3}
"""Words of a tile of 16 channels."""


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("beat", [1, 2])
def test_cycles_are_those_of_the_kernel(name: str, beat: int) -> None:
    """By hand, and in the kernel: with a cycle less it does not load all."""
    tiles, design = 12, Design.of(8, 16, 64, rows_at_once=64, beat=beat)
    graph = low_bit_graph([(name, 32, (64, tiles * 8, 64), "dsp")])
    call = operator(graph.nodes[0]).lower(graph.nodes[0], lowering(graph, design))[0]
    load = 16 // beat + 3 * 2 // beat + round(tiles * WORDS_PER_TILE[name] / beat)
    rows, sums = 64 * 2, 64 * tiles
    names = call.kernel.network.names(call.kernel.args, {**call.scalars, "w_ready": 0, **dict.fromkeys(NEXT, 0)})
    accumulate, rescale = call.kernel.network.processes
    computing = 3 * max(load + SETTLE, rows) + max(16 // beat, rows)
    first = max(load - 16 // beat, sums) + SETTLE
    assert names.records + names.weights == load and accumulate.loops[0].runs(names) == ((1, first + computing),)
    assert accumulate.loops[0].late(names) == ((1, 2 * 64),) and accumulate.loops[0].going_on(names) == computing
    assert rescale.loops[0].late(names) == ((1, 4 * 16 // beat + 64 * 8 + 64 * 2 + SETTLE),)
    feeds, whole = random_feeds(graph, 2), "weight_slots = call.weights"
    expected = run_golden(graph, feeds)["y0"]
    for slots, right in ((load, True), (load - 1, False)):
        try:
            found = simulate(
                graph,
                feeds,
                design,
                patch={"linear.hpp": (whole, f"weight_slots = {slots - 16 // beat}")},
            )
        except AssertionError as error:
            assert not right and "hls::stream" in str(error)
        else:
            assert right == bool((found["y0"] == expected).all())


def test_a_port_of_two_words_takes_half_the_cycles() -> None:
    """It has an interface of its own; packed words of other kernels keep theirs, and offsets are even."""
    graph = low_bit_graph([("int8", 0, (64, 512, 64), "dsp"), ("ternary", 0, (4, 24, 8), "lookup"), ("int8", 0, (4, 24, 8), "dsp")])
    cost = {}
    for beat in (1, 2):
        parts: list[bytes] = []
        program = build_program(graph, Design.of(8, 16, 64, rows_at_once=16, beat=beat), parts.append)
        assert sum(map(len, parts)) == 8 * program.weight_words and program.weight_words % 2 == 0
        assert build_program(graph, program.design, None).weight_words == program.weight_words
        for instruction in program.instructions:
            assert all(instruction.walk(stream).offset % 2 == 0 for stream in instruction.engine.streams if stream.kind == "words")
        assert {name: words for name, words in program.pointers.items() if "weights" in name} == (
            {"weights_0": 1} if beat == 1 else {"weights_0": 2, "wideweights_0": 2}
        )
        cost[beat] = next(c for c in estimate(program, BOARDS["kv260"], 250.0).calls if c.node == "n0")
    words = 4 * 16 * (1 + 64) + 16 * 3  # and the first weights of the layer behind it
    assert [cost[beat].busy["port w"] for beat in (1, 2)] == [words, words // 2]
    assert cost[1].words == cost[2].words
    assert cost[1].busy["linear_accumulate"] > 1.2 * cost[2].busy["linear_accumulate"]


def test_code_compiles_without_warnings(tmp_path: Path) -> None:
    program = build_program(low_bit_graph(every_format()), DESIGNS[1], None)
    write_sources(program, tmp_path, part="part", clock_mhz=200)
    assert not warnings_of_builds(tmp_path, "attnc_top.cpp", "testbench.cpp")
