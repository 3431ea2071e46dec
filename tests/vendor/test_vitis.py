"""Vitis HLS on a build: what is run, what its reports say beside the estimates, how its failures end. The programs are stand-ins."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from attnc.errors import BuildError, DataError
from attnc.vendor.cosim_report import read_cosim_report
from attnc.vendor.tool import Log, copy_sources, run_logged
from attnc_host import manifest as manifests
from vendor.conftest import Run, StandIns
from vendor.scripts import ODD, needs_tcl

CONFIG = ["--config", "hls_config_ip.cfg", "--work_dir", "attnc_top_component"]
SYNTHESIS = ["v++", "-c", "--mode", "hls", *CONFIG]
STEPS = {
    "vitis_hls": {step: [["vitis_hls", "-f", f"{step}.tcl"]] for step in ("csim", "csynth", "cosim")},
    "vitis-run": {step: [["vitis-run", "--mode", "hls", "--tcl", f"{step}.tcl"]] for step in ("csim", "csynth", "cosim")},
    "v++": {
        "csim": [["vitis-run", "--mode", "hls", "--csim", *CONFIG]],
        "csynth": [SYNTHESIS],
        "cosim": [SYNTHESIS, ["vitis-run", "--mode", "hls", "--cosim", *CONFIG]],
    },
}


@needs_tcl
@pytest.mark.parametrize("program", STEPS)
def test_every_program_runs_every_step(program: str, vendor_build: Path, stand_ins: StandIns, attnc: Run) -> None:
    stand_ins.put(*(["v++", "vitis-run"] if program == "v++" else [program]))
    where = ["--vitis", stand_ins.folder / "v++"] if program == "v++" else []
    facts = {}
    for step, expected in STEPS[program].items():
        stand_ins.record.unlink(missing_ok=True)
        tool = [] if step == "csynth" else ["--tool", "vitis"]
        code, out, err = attnc(step, vendor_build, *tool, *where, "--json")
        assert code == 0 and stand_ins.calls == expected, err
        facts[step] = json.loads(out)
        assert facts[step]["tool"] == program and facts[step]["folder"] == f"{vendor_build}.vitis/{step}"
    assert (facts["csim"]["bytes"], facts["csim"]["mismatches"], facts["csim"]["bit_exact"]) == (60, 0, True)
    whole, engine, *_ = facts["csynth"]["rows"]
    assert whole["tool"]["lut"] == 80_000 and engine["tool"]["cycles"] == 4000 and engine["ratio"]["cycles"] > 0
    assert facts["cosim"]["cycles"]["rtl"] == 815 and (facts["cosim"]["cycles"]["stp"], facts["cosim"]["cycles"]["flp"]) == (800, 790)
    assert facts["cosim"]["cycles"]["estimate"] > 0 and facts["cosim"]["bit_exact"] and facts["cosim"]["latency"]["least"] == 812


@needs_tcl
@pytest.mark.parametrize("program", ["vitis_hls", "v++"])
def test_both_kinds_of_export(program: str, vendor_build: Path, stand_ins: StandIns, attnc: Run) -> None:
    stand_ins.put("vitis_hls", "v++", "vitis-run")
    where = ["--vitis", stand_ins.folder / program]
    made = {}
    for kind in ("ip", "xo"):
        code, out, err = attnc("export", vendor_build, "--format", kind, *where, "--json")
        assert code == 0, err
        made[kind] = Path(json.loads(out)["output"])
    assert [made[kind].read_text().strip() for kind in ("ip", "xo")] == ["ip_catalog", "xo"]  # neither replaces the other


@needs_tcl
def test_tables(vendor_build: Path, stand_ins: StandIns, attnc: Run) -> None:
    stand_ins.put("vitis_hls")
    code, out, _ = attnc("csynth", vendor_build)
    assert code == 0 and "whole design" in out and "/ 80,000" in out and "csynth.xml" in out
    assert "a clock of 2.92 ns, 4 ns were asked for" in out and "csynth/attnc_top_project/solution" in "".join(out.split())
    code, out, _ = attnc("cosim", vendor_build, "--tool", "vitis")
    text = " ".join(out.split())
    assert (
        code == 0
        and "RTL in simulation │ 815" in text
        and "pipelines that stall │ 800 │ 1.019" in text
        and "RTL against golden: equal" in text
    )
    code, out, _ = attnc("csim", vendor_build, "--tool", "vitis")
    assert code == 0 and "equal, bit for bit" in out
    code, out, _ = attnc("export", vendor_build, "--format", "xo")
    assert code == 0 and "attnc_top.xo" in out and "a kernel for v++" in out


@needs_tcl
def test_a_build_stays_as_it_is_and_cosim_takes_one_sample(vendor_build: Path, stand_ins: StandIns, attnc: Run) -> None:
    stand_ins.put("vitis_hls")
    before = {path: path.stat().st_mtime_ns for path in vendor_build.rglob("*")}
    assert attnc("cosim", vendor_build, "--tool", "vitis")[0] == attnc("csim", vendor_build, "--tool", "vitis")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in vendor_build.rglob("*")} == before
    work = vendor_build.with_name("build.vitis")
    sizes = {step: (work / step / "data" / "inputs.bin").stat().st_size for step in ("csim", "cosim")}
    assert sizes["csim"] == (vendor_build / "golden" / "inputs.bin").stat().st_size > sizes["cosim"] > 0
    assert (work / "csim" / "vitis.log").read_text().count("PASS") == 1


@needs_tcl
def test_names_reach_no_shell_and_no_tcl(compiled_small: Path, tmp_path: Path, stand_ins: StandIns, attnc: Run) -> None:
    """The build lies where its name means something, the node of its model has such a name, and so has the folder to work in."""
    stand_ins.put("vitis_hls")
    build = Path(shutil.copytree(compiled_small, tmp_path / ODD / "build"))
    for work in ([], ["--work", tmp_path / f"work {ODD}"]):
        assert attnc("csynth", build, *work)[0] == 0 and attnc("export", build, "--format", "xo", *work)[0] == 0
    assert stand_ins.calls == 2 * [["vitis_hls", "-f", "csynth.tcl"], ["vitis_hls", "-f", "export_xo.tcl"]]
    assert not list(tmp_path.rglob("owned")) and not Path("owned").exists()


def test_without_the_tool(vendor_build: Path, tmp_path: Path, stand_ins: StandIns, attnc: Run) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "gcc").touch(mode=0o755)
    commands = (["csynth"], ["export", "--format", "ip"], ["csim", "--tool", "vitis"], ["cosim", "--tool", "vitis"])
    for command, *options in commands:
        code, out, err = attnc(command, vendor_build, *options)
        assert (code, out) == (2, "") and len(err.splitlines()) == 1
        assert "needed vitis_hls, vitis-run or v++ on PATH (Vitis HLS 2022.2 or later" in err and "--vitis" in err
    for where in (tmp_path / "empty", tmp_path / "absent", tmp_path / "gcc"):
        code, _, err = attnc("csynth", vendor_build, "--vitis", where)
        assert code == 2 and str(where) in err and "vitis_hls, vitis-run or v++" in err
    assert not vendor_build.with_name("build.vitis").exists()
    stand_ins.put("v++")
    code, _, err = attnc("csim", vendor_build, "--tool", "vitis", "--vitis", stand_ins.folder)
    assert code == 2 and "needed vitis-run" in err


@needs_tcl
def test_a_failure_is_one_error_with_the_end_of_the_log(
    vendor_build: Path, tmp_path: Path, stand_ins: StandIns, attnc: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.put("vitis_hls")
    monkeypatch.setenv("STAND_IN_FAILS", "recursive functions are not supported")
    code, out, err = attnc("csynth", vendor_build)
    log = vendor_build.with_name("build.vitis") / "csynth" / "vitis.log"
    assert (code, out) == (2, "") and err.startswith("attnc: error: vitis_hls (csynth) failed with exit code 1 (log: ")
    assert str(log) in err and "recursive functions are not supported" in err and "recursive functions" in log.read_text()
    assert all(line.startswith("  ") for line in err.splitlines()[1:]) and "--work" not in err
    code, _, err = attnc("csynth", vendor_build, "--work", tmp_path / "a b")
    assert code == 2 and "characters that the vendor's tools may not take: --work" in err
    code, _, err = attnc("csynth", vendor_build, "-v")
    assert "INFO: [HLS 200-10] Starting synthesis of attnc_top" in err


@needs_tcl
@pytest.mark.parametrize("program", ["vitis_hls", "v++"])
def test_a_difference_is_no_failure_of_the_tool(
    program: str, vendor_build: Path, stand_ins: StandIns, attnc: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.put(program, "vitis-run")
    monkeypatch.setenv("STAND_IN_DIFFERS", "1")
    where = ["--tool", "vitis", "--vitis", stand_ins.folder / program]
    code, out, err = attnc("csim", vendor_build, *where, "--json")
    assert code == 1 and "error" not in err and json.loads(out)["mismatches"] == 7
    code, out, err = attnc("cosim", vendor_build, *where, "--json")
    assert code == 1 and "error" not in err and not json.loads(out)["bit_exact"]


def test_what_a_tool_started_ends_with_the_command(tmp_path: Path) -> None:
    def interrupted(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt) as caught:
        run_logged(["sh", "-c", "sleep 100 & echo $!; wait"], tmp_path, Log(tmp_path / "log"), interrupted)
    for _ in range(100):
        state = Path(f"/proc/{caught.value}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child of a child is still there")


def test_a_build_that_cannot_be_written_to(vendor_build: Path, tmp_path: Path) -> None:
    for path in (vendor_build, *vendor_build.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    copy_sources(manifests.load(vendor_build), tmp_path / "work", one_sample=True)
    made = [path for path in (tmp_path / "work").rglob("*") if path.is_dir() or path.parent.name != "data"]
    assert len(made) > 20 and all(path.stat().st_mode & 0o200 for path in made)


def test_a_build_of_an_earlier_version(vendor_build: Path, tmp_path: Path) -> None:
    manifest = manifests.load(vendor_build)
    (vendor_build / "hls" / "export_ip.tcl").rename(vendor_build / "hls" / "export.tcl")
    with pytest.raises(BuildError, match="no scripts of this version of attnc; compile the model again"):
        copy_sources(manifest, tmp_path / "work")


def test_a_place_that_somebody_else_made_is_left_alone(vendor_build: Path, tmp_path: Path, stand_ins: StandIns, attnc: Run) -> None:
    stand_ins.put("vitis_hls")
    mine = tmp_path / "work" / "csynth" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    code, _, err = attnc("csynth", vendor_build, "--work", tmp_path / "work")
    assert code == 2 and "attnc did not make it" in err and mine.read_text() == "years of work"


def test_options_that_mean_nothing(vendor_build: Path, attnc: Run) -> None:
    for command in (
        ["csim", "--tool", "vitis", "--types", "ap"],
        ["cosim", "--tool", "vitis", "--style", "stp", "--plot", "x.png"],
        ["cosim", "--tool", "vitis", "--read-latency", "10"],
        ["csim", "--work", "x"],
        ["cosim", "--vitis", "x"],
    ):
        code, _, err = attnc(command[0], vendor_build, *command[1:])
        assert code == 2 and "nothing to it" in err


def test_reports_of_a_co_simulation(tmp_path: Path) -> None:
    path = tmp_path / "attnc_top_cosim.rpt"
    path.write_text(Path(__file__).with_name("cosim.rpt").read_text().replace("@STATUS@", "Pass"))
    assert (read_cosim_report(path).latency, read_cosim_report(path).total, read_cosim_report(path).passed) == ((812, 813, 815), 2439, True)
    for text in ("", "| Verilog |", "|   Verilog|        NA|  NA| NA| NA|", "\0" * 100):
        path.write_text(text)
        with pytest.raises(DataError, match="needed the report of a co-simulation"):
            read_cosim_report(path)
    path.write_text(f"|VHDL|Fail|NA|{'9' * 4000}|12|NA|NA|NA|{os.sep}|")
    assert (read_cosim_report(path).latency, read_cosim_report(path).passed) == ((None, None, 12), False)
