"""Traces, VCDs and pictures of a small build's simulation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from attnc.cli import main
from attnc.sim import timeline
from attnc.sim.program import load_listing
from attnc.sim.simulator import open_simulator
from attnc.verify.cosim import CosimRun


@pytest.fixture(scope="session")
def run(simulated: Path) -> CosimRun:
    listing = load_listing(simulated)
    with open_simulator(simulated, listing.timing(60, 30), listing) as simulator:
        return simulator.run("stp")


def events(simulated: Path, folder: Path) -> list[dict[str, Any]]:
    path = folder / "trace.json"
    assert main(["cosim", str(simulated), "--style", "stp", "--trace", str(path), "--depth", "engine_0.x=32"]) == 0
    found: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return found


def test_a_trace_has_instructions_activations_waits_and_levels(simulated: Path, run: CosimRun, tmp_path: Path) -> None:
    found = events(simulated, tmp_path)
    tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["name"] == "thread_name"}
    slices: dict[str, list[dict[str, Any]]] = {}
    for event in (e for e in found if e["ph"] == "X"):
        slices.setdefault(tracks[event["pid"], event["tid"]], []).append(event)
    (instruction,) = slices["instructions"]
    assert instruction["name"] == "layer" and instruction["args"]["estimate"] > 0
    assert instruction["dur"] == pytest.approx(run.cycles / 200)  # microseconds at 200 MHz
    for name in ("load_x", "load_w", "0_linear/linear_accumulate", "0_linear/linear_rescale", "store_y"):
        activation, *waits = sorted(slices[name], key=lambda e: -e["dur"])
        process = next(p for p in run.processes if p.path == activation["args"]["process"])
        assert activation["name"] == "layer" and activation["args"]["cycles"] == process.active
        begin, end = activation["args"]["begin"], activation["args"]["begin"] + process.active
        told = {"empty": 0, "full": 0, "memory": 0}
        for wait in waits:
            cause, _, what = wait["name"].partition(": ")
            assert begin <= wait["args"]["begin"] and wait["args"]["begin"] + wait["args"]["cycles"] <= end and what
            told[cause] += wait["args"]["cycles"]
        # Those of a single cycle are left out.
        assert all(told[cause] <= process.waited[cause] for cause in told)
        assert sum(told.values()) >= 0.8 * sum(process.waited[cause] for cause in told)
    counters = {e["name"] for e in found if e["ph"] == "C"}
    assert {"FIFO x", "FIFO w", "FIFO y", "FIFO 0_linear/engine_0_0_linear.sums"} <= counters


def test_levels_of_a_vcd_are_those_that_were_reached(simulated: Path, run: CosimRun, tmp_path: Path) -> None:
    path = tmp_path / "levels.vcd"
    assert main(["cosim", str(simulated), "--style", "stp", "--vcd", str(path), "--depth", "engine_0.x=32"]) == 0
    head, _, body = path.read_text().partition("$enddefinitions $end\n")
    codes = dict(re.findall(r"\$var wire \d+ (\S+) (\S+) \$end", head))
    assert set(codes.values()) == {fifo.name.rpartition(".")[2] for fifo in run.fifos}
    assert head.count("$scope") == head.count("$upscope") and "$timescale 1 ps $end" in head
    reached, now, times = dict.fromkeys(codes, 0), 0, []
    level: dict[str, int] = {}
    for line in body.splitlines():
        if line.startswith("#"):
            now = int(line[1:])
            times.append(now)
        elif line.startswith("b"):
            bits, code = line[1:].split()
            level[code] = int(bits, 2)
            reached[code] = max(reached[code], level[code])
    assert times == sorted(times) and now == run.cycles * 5000 and set(level.values()) == {0}
    for fifo in run.fifos:
        code = next(c for c, name in codes.items() if name == fifo.name.rpartition(".")[2])
        # A token that comes in the cycle in which another goes takes its place within it.
        assert fifo.most - 1 <= reached[code] <= fifo.most


def test_cosim_json_has_the_timeline_of_the_slower_style(simulated: Path) -> None:
    found = json.loads((simulated / "cosim.json").read_text())
    slower = max(found["styles"], key=lambda style: found["styles"][style]["cycles"])
    time = timeline.from_facts(found["timeline"])
    assert timeline.as_facts(time) == found["timeline"]
    assert (time.style, time.cycles) == (slower, found["styles"][slower]["cycles"])
    assert [band.node for band in time.bands] == ["layer"] and time.bands[0].end <= time.cycles
    stats = {timeline.inner(p["process"]): p for p in found["styles"][slower]["processes"]}
    for strip in (strip for strips in time.engines.values() for strip in strips):
        working = float(strip.shares["working"].sum()) * time.bin_cycles
        assert working == pytest.approx(stats[strip.name]["working"], abs=0.005 * time.cycles + 1)
    damaged = json.loads(json.dumps(found["timeline"]))
    damaged["ports"][0]["read"] = "1 2"
    with pytest.raises(ValueError, match="percentages"):
        timeline.from_facts(damaged)


def test_a_picture_is_drawn(simulated: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "timeline.png"
    assert main(["cosim", str(simulated), "--style", "flp", "--plot", str(path), "--depth", "engine_0.x=32"]) == 0
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000


def test_a_deadlock_is_drawn_and_traced_too(planted: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("trace.json", "levels.vcd")]
    assert main(["cosim", str(planted), "--trace", str(outputs[0]), "--vcd", str(outputs[1])]) == 1
    names = {e["name"] for e in json.loads(outputs[0].read_text())["traceEvents"]}
    assert {"full: engine_0.first", "empty: engine_0.second"} <= names
    assert re.search(r"^b100 ", outputs[1].read_text(), re.MULTILINE)


@pytest.mark.parametrize("option", ["--trace", "--vcd", "--plot"])
def test_files_that_attnc_did_not_make_stay(simulated: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine"
    path.write_text("mine")
    assert main(["cosim", str(simulated), option, str(path)]) == 2
    assert "attnc did not make it" in capsys.readouterr().err and path.read_text() == "mine"


def test_a_trace_may_be_written_again(simulated: Path, tmp_path: Path) -> None:
    assert events(simulated, tmp_path) == events(simulated, tmp_path)
