"""`attnc cosim` on a small build: what it prints, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from attnc.cli import main
from attnc.codegen.render import write_sources
from attnc.kernels.design import Design
from attnc.schedule.program import build_program
from small_build import linear_graph


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main(["cosim", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def facts(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(capsys, *args, "--json")
    return code, json.loads(out)


def test_both_styles_equal_golden_and_add_up(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = facts(capsys, build)
    assert code == 0 and list(found["styles"]) == ["stp", "flp"]
    for style in found["styles"].values():
        assert style["bit_exact"] and style["deadlock"] is None
        assert style["latency_ms"] == pytest.approx(style["cycles"] / 200e3)
        (stage,) = style["stages"]
        assert (stage["node"], stage["steps"], stage["estimate_cycles"]) == ("layer", 1, found["estimate_cycles"])
        assert 0 < stage["cycles"] <= style["cycles"]
        for process in style["processes"]:
            assert process["working"] + sum(process["waiting"].values()) <= process["active"] <= style["cycles"]
            assert {wait["cause"] for wait in process["waits"]} <= {"empty", "full", "memory"}
        fifos = {fifo["fifo"]: fifo for fifo in style["fifos"]}
        assert fifos["engine_0.x"]["depth"] == 32 and 0 < fifos["engine_0.x"]["most"] <= 32
    written = json.loads((build / "cosim.json").read_text())
    assert {key: value for key, value in found.items() if key != "build"} == written


def test_two_runs_print_the_same(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, build) == run(capsys, build)


def test_tables_name_what_a_person_looks_for(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, build, "--style", "flp")
    assert code == 0
    for text in ("equal to golden", "flushing (flp)", "layer", "load_w", "engine_0.w", "memory answers after 60 cycles"):
        assert text in out
    assert "stalling" not in out


def test_later_memory_takes_longer(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, usual = facts(capsys, build, "--style", "stp")
    _, read = facts(capsys, build, "--style", "stp", "--read-latency", 160)
    _, written = facts(capsys, build, "--style", "stp", "--write-response", 40)
    cycles = [found["styles"]["stp"]["cycles"] for found in (usual, read, written)]
    # The instruction is fetched, then operands are: twice 100 cycles more. One answer is waited for.
    assert cycles[1] == cycles[0] + 200 and cycles[2] == cycles[0] + 10
    assert read["assumed"]["read_latency"] == 160


def test_a_planted_deadlock_is_explained(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = facts(capsys, planted)
    assert code == 1
    for style in found["styles"].values():
        deadlock = style["deadlock"]
        assert not style["bit_exact"] and (deadlock["step"], deadlock["instruction"]) == (0, "layer")
        waits = {wait["process"].rpartition(".")[2]: wait for wait in deadlock["waits"]}
        writer, reader = waits["writer"], waits["reader"]
        assert {*deadlock["circle"]} == {writer["process"], reader["process"]}
        assert (writer["cause"], writer["fifo"], writer["depth"], writer["for"]) == ("full", "top/engine_0.first", 4, reader["process"])
        assert (reader["cause"], reader["fifo"], reader["depth"], reader["for"]) == ("empty", "top/engine_0.second", 4, writer["process"])
        # Outside of loops nothing takes time: both wait from the cycle in which they began, the others went on to their end.
        assert writer["since"] == reader["since"] < deadlock["cycle"] and writer["loop"] == "-"
        assert deadlock["least_depths"] == {"engine_0.first": {"depth": 4, "least": 7}}
    _, out, _ = run(capsys, planted)
    text = " ".join(out.split())
    assert "DEADLOCK, stalling (stp), at cycle" in text and "step 0, layer" in text
    assert "* writer waits since cycle" in text and "engine_0.first is full (depth 4), read by reader" in text
    assert "* reader waits since cycle" in text and "engine_0.second is empty (depth 4), written by writer" in text
    assert "least depths that free it: engine_0.first 4 -> 7" in text


def test_another_depth_frees_it_and_leaves_the_build_alone(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (planted / "cosim.json").read_text()
    assert [run(capsys, planted, "--depth", f"engine_0.first={depth}")[0] for depth in (6, 7, 0)] == [1, 0, 0]
    assert (planted / "cosim.json").read_text() == before


def test_other_outputs_are_a_difference(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = build / "hls" / "data" / "expected.bin"
    data = bytearray(expected.read_bytes())
    data[0] ^= 1
    expected.unlink()
    expected.write_bytes(data)
    code, found = facts(capsys, build, "--no-verify")
    assert code == 1 and not found["styles"]["stp"]["bit_exact"] and found["styles"]["stp"]["deadlock"] is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--depth", "nothing=3"], "needed a FIFO of this build (engine_0.w, engine_0.x, "),
        (["--depth", "linear.sums"], "needed FIFO=N"),
        (["--depth", "linear.sums=-1"], "needed FIFO=N"),
        (["--depth", "a b=1"], "needed FIFO=N"),
        (["--read-latency", "-1"], "greater than or equal to 0"),
        (["--style", "frp"], "is not one of"),
    ],
)
def test_bad_options(build: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, build, *args)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "program.json' is missing"),
        ("{", "not valid JSON"),
        ("[]", "needed schema 2, found 'list'"),
        ('{"schema": 1}', "needed schema 2, found 1"),
        ('{"schema": 2}', "is damaged (KeyError: 'stages')"),
    ],
)
def test_damaged_listing(build: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = build / "hls" / "program.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    code, out, err = run(capsys, build)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err


def test_no_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, tmp_path / "none")
    assert code == 2 and "no such build folder" in err


def test_listing_with_names_that_would_be_settings(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build / "hls" / "program.json"
    data = json.loads(path.read_text())
    data["interfaces"]["x 1\ntrace 1 1 /tmp/x"] = "HP0"
    path.write_text(json.dumps(data))
    code, _, err = run(capsys, build)
    assert code == 2 and "is damaged" in err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for text in ("stp", "flp", "Exit code", "perfetto", "golden"):
        assert text in out


def test_scripts_and_sources_say_which_style_they_ask_for(simulated: Path, tmp_path: Path) -> None:
    def stated(folder: Path) -> list[str]:
        tcl, cpp = (folder / "project.tcl").read_text(), (folder / "attnc_top.cpp").read_text()
        return re.findall(r"^config_compile -pipeline_style (\w+)$", tcl, re.MULTILINE) + re.findall(r"pipelines of the style (\w+)", cpp)

    assert stated(simulated / "hls") == ["flp", "flp"]
    write_sources(build_program(linear_graph(), Design.of(4, 4, 4), None), tmp_path, "part", 200, pipelines="stp")
    assert stated(tmp_path) == ["stp", "stp"]
    assert not [file for file in tmp_path.rglob("*.hpp") if re.search(r"#pragma HLS PIPELINE.*style", file.read_text())]  # one for all
