"""Networks against what they describe: labels and intervals of the headers, and the runs of every loop as the emitted code shows them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attention_cases import build as attention_graph
from attnc.codegen.data import pack_region, write_run_data
from attnc.codegen.render import write_sources
from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.kernels.loops import LOOPS
from attnc.kernels.memory import FETCH, FORWARD, QUEUE, TEE
from attnc.kernels.network import Loop, Names, Process
from attnc.kernels.networks import NETWORKS
from attnc.kernels.ports import IntType
from attnc.resources import data_path
from attnc.schedule.engine import Control
from attnc.schedule.program import FETCH_INTS, Program, build_program
from attnc.verify.cosim import Timing, settings
from attnc_host.csim import build_simulator
from harness import random_feeds
from low_bit import low_bit_graph
from ops.test_attention import MANY as TWO_PASSES
from ops.test_attention_channels import cases
from ops.test_attention_one_pass import MANY as ONE_PASS
from ops.test_depthwise import depthwise_graph
from ops.test_gather_channels import gather_graph
from ops.test_layer_normalization import together_graph
from ops.test_low_bit_linear import every_format
from ops.test_mask_bias import mask_graph
from ops.test_max_rows import max_graph
from ops.test_mul import by_row_graph, mul_graph
from ops.test_normalize_rows import rows_graph
from ops.test_patches import patches_graph
from ops.test_rotary import CASES
from ops.test_rotary import build as rotary_graph
from ops.test_row_absmax import absmax_graph
from ops.test_scale_rows import scale_graph
from ops.test_softmax import SHAPES, softmax_graph
from ops.test_transpose import transpose_graph
from ops.test_unary import CHANGES_OF_TYPE, PAIRS, unary_graph
from schedule.graphs import layer_graph

HEADERS = data_path("hls_kernels") / "include" / "attnc"
LOOP = re.compile(r"^ *(\w+):\n *for \([^\n]*\n(?:#pragma HLS (?!PIPELINE)[^\n]*\n)*#pragma HLS PIPELINE II = (\d+)\n", re.MULTILINE)
FUNCTION = re.compile(r"^(?:template <.*> )?(?:inline )?[A-Za-z][\w:<>, ]* (\w+)\(", re.MULTILINE)


def loops_of_headers() -> dict[str, int]:
    """The interval of every pipelined loop in the headers, by "function.LABEL"."""
    found = {}
    for path in sorted(HEADERS.glob("*.hpp")):
        text = path.read_text()
        functions = [(match.start(), match.group(1)) for match in FUNCTION.finditer(text)]
        for match in LOOP.finditer(text):
            name = next(name for start, name in reversed(functions) if start < match.start())
            key = f"{name}.{match.group(1)}"
            assert found.setdefault(key, int(match.group(2))) == int(match.group(2)), key
        assert len(LOOP.findall(text)) == len(re.findall(r"^  +for .*\n(?:#pragma.*\n)*?#pragma HLS PIPELINE", text, re.MULTILINE)), path
    return found


def test_headers_have_the_loops_of_the_networks() -> None:
    of_top = [(f"{process.function}.{loop.label}", loop) for process in (FETCH, QUEUE) for loop in process.loops]
    assert loops_of_headers() == {name: loop.ii for name, loop in LOOPS.items() if name not in dict(of_top)}
    top = (data_path("templates") / "top.cpp.j2").read_text()
    assert LOOP.findall(top) == [(loop.label, str(loop.ii)) for _, loop in of_top]


def test_scalars_are_the_fields_of_the_structs_of_the_headers() -> None:
    for network in NETWORKS:
        name = network.call.removeprefix("attnc::")
        (struct,) = re.findall(rf"^struct {name} {{\n(.*?)^}};", (HEADERS / network.header).read_text(), re.MULTILINE | re.DOTALL)
        lists = re.findall(r"^  int ([^;]*);", struct, re.MULTILINE)
        assert tuple(re.split(r",\s*", ", ".join(lists))) == network.fields, network.name


def test_loops_of_one_name_are_one_loop() -> None:
    known: dict[str, Loop] = {}
    for process in (process for network in NETWORKS for process in network.processes):
        for loop in process.loops:
            same = known.setdefault(f"{loop.function or process.function}.{loop.label}", loop)
            assert (same.ii, same.depth) == (loop.ii, loop.depth), (process.function, loop.label)


def runs(program: Program) -> Iterator[tuple[Process, Names]]:
    """Every run of a process in a run of the program, with its numbers."""
    fetched = {"count": program.instruction_ints // FETCH_INTS, "more": program.most_patches}
    yield FETCH, Names({"count": 0, "more": 0}, {}, {})  # beside the last instruction
    for step in program.steps:
        yield FETCH, Names(fetched, {}, {})
        for one in step:
            for stream in one.engine.streams:
                yield stream.mover, one.names(stream)
            controls = one.control() if one.engine.chained else [Control(1, 0, 0)]
            for number, (slot, control) in enumerate(zip(one.engine.slots, controls, strict=True)):
                passed = Names({}, {"vectors": control.vectors}, {})
                if slot.tap:
                    yield TEE, passed
                if slot.optional and not control.active:
                    yield FORWARD, passed
                    continue
                entry = one.engine.entry if number == 0 else IntType(16)
                if one.engine.chained and slot.kernel.ports[slot.fed].type != entry:
                    yield FORWARD, passed
                names = slot.kernel.network.names(slot.kernel.args, one.scalars(number))
                yield from ((process, names) for process in slot.kernel.network.processes)


def expected(program: Program) -> dict[str, tuple[int, int]]:
    """Entries and iterations of every loop in a run of the program, from the networks."""
    found: dict[str, tuple[int, int]] = {}
    for process, names in runs(program):
        for loop in process.loops:
            key = f"{loop.function or process.function}.{loop.label}"
            entered, went = found.get(key, (0, 0))
            each = [*loop.runs(names), *loop.late(names)]
            found[key] = entered + sum(times for times, _ in each), went + sum(times * trips for times, trips in each)
    return {key: counts for key, counts in found.items() if counts[0]}


def counted(graph: Graph, program: Program, folder: Path) -> dict[str, tuple[int, int]]:
    """The same, as the emitted code counts them."""
    data = folder / "data"
    data.mkdir(parents=True)
    with open(data / "weights.bin", "wb") as weights:
        program = build_program(graph, program.design, weights.write)
    write_sources(program, folder, part="part", clock_mhz=200)
    write_run_data(graph, program, data)
    pack_region(graph, program, program.memory.inputs, graph.inputs, random_feeds(graph, 1)).tofile(data / "inputs.bin")
    binary = build_simulator(folder, "native", flags="-O1", mode="cosim")
    (folder / "settings").write_text(settings("flp", Timing(), {}, unbounded=True))
    env = {**os.environ, "ATTNC_COSIM_SETTINGS": str(folder / "settings"), "ATTNC_COSIM_REPORT": str(folder / "report")}
    done = subprocess.run([binary, data, data / "inputs.bin", data / "outputs.bin"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in (folder / "report").read_text().splitlines() if line.startswith("loop ")]
    return {name: (int(entries), int(iterations)) for _, name, _, _, entries, iterations in lines}


def union(*graphs: Graph) -> Graph:
    """All nodes of some graphs, side by side in one."""
    whole = Graph("union")
    for number, graph in enumerate(graphs):

        def own(name: str, number: int = number) -> str:
            return f"{number}/{name}"

        for name, value in graph.values.items():
            whole.values[own(name)] = replace(value, name=own(name))
        whole.constants |= {own(name): array for name, array in graph.constants.items()}
        whole.inputs += map(own, graph.inputs)
        whole.outputs += map(own, graph.outputs)
        whole.nodes += [
            replace(node, name=own(node.name), inputs=list(map(own, node.inputs)), output=own(node.output)) for node in graph.nodes
        ]
    return whole


def others() -> Graph:
    """Kernels without multipliers."""
    parts = [softmax_graph(SHAPES[:4]), rotary_graph(CASES[:5]), absmax_graph(), rows_graph(), scale_graph()[0]]
    parts += [transpose_graph(), gather_graph(), max_graph(), mask_graph(), together_graph()]
    parts += [depthwise_graph(), patches_graph(), mul_graph(), by_row_graph(), unary_graph([(5, 33)], PAIRS[::3] + CHANGES_OF_TYPE[:2])]
    return union(*parts)


def attentions() -> Graph:
    """Both kernels, with biases of either kind."""
    return union(attention_graph(TWO_PASSES), attention_graph(ONE_PASS), *(attention_graph(cases(passes)) for passes in (1, 2)))


MULTIPLIES = "linear_accumulate.MULTIPLY"
GRAPHS: dict[str, tuple[Callable[[], Graph], Design]] = {
    "layer": (lambda: layer_graph(rows=20), Design.of(8, 16, 8, 2, rows_at_once=2, beat=2)),
    "others": (others, Design.of(8, 8, 5, 4)),
    "attention": (attentions, Design.of(8, 8, 6, 2)),
    "low_bit": (lambda: low_bit_graph(every_format()), Design.of(8, 16, 4, 4, tables=16, columns=8, depth=64, rows_at_once=3)),
    "few_bits": (lambda: low_bit_graph(every_format()), Design.of(16, 32, 64, 4, tables=48, columns=32, group=5, depth=8, beat=2)),
    "ports": (lambda: layer_graph(rows=20), Design.of(8, 16, 8, 2, rows_at_once=2, beat=2, weight_ports=2, copies=2, parallel=2)),
}


@pytest.mark.parametrize("name", [name if name == "layer" else pytest.param(name, marks=pytest.mark.slow) for name in GRAPHS])
def test_loops_run_as_the_networks_say(name: str, tmp_path: Path) -> None:
    make, design = GRAPHS[name]
    graph = make()
    program = build_program(graph, design, None)
    found, told = counted(graph, program, tmp_path), expected(program)
    # An operand that is brought through a norm may come when all products are made: the loop then waits for the rest.
    (entered, went), (entries, iterations) = found.pop(MULTIPLIES, (0, 0)), told.pop(MULTIPLIES, (0, 0))
    assert found == told and entered == entries and iterations <= went <= 1.02 * iterations
