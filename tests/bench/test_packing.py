"""Packing is fast, and its memory does not grow with the number of weights."""

from __future__ import annotations

import json
import sys

import pytest

from bench import packing


@pytest.mark.parametrize(("case", "bits"), [("int8", 8.0), ("int3", 3.0), ("int4/64", 4.125), ("ternary", 1.67), ("binary2", 2.01)])
def test_packing_takes_what_the_format_promises(case: str, bits: float) -> None:
    found = packing.measure(case, 20_000_000)
    assert found["weights"] == 4096**2
    assert found["bits_per_weight"] <= bits
    assert found["scaled_s"] < packing.MOST_SECONDS  # measured: 0.1 to 2 s
    assert found["peak_mb"] < 40


def test_memory_does_not_grow() -> None:
    once, often = (packing.measure("ternary", times * 1024**2, side=1024) for times in (1, 8))
    assert often["weights"] == 8 * once["weights"]
    assert often["peak_mb"] <= 1.1 * once["peak_mb"]


def test_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["packing.py", "--weights", "1000000", "--formats", "int2", "--json"])
    assert packing.main() == 0
    assert set(json.loads(capsys.readouterr().out)["results"]) == {"int2"}
