"""The commands at the top of docs/decoding.md, run as they stand there."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from attnc.cli import main
from decoding.decoders import write_decoder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "decoding.md"


def test_the_commands_of_the_guide_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_decoder(tmp_path / "model.onnx", vocabulary=256)
    np.savez(tmp_path / "text.npz", input_ids=np.random.default_rng(0).integers(0, 256, 4096))
    lines = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    attnc ")]
    compiling, generating = (next(line for line in lines if line.startswith(f"attnc {name}")) for name in ("compile", "generate"))
    assert main([*shlex.split(compiling)[1:], "--quiet"]) == 0
    assert main(shlex.split(generating)[1:]) == 0
    said = capsys.readouterr()
    assert "200 tokens" in said.err and said.out.strip()
