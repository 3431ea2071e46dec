"""The quantized graph as an ONNX model: as accurate as golden, and near to it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from attnc import cli
from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.errors import BuildError
from attnc.ops import OPERATORS as DEVICE_OPERATORS
from attnc.ops.functions import FUNCTIONS as DEVICE_FUNCTIONS
from attnc.verify import export_qdq as export_module
from attnc.verify.export_qdq import export_qdq, save_qdq
from attnc.verify.export_qdq import operators as export_operators
from attnc.verify.golden_backend import GoldenBackend
from attnc_host import Accelerator
from harness import slowly

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "frontend"))
from graphs import Builder

VIT = Path(__file__).resolve().parents[2] / "models" / "vit_digits"


def golden(build: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with Accelerator.open(build, backend=GoldenBackend(build)) as accelerator:
        return dict(accelerator.run(inputs))


def session(model: str | bytes) -> ort.InferenceSession:
    """What the exported graph means: products of integers as onnxruntime computes them depend on the processor (those without VNNI
    saturate sums of pairs)."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_digits_are_as_accurate_as_golden(digits: Path, tmp_path: Path) -> None:
    save_qdq(digits, tmp_path / "q.onnx")
    data = np.load(VIT / "heldout.npz")
    runner = session(str(tmp_path / "q.onnx"))
    assert [(value.name, value.shape) for value in runner.get_inputs()] == [("image", ["batch", 1, 8, 8])]
    found, expected = runner.run(["logits"], {"image": data["image"]})[0], golden(digits, {"image": data["image"]})["logits"]
    accuracy = [100 * float((logits.argmax(1) == data["label"]).mean()) for logits in (found, expected)]
    assert abs(accuracy[0] - accuracy[1]) <= 0.3
    alike = cosine(found, expected)  # the export computes GELU in float; golden's approximation moves single images more than others
    assert alike.mean() > 0.9999 and np.quantile(alike, 0.01) > 0.998 and alike.min() > 0.99


@pytest.mark.parametrize("weights", ["int4", *slowly(("binary3",))])
def test_scales_of_groups_and_planes_are_exported(weights: str, tmp_path: Path) -> None:
    options = CompileOptions(check=False, output=tmp_path / "build", calib=VIT / "calib.npz", weights=weights, group_size=32)
    build = compile_model(VIT / "vit_digits.onnx", options)
    save_qdq(build, tmp_path / "q.onnx")
    images = np.load(VIT / "heldout.npz")["image"][:64]
    found = session(str(tmp_path / "q.onnx")).run(["logits"], {"image": images})[0]
    assert cosine(found, golden(build, {"image": images})["logits"]).min() > 0.995


def test_the_form_is_that_of_a_quantized_model(digits: Path) -> None:
    """int8 weights, a pair at every value, and no attnc names at the edge."""
    model = export_qdq(digits)
    onnx.checker.check_model(model, full_check=True)
    graph = json.loads((digits / "golden" / "graph.json").read_text())
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = [t for t in initializers.values() if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
    assert len(weights) == sum(node["op"] == "linear" for node in graph["nodes"])
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) >= len(graph["nodes"])
    assert {entry.version for entry in model.opset_import} == {21}
    assert [value.name for value in [*model.graph.input, *model.graph.output]] == ["image", "logits"]


def test_graphs_of_the_host_are_merged_in(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from models import bert_random

    bert_random.export(tmp_path / "bert.onnx", "torchscript", layers=1, width=32, heads=2, sequence=16)
    build = compile_model(tmp_path / "bert.onnx", CompileOptions(check=False, output=tmp_path / "build", shapes={"input_ids": (1, 16)}))
    assert json.loads((build / "manifest.json").read_text())["host"]["leading"]
    runner = session(export_qdq(build).SerializeToString())
    vectors = dict(np.load(build / "golden" / "inputs.npz"))
    expected = dict(np.load(build / "golden" / "outputs.npz"))
    names = [value.name for value in runner.get_outputs()]
    for i in range(4):
        found = runner.run(names, {name: array[i : i + 1] for name, array in vectors.items()})
        for name, array in zip(names, found, strict=True):
            assert cosine(array, expected[name][i : i + 1])[0] > 0.998, name


def test_command_line(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export-qdq", str(digits), "-o", str(tmp_path / "q.onnx"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["opset"] == 21 and facts["bytes"] == (tmp_path / "q.onnx").stat().st_size
    assert cli.main(["export-qdq", str(tmp_path), "-o", str(tmp_path / "z.onnx")]) == 2
    assert cli.main(["export-qdq", str(digits), "-o", str(tmp_path / "no" / "q.onnx")]) == 2
    assert "does not exist" in capsys.readouterr().err and not (tmp_path / "z.onnx").exists()


def test_unknown_operators_are_named(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(export_module.OPERATORS, "attention")
    with pytest.raises(BuildError, match="operator 'attention' cannot be written as ONNX"):
        export_qdq(digits)


@pytest.mark.parametrize("bias", ["channels", "dense"])
def test_masks_caps_and_biases_of_attention_are_exported(bias: str, tmp_path: Path) -> None:
    b, tokens = Builder(), 12
    x = b.input("x", [1, tokens, 16])
    q, k, v = (b("Transpose", b("Reshape", b.linear(x, 16, 16), np.array([1, tokens, 2, 8])), perm=[0, 2, 1, 3]) for _ in range(3))
    scores = b("Mul", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), 0.5)
    scores = b("Mul", b("Tanh", b("Div", scores, 2.0)), 2.0)
    falling = np.array([0.5, 0.1])[:, None, None] * (np.arange(tokens) - np.arange(tokens)[:, None])
    scores = b("Add", scores, np.where(np.tri(tokens, dtype=bool), falling, -1e9))
    y = b("Reshape", b("Transpose", b("MatMul", b("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3]), np.array([1, tokens, 16]))
    path = b.save(tmp_path / "m.onnx", b.linear(y, 16, 8))
    build = compile_model(path, CompileOptions(check=False, output=tmp_path / "build", implementations={"attention_bias": bias}))
    save_qdq(build, tmp_path / "q.onnx")
    inputs = {"x": np.random.default_rng(0).normal(size=(1, tokens, 16)).astype(np.float32)}
    runner = session(str(tmp_path / "q.onnx"))
    (name,) = (value.name for value in runner.get_outputs())
    assert cosine(runner.run([name], inputs)[0], golden(build, inputs)[name]).min() > 0.999


# ---- every operator ----


def near_golden(b: Builder, y: str, tmp_path: Path, least: float = 0.9995, **options: Any) -> set[str]:
    """Compile a small model, compare its export in onnxruntime with golden on its own vectors; the operators of the build."""
    path = b.save(tmp_path / "m.onnx", y)
    build = compile_model(path, CompileOptions(check=False, output=tmp_path / "build", **options))
    runner = session(export_qdq(build).SerializeToString())
    vectors, expected = (dict(np.load(build / "golden" / f"{name}.npz")) for name in ("inputs", "outputs"))
    (name,) = expected
    rows = [runner.run([name], {key: array[i : i + 1] for key, array in vectors.items()})[0] for i in range(len(expected[name]))]
    assert cosine(np.concatenate(rows), expected[name]).min() > least
    return {node["op"] for node in json.loads((build / "golden" / "graph.json").read_text())["nodes"]}


def heads(b: Builder, x: str, tokens: int, count: int, size: int) -> str:
    return str(b("Transpose", b("Reshape", b.linear(x, 32, count * size), np.array([1, tokens, count, size])), perm=[0, 2, 1, 3]))


CASES = ("interleaved", "static"), ("half", "dynamic"), ("partial", "static")
OTHERS = ("interleaved", "dynamic"), ("half", "static"), ("partial", "dynamic")


@pytest.mark.parametrize(("case", "activations"), [*CASES, *slowly(*OTHERS)])
def test_decoder(tmp_path: Path, case: str, activations: str) -> None:
    """Grouped queries, normalised and turned, a window, a soft cap, root-mean-square norms."""
    b, t, d = Builder(25), 12, 16
    x = b.linear(b.input("x", [1, t, 32]), 32, 32)
    y = b("RMSNormalization", x, b.random(32), axis=-1, epsilon=1e-5)
    q, k, v = (heads(b, y, t, count, d) for count in (4, 2, 2))
    turned = 8 if case == "partial" else d
    phase = np.arange(t)[:, None] * 0.7 ** np.arange(turned // 2)
    extra: dict[str, Any] = {"rotary_embedding_dim": turned, "num_heads": 0} if case == "partial" else {}
    tables = b.constant(np.cos(phase)[None]), b.constant(np.sin(phase)[None])
    q, k = (b("RMSNormalization", part, b.random(d), axis=-1) for part in (q, k))
    q, k = (b("RotaryEmbedding", part, *tables, interleaved=int(case == "interleaved"), **extra) for part in (q, k))
    o = b("Attention", q, k, v, is_causal=1, left_window_size=5, softcap=2.0)
    o = b("Reshape", b("Transpose", o, perm=[0, 2, 1, 3]), np.array([1, t, 64]))
    y = b("Add", b.linear(o, 64, 32), x)
    gate, up = b.linear(y, 32, 48), b.linear(y, 32, 48)
    found = near_golden(b, b.linear(b("Mul", b("Mul", gate, b("Sigmoid", gate)), up), 48, 8), tmp_path, activations=activations)
    assert found >= {"rotary", "rms_normalization", "attention", "mul"}
    assert (found >= {"row_absmax", "normalize_rows", "scale_rows"}) == (activations == "dynamic")


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_alone(tmp_path: Path, interleaved: int) -> None:
    """Scores do not see an order of channels that queries and keys share; the rotated channels themselves do."""
    b, t, d = Builder(23), 12, 16
    phase = np.arange(t)[:, None] * 0.7 ** np.arange(4)
    x = heads(b, b.input("x", [1, t, 32]), t, 2, d)
    tables = b.constant(np.cos(phase)[None]), b.constant(np.sin(phase)[None])
    y = b("RotaryEmbedding", x, *tables, interleaved=interleaved, rotary_embedding_dim=8)
    assert near_golden(b, y, tmp_path) == {"linear", "rotary"}


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions(tmp_path: Path, stride: int) -> None:
    """Dense and depthwise, with padding, on the device."""
    b = Builder(20)
    x = b.input("x", [1, 3, 8, 8])
    y = b("Conv", x, b.random(16, 3, 3, 3), b.random(16), pads=[1, 1, 1, 1], strides=[stride, stride])
    y = b("Relu", y)
    y = b("Conv", y, b.random(16, 1, 3, 3), b.random(16), pads=[1, 1, 1, 1], group=16)
    y = b("Conv", b("HardSwish", y), b.random(12, 16, 3, 3), b.random(12), pads=[1, 1, 1, 1])
    assert near_golden(b, y, tmp_path) >= {"patches", "depthwise", "linear"}


def test_what_is_moved_and_pooled(tmp_path: Path) -> None:
    """Norms over tokens and of groups, maxima, exchanged rows and channels."""
    b = Builder(21)
    x = b("Relu", b("Conv", b.input("x", [1, 3, 4, 6]), b.random(16, 3, 1, 1)))
    y = b("Add", b("InstanceNormalization", x, np.ones(16), b.random(16)), b("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    y = b("Reshape", b("InstanceNormalization", b("Reshape", y, np.array([1, 2, 192])), np.ones(2), np.zeros(2)), np.array([1, 16, 24]))
    y = b("MatMul", b("Gather", b("Tanh", y), b.rng.permutation(16)[:12], axis=1), b.random(24, 24))
    found = near_golden(b, b("Conv", y, b.random(8, 12, 1)), tmp_path)
    assert found >= {"transpose", "max_rows", "gather_rows", "layer_normalization"}


def test_biases_that_are_computed(tmp_path: Path) -> None:
    b, t = Builder(), 12
    x = b.input("x", [1, t, 32])
    q, k, v = (heads(b, x, t, 2, 16) for _ in range(3))
    which = np.broadcast_to(np.arange(t) - np.arange(t)[:, None] + t - 1, (1, 2, t, t)).copy()
    bias = b("GatherElements", b("MatMul", q, b.random(1, 2, 16, 2 * t - 1)), which, axis=3)
    scores = b("Where", np.tri(t, dtype=bool), b("Add", b("MatMul", q, b("Transpose", k, perm=[0, 1, 3, 2])), bias), -1e30)
    y = b("Transpose", b("MatMul", b("Softmax", b("Mul", scores, 0.25), axis=-1), v), perm=[0, 2, 1, 3])
    found = near_golden(b, b.linear(b("Reshape", y, np.array([1, t, 32])), 32, 8), tmp_path, least=0.998)
    assert found >= {"mask_bias", "gather_channels", "attention"}


def test_norms_of_odd_groups(tmp_path: Path) -> None:
    """Padded on the device."""
    b = Builder(20)
    y = b("Reshape", b.linear(b.input("x", [1, 6, 16]), 16, 15), np.array([1, 6, 3, 5]))
    y = b("LayerNormalization", y, b.random(5), b.random(5), axis=-1, epsilon=1e-5)
    y = b.linear(b("Reshape", y, np.array([1, 6, 15])), 15, 8)
    assert near_golden(b, y, tmp_path) == {"layer_normalization", "linear"}


def test_functions(tmp_path: Path) -> None:
    """Every function of the device, and those with parameters, as onnxruntime computes them."""
    b = Builder(20)
    x = b.linear(b.input("x", [1, 16, 16]), 16, 16)
    parts = [
        b("Elu", x), b("Elu", x, alpha=0.5), b("Erf", x), b("Exp", b("Mul", x, 0.3)), b("Gelu", x), b("Gelu", x, approximate="tanh"),
        b("Mul", x, b("Sigmoid", b("Mul", x, 1.702))), b("HardSigmoid", x), b("HardSigmoid", x, alpha=1 / 6), b("HardSwish", x),
        b("LeakyRelu", x), b("LeakyRelu", x, alpha=0.25), b("Mish", x), b("Relu", x), b("Mul", b("Relu", x), x), b("Sigmoid", x),
        b("Mul", x, b("Sigmoid", x)), b("Softplus", x), b("Softsign", x), b("Tanh", x), b("Clip", x, -0.5, 0.7), b("Min", x, 0.4),
        b("Max", x, -0.2),
    ]  # fmt: skip
    assert near_golden(b, b("Concat", *parts, axis=-1), tmp_path, least=0.998) >= {"unary"}


MIXTURES = {"top_experts", "expert_scores", "expert_order", "expert_queue", "dispatch", "experts", "combine", "keep_groups"}
"""What only mixtures of experts have: refused, see `docs/limits.md`."""


def test_every_operator_and_function_can_be_exported() -> None:
    assert set(export_module.OPERATORS) == set(DEVICE_OPERATORS) - MIXTURES
    assert {name for name, function in DEVICE_FUNCTIONS.items() if function.clamp is None} <= {
        *export_operators.FUNCTIONS, *(name for name in DEVICE_FUNCTIONS if name.rpartition("_")[0] in export_operators.PARAMETRIC),
    }  # fmt: skip
