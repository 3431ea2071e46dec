"""linear whose weights arrive through several memory ports, up to 8 words per cycle: C++ against golden in every format, bytes in memory,
the cycles, and the graphs that have no use for a second port."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import attnc.schedule.prefetch as prefetch_module
from attnc.codegen.render import write_sources
from attnc.golden import run_golden
from attnc.kernels.design import Design
from attnc.kernels.linear import SETTLE
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import NEXT
from attnc.kernels.storage import fifo
from attnc.ops import operator
from attnc.ops.packing import BATCH_WEIGHTS, Layout, pack
from attnc.schedule.cost import LOADER, PORT, Estimate, engine_resources, estimate
from attnc.schedule.design import choose_design, smaller_designs
from attnc.schedule.devices import BOARDS
from attnc.schedule.program import Program, build_program
from attnc.schedule.turns import TURN
from attnc.schedule.work import HELD
from harness import assert_exact, random_feeds, simulate
from low_bit import Spec, low_bit_graph
from schedule.graphs import layer_graph, transformer_graph
from schedule.test_prefetch import check, products
from synthesis.compilers import warnings_of_builds

KV260 = BOARDS["kv260"]
DESIGNS = [
    Design.of(4, 4, 5, 4, rows_at_once=5, beat=2, weight_ports=2),
    Design.of(4, 8, 64, 4, beat=2, weight_ports=2),
    Design.of(4, 12, 6, 4, rows_at_once=2, beat=2, weight_ports=2),
    Design.of(8, 8, 16, 4, rows_at_once=16, beat=2, weight_ports=2),
    Design.of(8, 16, 4, 4, rows_at_once=3, beat=2, weight_ports=2),
    Design.of(8, 32, 64, 4, rows_at_once=5, beat=2, weight_ports=2),
    Design.of(8, 32, 64, 4, rows_at_once=3, beat=2, weight_ports=4),
    Design.of(4, 8, 6, 4, rows_at_once=2, beat=2, weight_ports=4),
    Design.of(8, 16, 5, 4, rows_at_once=2, weight_ports=4),
]
"""PE of 1 to 4 tiles; less than a block of rows, one, and several."""


def shapes() -> list[Spec]:
    """K and N of odd and even numbers of tiles, most of them not full; fewer channels than the engine has, and 1."""
    sizes = [(1, 1, 1), (3, 96, 48), (5, 33, 47), (17, 200, 70), (4, 80, 130), (2, 72, 24)]
    return [("int8", 0, size, "dsp") for size in sizes]


def packed() -> list[Spec]:
    """Of fewer bits, some with multipliers, between layers of bytes: each run brings the first weights of the next one."""
    formats = [("ternary", 0), ("int8", 32), ("int4", 32), ("int5", 0), ("ternary", 64), ("int3", 0), ("int2", 32), ("int8", 0)]
    return [(name, group, (1 + i, 50 + 23 * i, 19 + 9 * i), "dsp") for i, (name, group) in enumerate(formats)]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_cpp_equals_golden(design: Design) -> None:
    """Beside tables, whose weights come word by word."""
    graph = low_bit_graph([*shapes(), ("ternary", 0, (2, 50, 20), "lookup")])
    assert width(build_program(graph, design, None)) == design.beat * design.linear.weight_ports
    assert_exact(graph, random_feeds(graph, 3), design)


@pytest.mark.parametrize("design", DESIGNS[2:], ids=str)
def test_every_format(design: Design) -> None:
    graph = low_bit_graph(packed())
    assert width(build_program(graph, design, None)) == design.beat * design.linear.weight_ports
    assert_exact(graph, random_feeds(graph, 3), design)


def test_ap_types_of_every_format() -> None:
    graph = low_bit_graph(packed(), extreme=True)
    assert_exact(graph, random_feeds(graph, 2), DESIGNS[7], types="ap")


@pytest.mark.parametrize("design", [DESIGNS[0], DESIGNS[4]], ids=str)
def test_ap_types_equal_golden(design: Design) -> None:
    graph = low_bit_graph([("int8", 0, size, "dsp") for size in ((3, 56, 19), (2, 70, 30))], extreme=True)
    assert_exact(graph, random_feeds(graph, 3), design, types="ap")


def test_inputs_of_two_bytes() -> None:
    graph = low_bit_graph(shapes(), wide=True)
    assert_exact(graph, random_feeds(graph, 3), DESIGNS[4])


def test_the_next_operand_comes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of rows, and an engine of two operands."""
    monkeypatch.setattr(prefetch_module, "START", 0)
    graph, design = products(2, 32, 64, 64), Design.of(8, 16, 16, 2, rows_at_once=8, beat=2, weight_ports=2)
    program = build_program(graph, design, None)
    assert check(program) and program.engines[0].kernel.arg("X_SIDES") == 2 and width(program) == 4
    assert_exact(graph, random_feeds(graph, 2), design)


@pytest.mark.parametrize(
    "design", [Design.of(4, 4, 5, 4, rows_at_once=2, weight_ports=2), Design.of(8, 16, 64, 4, weight_ports=2)], ids=str
)
def test_two_ports_of_single_words(design: Design) -> None:
    """Where a word is as wide as a port, two of them come per cycle."""
    graph = low_bit_graph(shapes())
    assert width(build_program(graph, design, None)) == 2
    assert_exact(graph, random_feeds(graph, 2), design)


@pytest.mark.parametrize("parallel", [1, 2])
@pytest.mark.parametrize("types", ["native", "ap"])
def test_in_a_chain(parallel: int, types: str) -> None:
    """Beside other kernels and their streams, in engines that take turns and that run at the same time."""
    graph, design = transformer_graph(1), Design.of(8, 8, 6, 2, rows_at_once=3, beat=2, copies=2, parallel=parallel, weight_ports=2)
    assert width(build_program(graph, design, None)) == 4
    assert_exact(graph, random_feeds(graph, 2), design, types=types)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("memory.hpp", "(runs.first + part * runs.apart) / W", "runs.first / W"),
        ("memory.hpp", "words.v[part * L + l] = in.v[l];", "words.v[l] = in.v[l];"),
        ("memory.hpp", "beats = runs.count / (2 * W) +", "beats = runs.count / (2 * W) - 1 +"),
        ("linear.hpp", "[row][load_k]", "[3 - row][load_k]"),
        ("linear.hpp", "record_slots = PE * 8 / L / W_WORDS, weight", "record_slots = PE * 8 / L / 2, weight"),
    ],
)
def test_a_planted_bug_is_caught(file: str, old: str, new: str) -> None:
    graph = low_bit_graph([("int8", 0, (3, 96, 23), "dsp")])
    feeds = random_feeds(graph, 2)
    try:
        found = simulate(graph, feeds, Design.of(4, 12, 4, beat=2, weight_ports=2), patch={file: (old, new)})
    except AssertionError as error:
        assert "hls::stream" in str(error)  # too many words, or too few
    else:
        assert (found["y0"] != run_golden(graph, feeds)["y0"]).any()


def test_memory_by_hand() -> None:
    """Two blocks of 8 channels, 4 lanes: 16 words of records, then 2 times 4 channels that take turns; the even beats of both blocks lie
    before the odd ones. The last of 13 channels is followed by zeros."""
    layout = Layout(4, 8, 1, "bytes", 8, turns=4, ports=2)
    q = np.arange(13 * 12, dtype=np.uint8).reshape(13, 12).view(np.int8)
    record = np.arange(128, 128 + 13 * 8, dtype=np.uint8).reshape(13, 8)
    whole, records = np.zeros((16, 12), np.uint8), np.zeros((16, 8), np.uint8)
    whole[:13], records[:13] = q.view(np.uint8), record
    words: list[np.ndarray] = []
    for block in (0, 8):
        words += list(records[block : block + 8].reshape(-1, 4))
        words += [whole[first + row, 4 * tile : 4 * tile + 4] for first in (block, block + 4) for tile in range(3) for row in range(4)]
    beats = np.stack(words).reshape(-1, 8)
    assert len(words) == 2 * layout.words(3)
    np.testing.assert_array_equal(np.frombuffer(b"".join(pack(layout, q, record)), np.uint8).reshape(-1, 8), np.r_[beats[::2], beats[1::2]])


def test_memory_does_not_grow_with_the_channels() -> None:
    """A layer of several batches is packed as one of one batch is, in parts of the size of a batch."""
    rng, (n, k) = np.random.default_rng(1), (2200, 1024)
    layout, q = Layout(8, 16, 1, "bytes", 8, turns=4, ports=2), rng.integers(-128, 128, (n, k)).astype(np.int8)
    record = rng.integers(0, 256, (n, 8)).astype(np.uint8)
    parts = list(pack(layout, q, record))
    assert len(parts) > 4 and max(map(len, parts)) < BATCH_WEIGHTS
    whole = b"".join(parts)
    assert len(whole) == 8 * layout.words(k // 8) * -(-n // 16)
    beats = np.frombuffer(whole, np.uint8).reshape(2, -1, 16).swapaxes(0, 1).reshape(-1)
    one = Layout(8, 16, 1, "bytes", 8, turns=4)
    np.testing.assert_array_equal(beats, np.frombuffer(b"".join(pack(one, q, record)), np.uint8))


def lowering(graph: object, design: Design) -> Lowering:
    """Where offsets do not matter."""
    return Lowering(graph, design, dict.fromkeys(graph.values, 0), lambda key, make: 0)  # type: ignore[attr-defined, arg-type]


def test_cycles_are_those_of_the_kernel() -> None:
    """By hand, and in the kernel: with a cycle less it does not load all."""
    tiles, design = 13, Design.of(8, 16, 64, rows_at_once=64, beat=2, weight_ports=2)
    graph = low_bit_graph([("int8", 0, (64, tiles * 8, 64), "dsp")])
    call = operator(graph.nodes[0]).lower(graph.nodes[0], lowering(graph, design))[0]
    load, rows, sums = 16 // 4 + 16 // 4 * tiles, 64 * 2, 64 * tiles
    names = call.kernel.network.names(call.kernel.args, {**call.scalars, "w_ready": 0, **dict.fromkeys(NEXT, 0)})
    accumulate, rescale = call.kernel.network.processes
    computing = 3 * max(load + SETTLE, rows) + max(load, rows)
    assert names.records + names.weights == load and accumulate.loops[0].runs(names) == ((1, sums + SETTLE + computing),)
    assert accumulate.loops[0].late(names) == ((1, 2 * 64),) and accumulate.loops[0].going_on(names) == computing
    assert rescale.loops[0].late(names) == ((1, 4 * 16 // 4 + 64 * 8 + 64 * 2 + SETTLE),)
    feeds, whole = random_feeds(graph, 2), "weight_slots = call.weights"
    expected = run_golden(graph, feeds)["y0"]
    for slots, right in ((load, True), (load - 1, False)):
        patch = {"linear.hpp": (whole, f"weight_slots = {slots - 16 // 4}")}
        try:
            found = simulate(graph, feeds, design, patch=patch)
        except AssertionError as error:
            assert not right and "hls::stream" in str(error)
        else:
            assert right == bool((found["y0"] == expected).all())


def width(program: Program) -> int:
    """Words of weights per cycle of the multipliers."""
    return max(engine.kernel.arg("W_WORDS") for engine in program.engines if engine.kernel.function == "linear")


def test_two_ports_take_half_the_cycles() -> None:
    """Each has an interface and a port of the board of its own, and moves half of the words."""
    graph, cost, programs = low_bit_graph([("int8", 0, (16, 512, 64), "dsp"), ("int8", 0, (4, 24, 8), "dsp")]), [], []
    for ports in (1, 2):
        parts: list[bytes] = []
        program = build_program(graph, Design.of(8, 16, 64, rows_at_once=16, beat=2, weight_ports=ports), parts.append)
        assert sum(map(len, parts)) == 8 * program.weight_words
        assert build_program(graph, program.design, None).weight_words == program.weight_words
        programs.append(program)
        cost.append(estimate(program, KV260, 250.0))
    assert {name for name in programs[1].pointers if "weights" in name} == {"wideweights_0", "wideweights_1"}
    assert programs[0].weight_words == programs[1].weight_words
    first, second = (next(call for call in one.calls if call.node == "n0") for one in cost)
    words = 4 * 16 * (1 + 64) + 16 * 3  # and the first weights of the layer behind it
    assert first.busy["port w"] == words // 2 and second.busy["port w"] == words // 4 and first.words == second.words
    assert first.busy["linear_accumulate"] > 1.2 * second.busy["linear_accumulate"]
    assert cost[1].ports["wideweights_0"] != cost[1].ports["wideweights_1"]
    more = [b - a for a, b in zip(*(engine_resources(p.engines[0], 8).astuple() for p in programs), strict=True)]
    kernel = [program.engines[0].slots[0].resources.lut for program in programs]  # takes wider words
    assert kernel[1] > kernel[0] and more[0] == LOADER.lut + fifo(8 * 16).lut + kernel[1] - kernel[0]
    assert cost[1].resources.lut - cost[0].resources.lut == more[0] + PORT.lut


def test_one_board_port_brings_both_halves_one_after_the_other() -> None:
    program = build_program(low_bit_graph([("int8", 0, (16, 512, 64), "dsp")]), DESIGNS[5], None)

    def cost(ports: dict[str, str]) -> Estimate:
        return estimate(program, KV260, 250.0, ports=ports)

    apart = cost({"wideweights_0": "HP0", "wideweights_1": "HP1", "load_0": "HP3"}).calls[0]
    together = cost({"wideweights_0": "HP0", "wideweights_1": "HP0", "load_0": "HP3"}).calls[0]
    # While the operand comes, so much comes of what each half has asked for ahead, or of both together.
    behind = apart.busy["port w"] + HELD - apart.busy["port x"]
    assert abs(together.busy["HP0 (w+w)"] - apart.busy["HP0 (w)"] - behind) < 2 * TURN and "HP0 (w+w)" not in apart.busy


def test_channels_that_are_no_multiple_have_one_port(tmp_path: Path) -> None:
    """As without a second port."""
    graph, design, programs = low_bit_graph([("int8", 0, (2, 70, 30), "dsp")]), Design.of(2, 6, 4, beat=2, weight_ports=2), []
    for ports in (1, 2):
        programs.append(build_program(graph, design.having(weight_ports=ports), None))
        write_sources(programs[-1], tmp_path / str(ports), part="part", clock_mhz=200)
    assert width(programs[1]) == design.beat and programs[0].engines == programs[1].engines
    assert (programs[0].encode() == programs[1].encode()).all()
    assert (tmp_path / "1" / "attnc_top.cpp").read_text() == (tmp_path / "2" / "attnc_top.cpp").read_text()


def test_the_search_takes_more_ports_where_they_help() -> None:
    graph = low_bit_graph([("int8", 0, (64, 512, 512), "dsp")])
    design = choose_design(graph, KV260, 250)
    one, chosen = (estimate(build_program(graph, d, None), KV260, 250).cycles for d in (design.having(weight_ports=1), design))
    assert design.linear.weight_ports > 1 and chosen < one


def test_a_smaller_design_may_have_one_port() -> None:
    texts = [text for text, _ in smaller_designs(DESIGNS[5])]
    assert "linear.weight_ports 2 -> 1" in texts and not any("weight_ports" in text for text, _ in smaller_designs(Design.of(beat=2)))


@pytest.mark.parametrize("parallel", [1, 2])
def test_code_compiles_without_warnings(parallel: int, tmp_path: Path) -> None:
    program = build_program(layer_graph(), Design.of(8, 16, 16, 2, rows_at_once=5, beat=2, parallel=parallel, weight_ports=2), None)
    assert width(program) == 4
    write_sources(program, tmp_path, part="part", clock_mhz=200)
    top = (tmp_path / "attnc_top.cpp").read_text()
    names = [name for name in program.pointers if name.startswith("wideweights")]
    assert len(names) == 2 and all(f"m_axi port = {name} bundle = {name} " in top for name in names)
    assert not warnings_of_builds(tmp_path, "attnc_top.cpp", "testbench.cpp")
