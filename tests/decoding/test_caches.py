"""Formats of caches: two vectors of 4 bits share a word of memory, and what a format costs is measured."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc.compiler import compile_model, quantize_model
from attnc.config import CompileOptions
from attnc.decoding.golden import GoldenDecoder
from attnc.decoding.plan import plan_decoder
from attnc.errors import ConfigError
from attnc.golden import run_reference
from attnc.ir import Graph, GraphError, Held, Node, Value
from attnc.kernels.call import Walk
from attnc.kernels.chunks import Affine, Chunks, Stretch
from attnc.kernels.design import KEYS_AT_ONCE, Design
from attnc.kernels.memory import parts_of
from attnc.ops import attention_sizes, operator
from attnc.ops.mixed_caches import SEVENTH, by_token, in_4_bits
from attnc.passes import caches
from attnc.passes.caches import kept_in, narrow_caches
from attnc.quant.calibration import Statistics
from attnc.schedule.overlap import overlap, runs
from attnc.schedule.program import build_program
from attnc.verify import golden_backend
from attnc_host import Accelerator
from attnc_host.caches import DECODE, PREFILL, Decoder, Table
from decoding.decoders import VOCABULARY, WIDTH, write_decoder
from decoding.test_decoding import BLOCK, SLOPES, run_in_blocks
from decoding.test_keys_at_once import SCHEDULE
from harness import tensor_type

assert golden_backend  # registers "golden"
LONG = 27
"""More than lies in bytes of `short_chunks`."""
LENGTH = 11
"""Odd: the last row of a tile shares its word, and its step of keys, with nothing."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("caches") / "decoder.onnx", windows=(3,))


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a block."""
    monkeypatch.setattr(caches, "NEWEST", BLOCK)


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


def test_cpp_computes_with_caches_of_4_bits(model: Path, tmp_path: Path, short_chunks: None) -> None:
    """Blocks and tokens begin in either half of a word; a ring comes round, and so do the chunks that lie in bytes; a session goes on from
    what another one holds, as far as that is there. The build itself was simulated in time."""
    build = compile_model(model, CompileOptions(max_length=LONG, block=BLOCK, cache="int4", sessions=2, output=tmp_path / "build"))
    ids = np.random.default_rng(0).integers(0, VOCABULARY, LONG).tolist()
    made = {}
    for backend in ("golden", "csim", "virtual"):
        with Accelerator.open(build, backend) as accelerator:
            first, second = accelerator.session(0), accelerator.session(1)
            logits = [second.extend(ids[start:stop]) for start, stop in pairwise((0, 3, 7, 8, 10, 15, 16, 17, 23))]
            made[backend] = [*logits, first.extend([1, 2, 3, 9])]
            made[backend] += [second.fork(0).extend(ids[23:26]), second.extend(ids[23:])]
            again = accelerator.session(0)
            made[backend].append(np.array(list(again.generate(ids[:25], 2))))
            assert len(again.runs) < 6, "what is in the last chunks is taken over"
    for backend in ("csim", "virtual"):
        for found, expected in zip(made[backend], made["golden"], strict=True):
            np.testing.assert_array_equal(found, expected)
    decoder = json.loads((build / "report.json").read_text())["decoder"]
    rows = {one["format"]: one for one in decoder["cache_errors"]}
    assert decoder["cache"] == "int4" and list(rows) == ["int8", "k4v8", "int4"]
    assert rows["int8"]["sqnr_db"] > rows["k4v8"]["sqnr_db"] > rows["int4"]["sqnr_db"] > 5
    assert rows["int8"]["divergence"] < rows["int4"]["divergence"]
    lanes = json.loads((build / "manifest.json").read_text())["design"]["lanes"]
    assert (
        rows["int8"]["bytes"] == 2 * (LONG + 8) * WIDTH // 2
        and rows["int4"]["bytes"] == (2 * 8 + LONG + 2 * 12) * WIDTH // 2 + LONG * lanes
    )
    # What is estimated is near.
    estimates = {(row["entry"], row["position"]): row["cycles"] for row in decoder["estimates"]}
    for timed in decoder["simulated"].values():
        assert all(abs(run["cycles"] / estimates[run["entry"], run["position"]] - 1) < 0.2 for run in timed)
    text = (build / "report.txt").read_text()
    assert "cache in int4 (this build's)" in " ".join(text.split()) and "against a float cache" in " ".join(text.split())


@pytest.mark.parametrize(
    ("cache", "slopes", "windows"),
    [("k4v8", (), ()), ("int4", SLOPES, (3,)), ("int4", (), (24,)), ("k4v8", SLOPES, (11,)), ("int4", (), (6, 9))],
)
def test_blocks_give_the_whole_in_two_precisions(
    cache: str, slopes: tuple[float, ...], windows: tuple[int, ...], tmp_path: Path, short_chunks: None
) -> None:
    """With biases by distance, beside a ring, and with a window that is none; in memory are halves of all tokens, bytes of three chunks."""
    path = write_decoder(tmp_path / "decoder.onnx", slopes=slopes, windows=windows)
    state = quantize_model(path, CompileOptions(max_length=LONG, cache=cache, block=BLOCK))
    found = plan_decoder(state.model, LONG, BLOCK, 1, VOCABULARY, tmp_path)
    assert found.chunks == [BLOCK] and found.rings == ([8] if windows == (3,) else [])
    for seed in range(3):
        run_in_blocks(found, seed)
    graph = found.model.graph
    program = build_program(graph, Design.of(8, 16, 16), lambda data: None)
    words = {name: program.memory.values[name].words for name, value in graph.values.items() if value.held and value.held.rows == LONG}
    kept = {name: graph.value(name).held for name in words}
    assert {count for name, count in words.items() if name.endswith(".low")} == {2 * 28 // 2}
    assert {count for name, count in words.items() if name.endswith(".peak")} == ({28} if cache == "int4" else set())
    assert {count for name, count in words.items() if kept[name].chunk} == {2 * 12}  # type: ignore[union-attr]
    if windows == (11,):  # values of one precision begin where keys do
        (token, *_) = (one for one in program.instructions if one.engine.op == "attention" and one.entry == DECODE)
        ((_, call),) = token.own
        k, v = call.walks[1:3]
        assert k.vectors == v.vectors and v.offset - program.memory.values[v.value].offset == (LONG // BLOCK - 3) * BLOCK
    with pytest.raises(GraphError, match="go over the end of"):
        GoldenDecoder(graph).run(PREFILL, 6, {found.inputs[PREFILL]: np.zeros((BLOCK, WIDTH), np.int8)})
    with pytest.raises(ConfigError, match="divide the 4 tokens of a chunk"):
        plan_decoder(state.model, LONG, 3, 1, VOCABULARY, tmp_path)


@pytest.mark.parametrize(("size", "window"), [(3, 0), (4, 0), (3, 2), (4, 3), (4, 5)])
def test_stretches_find_every_key_where_it_was_written(size: int, window: int) -> None:
    """Bytes of the first chunk and of the last two, all others in 4 bits, in the order of the keys, whatever the position; with a window
    those of the chunks that it reaches into alone."""
    chunks, bytes_, halves = Chunks(size, window), dict[int, int](), dict[int, int]()
    for position in range(8 * size + 1):
        bytes_[chunks.at(chunks.place, position)] = halves[position] = position
        own, seen = position // size, []
        skipped = chunks.at(Affine(0, chunks.skipped), position)
        assert skipped == (max(own - window, 0) * size if window else 0)
        for stretch in (*chunks.stretches, Stretch(chunks.own, Affine(position + 1 - skipped - chunks.at(chunks.begun, position)))):
            first, count = chunks.at(stretch.first, position), chunks.at(stretch.count, position)
            assert count >= 0
            seen += [(stretch.low, (halves if stretch.low else bytes_)[row]) for row in range(first, first + count)]
        near = (own - 1, own) if window else (0, own - 1, own)
        assert seen == [(key // size not in near, key) for key in range(skipped, position + 1)]
    assert max(bytes_) < chunks.rows


def test_near_and_first_keys_are_seen_in_bytes() -> None:
    """What 4 bits lose of a key or a value changes what queries see of it that are near it, or all of one of the first, and no others."""
    rng, size, length = np.random.default_rng(0), 4, 20
    q, k, v = (rng.integers(-120, 120, (1, length, 8)).astype(np.int8) for _ in range(3))
    attrs = {"num_heads": 1, "num_kv_heads": 1, "scale": 0.01, "causal": True, "low_operands": (1, 2), "cache_chunk": size}
    node = Node("a", "attention", ["q", "k", "v"], "y", attrs=attrs)
    types, output = [tensor_type(8, 0.05)] * 3, tensor_type(16, 1e-3)
    operator(node).quantize(node, types, output)
    plain = operator(node).golden(node, [q, k, v], types, output)
    for key, operand in ((2, 1), (9, 1), (9, 2)):
        changed, lower = [q, k.copy(), v.copy()], (in_4_bits, by_token)[operand - 1]
        row, codes = changed[operand][0, key], lower(changed[operand])
        for channel in range(8):
            for step in (1, -2, 1):  # one more, one less, as it was
                row[channel] += step
                if (lower(changed[operand]) == codes).all():
                    break
        other = operator(node).golden(node, changed, types, output)
        rows = {int(row) for row in np.flatnonzero((other != plain).any(axis=(0, 2)))}
        near = {*range(key, length)} if key < size else {*range(key, (key // size + 2) * size)}
        assert rows and rows <= near


def test_values_have_a_scale_for_each_token() -> None:
    """What is left of a byte is the nearest seventh of its token's largest one, as the loaders compute it."""
    codes, peaks = np.arange(-7, 8), np.arange(128)[:, None]
    kept = (codes * ((peaks * SEVENTH + 128) >> 8) + 128) >> 8
    np.testing.assert_array_equal(kept, np.floor(codes * peaks / 7 + 0.5))
    q = np.random.default_rng(0).integers(-128, 128, (3, 50, 16)).astype(np.int8)
    q[0] //= np.arange(1, 51, dtype=np.int8)[:, None]
    q[1, 0] = 0
    peak = np.minimum(np.abs(q.astype(int)).max(axis=-1, keepdims=True), 127)
    assert (np.abs(by_token(q) - q.astype(float)) <= peak / 14 + 0.51).all()


def test_going_back_needs_what_was_not_written_over() -> None:
    manifest = Decoder(*(40, 4, 1, 48, "x", "y", {}, {}, None), Table(Path(), np.dtype("i1")), None, 0, 1, chunks=(4,))
    assert manifest.holds(40, 0) and manifest.holds(40, 4) and manifest.holds(12, 6) and manifest.holds(20, 17)
    assert not manifest.holds(13, 6) and not manifest.holds(21, 17) and manifest.holds(20, 20)
    assert manifest.written(40, 0, 4) == 4 and manifest.written(40, 3, 1) == 12 and manifest.written(40, 12, 1) == 40
    assert manifest.takes_block(8) and not manifest.takes_block(9) and manifest.begins("prefill", 11) == 8


def test_a_text_goes_on_in_the_first_chunk_of_a_longer_one(tmp_path: Path, short_chunks: None) -> None:
    """What is behind that is written anew, and neither taken for lost nor for its own."""
    (tmp_path / "schedule.yaml").write_text("schema: 1\ndesign: {lanes: 4, rows: 4, engines: {attention: {queries: 4}}}\n")
    own = {"cache": "int4", "schedule": tmp_path / "schedule.yaml", "check": False, "output": tmp_path / "build"}
    build = compile_model(write_decoder(tmp_path / "decoder.onnx"), CompileOptions(max_length=LONG, block=BLOCK, **own))
    ids = np.random.default_rng(0).integers(0, VOCABULARY, LONG).tolist()
    other, found = [*ids[:3], *ids[9:]], []
    for before in (ids, []):
        with Accelerator.open(build, "golden") as accelerator:
            if before:
                accelerator.session().extend(before)
            session = accelerator.session()
            found.append(session.extend(other))
            assert session.runs[0][1] == (3 if before else 0)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("cache", "numbers", "model"),
    [
        ("int4", (2, 4, 4), {"windows": (11,)}),
        pytest.param("k4v8", (1, 4, 2), {"slopes": SLOPES, "windows": (14, 3)}, marks=pytest.mark.slow),
        pytest.param("int4", (2, 4, 2), {}, marks=pytest.mark.slow),
    ],
)
def test_several_keys_come_at_a_time(
    cache: str, numbers: tuple[int, int, int], model: dict[str, Any], tmp_path: Path, short_chunks: None
) -> None:
    """Of each stretch, through two pointers that share it or through one, in blocks and alone; the build itself was simulated in time."""
    (tmp_path / "schedule.yaml").write_text(SCHEDULE % numbers)
    own = {"cache": cache, "sessions": 2, "schedule": tmp_path / "schedule.yaml", "output": tmp_path / "build"}
    build = compile_model(write_decoder(tmp_path / "decoder.onnx", **model), CompileOptions(max_length=LONG + 2, block=BLOCK, **own))
    report, rng, made = json.loads((build / "report.json").read_text()), np.random.default_rng(0), dict[str, list[np.ndarray]]()
    assert report["design"]["engines"]["attention"]["keys"] == numbers[2]
    ids = rng.integers(0, VOCABULARY, (2, LONG + 2)).tolist()
    cuts = [sorted({0, LONG + 2, *rng.integers(1, LONG, count).tolist()}) for count in (9, 2 * LONG)]
    for backend in ("golden", "csim"):
        with Accelerator.open(build, backend) as accelerator:
            sessions = [accelerator.session(number) for number in range(2)]
            made[backend] = [sessions[at].extend(ids[at][start:stop]) for at in range(2) for start, stop in pairwise(cuts[at])]
    np.testing.assert_array_equal(made["csim"], made["golden"])
    assert all(one["bit_exact"] and not one["deadlock"] for one in (report["simulation"][style] for style in ("stp", "flp")))
    estimates = {(row["entry"], row["position"]): row["cycles"] for row in report["decoder"]["estimates"]}
    for timed in report["decoder"]["simulated"].values():
        assert all(abs(run["cycles"] / estimates[run["entry"], run["position"]] - 1) < 0.15 for run in timed)


def test_sequences_too_long_for_a_row_of_scores_on_chip_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sequence that they are compared with takes two passes as they do; one is refused."""
    monkeypatch.setattr(attention_sizes, "TWO_PASS_BITS", 1)
    path = write_decoder(tmp_path / "decoder.onnx")
    state = quantize_model(path, CompileOptions(max_length=LENGTH))
    run_in_blocks(plan_decoder(state.model, LENGTH, BLOCK, 1, VOCABULARY, tmp_path), 0)
    with pytest.raises(ConfigError, match="implementation of attention: needed two_pass with --max-length, found 'one_pass'"):
        quantize_model(path, CompileOptions(max_length=LENGTH, implementations={"attention": "one_pass"}))


def test_steps_of_keys_are_those_of_a_chunk(tmp_path: Path, short_chunks: None) -> None:
    """At any length of sequences, whose last blocks end where a chunk does; two pointers share stretches as they share a tile."""
    path = write_decoder(tmp_path / "decoder.onnx")
    for length, block, at_once in ((29, 4, 4), (31, 4, 4), (33, 6, 2), (27, 5, 1)):
        state = quantize_model(path, CompileOptions(max_length=length, cache="int4", block=block))
        graph = plan_decoder(state.model, length, block, 1, VOCABULARY, tmp_path).model.graph
        design = Design.of(4, 16, 4, 8, beat=2, keys=4)
        program = build_program(graph, design, None)
        (engine,) = (engine for engine in program.engines if engine.op == "attention")
        assert engine.kernel.arg("S") == at_once and program.last[PREFILL] % block == 0
    assert parts_of((4, 12, 4, 4), 2) == [[4, 8, 0, 0], [0, 4, 4, 4]] and parts_of((0, 0, 0, 8), 1) == [[0, 0, 0, 8]]


def test_short_windows_and_sequences_have_one_precision() -> None:
    """Of a window what lies in the chunk before, or in none further back, is what would be in bytes anyway."""
    node = Node("a", "attention", ["q", "k", "v"], "y", attrs={"num_heads": 1, "num_kv_heads": 1, "causal": True, "window": (32, 0)})
    assert kept_in(node, (4, 4), 512, 32) == {} and kept_in(node, (4, 4), 96, 32) == {"small_operands": (1, 2)}
    for window, chunks in ((33, 2), (64, 2), (65, 3), (400, 13)):
        node.attrs["window"] = (window, 0)
        assert kept_in(node, (4, 4), 512, 32) == {"low_operands": (1, 2), "cache_chunk": 32, "cache_window": chunks}
    node.attrs["window"] = (500, 0)
    assert kept_in(node, (4, 4), 512, 32) == {"low_operands": (1, 2), "cache_chunk": 32}
    node.attrs.pop("window")
    assert kept_in(node, (4, 8), 512, 40) == {"low_operands": (1,), "cache_chunk": 40}
    assert kept_in(node, (4, 8), 96, 32) == {"small_operands": (1,)}
    assert kept_in(node, (8, 8), 512, 32) == {}


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
        np.testing.assert_allclose(after[name], array, rtol=1e-4, atol=1e-5)
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
