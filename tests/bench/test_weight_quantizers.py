"""The comparison script: better algorithms are better on a real layer, on inputs that no quantizer saw."""

from __future__ import annotations

import json
import sys

import pytest

from bench import weight_quantizers


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["weight_quantizers.py", "--source", "digits", *arguments])
    return weight_quantizers.main()


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--json", "--group-sizes", "0", "64") == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert (found["layer"], found["shape"]) == ("node_linear_3", [64, 128])
    rows = {(row["format"], row["group_size"]): row["error"] for row in found["rows"]}
    assert len(rows) == 20
    for size in (0, 64):
        for format in ("int4", "int3", "ternary"):
            errors = rows[format, size]
            assert errors["quantease"] < errors["gptq"] < 0.6 * errors["mse"] < 0.6 * errors["minmax"]
        assert rows["int8", size]["quantease"] < 0.002
        for planes in (2, 3, 4):
            assert rows[f"binary{planes}", size]["quantease"] < 0.6 * rows[f"binary{planes}", size]["binary"]


def test_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--layer", "node_linear_2", "--group-sizes", "0") == 0
    shown = capsys.readouterr().out
    assert "node_linear_2 [128 x 64]" in shown and "quantease" in shown and "ternary" in shown


def test_unknown_layer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--layer", "absent") == 2
    assert "--layer: needed one of node_conv2d" in capsys.readouterr().err
