"""A build of the shipped model, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnc.cli import main

MODEL = Path(__file__).resolve().parents[2] / "models" / "vit_digits" / "vit_digits.onnx"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("compiled") / "vit"
    assert main(["compile", str(MODEL), "--calib", str(MODEL.parent / "calib.npz"), "-o", str(output), "--no-check", "--quiet"]) == 0
    return output
