"""The shipped model, its data, and the generators of test models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from models import bert_random
from models.vit_digits.model import export, random_model

VIT = Path(__file__).resolve().parents[1] / "models" / "vit_digits"


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_shipped_model_is_accurate_and_small() -> None:
    data = np.load(VIT / "heldout.npz")
    assert len(data["image"]) == 599
    logits = session(VIT / "vit_digits.onnx").run(["logits"], {"image": data["image"]})[0]
    assert np.mean(logits.argmax(axis=1) == data["label"]) >= 0.96
    assert (VIT / "vit_digits.onnx").stat().st_size < 1_000_000
    model = onnx.load(VIT / "vit_digits.onnx", load_external_data=False)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


def test_calibration_images_are_not_held_out() -> None:
    calibration, heldout = (np.load(VIT / f"{name}.npz")["image"] for name in ("calib", "heldout"))
    seen = {image.tobytes() for image in calibration}
    assert not any(image.tobytes() in seen for image in heldout)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_random_vit_exports_as_it_computes(tmp_path: Path, exporter: str) -> None:
    model = random_model(layers=2, width=32, heads=2, mlp_width=48)
    export(model, str(tmp_path / "vit.onnx"), exporter=exporter)
    image = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    found = session(tmp_path / "vit.onnx").run(None, {"image": image})[0]
    np.testing.assert_allclose(found, model(torch.from_numpy(image)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_random_bert_exports_as_it_computes(tmp_path: Path, exporter: str) -> None:
    model = bert_random.export(tmp_path / "bert.onnx", exporter, layers=2, width=32, heads=2, sequence=16)
    tokens, mask = bert_random.sample_inputs(3, 11)
    found = session(tmp_path / "bert.onnx").run(None, {"input_ids": tokens.numpy(), "attention_mask": mask.numpy()})
    for ours, expected in zip(found, model(tokens, mask), strict=True):
        np.testing.assert_allclose(ours, expected.detach().numpy(), atol=1e-4)
