"""Schedules, estimate and sweep through the command line."""

from __future__ import annotations

import json
import shutil
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from attnc.cli import main
from small_build import write_model

MODEL = Path(__file__).resolve().parents[2] / "models" / "vit_digits" / "vit_digits.onnx"
CSYNTH = Path(__file__).resolve().parents[1] / "verify" / "csynth.xml"
Capture = pytest.CaptureFixture[str]


def output_of(capsys: Capture, *args: object) -> Any:
    assert main([str(arg) for arg in args]) == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys: Capture, *args: object) -> str:
    assert main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()[-1]


def test_schedule_is_written_and_obeyed(capsys: Capture, compiled: Path, tmp_path: Path) -> None:
    schedule = yaml.safe_load((compiled / "schedule.yaml").read_text())
    report = json.loads((compiled / "report.json").read_text())
    assert schedule["design"] == report["design"] and schedule["target"] == "kv260"
    schedule["design"]["engines"]["linear"]["pe"], schedule["ports"]["load_0"], schedule["memory"]["linear.x_buffer"] = 512, "HP0", "uram"
    edited = tmp_path / "edited.yaml"
    edited.write_text(yaml.safe_dump(schedule))
    again = output_of(capsys, "compile", MODEL, "--schedule", edited, "-o", tmp_path / "b", "--no-check", "--json")
    assert again["design"]["engines"]["linear"]["pe"] == 512 and again["estimate"]["ports"]["load_0"] == "HP0"
    assert not again["estimate"]["fits"] and "dsp needs" in again["estimate"]["misfit"]
    assert "DOES NOT FIT" in (tmp_path / "b" / "report.txt").read_text()
    assert "sp=attnc_top_1.m_axi_load_0:HP0" in (tmp_path / "b" / "vitis" / "link.cfg").read_text()
    assert "#define ATTNC_LINEAR_X_BUFFER uram" in (tmp_path / "b" / "hls" / "attnc_top.cpp").read_text()
    message = error_of(capsys, "compile", MODEL, "--schedule", edited, "-o", tmp_path / "c", "--fit", "-q")
    assert "dsp needs" in message and "design linear.pe 512 -> " in message and not (tmp_path / "c").exists()


def test_bad_schedule_leaves_nothing(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("schema: 1\ndesign: {lanes: 16, pe: 16, rows: 0, queries: 1}\n")
    assert "field 'design.rows'" in error_of(capsys, "compile", MODEL, "--schedule", path, "-o", tmp_path / "b", "-q")
    assert not (tmp_path / "b").exists()
    assert "--utilisation" in error_of(capsys, "compile", MODEL, "--utilisation", "lut=7", "-o", tmp_path / "b", "-q")
    assert "--objective" in "".join([capsys.readouterr().err] if main(["compile", str(MODEL), "--objective", "beauty"]) == 2 else [])


def test_estimate_of_a_build(capsys: Capture, tmp_path: Path) -> None:
    compiled = tmp_path / "build"
    assert main(["compile", str(write_model(tmp_path / "m.onnx")), "-o", str(compiled), "-q"]) == 0
    report = json.loads((compiled / "report.json").read_text())["estimate"]
    same = output_of(capsys, "estimate", compiled, "--json")
    assert same["estimate"] == report and "recompiled" not in same
    slow = output_of(capsys, "estimate", compiled, "--clock", "100", "--json")["estimate"]
    assert slow["latency_ms"] > report["latency_ms"]
    other = output_of(capsys, "estimate", compiled, "--target", "zcu102", "--json")
    assert other["target"]["name"] == "zcu102" and other["recompiled"]["cycles"] <= other["estimate"]["cycles"]
    assert other["estimate"]["resources"]["uram"]["used"] == 0
    assert main(["estimate", str(compiled), "--utilisation", "lut=0.01"]) == 0
    text = capsys.readouterr().out
    assert "DOES NOT FIT" in text and "Where multiplier cycles are lost" in text


def test_estimate_beside_synthesis(capsys: Capture, compiled: Path, tmp_path: Path) -> None:
    facts = output_of(capsys, "estimate", compiled, "--calibrate", CSYNTH, "--json")
    whole, first = facts["rows"][:2]
    assert whole["tool"]["lut"] == 80_000 and whole["ratio"]["lut"] == round(80_000 / whole["estimate"]["lut"], 3)
    assert first["module"] == "p_anonymous_namespace_engine_0" and first["tool"]["cycles"] == 4000 and first["interval"] == 3990
    assert facts["rows"][2]["tool"] is None and len(facts["modules"]) == 3
    assert main(["estimate", str(compiled), "--calibrate", str(CSYNTH)]) == 0
    assert "engine_0" in capsys.readouterr().out
    assert "leave out --target" in error_of(capsys, "estimate", compiled, "--calibrate", CSYNTH, "--target", "u50")
    assert "not valid XML" in error_of(capsys, "estimate", compiled, "--calibrate", compiled / "report.txt")
    assert "manifest.json" in error_of(capsys, "estimate", tmp_path)


@pytest.mark.slow  # it searches for designs of three boards
def test_sweep(capsys: Capture, tmp_path: Path) -> None:
    board = tmp_path / "tiny.toml"
    board.write_text('name = "tiny"\npart = "x"\nlut = 9000\nff = 18000\ndsp = 40\nbram36 = 20\nddr_gb_s = 1.0\n')
    args = ["sweep", MODEL, "--targets", f"kv260,{board}", "--objectives", "latency,area"]
    rows = output_of(capsys, *args, "--json")["rows"]
    assert len(rows) == 4 and all("does not fit tiny" in row["error"] for row in rows[2:])
    fast, small = rows[:2]
    assert fast["cycles"] < small["cycles"] and fast["resources"]["lut"]["used"] > small["resources"]["lut"]["used"]
    args = ["sweep", str(MODEL), "--targets", str(board), "--clocks", "123"]
    assert main(args) == 0
    text = capsys.readouterr().out
    assert "does not fit" in text and "123" in text
    assert "--clocks" in error_of(capsys, "sweep", MODEL, "--targets", "kv260", "--clocks", "fast")
    assert "--objectives" in error_of(capsys, "sweep", MODEL, "--targets", "kv260", "--objectives", "beauty")
    assert "--targets" in error_of(capsys, "sweep", MODEL, "--targets", ",")
    assert "needed one of" in error_of(capsys, "sweep", MODEL, "--targets", "kv26")


DAMAGE: list[tuple[str, Any, str]] = [
    ("target.clock_mhz", "fast", "report.json: field 'target.clock_mhz'"), ("target", None, "report.json: field 'target'"),
    ("design.lanes", 1 << 40, "report.json: field 'design.lanes'"), ("design", [], "report.json: field 'design'"),
    ("board.ddr_gb_s", 1e-300, "report.json: field 'board.ddr_gb_s'"), ("estimate.buffers", [{}], "report.json: field 'estimate.buffers.0"),
    ("estimate.ports", {"a": 1}, "report.json: field 'estimate.ports.a'"), ("fifos", {"a": 0}, "report.json: field 'fifos.a'"),
    ("schema", 99, "needed schema"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "message"), DAMAGE)
def test_an_estimate_of_a_damaged_report(capsys: Capture, compiled: Path, tmp_path: Path, field: str, value: Any, message: str) -> None:
    build = shutil.copytree(compiled, tmp_path / "build")
    report = json.loads((build / "report.json").read_text())
    *parents, last = field.split(".")
    reduce(lambda place, key: place[key], parents, report)[last] = value
    (build / "report.json").write_text(json.dumps(report))
    assert message in error_of(capsys, "estimate", build)


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("report.json", b"[" * 100_000), ("report.json", b"\xff\xfe"), ("report.json", b'{"a": 1, "a": 2}'), ("report.json", b"9" * 5000),
        ("golden/graph.json", b"{}"), ("golden/params.npz", b"PK"), ("manifest.json", b"[" * 9999), ("manifest.json", b'{"a": 1, "a": 2}'),
    ],
)  # fmt: skip
def test_an_estimate_of_damaged_files(capsys: Capture, compiled: Path, tmp_path: Path, file: str, data: bytes) -> None:
    build = shutil.copytree(compiled, tmp_path / "build")
    (build / file).write_bytes(data)
    found = error_of(capsys, "estimate", build)
    assert (file in found and "compile the model again" in found) or "manifest.json: not valid JSON, the build folder is damaged" in found
