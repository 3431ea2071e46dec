"""activation_bits: what auto finds, what it leaves alone, what the report says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attnc.arrays import Array
from attnc.cli import main
from attnc.compiler import compile_model, quantize_model
from attnc.config import CompileOptions
from attnc.errors import ConfigError
from attnc.pipeline import widths
from attnc.pipeline.compare import compare_layers, measure_outputs, unlucky_words
from attnc.pipeline.state import State
from attnc.pipeline.widths import Candidate, cheapest
from attnc.report import load_report
from attnc.verify.csim import compare_build
from frontend.graphs import Builder

TOKENS, WIDTH = 8, 48
Capture = pytest.CaptureFixture[str]


def save(folder: Path, gated: bool) -> Path:
    """y = f(x A) B + x C, where f is relu, or a fifth power, which has long tails: most of its range is empty."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5 for name in "abc"}
    weights["b"] /= 5 if gated else 1
    middle = [
        helper.make_node("Mul", ["xa", "xa"], ["square"]),
        helper.make_node("Mul", ["square", "square"], ["fourth"]),
        helper.make_node("Mul", ["fourth", "xa"], ["h"]),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"], name="up"),
        *(middle if gated else [helper.make_node("Relu", ["xa"], ["h"])]),
        helper.make_node("MatMul", ["h", "b"], ["hb"], name="down"),
        helper.make_node("MatMul", ["x", "c"], ["xc"], name="side"),
        helper.make_node("Add", ["hb", "xc"], ["y"], name="sum"),
    ]
    shape = [1, TOKENS, WIDTH]
    graph = helper.make_graph(
        nodes,
        "gated" if gated else "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    path = folder / f"{graph.name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    np.savez(path.with_suffix(".npz"), x=rng.normal(size=(12, TOKENS, WIDTH)).astype(np.float32))
    return path


def quantized(path: Path, **options: object) -> State:
    return quantize_model(path, CompileOptions(calib=path.with_suffix(".npz"), **options))


def wide(state: State) -> list[str]:
    return [node.name for node in state.graph.nodes if node.attrs.get("input_bytes") == 2]


def test_auto_widens_what_needs_it_and_no_more(tmp_path: Path) -> None:
    path = save(tmp_path, True)
    narrow, found = quantized(path, activation_bits=8), quantized(path)
    assert narrow.output_sqnr["y"] < 28 and wide(narrow) == []
    assert found.output_sqnr["y"] - found.margins["y"] >= 30 and wide(found) == ["down"]
    facts = found.widths
    assert facts["sqnr_db_of_8_bits"]["y"] == round(narrow.output_sqnr["y"], 2) and facts["binding"] == []
    (entry,) = facts["wide"]
    assert entry["why"] == "needed" and entry["multiply_adds"] == TOKENS * WIDTH**2 and entry["noise_percent"] > 30


def test_outputs_that_the_host_makes_share_those_of_the_device(tmp_path: Path) -> None:
    """The device has two outputs, the model three: the third is read from the first."""
    path = save(tmp_path, True)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Transpose", ["y"], ["turned"], perm=[0, 2, 1]))
    for name, shape in (("xc", [1, TOKENS, WIDTH]), ("turned", [1, WIDTH, TOKENS])):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(model, path)
    found = quantized(path)
    assert len(found.graph.outputs) == 2 and set(found.output_sqnr) == {"y", "xc", "turned"} and wide(found) == ["down"]
    assert found.widths["wide"][0]["noise_percent"] > 30


def test_auto_changes_nothing_where_8_bits_do(tmp_path: Path) -> None:
    path = save(tmp_path, False)
    auto, narrow = quantized(path), quantized(path, activation_bits=8)
    assert auto.output_sqnr["y"] >= 30 and wide(auto) == [] and auto.widths["sqnr_db_of_8_bits"] is None
    assert auto.graph.dump() == narrow.graph.dump()
    for a, b in zip(auto.graph.nodes, narrow.graph.nodes, strict=True):
        assert all(np.array_equal(a.params[key], b.params[key]) for key in a.params)


def test_nothing_is_widened_that_takes_the_model_further_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a file that says how its tensors are rounded: the search sees the device's noise, the target is held at the model's outputs."""

    def search(state: State, offered: list[Candidate], requantize: Any) -> list[Candidate]:
        state.widened = frozenset(use for candidate in offered for use in candidate.uses)
        requantize(state)
        state.output_sqnr = {"y": 5.0}
        return offered

    path = save(tmp_path, True)
    narrow = quantized(path, activation_bits=8)
    monkeypatch.setattr(widths, "_search", search)
    found = quantized(path)
    assert wide(found) == [] and found.widths["wide"] == [] and found.output_sqnr == narrow.output_sqnr


def test_made_up_inputs_widen_nothing(tmp_path: Path) -> None:
    found = quantize_model(save(tmp_path, True), CompileOptions())
    assert found.output_sqnr["y"] < 30 and wide(found) == [] and found.widths["missed"] is None and found.widths["binding"] == []


def test_figures_are_of_samples_that_did_not_calibrate(tmp_path: Path) -> None:
    """Larger ones are held out: nothing but them can tell that they exceed the scales."""
    path = save(tmp_path, False)
    x = np.load(path.with_suffix(".npz"))["x"]
    x[3::4] *= 4
    np.savez(path.with_suffix(".npz"), x=x)
    seen, unseen = quantized(path, activation_bits=8, hold_out=0), quantized(path, activation_bits=8)
    assert seen.widths["missed"] is None and unseen.widths["missed"]
    assert unseen.output_sqnr["y"] < seen.output_sqnr["y"] - 6
    np.savez(tmp_path / "large.npz", x=x[3::4])
    assert quantized(path, activation_bits=8, heldout=tmp_path / "large.npz", hold_out=4).output_sqnr == unseen.output_sqnr


def test_held_out_samples_that_are_lucky_do_not_promise(tmp_path: Path) -> None:
    """One of the samples that calibrated has more noise than all others together, as where a choice tips over."""
    path = save(tmp_path, False)
    x = np.load(path.with_suffix(".npz"))["x"][:, np.newaxis]
    found = quantized(path, activation_bits=8)
    held, plain = measure_outputs(found, {"x": x[3::4]})["y"], found.original
    assert found.output_sqnr == {"y": held} and not found.unlucky and not unlucky_words(found)

    class Tipped(type(plain)):
        def __init__(self) -> None:
            self.__dict__ = plain.__dict__

        def __call__(self, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: y + (np.array_equal(sample["x"], x[5])) for name, y in super().__call__(sample).items()}

    found.original = Tipped()
    compare_layers(found)
    together = measure_outputs(found, {"x": np.concatenate([x[3::4], np.delete(x, slice(3, None, 4), axis=0)])})["y"]
    assert found.unlucky == {"y": held} and held - 6 > found.output_sqnr["y"] == pytest.approx(together)
    assert f"reach {held:.1f} dB, all together {together:.1f}: a few decide" in unlucky_words(found)[0]
    found.unseen = None
    compare_layers(found)
    assert not found.unlucky and found.output_sqnr["y"] < held - 6


@pytest.mark.parametrize(("count", "gated"), [(2, False), (8, False), (8, True)])
def test_figures_of_few_samples_hold_on_others(tmp_path: Path, count: int, gated: bool) -> None:
    path = save(tmp_path, gated)
    x = np.random.default_rng(5).normal(size=(40, 1, TOKENS, WIDTH)).astype(np.float32)
    np.savez(path.with_suffix(".npz"), x=x[:count])
    found = quantized(path, sqnr_target=36)
    promised = found.output_sqnr["y"] - found.margins["y"]
    assert measure_outputs(found, {"x": x[count:]})["y"] > promised - 0.5
    assert found.doubts == [] if count == 8 else "2 different samples" in found.doubts[0]


def test_target(tmp_path: Path) -> None:
    path = save(tmp_path, True)
    assert wide(quantized(path, sqnr_target=12)) == []
    assert set(wide(quantized(path, sqnr_target=36))) > {"down"}


def test_a_target_out_of_reach(tmp_path: Path) -> None:
    """Those that come near to what all reach; where all gain little, none. The report says what binds."""
    path = save(tmp_path, True)
    far = quantized(path, sqnr_target=80)
    assert "down" in wide(far) and far.widths["binding"][0]["percent"] > 10
    few_bits = quantized(path, config=config(tmp_path, "layers: [{match: down, weights: int2, activation_bits: 16}]"))
    assert wide(few_bits) == ["down"]
    assert few_bits.widths["wide"] == [{"node": "down", "op": "linear", "operands": "input", "why": "asked for"}]
    assert few_bits.widths["binding"][0] == {"node": "down", "op": "linear", "why": "weights of int2"} | {
        "percent": few_bits.widths["binding"][0]["percent"]
    }
    assert few_bits.widths["binding"][0]["percent"] > 90


def config(folder: Path, text: str) -> Path:
    path = folder / "attnc.yaml"
    path.write_text(text)
    return path


def test_by_hand_and_by_rule(tmp_path: Path) -> None:
    path = save(tmp_path, True)
    assert len(wide(quantized(path, activation_bits=16))) == 3
    found = quantized(path, config=config(tmp_path, "activation_bits: 8\nlayers: [{match: side, activation_bits: 16}]"))
    assert wide(found) == ["side"]
    copies = [node for node in found.graph.nodes if node.op == "requantize"]
    assert [found.graph.type(node.output).short for node in copies] == ["s8"]  # the other reader of x
    auto = quantized(path, config=config(tmp_path, "layers: [{match: down, activation_bits: 8}]"))
    assert "down" not in wide(auto)


def test_dynamic_layers_keep_a_scale_per_token(tmp_path: Path) -> None:
    path = save(tmp_path, True)
    dynamic = quantized(path, activations="dynamic")
    assert wide(dynamic) == [] and sum(node.op == "normalize_rows" for node in dynamic.graph.nodes) == 2
    by_hand = quantized(path, activations="dynamic", activation_bits=16)
    assert len(wide(by_hand)) == 3 and not any(node.op == "normalize_rows" for node in by_hand.graph.nodes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("activation_bits: 12", "activation_bits: needed 8, 16 or auto, found 12"),
        ("layers: [{match: down, activation_bits: wide}]", r"layers\[0\]\.activation_bits: needed 8, 16 or auto, found 'wide'"),
        (
            "weights: int4\nengine: lookup\nlayers: [{match: down, activation_bits: 16}]",
            r"layers\[0\]: layer 'down': engine lookup takes activations of 8 bits, found activation_bits 16",
        ),
        ("weights: binary3\nactivation_bits: 16", r"layer '\w+': binary3 weights are looked up and take activations of 8 bits"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantized(save(tmp_path, True), config=config(tmp_path, text))


def test_command_line_report_and_exactness(tmp_path: Path, capsys: Capture) -> None:
    path, build = save(tmp_path, True), tmp_path / "build"
    command = ["compile", str(path), "--calib", str(path.with_suffix(".npz")), "-o", str(build), "--no-check"]
    assert main([*command, "--activation-bits", "12"]) == 2
    assert "'12' is not one of '8', '16', 'auto'" in capsys.readouterr().err
    assert main([*command, "--sqnr-target", "200"]) == 2
    assert "--sqnr-target: Input should be less than or equal to 90" in capsys.readouterr().err
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "1 of linear with 16 bits" in out and "Operands of 16 bits" in out and "input of linear" in out
    assert out.splitlines()[1:4] == (build / "report.txt").read_text().splitlines()[1:4]
    assert json.loads((build / "report.json").read_text())["activation_bits"]["wide"][0]["node"] == "down"
    assert main(["csim", str(build), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mismatches"] == 0
    assert main([*command, "--activation-bits", "8", "--sqnr-target", "30"]) == 0
    text = capsys.readouterr().out
    assert "MISSES the target of 30 dB" in text and "What keeps the outputs from the target" in text
    assert "output of 8 bits, read by linear" in text


def candidate(name: str, macs: int, *noise: float) -> Candidate:
    return Candidate((name,), ((name, 0),), macs, np.array(noise))


def test_cheapest() -> None:
    dear, cheap, tiny = candidate("dear", 100, 5.0), candidate("cheap", 10, 4.0), candidate("tiny", 10, 0.1)
    offered = [dear, cheap, tiny]

    def names(noise: float, allowed: float) -> list[str]:
        return [c.values[0] for c in cheapest(offered, np.array([noise]), np.array([allowed]))]

    assert names(10, 10) == []
    assert names(10, 6.5) == ["cheap"]
    assert names(10, 5.5) == ["dear"]  # with which neither cheap nor tiny is needed
    assert names(10, 1.1) == ["cheap", "dear"]
    assert sorted(names(10, 0.5)) == ["cheap", "dear", "tiny"]


def test_parts_are_scaled_to_what_all_save() -> None:
    found = widths._scaled([candidate("a", 10, 1.0, 0.0), candidate("b", 10, 3.0, 0.0)], np.array([2.0, 0.5]))
    assert [c.noise.tolist() for c in found] == [[0.5, 0.0], [1.5, 0.0]]


def test_cheapest_serves_every_output() -> None:
    left, right = candidate("left", 10, 1.0, 0.0), candidate("right", 10, 0.0, 1.0)
    both = cheapest([left, right], np.array([1.5, 1.5]), np.array([1.0, 1.0]))
    assert {c.values[0] for c in both} == {"left", "right"}
    assert [c.values[0] for c in cheapest([left, right], np.array([0.5, 1.5]), np.array([1.0, 1.0]))] == ["right"]


def test_wishes_outlive_a_wider_input(tmp_path: Path) -> None:
    """What the options say of attention's bias holds in the graph that is quantized anew."""
    b, tokens, heads, width = Builder(), 12, 2, 16
    x = b.input("x", [1, tokens, width])
    q, k, v = (
        b("Transpose", b("Reshape", b.linear(x, width, width), np.array([1, tokens, heads, 8])), perm=[0, 2, 1, 3]) for _ in range(3)
    )
    scores = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 8**-0.5)
    scores = b("Add", scores, -np.subtract.outer(np.arange(tokens), np.arange(tokens)) * np.array([0.5, 0.25]).reshape(2, 1, 1))
    y = b("Reshape", b("Transpose", b("MatMul", b("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3]), np.array([1, tokens, width]))
    path = b.save(tmp_path / "m.onnx", b.linear(y, width, width))
    np.savez(path.with_suffix(".npz"), x=np.random.default_rng(0).normal(size=(4, tokens, width)).astype(np.float32))
    for wanted in ("channels", "dense"):
        found = quantized(path, implementations={"attention_bias": wanted}, sqnr_target=60)
        assert wide(found), "this target needs 16 bits"
        (node,) = [node for node in found.graph.nodes if node.op == "attention"]
        assert node.attrs["bias_report"]["by"] == wanted and ("bias_queries" in node.params) == (wanted == "channels")


def attentive(folder: Path, mask: Array | None = None) -> Path:
    """Attention whose keys have one large channel, so that 8 bits leave the others little, behind a depthwise convolution; a constant
    `mask` is added to the scores."""
    b, tokens, heads, width = Builder(), 12, 2, 16
    h = b("Transpose", b.linear(b.input("x", [1, tokens, width]), width, width), perm=[0, 2, 1])
    h = b(
        "Conv",
        b("Reshape", h, np.array([1, width, 4, 3])),
        b.rng.normal(size=(width, 1, 3, 3)),
        np.zeros(width),
        group=width,
        pads=[1, 1, 1, 1],
        name="taps",
    )
    h = b("Transpose", b("Reshape", h, np.array([1, width, tokens])), perm=[0, 2, 1])
    gain = np.where(np.arange(width) % 8 == 0, 6.0, 1.0)
    q, k, v = (
        b(
            "Transpose",
            b("Reshape", b("MatMul", h, b.rng.normal(size=(width, width)) * 0.2 * g), np.array([1, tokens, heads, 8])),
            perm=[0, 2, 1, 3],
        )
        for g in (1.0, gain, 1.0)
    )
    scores = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 8**-0.5)
    scores = scores if mask is None else b("Add", scores, mask)
    y = b("Reshape", b("Transpose", b("MatMul", b("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3]), np.array([1, tokens, width]))
    path = b.save(folder / "attentive.onnx", b.linear(y, width, width))
    np.savez(path.with_suffix(".npz"), x=b.rng.normal(size=(16, tokens, width)).astype(np.float32))
    return path


def bits_of(state: State, op: str) -> list[int]:
    (node,) = [node for node in state.graph.nodes if node.op == op]
    return [state.graph.type(name).bits for name in node.inputs]


def test_operands_of_attention_and_of_depthwise_convolutions(tmp_path: Path) -> None:
    """With all inputs of layers in 16 bits, the rest of the noise is theirs; what is taken is the cheapest that does."""
    path = attentive(tmp_path)
    linear = config(tmp_path, "layers: [{match: linear, activation_bits: 16}]")
    narrow = quantized(path, config=linear, sqnr_target=6)
    before = min(narrow.output_sqnr.values())
    assert bits_of(narrow, "attention") == [8, 8, 8] and bits_of(narrow, "depthwise") == [8]
    most = quantized(path, config=linear, sqnr_target=before + 20)
    assert bits_of(most, "attention")[:2] == [16, 16] and bits_of(most, "depthwise") == [16]
    assert [[index for _, index in found.uses] for found in widths.candidates(narrow)] == [[0], [0, 1], [2]]
    assert min(most.output_sqnr.values()) > before + 6
    some = quantized(path, config=linear, sqnr_target=before + 1.5)
    reached = min(db - some.margins[name] for name, db in some.output_sqnr.items())
    bits = [*bits_of(some, "attention"), *bits_of(some, "depthwise")]
    assert reached >= before + 1.5 and bits[0] == bits[1] and 8 in bits and 16 in bits
    rows = {(row["op"], row["operands"]): row for row in some.widths["wide"] if row["op"] != "linear"}
    assert len(rows) == (bits[0] > 8) + (bits[2] > 8) + (bits[3] > 8)
    assert all(row["why"] == "needed" and row["noise_percent"] > 0 for row in rows.values())


def test_an_infinite_mask_outlives_a_wider_input(tmp_path: Path) -> None:
    """One that is no band, so that it stays an operand: every key, or those at an even distance."""
    distance = np.subtract.outer(np.arange(12), np.arange(12))
    found = quantized(attentive(tmp_path, np.where(distance % 2 == 0, 0, -np.inf)), sqnr_target=60)
    assert wide(found) and min(found.output_sqnr.values()) > 20


def test_nothing_is_widened_where_the_options_say_8_bits_or_dynamic(tmp_path: Path) -> None:
    path = attentive(tmp_path)
    for options in ({"activation_bits": 8}, {"activations": "dynamic"}):
        found = quantized(path, sqnr_target=60, **options)
        assert bits_of(found, "attention") == [8, 8, 8] and bits_of(found, "depthwise") == [8]


def test_wide_operands_are_exact(tmp_path: Path) -> None:
    path = attentive(tmp_path)
    build = compile_model(path, CompileOptions(calib=path.with_suffix(".npz"), output=tmp_path / "build", sqnr_target=60, check=False))
    assert {"attention", "depthwise"} <= {row["op"] for row in load_report(build)["activation_bits"]["wide"]}
    result = compare_build(build)
    assert result.bit_exact and result.elements > 0


def test_a_near_miss_takes_the_next_best_and_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is a little more than the sum of the parts; then the choice goes on from what was measured."""
    offered = [candidate(name, 10, noise) for name, noise in (("a", 4.0), ("b", 3.0), ("c", 2.0), ("d", 1.0))]
    state, tried = SimpleNamespace(widened=frozenset()), list[int]()

    def noise(state: Any) -> Array:
        left = sum(float(c.noise[0]) for c in offered if c.uses[0] not in state.widened)
        return np.array([left + (0.2 if 0 < len(state.widened) < 4 else 0.0)])

    monkeypatch.setattr(widths, "_noise", noise)
    monkeypatch.setattr(widths, "_allowed", lambda state: 3.1)
    found = widths._search(state, offered, lambda state: tried.append(len(state.widened)))  # type: ignore[arg-type]
    assert [c.values[0] for c in found] == ["a", "b", "c"] or len(found) == 3
    assert tried == [4, 2, 3]
