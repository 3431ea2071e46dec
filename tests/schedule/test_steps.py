"""Steps of instructions that run at the same time: what depends on what, where values lie meanwhile, what it costs, and that C++ equals
golden."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from attention_cases import Case, build
from attnc.codegen.render import write_sources
from attnc.ir import GraphError
from attnc.kernels.add import ADDITION
from attnc.kernels.call import Walk
from attnc.kernels.design import Design
from attnc.kernels.kernel import KernelCall
from attnc.kernels.layer_normalization import LAYER_NORMALIZATION
from attnc.kernels.lowering import Lowering
from attnc.kernels.network import Network
from attnc.kernels.ports import IntType
from attnc.kernels.rotary import ROTARY
from attnc.schedule import prefetch as prefetch_module
from attnc.schedule import program as program_module
from attnc.schedule import steps as steps_module
from attnc.schedule.chains import whole_operands_first
from attnc.schedule.cost import estimate
from attnc.schedule.cycles import call_cost
from attnc.schedule.devices import BOARDS
from attnc.schedule.lowered import lower
from attnc.schedule.memory import WeightMemory, apart
from attnc.schedule.program import Program, build_program
from attnc.schedule.stages import by_operator, losses, stages, summary
from attnc.schedule.steps import Task, dependences, form_steps, tracks
from harness import assert_exact, random_feeds
from schedule.graphs import transformer_graph
from schedule.random_graphs import random_graph
from schedule.test_chains import shared_operand, touched, words
from synthesis.compilers import warnings_of_builds

KV260 = BOARDS["kv260"]
DESIGN = Design.of(8, 8, 6, 2, parallel=2)
SIZE = 12
"""Words of a value of the random tasks."""


def random_tasks(seed: int, count: int = 40) -> tuple[list[Task], list[int]]:
    """Tasks on three tracks that read and write pieces of values at random, some of which do not move."""
    rng = np.random.default_rng(seed)
    starts = list(range(0, 10 * SIZE, SIZE))

    def walk() -> Walk:
        counts, strides = (1, 1, int(rng.integers(1, 3)), int(rng.integers(1, 4))), (0, 0, int(rng.integers(3, 6)))
        return Walk(int(rng.choice(starts)) + int(rng.integers(0, 3)), counts, strides)

    def some() -> tuple[Walk, ...]:
        return tuple(walk() for _ in range(int(rng.integers(1, 3))))

    return [Task(int(rng.integers(3)), int(rng.integers(1, 2000)), some(), some(), rng.random() < 0.15) for _ in range(count)], starts


def run(tasks: list[Task], steps: list[tuple[int, ...]]) -> list[list[int | None]]:
    """What each task reads, every word as the number of the task that wrote it. Those of a step read before any of them writes."""
    memory: dict[int, int] = {}
    seen: dict[int, list[int | None]] = {}
    for step in steps:
        for number in step:
            seen[number] = [memory.get(word) for walk in tasks[number].loads for word in words(walk)]
        for number in reversed(step):
            memory.update((word, number) for walk in tasks[number].stores for word in words(walk))
    return [seen[number] for number in range(len(tasks))]


@pytest.mark.parametrize("seed", range(30))
def test_all_is_read_as_if_one_ran_after_the_other(seed: int) -> None:
    tasks, starts = random_tasks(seed)
    steps = form_steps(tasks, starts)
    assert run(tasks, steps) == run(tasks, [(number,) for number in range(len(tasks))])
    place = {number: at for at, step in enumerate(steps) for number in step}
    assert sorted(place) == list(range(len(tasks))) == sorted(number for step in steps for number in step)
    for step in steps:
        assert len({tasks[number].track for number in step}) == len(step)
        for one, other in combinations(step, 2):
            mine, theirs = ({word for walk in tasks[n].stores for word in words(walk)} for n in (one, other))
            assert not mine & theirs
    for one, other in combinations(range(len(tasks)), 2):
        if tasks[one].track == tasks[other].track and (tasks[one].fixed or tasks[other].fixed):
            assert place[one] < place[other]
    total = sum(max(tasks[number].cycles for number in step) for step in steps)
    assert total <= sum(task.cycles for task in tasks) and len(steps) < len(tasks)
    assert form_steps(tasks, starts) == steps


@pytest.mark.parametrize("seed", range(10))
def test_dependences_are_what_two_touch(seed: int) -> None:
    tasks, starts = random_tasks(seed)
    loads, stores = ([{word for walk in getattr(task, kind) for word in words(walk)} for task in tasks] for kind in ("loads", "stores"))
    for number, others in enumerate(dependences(tasks, starts)):
        for other in range(number):
            assert (other in others) == bool(stores[other] & (loads[number] | stores[number]) or loads[other] & stores[number])


def value(at: int) -> tuple[Walk, ...]:
    return (Walk(at, (1, 1, 1, 1), (0, 0, 0)),)


def test_the_shortest_of_all_ways() -> None:
    """A long task that is ready waits for one that it can hide."""
    tasks = [
        Task(0, 100, (), value(0)),
        Task(1, 3000, value(0), value(1)),  # ready beside the short one and beside the long one
        Task(0, 200, value(0), value(2)),
        Task(0, 2900, value(2), value(3)),
        Task(0, 50, value(1), value(4)),
    ]
    assert form_steps(tasks, list(range(5))) == [(0,), (2,), (3, 1), (4,)]


def test_few_pairs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are alike: how many walks are compared does not grow with their number."""
    compared: list[int] = []
    real = steps_module.overlap
    monkeypatch.setattr(steps_module, "overlap", lambda a, b: compared.append(1) or real(a, b))
    counts = []
    for layers in (1, 2, 4):
        compared.clear()
        build_program(transformer_graph(layers), DESIGN, None)
        counts.append(len(compared))
    assert counts[1] == counts[2] < 2 * counts[0]


def test_engines_with_the_same_static_buffers_take_turns() -> None:
    def kernel(network: Network, width: int) -> KernelCall:
        return KernelCall(network, tuple((name, IntType(width)) for name in network.processes[0].template))  # type: ignore[misc]

    norm, add = kernel(LAYER_NORMALIZATION, 16), kernel(ADDITION, 16)
    assert tracks([[norm, add], [add], [kernel(LAYER_NORMALIZATION, 8)], [norm]]) == [0, 1, 2, 0]
    rotary = kernel(ROTARY, 16)
    assert tracks([[norm], [rotary], [norm, rotary], [add]]) == [0, 0, 0, 1]


def test_kernels_that_share_a_process_take_turns() -> None:
    """Attention in one pass and in two end with the same function, and so with the same buffer of outputs."""
    graphs = [build([Case(9, 20, 2, 2, attrs={"passes": passes})]) for passes in (1, 2)]
    one, two = (build_program(graph, Design.of(8, 8, 16, 2), None).engines[0].kernel for graph in graphs)
    shared = set(one.static_functions) & set(two.static_functions)
    assert [name.split("<")[0] for name in shared] == ["attnc::attention_normalise"]
    assert tracks([[one], [two]]) == [0, 0] and tracks([[one], [two.with_arg("ROWS_MAX", 8)]]) == [0, 1]


DESIGNS = [DESIGN, Design.of(8, 8, 5, 2, beat=2, parallel=2), Design.of(8, 8, 64, 2, copies=2, parallel=2)]


def check(program: Program) -> None:
    """Word for word: engines of a step are on different tracks, store nothing that others of it touch, read what steps before stored."""
    track = {engine.index: number for number, held in enumerate(program.tracks) for engine in held}
    regions, owner = program.memory.values, {}
    for name, region in regions.items():
        if region.offset < program.memory.outputs.offset:
            owner.update(dict.fromkeys(range(region.offset, region.end), name))
    for step in program.steps:
        assert len({track[one.engine.index] for one in step}) == len(step)
        reads, writes = ([touched(one, kind) for one in step] for kind in ("load", "store"))
        for number, one in enumerate(step):
            assert {owner.get(word) for word in reads[number]} <= one.chain.reads | (one.brings.chain.reads if one.brings else set())
            assert not writes[number] & set().union(*reads, *writes[:number])
        for one, stored in zip(step, writes, strict=True):
            for name in one.chain.stores() + (one.brings.chain.stores()[:-1] if one.brings else []):
                owner.update(dict.fromkeys(stored & set(range(regions[name].offset, regions[name].end)), name))
    left: dict[int, object] = {}
    for one in program.instructions:
        kept = one.chain.links[0].kept
        assert kept is None or left[one.engine.index] == kept
        left[one.engine.index] = one.chain.main.node.inputs[0] if one.chain.heavy else left.get(one.engine.index)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_overwritten_that_runs_or_is_read_later(seed: int) -> None:
    graph = random_graph(seed)
    for design in DESIGNS:
        program = build_program(graph, design, lambda packed: None)
        alone = build_program(graph, design.having(parallel=1), None)
        check(program)
        ran, expected = (Counter(call.node for one in p.instructions for _, call in one.active) for p in (program, alone))
        assert ran == expected
        streams = [stream for engine in program.engines for stream in engine.streams]
        names = [pointer for stream in streams if not stream.shared for pointer in stream.pointers]
        assert len(set(names)) == len(names) and {pointer for stream in streams for pointer in stream.pointers} == set(program.pointers)
        owner = {pointer: engine.index for engine in program.engines for stream in engine.streams for pointer in stream.pointers}
        assert all(owner[shared] == owner[name] for name, shared in program.bundles.items() if name != "program")


def test_a_lost_dependence_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that waits for nothing comes too early."""
    graph = transformer_graph(2)
    check(build_program(graph, DESIGN, lambda packed: None))
    real = steps_module.dependences

    def forgetful(tasks: list[Task], starts: list[int]) -> list[set[int]]:
        needs = real(tasks, starts)
        return [set() if len(task.loads) == 3 else others for task, others in zip(tasks, needs, strict=True)]

    monkeypatch.setattr(steps_module, "dependences", forgetful)
    with pytest.raises(GraphError, match="from memory, which does not hold it"):
        build_program(graph, DESIGN, None)


@pytest.mark.parametrize("types", ["native", pytest.param("ap", marks=pytest.mark.slow)])
def test_a_transformer_is_exact(types: str) -> None:
    graph = transformer_graph(2)
    program = build_program(graph, DESIGN, None)
    assert max(map(len, program.steps)) == 2
    assert_exact(graph, random_feeds(graph, 3), DESIGN, types)


@pytest.mark.parametrize(("seed", "number"), [(0, 0), (3, 1), (8, 2)])
def test_random_graphs_are_exact(seed: int, number: int) -> None:
    graph = random_graph(seed)
    assert_exact(graph, random_feeds(graph, 3, seed), DESIGNS[number])


def test_kept_operands_follow_each_other() -> None:
    graph, design = shared_operand(), Design.of(8, 16, 64, 2, parallel=2)
    program = build_program(graph, design, lambda packed: None)
    check(program)
    assert [one.chain.links[0].kept for one in program.instructions] == [None, "u", "u", None]
    assert_exact(graph, random_feeds(graph, 3), design)


def test_blocks_of_an_operand_that_is_kept_do_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another product between the first block and the second would write over what the first one leaves."""
    seen: list[Task] = []

    def noting(tasks: list[Task], starts: list[int]) -> list[tuple[int, ...]]:
        seen.extend(tasks)
        return form_steps(tasks, starts)

    monkeypatch.setattr(program_module, "form_steps", noting)
    program = build_program(shared_operand(), Design.of(8, 16, 8, 2, parallel=2), lambda packed: None)
    assert [task.fixed for task in seen] == [True] * 6 + [False] * 2
    assert [one.chain.links[0].kept for one in program.instructions] == [None, None, "u", "u", "u", "u", None, None]


def test_an_operand_that_is_not_there_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "_sides", lambda runs, ways: [0] * len(runs))
    with pytest.raises(GraphError, match="computes with rows of 'u', its kernel holds others, of 'u'"):
        build_program(shared_operand(), Design.of(8, 16, 8, 2), lambda packed: None)


def test_code_does_not_grow_with_the_layers(tmp_path: Path) -> None:
    sources = []
    for layers in (2, 6):
        program, folder = build_program(transformer_graph(layers), DESIGN, None), tmp_path / str(layers)
        write_sources(program, folder, "part", 200)
        sources.append([len((folder / name).read_text()) for name in ("attnc_top.cpp", "attnc_top.hpp", "tables.hpp", "project.tcl")])
    assert sources[0] == sources[1]


def test_code_compiles_without_warnings(tmp_path: Path) -> None:
    write_sources(build_program(transformer_graph(1), DESIGN, None), tmp_path, "part", 200)
    assert not warnings_of_builds(tmp_path, "attnc_top.cpp", optimized=False)


def test_words_of_a_step() -> None:
    """Every engine has its place in a step; the integers of one that rests are zeros."""
    program = build_program(transformer_graph(1), DESIGN, None)
    code = program.encode()
    assert code.shape == (len(program.steps), program.instruction_ints)
    for row, step in zip(code, program.steps, strict=True):
        working = {one.engine.index: one for one in step}
        for engine in program.engines:
            first, end = program.places[engine.index : engine.index + 2]
            ints = list(row[first:end])
            assert ints == [1, *working[engine.index].encode()[1:]] if engine.index in working else not any(ints)
        assert not row[program.places[-1] :].any()


def test_cycles_of_a_step() -> None:
    """Its slowest instruction, or what all of them read through one port."""
    design = Design.of(8, 32, 12, 8, rows_at_once=12, parallel=2)
    program = build_program(transformer_graph(2, rows=24, width=64), design, None)
    for ports in (None, dict.fromkeys(program.bundles.values(), "HP0")):
        cost = estimate(program, KV260, 250, ports=ports)
        by_pointer = {pointer: cost.ports[shared] for pointer, shared in program.bundles.items()}
        alone = [call_cost(one, by_pointer, cost.words_per_cycle, program.fetch) for one in program.instructions]
        first = total = 0
        for step in program.steps:
            found, own = cost.calls[first : first + len(step)], alone[first : first + len(step)]
            slowest = max(own, key=lambda call: call.cycles)
            assert sum(call.hidden is None for call in found) == 1 and sum(call.counted for call in found) >= slowest.cycles
            assert len(step) > 1 or found == tuple(own) or found[0].bound == "HP0 (all streams)" or first == 0  # waited for
            assert all(
                cost.calls[call.hidden] in found and cost.calls[call.hidden].hidden is None for call in found if call.hidden is not None
            )
            assert {call.hidden for call in found} <= {None, *range(first, first + len(step))}
            total += sum(call.counted for call in found)
            first += len(step)
        assert total == cost.cycles == sum(cost.by_node().values()) < sum(call.cycles for call in alone)
    assert any(call.bound == "HP0 (all streams)" for call in cost.calls)


def test_the_account_of_steps_is_complete() -> None:
    graph = transformer_graph(2)
    program = build_program(graph, DESIGN, None)
    cost = estimate(program, KV260, 250)
    found = stages(graph, program, cost)
    assert sum(stage.cycles for stage in found) == cost.cycles == sum(row["cycles"] for row in by_operator(found, cost, 8))
    lost, useful = sum(sum(stage.lost.values()) for stage in found), sum(stage.array_macs for stage in found) / cost.macs_per_cycle
    assert lost + useful == pytest.approx(cost.cycles, rel=1e-9) and min(min(s.lost.values(), default=0) for s in found) >= 0
    hidden = [stage for stage in found if stage.beside]
    assert hidden and all(stage.running == stage.cycles + sum(stage.beside.values()) for stage in found)
    assert {name for stage in hidden for name in stage.beside} <= {stage.node for stage in found}
    assert losses(found, cost) and 0 < summary(found, cost, 8)["multipliers_busy_percent"] < 100


def test_engines_at_the_same_time_cost_ports_and_save_cycles() -> None:
    graph, design = transformer_graph(2, rows=64, width=64), Design.of(8, 16, 32, 2, parallel=2)
    together, alone = (estimate(build_program(graph, design.having(parallel=number), None), KV260, 250) for number in (2, 1))
    assert together.cycles < alone.cycles and len(together.ports) > len(alone.ports)
    assert together.resources.lut > alone.resources.lut and together.resources.bram36 > alone.resources.bram36


def test_what_attention_reads_in_blocks_is_made_last() -> None:
    """Keys and values of both blocks, the first queries, then the second queries beside attention to the first; and the first block goes
    on beside attention to the second, where blocks are alike: 8 and 5 rows, though 7 and 6 would suit attention better."""
    uneven = build_program(transformer_graph(1, rows=13), DESIGN.having(rows=8, queries=1), None)
    assert any({"a0", "u0"} <= {one.chain.main.node.output for one in step} for step in uneven.steps)
    program = build_program(transformer_graph(1), DESIGN, None)
    mains = [[one.chain.main.node.output for one in step] for step in program.steps]
    first = next(step for step in mains if "a0" in step)
    assert sorted(first) == ["a0", "q0"]
    alone = build_program(transformer_graph(1), DESIGN.having(parallel=1), None)
    assert [one.chain.main.node.output for one in alone.instructions][:4] == ["q0", "q0", "k0", "k0"]


def test_the_order_of_nodes_stays_one_in_which_they_can_run() -> None:
    for seed in range(20):
        graph, design = random_graph(seed), Design.of(8, 8, 5, 2)
        offsets: dict[str, int] = {}
        ctx = Lowering(graph, design, offsets, WeightMemory(8, None).place)
        offsets.update(apart({name: ctx.words(name) for name in graph.values}))
        order = [link.node for link in whole_operands_first(graph, [lower(node, ctx) for node in graph.nodes])]
        assert sorted(node.name for node in order) == sorted(node.name for node in graph.nodes)
        made = {*graph.inputs, *graph.constants}
        for node in order:
            assert made >= set(node.inputs)
            made.add(node.output)
