"""The page about boards: written from rows alone, estimates and measurements told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench.common import RESULTS
from models.shapes import export

from attnc.frontend import import_model
from bench import boards

BOARD_MHZ = 250.0


def test_page_is_what_the_stored_rows_give() -> None:
    rows = json.loads((RESULTS / "boards.json").read_text())["results"]["rows"]
    assert boards.PAGE.read_text() == boards.page(rows)
    readme = (boards.ROOT / "README.md").read_text()
    for row in rows:
        slower = max(row["simulated"].values(), key=lambda run: run["cycles"])
        used = " / ".join(f"{row['resources'][kind]['used']:,}" for kind in ("lut", "dsp", "bram36", "uram"))
        figures = f"| equal | {slower['latency_ms']:.2f} | {row['latency_ms']:.2f} | {used} |"
        board = row["board"].upper() + (f" at {row['clock_mhz']:g} MHz" if row["clock_mhz"] != BOARD_MHZ else "")
        assert f"| {boards.SHAPES[row['model']].title} | {board} | random weights {figures}" in readme
    assert [(row["model"], row["board"]) for row in rows] == [(m, b) for m, targets in boards.TARGETS.items() for b, _ in targets]
    clocks = [clock for targets in boards.TARGETS.values() for _, clock in targets]
    assert all(clock in (None, row["clock_mhz"]) for row, clock in zip(rows, clocks, strict=True))
    assert all(row["csim"]["elements"] > 0 and row["csim"]["mismatches"] == 0 for row in rows)


def test_every_row_says_what_it_is() -> None:
    used = {kind: {"used": 1, "available": 0 if kind == "uram" else 4, "limit": 3} for kind in boards.KINDS}
    row = {
        **{"model": "deit_tiny", "board": "zcu102", "clock_mhz": 300.0, "lost": [], "resources": used},
        **{"cycles": 3_000_000, "latency_ms": 10.0, "multiply_adds": 1_000_000_000, "dsp_roof_percent": 50.0, "power_watts": 4.0},
        "csim": {"elements": 5, "mismatches": 0},
        "simulated": {"stp": {"cycles": 3_300_000, "latency_ms": 11.0}, "flp": {"cycles": 3_150_000, "latency_ms": 10.5}},
    }
    lines = boards.page([row]).splitlines()
    (ours,) = [line for line in lines if line.endswith("| simulated ms (estimate 10.00), estimates |")]
    assert "| 11.00 | 91 |" in ours and "3,000,000 | 3,300,000 / 3,150,000" in "\n".join(lines)
    assert sum("| measurement, arXiv" in line for line in lines) == len(boards.PUBLISHED)


@pytest.mark.slow
def test_deit_tiny_has_the_published_shape(tmp_path: Path) -> None:
    export("deit_tiny", tmp_path / "deit.onnx", samples=1)
    graph = import_model(tmp_path / "deit.onnx").graph
    attention = [node for node in graph.nodes if node.op == "attention"]
    assert len(attention) == 12 and all(graph.value(node.output).shape == (197, 192) for node in attention)
    weights = sum(node.params["weight"].size for node in graph.nodes if node.op == "linear")
    assert 5.4e6 < weights < 5.8e6  # 5.7 M parameters with positions, norms and biases
