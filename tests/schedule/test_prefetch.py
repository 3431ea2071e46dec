"""Operands that are brought while the kernel computes with another one: which, when, where they lie, and that C++ equals golden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import attnc.schedule.prefetch as prefetch_module
from attnc.golden import run_golden
from attnc.ir import Graph, GraphError, Node
from attnc.kernels.design import Design
from attnc.schedule.cost import estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.engine import Instruction
from attnc.schedule.overlap import overlap
from attnc.schedule.program import Program, build_program
from harness import assert_exact, quantized, random_feeds, simulate, tensor_type
from schedule.graphs import layer_graph
from schedule.random_graphs import random_graph

BYTE = tensor_type(8, 2.0**-5)


@pytest.fixture(autouse=True)
def _starting_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small programs bring operands wherever they can."""
    monkeypatch.setattr(prefetch_module, "START", 0)


def products(count: int = 4, rows: int = 24, width: int = 256, last: int = 256) -> Graph:
    """Linear layers, one behind the other, of `width` channels, and of `last` ones in the end."""
    rng = np.random.default_rng(2)
    graph = Graph("products", inputs=["v0"], outputs=[f"v{count}"])
    graph.add_value("v0", (rows, width))
    for i in range(count):
        outputs = last if i + 1 == count else width
        graph.add_value(f"v{i + 1}", (rows, outputs))
        params = {"weight": rng.normal(size=(outputs, width)) / np.sqrt(width), "bias": rng.normal(size=outputs)}
        graph.nodes.append(Node(f"n{i}", "linear", [f"v{i}"], f"v{i + 1}", params=params))
    return quantized(graph, dict.fromkeys(graph.values, BYTE))


def check(program: Program) -> int:
    """Go through the program: what does each side hold, and is it what the instruction needs? How many operands were brought."""
    held: dict[tuple[int, int], tuple[object, int]] = {}
    brought = 0
    for place, one in enumerate(program.instructions):
        slot = one.engine.operand_slot
        if slot is None or (one.own and one.calls[slot] is None):
            continue
        if not one.ready:
            held[one.engine.index, one.side] = (one.chain, one.block), place
        if one.own:
            chain, _ = held[one.engine.index, one.side]
            assert one.chain.links[0].kept is not None or chain == (one.chain, one.block), one.chain.text
        if one.brings is not None:
            assert not one.own or one.brings.side != one.side, "the operand in use is written over"
            held[one.engine.index, one.brings.side] = (one.brings.chain, one.brings.block), place
            brought += bool(one.own)
            behind = next(i for i in range(place, len(program.instructions)) if is_run(program.instructions[i], one.brings))
            between = [replace(one, brings=None), *program.instructions[place + 1 : behind]] if one.own else []
            written, read = ([walk for other in between for walk in other.moves(kind)] for kind in ("store", "load"))
            assert not any(overlap(a, b) for a in one.brings.operand_reads() for b in written), "read before it is written"
            assert not any(overlap(a, b) for a in one.brings.operand_writes() for b in written + read), "written over too early"
    return brought


def is_run(one: Instruction, wanted: Instruction) -> bool:
    """Whether `one` computes with the operand of `wanted`."""
    return bool(one.own) and one.chain is wanted.chain and one.block == wanted.block


@pytest.mark.parametrize(("rows", "brought"), [(36, 0), (18, 7), (12, 11)])
def test_the_next_block_comes_while_this_one_computes(rows: int, brought: int) -> None:
    """All but the first; with one block of rows, each needs the whole of the one before."""
    program = build_program(products(rows=36), Design.of(8, 8, rows, 2), None)
    assert check(program) == brought
    assert program.engines[0].kernel.arg("X_SIDES") == (2 if brought else 1)


@pytest.mark.parametrize("beat", [1, 2])
def test_what_is_stored_on_the_way_is_stored_earlier(beat: int) -> None:
    """The sum in front of a norm is read again later, and so is the norm's output: the blocks of the layer behind bring both."""
    graph = layer_graph()
    design = Design.of(8, 8, 12, 4, beat=beat)
    program = build_program(graph, design, lambda data: None)
    check(program)
    early = [one.brings for one in program.instructions if one.own and one.brings is not None]
    assert [walk for one in early for walk in one.operand_writes() if walk.vectors]
    assert_exact(graph, random_feeds(graph, 2), design)


def test_what_overlaps_costs_the_longer_of_both() -> None:
    program = build_program(products(), Design.of(8, 8, 12, 2), None)
    cost = estimate(program, BOARDS["kv260"], 250)
    before, after = cost.calls[2], cost.calls[-1]  # the last brings nothing; both find their first weights
    assert 0 < before.busy["next operand"] < before.busy["linear_accumulate"] and before.cycles == after.cycles
    assert cost.calls[0].macs == 0 and cost.macs == 4 * 24 * 256 * 256


def test_random_programs_hold_what_they_need() -> None:
    brought = [
        check(build_program(random_graph(seed), Design.of(8, 8, rows, 2), lambda data: None))
        for seed in range(40)
        for rows in (3, 4, 6, 12)
    ]
    assert sum(map(bool, brought)) > 20


@pytest.mark.parametrize(
    ("rows", "types", "seeds"), [(4, "native", (3, 7)), (6, "native", (3, 7)), pytest.param(5, "ap", (3,), marks=pytest.mark.slow)]
)
def test_code_is_exact(rows: int, types: str, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        graph = random_graph(seed)
        assert_exact(graph, random_feeds(graph, 2), Design.of(8, 8, rows, 2, rows_at_once=2, beat=2), types=types)


@pytest.mark.parametrize("rows", [16, 12])
def test_a_layer_is_exact(rows: int) -> None:
    graph = layer_graph()
    design = Design.of(8, 8, rows, 4, rows_at_once=4)
    assert check(build_program(graph, design, None))
    assert_exact(graph, random_feeds(graph, 2), design)


BUGS = [
    ("x_buffer[X_SIDES > 1 ? call.fill_side : 0]", "x_buffer[0]"),
    ("x_buffer[X_SIDES > 1 ? call.side : 0]", "x_buffer[0]"),
    ("all_trips : max_of(x_slots, R * TILES);", "all_trips : R * TILES;"),
]


@pytest.mark.parametrize(("right", "wrong"), BUGS)
@pytest.mark.parametrize("last", [8, 64])
def test_a_planted_bug_is_caught(right: str, wrong: str, last: int) -> None:
    """The last one shows where an operand comes for longer than there is to compute, as with a single tile of outputs."""
    graph = products(2, 32, 64, last) if last > 8 else products(1, 128, 64, last)
    feeds, design = random_feeds(graph, 2, corners=False), Design.of(8, 8, 16, 2, rows_at_once=16)
    assert check(build_program(graph, design, None))
    assert_exact(graph, feeds, design)
    try:
        found = simulate(graph, feeds, design, patch={"linear.hpp": (right, wrong)})
    except AssertionError as error:
        assert "hls::stream" in str(error)
    else:
        output = graph.outputs[0]
        assert (found[output] != run_golden(graph, feeds)[output]).any() or (last == 64 and "x_slots" in right)


def test_reading_too_early_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "_untouched", lambda *_: True)
    with pytest.raises(GraphError, match=r"reads 'v\d' from words of memory that hold nothing"):
        build_program(products(3, 16, 64, 64), Design.of(8, 8, 16, 2), lambda packed: None)
