"""Placement of buffers, and the account of cycles and traffic."""

from __future__ import annotations

import pytest

from attnc.kernels.design import Design
from attnc.kernels.resources import Memory, Resources
from attnc.kernels.storage import memory_cost
from attnc.schedule.cost import engine_total, estimate
from attnc.schedule.cycles import assign_ports
from attnc.schedule.devices import BOARDS, CLASSES
from attnc.schedule.placement import Buffer, place
from attnc.schedule.program import build_program
from attnc.schedule.stages import by_operator, losses, stages, summary
from schedule.graphs import layer_graph

LIMITS = {"lut": 10_000.0, "ff": 20_000.0, "dsp": 10.0, "bram36": 4.0, "uram": 2.0}


def buffer(name: str, depth: int, width: int, banks: int = 1) -> Buffer:
    return Buffer("k", (Memory(name, depth, width, banks),))


def test_cost_of_a_memory_by_hand() -> None:
    assert memory_cost(Memory("m", 512, 72), "bram").bram36 == 1  # two halves of 512 x 36
    assert memory_cost(Memory("m", 2048, 8, 3), "bram").bram36 == 1.5
    assert memory_cost(Memory("m", 4097, 72), "uram").uram == 2
    assert memory_cost(Memory("m", 65, 10), "lutram") == Resources(lut=20, ff=10)


def test_no_class_overflows_where_that_is_possible() -> None:
    total, kinds = place(Resources(lut=9_950), [buffer("deep", 4096, 72), buffer("flat", 32, 72)], LIMITS)
    assert kinds == {"k.deep": "uram", "k.flat": "bram"} and (total.lut, total.bram36, total.uram) == (9_950, 1, 1)
    # Of a and b only one fits the BRAM; the other would take three URAMs, so LUTs hold it.
    buffers = [buffer("deep", 4096, 72), buffer("a", 512, 72, 3), buffer("b", 512, 72, 3), buffer("c", 32, 1000)]
    total, kinds = place(Resources(), buffers, LIMITS)
    assert all(used <= LIMITS[name] for name, used in zip(CLASSES, total.astuple(), strict=True)), kinds
    assert sorted(kinds[f"k.{name}"] for name in "ab") == ["bram", "lutram"] and kinds["k.c"] == "lutram"


def test_fixed_places_are_kept_and_no_uram_is_used_where_there_is_none() -> None:
    buffers = [buffer("deep", 4096, 72), buffer("a", 512, 72)]
    _, kinds = place(Resources(), buffers, {**LIMITS, "uram": 0.0})
    assert set(kinds.values()) <= {"bram", "lutram"}
    _, kinds = place(Resources(), buffers, LIMITS, {"k.deep": "bram", "k.a": "lutram"})
    assert kinds == {"k.deep": "bram", "k.a": "lutram"}


def test_ports_of_every_board() -> None:
    program = build_program(layer_graph(), Design.of(16, 16, 32, 2), None)
    for board in BOARDS.values():
        ports = assign_ports(program, board)
        assert set(ports) == set(program.bundles.values()) and set(ports.values()) <= set(board.ports)
    ports = assign_ports(program, BOARDS["kv260"])
    assert ports["load_0"] != ports["weights_0"]


@pytest.mark.parametrize("parallel", [1, 2])
def test_starting_an_instruction_costs_latencies(parallel: int) -> None:
    """Beside the latencies of the memory, the dataflow regions, and the kernels from end to end but for the one that binds; the
    instruction has come before."""
    program = build_program(layer_graph(), Design.of(16, 16, 32, 2, parallel=parallel), None)
    cost = estimate(program, BOARDS["kv260"], 250)
    fetched = [60 + program.instruction_ints // 4] + [0] * (len(cost.calls) - 1)  # of the first, beside which nothing runs
    for one, call, first in zip(program.instructions, cost.calls, fetched, strict=True):
        depths = [through.kernel.network.depth for _, through in one.active]
        binding = 0 if call.bound.startswith(("port", "HP", "ddr")) else max(depths, default=0)
        passing = 2 * (len(one.engine.slots) - len(depths)) + 2 * sum(slot.tap for slot in one.engine.slots)
        assert call.start - first == 60 + 30 + 10 + sum(depths) - binding + passing


def test_pointers_that_write_share_an_interface_with_one_that_reads() -> None:
    for design in (Design.of(16, 16, 32, 2), Design.of(8, 16, 32, 2, beat=2)):
        program = build_program(layer_graph(), design, None)
        stores = [stream for engine in program.engines for stream in engine.streams if stream.kind == "store"]
        writers = {pointer for stream in stores for pointer in stream.pointers}
        shared = [program.bundles[name] for name in writers]
        assert len(set(shared)) == len(shared)  # no two writers share one
        assert all(program.pointers[program.bundles[name]] == program.pointers[name] for name in writers)


def test_streams_of_one_port_add_up() -> None:
    program, board = build_program(layer_graph(), Design.of(16, 16, 32, 2), None), BOARDS["kv260"]
    apart = estimate(program, board, 250)
    together = estimate(program, board, 250, ports=dict.fromkeys(program.bundles, "HP0"))
    attention = next(c for c in together.calls if c.node == "attention")
    instruction = next(i for i in program.instructions if i.chain.main.node.name == "attention")
    loads = [stream for stream in instruction.engine.streams if stream.kind != "store" and instruction.walk(stream).vectors]
    moved = [instruction.walk(stream).vectors * instruction.walk(stream).bytes for stream in loads]
    fetched = program.instruction_ints // 4  # the next instruction comes through the same port
    assert (
        attention.busy[f"HP0 ({'+'.join(stream.name for stream in loads)}+others)"]
        == sum(moved) + fetched + instruction.own[0][1].timing.tail
    )
    assert together.cycles >= apart.cycles


@pytest.mark.parametrize("board", ["kv260", "zcu102"])
def test_account_is_complete(board: str) -> None:
    graph = layer_graph()
    program = build_program(graph, Design.of(16, 32, 16, 2), None)
    cost = estimate(program, BOARDS[board], 250)
    found = stages(graph, program, cost)
    assert sorted(name for stage in found for name in stage.nodes) == sorted(node.name for node in graph.nodes)
    assert all(stage.node in stage.nodes for stage in found) and len(found) < len(graph.nodes)
    assert sum(stage.cycles for stage in found) == cost.cycles == sum(row["cycles"] for row in by_operator(found, cost, 16))
    for stage in found:
        assert stage.cycles == pytest.approx(sum(stage.lost.values()) + stage.macs / cost.macs_per_cycle, rel=1e-9), stage.node
        # What binds one part of a chain may rest while another part works.
        assert stage.busy[stage.bound] <= stage.cycles - stage.start <= sum(stage.busy.values())
        assert 0 < stage.floor_words <= stage.words
    total = summary(found, cost, 16)
    assert 0 < total["dsp_roof_percent"] < 100 and 0 < total["multipliers_busy_percent"] < 100 and 0 < total["ddr_roof_percent"] <= 100
    lost = losses(found, cost)
    assert lost == sorted(lost, key=lambda row: (-row["cycles"], row["op"], row["cause"]))
    assert {row["worst_stage"] for row in lost} <= {node.name for node in graph.nodes}
    engines = sum((engine_total(engine, cost) for engine in program.engines), Resources())
    assert engines.uram == cost.resources.uram and engines.bram36 < cost.resources.bram36


def test_attention_traffic_against_the_lower_bound() -> None:
    """Keys and values pass ceil(N / p) times, once per block of p resident queries (Edge-MoE's 2 N d ceil(N / p))."""
    graph, rows, width = layer_graph(rows=64), 64, 64
    for resident in (16, 32, 64):
        program = build_program(graph, Design.of(16, 16, resident, 2), None)
        stage = next(s for s in stages(graph, program, estimate(program, BOARDS["kv260"], 250)) if s.op == "attention")
        keys_and_values = 2 * rows * width * -(-rows // resident)
        assert stage.words * 16 == keys_and_values + 2 * rows * width
        assert stage.floor_words * 16 == 4 * rows * width


def test_weights_are_counted_without_packing_them() -> None:
    graph, sizes = layer_graph(), []
    packed = build_program(graph, Design.of(), lambda data: sizes.append(len(data)))
    assert build_program(graph, Design.of(), None).weight_words == packed.weight_words == sum(sizes) // 16
