"""Formats of caches: two vectors of 4 bits share a word of memory, and what a format costs is measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from attnc.compiler import compile_model, quantize_model
from attnc.config import CompileOptions
from attnc.decoding.plan import plan_decoder
from attnc.golden import run_reference
from attnc.ir import Graph, GraphError, Held, Node, Value
from attnc.kernels.call import Walk
from attnc.kernels.design import KEYS_AT_ONCE, Design
from attnc.passes.caches import narrow_caches
from attnc.quant.calibration import Statistics
from attnc.schedule.overlap import overlap, runs
from attnc.schedule.program import build_program
from attnc.verify import golden_backend
from attnc_host import Accelerator
from decoding.decoders import VOCABULARY, write_decoder
from decoding.test_decoding import BLOCK, run_in_blocks
from harness import tensor_type

assert golden_backend  # registers "golden"
LENGTH = 11
"""Odd: the last row of a tile shares its word, and its step of keys, with nothing."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("caches") / "decoder.onnx", windows=(3,))


@pytest.mark.parametrize(("cache", "bits"), [("int8", {8}), ("k4v8", {4, 8}), ("int4", {4})])
def test_blocks_give_the_whole_in_every_format(model: Path, cache: str, bits: set[int]) -> None:
    state = quantize_model(model, CompileOptions(max_length=LENGTH, cache=cache))
    found = plan_decoder(state.model, LENGTH, BLOCK, 1, VOCABULARY, model.parent)
    graph = found.model.graph
    assert {graph.type(name).bits for name, value in graph.values.items() if value.held is not None} == bits
    for seed in range(3):
        run_in_blocks(found, seed)
    program = build_program(graph, Design.of(8, 16, 16), lambda data: None)
    rows = {value.held.name: value.held.rows for value in graph.values.values() if value.held is not None}
    assert sorted(rows.values()) == [8, 8, LENGTH, LENGTH]
    words = {name: sum(program.memory.values[key].words for key in graph.values if graph.values[key].held == Held(name, count, count == 8)
                       and not key.startswith("prefill")) for name, count in rows.items()}  # fmt: skip
    per_word = {name: 2 if graph.type(name).bits == 4 else 1 for name in rows}
    assert words == {name: 2 * KEYS_AT_ONCE * math.ceil(count / KEYS_AT_ONCE) // per_word[name] for name, count in rows.items()}


def test_cpp_computes_with_caches_of_4_bits(model: Path, tmp_path: Path) -> None:
    """Blocks and tokens begin in either half of a word; a ring comes round. The build itself was simulated in time."""
    build = compile_model(model, CompileOptions(max_length=LENGTH, block=BLOCK, cache="int4", sessions=2, output=tmp_path / "build"))
    made = {}
    for backend in ("golden", "csim", "virtual"):
        with Accelerator.open(build, backend) as accelerator:
            session = accelerator.session(1)
            logits = [session.extend(ids) for ids in ([1, 2, 3], [4, 5, 6, 7], [8], [9, 10])]
            made[backend] = [*logits, accelerator.session(0).extend([1, 2, 3, 9])]
    for backend in ("csim", "virtual"):
        np.testing.assert_array_equal(made[backend], made["golden"])
    decoder = json.loads((build / "report.json").read_text())["decoder"]
    rows = {one["format"]: one for one in decoder["cache_errors"]}
    assert decoder["cache"] == "int4" and list(rows) == ["int8", "k4v8", "int4"]
    assert rows["int8"]["sqnr_db"] > rows["k4v8"]["sqnr_db"] > rows["int4"]["sqnr_db"] > 5
    assert rows["int8"]["divergence"] < rows["int4"]["divergence"]
    text = (build / "report.txt").read_text()
    assert "cache in int4 (this build's)" in " ".join(text.split()) and "against a float cache" in " ".join(text.split())


def test_layers_take_over_what_channels_differ_by(model: Path) -> None:
    """Keys and values of even channels, the same results."""
    state = quantize_model(model, CompileOptions(max_length=LENGTH))
    graph, seen = state.unplanned.copy(), dict[str, np.ndarray]()
    feeds = {name: np.random.default_rng(0).standard_normal((2, *graph.value(name).shape)) for name in graph.inputs}
    for node in graph.nodes:
        if node.op == "linear" and (node.output.endswith(("k", "v"))):
            node.params = {**node.params, "weight": node.params["weight"] * np.geomspace(0.1, 10, len(node.params["weight"]))[:, None]}
    before = run_reference(graph, feeds, seen.__setitem__)
    statistics = {name: Statistics(np.abs(array).max(axis=(0, 1))) for name, array in seen.items()}
    narrow_caches(graph, statistics, (4, 4))
    again: dict[str, np.ndarray] = {}
    after = run_reference(graph, feeds, again.__setitem__)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-6, atol=1e-9)
    for node in graph.nodes:
        for name in node.inputs[1:3] if node.op == "attention" else ():
            peaks, old = (np.abs(values[name]).max(axis=(0, 1)) for values in (again, seen))
            assert peaks.max() / peaks.min() < 1.01 and old.max() / old.min() > 2


def test_halves_of_words_overlap_where_they_share_one() -> None:
    def walk(offset: int, count: int) -> Walk:
        return Walk(offset, (1, 1, 2, count), (0, 0, 12), half=True)

    assert walk(3, 2).span == (1, 9) and walk(4, 3).span == (2, 10)
    starts, size = runs(walk(3, 2))
    assert starts.tolist() == [1, 7] and size == 2
    assert overlap(walk(3, 1), walk(2, 1)) and not overlap(walk(3, 1), walk(4, 1)) and overlap(walk(8, 5), walk(0, 1))
    assert walk(0, 5).words == 6 and walk(0, 5).encode()["type"] == 0


def test_bytes_are_no_halves() -> None:
    from attnc.schedule.traffic import check_types

    graph = Graph("one", values={"k": Value("k", (4, 16), tensor_type(4, 1.0), held=Held("k", 8))})
    port, call = type("Port", (), {"kind": "load", "raw": False, "type": None, "name": "k"}), type("Call", (), {})
    call.node, call.walks = "attention", (Walk(0, (1, 1, 1, 4), (0, 0, 0), value="k"),)
    call.kernel = type("Kernel", (), {"ports": (port,)})
    with pytest.raises(GraphError, match="of 4 bits as bytes"):
        check_types(graph, call)  # type: ignore[arg-type]


def test_norms_of_heads_take_over_what_keys_differ_by() -> None:
    rng, graph = np.random.default_rng(0), Graph("norms", ["x"], ["y"])
    graph.add_value("x", (6, 16))

    def add(op: str, inputs: list[str], output: str, channels: int, params: dict[str, np.ndarray], **attrs: object) -> None:
        graph.add_value(output, (6, channels))
        graph.nodes.append(Node(output, op, inputs, output, attrs=attrs, params=params))

    for name, channels in (("q", 16), ("k", 8), ("v", 8)):
        add("linear", ["x"], name, channels, {"weight": rng.standard_normal((channels, 16)), "bias": np.zeros(channels)})
    for name, channels in (("q", 16), ("k", 8)):
        add("rms_normalization", [name], f"{name}n", channels, {"gamma": rng.uniform(0.1, 3, channels)}, epsilon=1e-6, group=8)
    add("attention", ["qn", "kn", "v"], "a", 16, {}, num_heads=2, num_kv_heads=1, scale=0.3, causal=True)
    add("linear", ["a"], "y", 4, {"weight": rng.standard_normal((4, 16)), "bias": np.zeros(4)})
    feeds, seen, again = {"x": rng.standard_normal((3, 6, 16))}, dict[str, np.ndarray](), dict[str, np.ndarray]()
    before = run_reference(graph, feeds, seen.__setitem__)
    narrow_caches(graph, {name: Statistics(np.abs(array).max(axis=(0, 1))) for name, array in seen.items()}, (4, 4))
    np.testing.assert_allclose(run_reference(graph, feeds, again.__setitem__)["y"], before["y"], rtol=1e-9)
    for name in ("kn", "v"):
        peaks = np.abs(again[name]).max(axis=(0, 1))
        assert peaks.max() / peaks.min() < 1.01
