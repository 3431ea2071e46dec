"""Programs that run steps for each entry of a queue of experts: golden in C++ and in time, whatever the routing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.codegen.data import pack_region, unpack_outputs, write_run_data
from attnc.codegen.listing import listing
from attnc.codegen.render import write_sources
from attnc.golden import run_golden
from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.schedule.cost import Estimate, estimate
from attnc.schedule.devices import find_board
from attnc.schedule.program import Program, build_program
from attnc.schedule.queues import Queue
from attnc.sim.program import load_listing
from attnc.sim.simulator import Simulator, in_styles, open_simulator
from attnc.weights import WeightFormat
from mixture_cases import feeds_of, integers, mixture, mixtures_graph, quantized

WIDTH, HIDDEN, TOKENS = 32, 48, 21
CASES = [(8, 2, TOKENS), (5, 1, TOKENS), (6, 3, TOKENS), (20, 4, TOKENS), (8, 2, 1)]
"""Experts, those of a token, tokens."""
ROUTERS: dict[int, dict[str, Any]] = {
    5: {"gated": True, "activation": "silu"},
    6: {"groups": 3, "kept_groups": 2},
    20: {"score": "sigmoid", "selection_bias": np.linspace(-1, 1, 20), "groups": 4, "kept_groups": 2, "group_best": 2, "left_out": 0.0},
}
"""What is not usual, by the number of experts."""
FORMATS = [("int8", 0), ("ternary", 0), ("int4", 16), ("int2", 0), ("ternary", 16)]
"""Of their weights, with the weights that share a scale: all on one engine."""
DESIGNS = {
    "turns": Design.of(8, 16, 8, 2, rows_at_once=3, beat=2),
    "narrow": Design.of(16, 16, 64, 2),
    "parallel": Design.of(8, 16, 8, 2, rows_at_once=2, beat=2, weight_ports=2, copies=2, parallel=2),
}


def routed(graph: Graph, samples: int, seed: int) -> dict[str, Array]:
    """Inputs for routings of all kinds: any, all experts alike, all tokens to the same ones, none to some, few different numbers."""
    rng = np.random.default_rng(seed)
    feeds = integers(graph, feeds_of(graph, samples, seed))
    for name in graph.inputs:
        if name.startswith("logits"):
            logits = feeds[name]
            _, rows, experts = logits.shape
            logits[1] = 7
            logits[2] = rng.permutation(experts)
            logits[3, :, rng.permutation(experts)[: experts // 2]] = -9999
            logits[4] = rng.integers(0, 2, (rows, experts))
    return feeds


@pytest.fixture(scope="module")
def graph() -> Graph:
    several = [(mixture(e, WIDTH, HIDDEN, k=k, **ROUTERS.get(e, {})), tokens) for e, k, tokens in CASES]
    found = mixtures_graph(several, WIDTH)
    return quantized(found, feeds_of(found, 8), {f"x{number}": WeightFormat.parse(*one) for number, one in enumerate(FORMATS)})


@pytest.fixture(scope="module", params=[pytest.param(name, marks=[] if name == "turns" else pytest.mark.slow) for name in DESIGNS])
def built(request: pytest.FixtureRequest, graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Simulator]]:
    folder = tmp_path_factory.mktemp(request.param)
    program, cost = write(graph, DESIGNS[request.param], folder)
    del cost
    found = load_listing(folder)
    with open_simulator(folder, found.timing(), found) as simulator:
        yield program, simulator


def write(graph: Graph, design: Design, folder: Path) -> tuple[Program, Estimate]:
    """What a simulation in time needs, with one sample of zeros."""
    board, data = find_board("zcu102"), folder / "hls" / "data"
    data.mkdir(parents=True)
    with open(data / "weights.bin", "wb") as weights:
        program = build_program(graph, design, weights.write)
    cost = estimate(program, board, 300)
    write_sources(program, folder / "hls", board.part, 300, cost)
    write_run_data(graph, program, data)
    (folder / "hls" / "program.json").write_text(json.dumps(listing(program, cost)))
    return program, cost


def rows_of(graph: Graph, feeds: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    """The routing of a sample."""
    seen: dict[str, Array] = {}
    run_golden(graph, feeds, seen.__setitem__)
    return {node.each: tuple(int(count) for count in seen[node.each][0, :, 2] if count) for node in graph.nodes if node.each}


def test_every_routing_is_exact_in_time(graph: Graph, built: tuple[Program, Simulator]) -> None:
    program, simulator = built
    feeds = routed(graph, 7, 0)
    expected = run_golden(graph, feeds)
    images = pack_region(graph, program, program.memory.inputs, graph.inputs, feeds)
    board = find_board("zcu102")
    for sample, image in enumerate(images):
        found = in_styles(lambda style, image=image: simulator.outputs(image, style))  # type: ignore[misc, arg-type, return-value]
        for outputs, run in found:  # type: ignore[misc, attr-defined]
            assert run.deadlock is None
            made = unpack_outputs(graph, program, outputs[None])
            for name in graph.outputs:
                np.testing.assert_array_equal(made[name][0], expected[name][sample], err_msg=f"{name} of sample {sample}")
        routing = rows_of(graph, {name: array[sample : sample + 1] for name, array in feeds.items()})
        told = estimate(replace(program, routing=routing), board, 300, ports=simulator.timing.ports).cycles
        assert abs(told / found[0][1].cycles - 1) < 0.1, (sample, told, found[0][1].cycles)  # type: ignore[index]


def test_entries_are_cut_into_blocks() -> None:
    queue = Queue(0, 4, 13, 4)
    assert queue.balanced() == (4, 3, 3, 3)
    found = queue.settings((9, 4))
    assert [(one["expert"], one["start"], one["rows"] + 4) for one in found] == [(0, 0, 4), (0, 4, 4), (0, 8, 1), (1, 9, 4)]


def test_empty_experts_and_more_experts_cost_nothing(graph: Graph) -> None:
    """As many instructions and as much hardware; a token costs its experts."""
    design = DESIGNS["turns"]
    few, many = (
        build_program(quantized(found, feeds_of(found, 2)), design, None)
        for found in (mixtures_graph([(mixture(count, WIDTH, HIDDEN, k=2), 1)], WIDTH) for count in (4, 16))
    )
    assert len(few.steps) == len(many.steps) and few.instruction_ints == many.instruction_ints
    board = find_board("zcu102")
    one, other = (sum(call.cycles for call in estimate(program, board, 300).calls if call.node != "mixture") for program in (few, many))
    assert abs(one - other) < 40
