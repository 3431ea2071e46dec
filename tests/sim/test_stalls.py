"""`attnc cosim --stalls`: what a design computes does not depend on when values come."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from attnc.cli import main

Capture = pytest.CaptureFixture[str]

HASTY = """\
  hls::stream<int> one("engine_0.one"), other("engine_0.other");
  ATTNC_DEPTH(one, 4)
  ATTNC_DEPTH(other, 4)
  ATTNC_REGION
  ATTNC_PROCESS("engine_0.hasty", one.write(1); other.write(2); other.write(3); other.read(); other.read();
                if (one.empty()) call_0.high = call_0.low; one.read();)
"""
"""A process that takes it that a value is there when two of another stream have come."""


def run(build: Path, capsys: Capture, *options: str) -> tuple[int, dict[str, Any]]:
    code = main(["cosim", str(build), "--json", *options])
    return code, json.loads(capsys.readouterr().out)


def with_region(build: Path, text: str) -> None:
    """Put processes into the region of engine_0."""
    top = build / "hls" / "attnc_top.cpp"
    before, function, behind = top.read_text().partition("void engine_0(")
    assert behind.count("  ATTNC_REGION\n")
    top.write_text(before + function + behind.replace("  ATTNC_REGION\n", text, 1))


def test_a_design_lives_with_random_stalls(simulated: Path, capsys: Capture) -> None:
    before = (simulated / "cosim.json").read_bytes()
    code, found = run(simulated, capsys, "--stalls", "6", "--seed", "3")
    assert code == 0 and found["seeds"] == [3, 8] and (simulated / "cosim.json").read_bytes() == before
    for style, each in found["styles"].items():
        assert each["runs"] == 6 and each["bit_exact"] and not each["deadlocks"] and not each["different"], style
        assert each["cycles_without"] < each["cycles"]["least"] < each["cycles"]["most"]
    again = run(simulated, capsys, "--stalls", "1", "--seed", "3", "--style", "stp")[1]["styles"]["stp"]["cycles"]["most"]
    assert found["styles"]["stp"]["cycles"]["least"] <= again <= found["styles"]["stp"]["cycles"]["most"]
    assert run(simulated, capsys, "--stalls", "1", "--seed", "3", "--style", "stp")[1]["styles"]["stp"]["cycles"]["most"] == again


def test_what_depends_on_time_is_found(build: Path, capsys: Capture) -> None:
    with_region(build, HASTY)
    assert run(build, capsys)[0] == 0  # without stalls nothing shows
    code, found = run(build, capsys, "--stalls", "16", "--style", "flp")
    each = found["styles"]["flp"]
    assert code == 1 and not each["bit_exact"] and 0 < each["different"] < 16 and not each["deadlocks"]
    seed = each["different_seeds"][0]
    assert run(build, capsys, "--stalls", "1", "--seed", str(seed), "--style", "flp")[1]["styles"]["flp"]["different_seeds"] == [seed]
    assert main(["cosim", str(build), "--stalls", "16", "--style", "flp"]) == 1
    assert "NOT in every run" in (text := capsys.readouterr().out) and f"different: seeds {seed}" in text


def test_deadlocks_are_explained(planted: Path, tmp_path: Path, capsys: Capture) -> None:
    build = Path(shutil.copytree(planted, tmp_path / "build"))
    code, found = run(build, capsys, "--stalls", "2", "--style", "stp")
    each = found["styles"]["stp"]
    assert code == 1 and each["deadlocks"] == 2 and each["cycles"] is None
    assert {wait["fifo"].rpartition(".")[2] for wait in each["deadlock"]["waits"]} >= {"first", "second"}
    assert main(["cosim", str(build), "--stalls", "2", "--style", "stp"]) == 1
    assert "DEADLOCK, stalling (stp)" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--seed", "1"], ["--stalls", "2", "--trace", "t.json"], ["--stalls", "2", "--size-fifos"]])
def test_what_does_not_go_together(simulated: Path, capsys: Capture, options: list[str]) -> None:
    assert main(["cosim", str(simulated), *options]) == 2
    assert options[0] in capsys.readouterr().err
