"""Engines of one kernel whose numbers differ: in hardware, in time, and in schedule.yaml."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from attnc.codegen.project import Vectors, write_project
from attnc.errors import ConfigError
from attnc.golden import run_golden
from attnc.ir import Graph, Node
from attnc.kernels.design import AttentionNumbers, Design, LinearNumbers, NamedEngine
from attnc.model import Feed, Fetch, Model, TensorSpec
from attnc.schedule.cost import engine_resources, estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.file import design_of, read_schedule, schedule_text
from attnc.schedule.program import Program, build_program
from attnc.sim.check import check_build
from attnc.weights import WeightFormat
from harness import assert_exact, quantized, random_feeds, tensor_type
from low_bit import grid_params
from schedule.graphs import transformer_graph

KV260 = BOARDS["kv260"]
WIDE = NamedEngine("wide", LinearNumbers(pe=16, rows_at_once=2), ("first",))
PACKED = NamedEngine("packed", LinearNumbers(pe=8, rows_at_once=3, rows=12), ("last",))
THREE = replace(Design.of(8, 32, 32, rows_at_once=4, beat=2, weight_ports=2), named=(WIDE, PACKED))


def three_products(rows: int = 32, width: int = 64) -> Graph:
    """Products of 16-bit inputs, of bytes, and with weights of 4 bits, one behind the other."""
    rng = np.random.default_rng(1)
    names, types = ["x", "u", "v", "y"], {"x": tensor_type(16, 1e-4), **{name: tensor_type(8, 0.03) for name in "uvy"}}
    graph = Graph("products", inputs=["x"], outputs=["y"])
    for name in names:
        graph.add_value(name, (rows, width))
    for name, source, result in zip(("first", "second", "last"), names, names[1:], strict=False):
        params = {"weight": rng.normal(size=(width, width)) / np.sqrt(width), "bias": rng.normal(size=width)}
        graph.nodes.append(Node(name, "linear", [source], result, {}, params))
    graph.nodes[-1].attrs |= {"weights": "int4", "group_size": 0, "engine": "dsp"}
    graph.nodes[-1].params = grid_params(WeightFormat.parse("int4", 0), width, width, rng, False)
    return quantized(graph, types)


def hardware(program: Program) -> dict[str, dict[str, Any]]:
    """Template arguments of the main kernel of each engine, by its name in the design."""
    return {engine.choice: engine.kernel.args for engine in program.engines}


def test_engines_of_a_kernel_have_what_their_own_nodes_need() -> None:
    program = build_program(three_products(), THREE, None)
    names = ("PE", "R", "ROWS_MAX", "X_BYTES", "PACKED", "W_WORDS")
    found = {name: tuple(args[arg] for arg in names) for name, args in hardware(program).items()}
    assert found == {"linear": (32, 4, 32, 1, 0, 4), "wide": (16, 2, 32, 2, 0, 2), "packed": (8, 3, 12, 1, 4, 2)}
    used = {engine.choice: engine_resources(engine, 8).dsp for engine in program.engines}
    assert used["linear"] > used["wide"] > used["packed"]
    alone = build_program(three_products(), replace(THREE, named=()), None)
    (args,) = hardware(alone).values()
    assert (args["X_BYTES"], args["PACKED"], args["W_WORDS"]) == (2, 4, 4)
    buffers = {buffer.key: buffer for buffer in estimate(program, KV260, 250).buffers}
    assert len(buffers["linear.w_buffer"].memories) == 3 and buffers["linear.w_buffer"].memory.banks == 32


LAYERS = ("u0", "d0", "u1", "d1")
SHARED = replace(
    Design.of(8, 16, 6, 4, rows_at_once=3),
    named=(
        NamedEngine("mlp", LinearNumbers(pe=8, rows_at_once=6), LAYERS),
        NamedEngine("second", AttentionNumbers(rows=3, queries=2), ("a1",)),
    ),
)


@pytest.mark.parametrize("parallel", [1, 2])
def test_cpp_equals_golden(parallel: int) -> None:
    graph, design = ((transformer_graph(2), SHARED), (three_products(), THREE))[parallel - 1]
    assert_exact(graph, random_feeds(graph, 2), design.having(parallel=parallel))


def test_both_attention_engines_work_for_their_own_layer() -> None:
    program = build_program(transformer_graph(2), SHARED, None)
    assert {name: args.get("P", args.get("PE")) for name, args in hardware(program).items() if name} == {
        "attention": 4, "second": 2, "linear": 16, "mlp": 8
    }  # fmt: skip
    served = {engine.choice: {call.node for other, call in program.calls if other is engine} for engine in program.engines}
    assert "a0" in served["attention"] and "a1" in served["second"] and set(LAYERS) < served["mlp"]


def built(graph: Graph, design: Design, folder: Path) -> tuple[Program, dict[str, int]]:
    """A build that is exact in simulated time, and its cycles: by style of pipelines, and the estimate."""
    shapes = {name: (1, *graph.value(name).shape) for name in (*graph.inputs, *graph.outputs)}
    order = {name: np.arange(np.prod(shape), dtype=np.int64) for name, shape in shapes.items()}
    f32 = np.dtype(np.float32)
    model = Model(
        graph,
        [TensorSpec(name, f32, shapes[name], True) for name in graph.inputs],
        [TensorSpec(name, f32, shapes[name], True) for name in graph.outputs],
        [Feed(name, name, order[name].reshape(shapes[name][1:])) for name in graph.inputs],
        [Fetch(name, name, shapes[name], order[name]) for name in graph.outputs],
    )
    feeds = random_feeds(graph, 2)
    source = {"file": "x.onnx", "sha256": "0" * 64}
    program, cost = write_project(folder, model, design, KV260, 250.0, source, Vectors(feeds, run_golden(graph, feeds)))
    check = check_build(folder, True)
    assert check.report["elements"] and check.simulation is not None
    return program, {"estimate": cost.cycles, **{style: run["cycles"] for style, run in check.simulation["styles"].items()}}


@pytest.mark.parametrize("parallel", [1, 2])
def test_estimate_and_simulation_agree(parallel: int, tmp_path: Path) -> None:
    graph, design = ((three_products(), THREE), (transformer_graph(2, rows=24, width=64), SHARED.having(rows=12)))[parallel - 1]
    program, cycles = built(graph, design.having(parallel=parallel), tmp_path / "build")
    estimated = cycles.pop("estimate")
    assert len(program.engines) > 2 and cycles.keys() == {"stp", "flp"}
    assert all(abs(estimated / found - 1) < 0.1 for found in cycles.values()), (estimated, cycles)


def written(folder: Path, **engines: Any) -> Path:
    path = folder / "schedule.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "design": {"lanes": 8, "rows": 32, "engines": engines}}))
    return path


def test_what_is_written_can_be_given_back(tmp_path: Path) -> None:
    graph, path = three_products(), tmp_path / "schedule.yaml"
    program = build_program(graph, THREE, None)
    text = schedule_text(program, estimate(program, KV260, 250), KV260, "latency")
    path.write_text(text)
    assert design_of(read_schedule(path), path, graph) == THREE
    design = yaml.safe_load(text)["design"]
    assert design["engines"]["packed"] == {"kernel": "linear", "nodes": ["last"], "pe": 8, "rows_at_once": 3, "weight_ports": 1, "rows": 12}
    assert "attention" not in design["engines"] and "numbers of packed" in text


def test_patterns_name_nodes_and_what_is_left_out_is_as_usual(tmp_path: Path) -> None:
    graph = three_products()
    usual, other = {"pe": 32, "weight_ports": 2}, {"kernel": "linear", "nodes": ["*st"], "rows_at_once": 5}
    path = written(tmp_path, linear=usual, others=other)
    design = design_of(read_schedule(path), path, graph)
    assert design.named == (NamedEngine("others", LinearNumbers(pe=32, rows_at_once=5, weight_ports=2), ("first", "last")),)
    assert set(hardware(build_program(graph, design, None))) == {"linear", "others"}


OTHER = {"kernel": "linear", "nodes": ["first"]}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"liner": {"pe": 16}}, "'design.engines.liner': needed linear, lookup, attention, or an engine with .* its nodes, found 'liner'"),
    ({"other": {**OTHER, "kernel": "liner"}}, "'design.engines.other.kernel': needed linear, lookup, attention, .*found 'liner'"),
    ({"other": {"kernel": "linear"}}, "'design.engines.other.nodes': needed names of the nodes that it serves, or patterns, found None"),
    ({"linear": {"nodes": ["first"]}}, r"'design.engines.linear': needed no kernel or nodes: .*, found \['first'\]"),
    ({"attention": {"pe": 16}}, "'design.engines.attention.pe': needed only rows, queries, keys, .* attention, found 16"),
    ({"other": {**OTHER, "pe": 24}}, "'design.engines.other.pe': needed a power of two, found 24"),
    ({"other": {**OTHER, "pe": 4}}, r"'design.engines.other.pe': needed a multiple of design.lanes \(8\), at least 2, found 4"),
    ({"other": {**OTHER, "rows": 3, "rows_at_once": 4}}, r"'design.engines.other.rows_at_once': needed at most its rows \(3\), found 4"),
    ({"other": {**OTHER, "wings": 2}}, "'design.engines.other.wings': .*found 2"),
    ({"other": 3}, "'design.engines.other': .*found 3"),
    ({"1 x": OTHER}, "'design.engines.1 x.*"),
    ({"lookup": {"group": 4}}, "'design.engines.lookup.group': needed 3 or 5 activations per table of ternary weights, found 4"),
    (
        {"other": {**OTHER, "nodes": ["fist"]}},
        r"'design.engines.other.nodes', of kernel linear: 'fist' matches no node \(did you mean first",
    ),
    ({"other": {"kernel": "attention", "nodes": ["first"]}}, "'design.engines.other.nodes', of kernel attention: 'first' matches no node"),
    (
        {"other": OTHER, "second": {"kernel": "linear", "nodes": ["*rst"]}},
        r"'design.engines.second.nodes': needed nodes of no other engine \(other serves that\), found 'first'",
    ),
]


@pytest.mark.parametrize(("engines", "message"), WRONG, ids=[message for _, message in WRONG])
def test_nonsense_is_refused(tmp_path: Path, engines: dict[str, Any], message: str) -> None:
    path = written(tmp_path, **engines)
    with pytest.raises(ConfigError, match=f"^schedule {path}: field {message}"):
        design_of(read_schedule(path), path, three_products())


def test_a_number_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text("schema: 1\ndesign: {lanes: 8, rows: 32, pe: 16, engines: {linear: {pe: 32}}}\n")
    with pytest.raises(ConfigError, match=r"field 'design.pe': .*found 16"):
        read_schedule(path)
