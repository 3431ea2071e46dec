"""Whole designs under random stalls, 100 seeds each in both styles of pipelines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc.cli import main
from attnc.compiler import compile_model
from attnc.config import CompileOptions

SEEDS = 100
ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "vit_digits"
PARALLEL = "schema: 1\ndesign: {lanes: 8, pe: 16, rows: 8, queries: 4, beat: 2, parallel: 2}\n"
OPTIONS: dict[str, Mapping[str, Any]] = {
    "int8": {},
    "lookup": {"weights": "ternary", "engine": "lookup"},
    "per-token": {"activations": "dynamic"},
    "parallel": {},
}


def assert_it_lives(model: Path, calib: Path, folder: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> None:
    build = compile_model(model, CompileOptions(output=folder / "build", calib=calib, check=False, **options))
    code = main(["cosim", str(build), "--stalls", str(SEEDS), "--json"])
    found = json.loads(capsys.readouterr().out)["styles"]
    assert code == 0 and {style: (run["runs"], run["different"], run["deadlocks"]) for style, run in found.items()} == {
        "stp": (SEEDS, 0, 0),
        "flp": (SEEDS, 0, 0),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_digits(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "schedule.yaml").write_text(PARALLEL)
    given = {"schedule": tmp_path / "schedule.yaml"} if name == "parallel" else {}
    assert_it_lives(DIGITS / "vit_digits.onnx", DIGITS / "calib.npz", tmp_path, capsys, target="kv260", **OPTIONS[name], **given)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "llama", "mobilevit", "t5"])
def test_families(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An encoder, a causal decoder, convolutions between blocks, an encoder with a decoder."""
    from models.zoo import export

    export(name, "torchscript", tmp_path / "model.onnx")
    assert_it_lives(tmp_path / "model.onnx", tmp_path / "model.npz", tmp_path, capsys, target="zcu104")


@pytest.mark.slow
def test_sentence_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra zoo")
    from models.minilm.export import export
    from models.minilm.sentences import select, tokenise

    export(tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", **tokenise(select("calibration", 32)))  # type: ignore[arg-type]
    assert_it_lives(tmp_path / "model.onnx", tmp_path / "calib.npz", tmp_path, capsys, target="kv260", activations="dynamic")
