"""The head on the host: the integers of the device in every format, the tokens of a build with the head on the device, and the choice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import attnc_host.head as host
from attnc.arrays import Array
from attnc.cli import main
from attnc.compiler import compile_model, quantize_model
from attnc.config import CompileOptions
from attnc.decoding.head import LastLinear, host_head, host_layer
from attnc.decoding.plan import head_on_host, plan_decoder
from attnc.errors import ConfigError, FitError, UnsupportedError
from attnc.golden import run_golden
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.pipeline import design
from attnc.pipeline.head import CALLS_MS, choose_head
from attnc.report import load_report
from attnc.report_tables import head_text
from attnc.schedule.devices import BOARDS, Processors
from attnc.weights import WeightFormat
from attnc_host import Accelerator, AcceleratorError
from attnc_host.archive import write_archive
from attnc_host.caches import DECODE, PREFILL
from attnc_host.head import Digits
from attnc_host.manifest import load
from decoding.decoders import VOCABULARY, write_decoder
from decoding.test_decoding import BLOCK, LENGTH, run_in_blocks
from harness import quantized, random_feeds, tensor_type
from low_bit import grid_params, low_bit_graph

ROWS, TOKENS = 21, 5
FORMATS = ("int8", "int6", "int5", "int4", "int3", "int2", "ternary", "binary4", "binary2")


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("group", [0, 32])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_integers_of_the_device(name: str, group: int, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of the largest magnitude too, inputs at their ends, sizes that nothing divides, in one piece and in many on threads."""
    if wide and name.startswith("binary"):
        return  # tables take bytes
    for extreme, channels in ((False, 83), (True, 300 if wide else 1100)):
        graph = low_bit_graph([(name, group, (TOKENS, channels, ROWS), "dsp")], extreme=extreme, bits=16, wide=wide)
        head = LastLinear(graph, graph.nodes[0], None)
        found = host_head(head, host_layer(head))
        feeds = random_feeds(graph, 3)
        expected = run_golden(graph, feeds)["y0"]
        for sample, x in enumerate(feeds["x0"]):
            np.testing.assert_array_equal(found.integers(x, None), expected[sample])
        monkeypatch.setattr(host, "THREADED", 1)
        monkeypatch.setattr(host, "BLOCK_ROWS", 3)
        monkeypatch.setattr(host, "BLOCK_BYTES", 4 * channels)
        np.testing.assert_array_equal(found.integers(feeds["x0"][2], None), expected[2])
        monkeypatch.undo()


def test_a_scale_per_token_is_put_on_as_on_the_device() -> None:
    """Ties, a peak of nothing, and saturation at either end."""
    rng, graph = np.random.default_rng(0), Graph("head", inputs=["x", "peak"], outputs=["y"])
    for name, shape in (("x", (TOKENS, 40)), ("peak", (TOKENS, 1)), ("z", (TOKENS, ROWS)), ("y", (TOKENS, ROWS))):
        graph.add_value(name, shape)
    weights = grid_params(WeightFormat.parse("ternary"), ROWS, 40, rng, False) | {"bias": np.zeros(ROWS)}
    graph.nodes = [
        Node("n", "linear", ["x"], "z", {"weights": "ternary", "engine": "dsp"}, weights),
        Node("s", "scale_rows", ["z", "peak"], "y", params={"bias": rng.normal(size=ROWS)}),
    ]
    types = {"x": tensor_type(8, 1 / 127), "peak": tensor_type(16, 2e-4), "z": tensor_type(16, 2e-5), "y": tensor_type(8, 0.01)}
    quantized(graph, types)
    head = LastLinear(graph, *graph.nodes)
    found, feeds = host_head(head, host_layer(head)), random_feeds(graph, 4)
    feeds["peak"][3] = 0
    expected = run_golden(graph, feeds)["y"]
    assert {-128, 127} <= {*map(int, expected.ravel())}
    for x, peak, y in zip(feeds["x"], feeds["peak"], expected, strict=True):
        np.testing.assert_array_equal(found.integers(x, peak), y)
        np.testing.assert_array_equal(found.logits(x, peak), graph.type("y").dequantize(y))
    assert found.data.size == ROWS * (4 + 4 + 4 + 1 + 40 // 5)  # five weights in a byte


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_hold_what_the_format_weighs(name: str) -> None:
    digits = Digits.of(name)
    assert digits.base**digits.count <= 256
    values = digits.values[: digits.base**digits.count]
    assert len({tuple(row) for row in values.tolist()}) == len(values) and abs(values).max() == digits.largest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("head") / "decoder.onnx", windows=(3,))


@pytest.mark.parametrize("given", [{}, {"activations": "dynamic", "weights": "ternary"}])
def test_blocks_of_any_sizes_give_the_whole(model: Path, given: dict[str, Any]) -> None:
    state = quantize_model(model, CompileOptions(max_length=LENGTH, **given))
    found = head_on_host(plan_decoder(state.model, LENGTH, BLOCK, 1, VOCABULARY, model.parent), 1.0)
    graph = found.model.graph
    assert len(graph.outputs) == (2 if given else 1) and all(node.name not in ("logits", "logits.scale") for node in graph.nodes)
    assert {node.entry for node in graph.nodes} == {PREFILL, DECODE}
    for seed in range(2):
        run_in_blocks(found, seed)


GIVEN: dict[str, Any] = {
    "max_length": LENGTH,
    "block": BLOCK,
    "sessions": 2,
    "activations": "dynamic",
    "weights": "int4",
    "group_size": 16,
    "engine": "dsp",
}


@pytest.fixture(scope="module")
def build(model: Path) -> Path:
    """With the head on the host; it was simulated in time, and every logit compared with the model over the whole sequence."""
    return compile_model(model, CompileOptions(head="host", output=model.parent / "build", **GIVEN))


@pytest.fixture(scope="module")
def tokens(model: Path) -> list[Any]:
    """What `generated` gives, by the model over whole sequences, whose head is the device's."""
    state = quantize_model(model, CompileOptions(**GIVEN))
    decoder = plan_decoder(state.model, LENGTH, BLOCK, 2, VOCABULARY, model.parent)
    graph = decoder.sequence.graph

    def logits(ids: list[int]) -> Array:
        rows = decoder.rows(np.array([*ids, *[0] * (LENGTH - len(ids))]), 0)
        found = run_golden(graph, {graph.inputs[0]: rows[np.newaxis]})[graph.outputs[0]][0, len(ids) - 1]
        return graph.type(graph.outputs[0]).dequantize(found)

    ids = [1, 2, 3, 4, 5, 6]
    for _ in range(5):
        ids.append(int(np.argmax(logits(ids))))
    return [ids[6:], logits([1, 2, 3, 4, 5, 6, 7]).tolist()]


def generated(build: Path, backend: str) -> list[Any]:
    with Accelerator.open(build, backend) as accelerator:
        found: list[Any] = list(accelerator.session(1).generate([1, 2, 3, 4, 5, 6], 5))
        return [found, accelerator.session(0).extend([1, 2, 3, 4, 5, 6, 7]).tolist()]


@pytest.mark.parametrize("backend", ["golden", "csim", "cosim", "virtual"])
def test_tokens_are_those_of_a_head_on_the_device(build: Path, tokens: list[Any], backend: str) -> None:
    assert generated(build, backend) == tokens


def test_an_archive_has_the_head(build: Path, tokens: list[Any], tmp_path: Path) -> None:
    assert "app/host/head.bin" in write_archive(load(build), tmp_path / "app.zip")
    assert generated(tmp_path / "app.zip", "golden") == tokens


def test_the_time_of_the_host_counts(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = load_report(build)
    head, clock = facts["decoder"]["head"], facts["target"]["clock_mhz"]
    assert head["where"] == "host" and head["asked"] == "host" and head["host_bytes"] == (build / "host" / "head.bin").stat().st_size
    assert "on the host (--head host): 48 x 32 weights of int4" in (build / "report.txt").read_text().replace("\n", " ")
    for row in facts["decoder"]["estimates"]:
        more = row.get("host_ms", 0.0)
        assert row["ms"] == pytest.approx(row["cycles"] / clock / 1000 + more, abs=1e-5) and bool(more) == (row["entry"] == DECODE)
    assert main(["generate", str(build), "--ids", "1,2,3,4,5,6", "--tokens", "3", "--backend", "golden", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    decoder = load(build).decoder
    assert decoder is not None and decoder.head is not None and said["host_ms"] == decoder.head.ms == head["host_ms"]
    seconds = sum(decoder.cycles(DECODE, place) / clock / 1e6 + head["host_ms"] / 1e3 for place in (6, 7))
    assert said["estimated"]["tokens_per_second"] == pytest.approx(2 / seconds, rel=1e-3)
    assert main(["generate", str(build), "--ids", "1", "--tokens", "2", "--backend", "golden"]) == 0
    assert "ms of each token are the host's (estimated)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "verify", "error"),
    [
        (lambda file: file.unlink(), False, "'host/head.bin' is missing"),
        (lambda file: file.write_bytes(bytes(file.stat().st_size)), True, "head.bin: the checksum differs"),
        (lambda file: file.write_bytes(b""), False, "head.bin: needed .* bytes, found 0"),
    ],
)
def test_a_damaged_head_is_one_error(build: Path, tmp_path: Path, damage: Any, verify: bool, error: str) -> None:
    shutil.copytree(build, tmp_path / "build")
    damage(tmp_path / "build" / "host" / "head.bin")
    with pytest.raises(AcceleratorError, match=error), Accelerator.open(tmp_path / "build", "golden", verify=verify) as accelerator:
        accelerator.session()


@pytest.mark.parametrize(
    ("field", "value"),
    [("format", "int7"), ("rows", 47), ("channels", 0), ("ms", -1), ("between", [1]), ("scale", 0), ("scale", [1.0]), ("high", -(1 << 40)),
     ("input", "x"), ("peak", None), ("file", "../head.bin"), ("factors", False)],
)  # fmt: skip
def test_what_a_manifest_says_of_it_is_checked(build: Path, tmp_path: Path, field: str, value: Any) -> None:
    shutil.copytree(build, tmp_path / "build")
    data = json.loads((tmp_path / "build" / "manifest.json").read_text())
    data["decoder"]["head"][field] = value
    (tmp_path / "build" / "manifest.json").write_text(json.dumps(data))
    with (
        pytest.raises(AcceleratorError, match=r"head|fetches"),
        Accelerator.open(tmp_path / "build", "golden", verify=False) as accelerator,
    ):
        accelerator.session()


def test_the_choice_follows_the_rates() -> None:
    """With slow processors the device, with fast ones the host; with none the device; and what was asked for, whatever it takes."""
    graph = low_bit_graph([("int8", 0, (1, 512, 20_000), "dsp")])
    head, board = LastLinear(graph, graph.nodes[0], None), BOARDS["kv260"]
    slow = choose_head(head, board, 250, "auto")
    assert slow.where == "device" and slow.host_ms is not None and slow.host_ms > slow.device_ms
    assert slow.device_cycles == pytest.approx(20_000 * 512 / 64, rel=0.1)  # 64 bytes per cycle through four ports
    fast = board.model_copy(update={"processors": Processors(read_gb_s=50, gmac_s=50)})
    assert choose_head(head, fast, 250, "auto").where == "host" and choose_head(head, fast, 250, "device").where == "device"
    reading = board.model_copy(update={"processors": Processors(read_gb_s=1, gmac_s=1000)})
    assert choose_head(head, reading, 250, "auto").host_ms == pytest.approx(20_000 * 521 / 1e6 + CALLS_MS, rel=1e-3)
    alone = choose_head(head, BOARDS["u250"], 300, "auto")
    assert alone.where == "device" and alone.host_ms is None and "nothing is known" in alone.why
    assert choose_head(head, BOARDS["u250"], 300, "host").where == "host"
    assert "nothing is known of the host" in head_text(alone.facts() | {"design_cycles": None})


def test_what_does_not_fit_goes_to_the_host(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()

    def full(graph: Graph, *given: Any) -> Any:
        seen.append(len(graph.nodes))
        if any(node.output == "logits" for node in graph.nodes):
            raise FitError("full")
        return Design.of(8, 16, 16), None

    monkeypatch.setattr(design, "choose_engines", full)
    state = quantize_model(model, CompileOptions(max_length=LENGTH, block=BLOCK))
    design.add_caches(state)
    assert state.head is not None and state.head.where == "device"
    design.settle_design(state)
    assert state.head.where == "host" and state.head.why == "with it on the device: full" and len(seen) == 2
    assert state.decoder is not None and state.decoder.head is not None and state.design is not None
    asked = quantize_model(model, CompileOptions(max_length=LENGTH, block=BLOCK, head="device"))
    design.add_caches(asked)
    with pytest.raises(FitError, match="full"):
        design.settle_design(asked)


def capped(path: Path) -> Path:
    """Logits pass a function behind the last layer, as Gemma's are capped."""
    model = onnx.load(write_decoder(path))
    last = model.graph.node[-1]
    last.output[0] = "uncapped"
    model.graph.node.append(helper.make_node("Tanh", ["uncapped"], ["logits"], name="cap"))
    onnx.save(model, path)
    return path


def test_capped_logits_stay_on_the_device(tmp_path: Path) -> None:
    state = quantize_model(capped(tmp_path / "decoder.onnx"), CompileOptions(max_length=LENGTH, head="host"))
    with pytest.raises(UnsupportedError, match=r"'cap' \(unary\w*\): a head on the host is one linear layer with nothing behind it"):
        design.add_caches(state)
    state = quantize_model(capped(tmp_path / "decoder.onnx"), CompileOptions(max_length=LENGTH))
    design.add_caches(state)
    assert state.head is None and "no linear layer alone" in head_text(None)


@pytest.mark.parametrize("given", [{"head": "host"}, {"cache": "int4"}, {"sessions": 2}, {"block": 4}, {"batch": 4}])
def test_options_that_are_of_decoders(model: Path, given: dict[str, Any]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(ConfigError, match=f"--{name} {value}: is of decoders, which --max-length compiles"):
        compile_model(model, CompileOptions(**given))
