"""The quantized graph as an ONNX model: as accurate as golden, and near to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from attnc import cli
from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.errors import BuildError
from attnc.verify import export_qdq as export_module
from attnc.verify.export_qdq import export_qdq, save_qdq
from attnc.verify.golden_backend import GoldenBackend
from attnc_host import Accelerator
from frontend.graphs import Builder

VIT = Path(__file__).resolve().parents[2] / "models" / "vit_digits"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    return compile_model(VIT / "vit_digits.onnx", CompileOptions(calib=VIT / "calib.npz", output=folder / "build"))


def golden(build: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with Accelerator.open(build, backend=GoldenBackend(build)) as accelerator:
        return dict(accelerator.run(inputs))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_digits_are_as_accurate_as_golden(digits: Path, tmp_path: Path) -> None:
    save_qdq(digits, tmp_path / "q.onnx")
    data = np.load(VIT / "heldout.npz")
    session = ort.InferenceSession(str(tmp_path / "q.onnx"))
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("image", ["batch", 1, 8, 8])]
    found, expected = session.run(["logits"], {"image": data["image"]})[0], golden(digits, {"image": data["image"]})["logits"]
    accuracy = [100 * float((logits.argmax(1) == data["label"]).mean()) for logits in (found, expected)]
    assert abs(accuracy[0] - accuracy[1]) <= 0.3
    alike = cosine(found, expected)  # the export computes GELU in float; golden's approximation moves single images more than others
    assert alike.mean() > 0.9999 and alike.min() > 0.998


@pytest.mark.parametrize("weights", ["int4", "binary3"])
def test_scales_of_groups_and_planes_are_exported(weights: str, tmp_path: Path) -> None:
    options = CompileOptions(output=tmp_path / "build", calib=VIT / "calib.npz", weights=weights, group_size=32)
    build = compile_model(VIT / "vit_digits.onnx", options)
    save_qdq(build, tmp_path / "q.onnx")
    images = np.load(VIT / "heldout.npz")["image"][:64]
    found = ort.InferenceSession(str(tmp_path / "q.onnx")).run(["logits"], {"image": images})[0]
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
    build = compile_model(tmp_path / "bert.onnx", CompileOptions(output=tmp_path / "build", shapes={"input_ids": (1, 16)}))
    assert json.loads((build / "manifest.json").read_text())["host"]["leading"]
    session = ort.InferenceSession(export_qdq(build).SerializeToString())
    vectors = dict(np.load(build / "golden" / "inputs.npz"))
    expected = dict(np.load(build / "golden" / "outputs.npz"))
    names = [value.name for value in session.get_outputs()]
    for i in range(4):
        found = session.run(names, {name: array[i : i + 1] for name, array in vectors.items()})
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
    build = compile_model(path, CompileOptions(output=tmp_path / "build", implementations={"attention_bias": bias}))
    save_qdq(build, tmp_path / "q.onnx")
    inputs = {"x": np.random.default_rng(0).normal(size=(1, tokens, 16)).astype(np.float32)}
    session = ort.InferenceSession(str(tmp_path / "q.onnx"))
    (name,) = (value.name for value in session.get_outputs())
    assert cosine(session.run([name], inputs)[0], golden(build, inputs)[name]).min() > 0.999
