"""The scripts for the vendor's tools: evaluated by Tcl, every command recorded, wherever the folder lies."""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path

import pytest

from attnc.codegen.render import EXPORTS, write_sources
from attnc.kernels.design import Design
from attnc.kernels.latency import READ_LATENCY
from attnc.schedule.program import build_program
from small_build import linear_graph
from vendor.scripts import ODD, Call, calls, needs_tcl, run_tcl

RUNS = {
    "csim.tcl": ["csim_design"],
    "csynth.tcl": ["csynth_design"],
    "cosim.tcl": ["csynth_design", "cosim_design"],
    "export_ip.tcl": ["csynth_design", "export_design"],
    "export_xo.tcl": ["csynth_design", "export_design"],
}
SETUP = ["open_project", "set_top", *3 * ["add_files"], "open_solution", "set_part", "create_clock", "config_interface", "config_compile"]


@pytest.fixture
def hls(shared_build: Path, tmp_path: Path) -> Path:
    """The sources of a build, in a folder whose name means something to shells and to Tcl."""
    return Path(shutil.copytree(shared_build / "hls", tmp_path / ODD / "hls"))


def recorded(script: Path, record: Path, cwd: Path | None = None) -> list[Call]:
    done = run_tcl(script, record, cwd)
    assert done.returncode == 0, done.stderr
    return calls(record)


@needs_tcl
@pytest.mark.parametrize("script", RUNS)
def test_scripts_call_the_tool_as_its_guide_says(script: str, hls: Path, tmp_path: Path) -> None:
    found = recorded(hls / script, tmp_path / "record", tmp_path)
    assert [name for name, _, _ in found] == SETUP + RUNS[script]
    options = {name: given for name, given, _ in found}
    others = {name: given for name, _, given in found}
    flow = "vitis" if script == "export_xo.tcl" else "vivado"
    assert options["open_solution"] == {"-flow_target": flow, "-reset": "1"}
    assert (others["set_top"], others["set_part"]) == (["attnc_top"], ["xck26-sfvc784-2LV-c"])
    assert options["create_clock"]["-period"] == "5.000" and options["config_compile"] == {"-pipeline_style": "flp"}
    assert sorted(path.name for path in hls.parent.iterdir()) == ["hls"] and (hls / "attnc_top_project").is_dir()


@needs_tcl
def test_both_kinds_of_export(hls: Path, tmp_path: Path) -> None:
    for kind, export in EXPORTS.items():
        *_, (name, options, _) = recorded(hls / f"export_{kind}.tcl", tmp_path / kind)
        assert (name, options) == ("export_design", {"-format": export.package, "-output": export.output})
        assert (hls / export.output).is_file()


@needs_tcl
@pytest.mark.parametrize("kind", EXPORTS)
def test_files_for_the_unified_tools_say_what_the_scripts_say(kind: str, tmp_path: Path) -> None:
    program = build_program(linear_graph(), Design.of(4, 4, 4), None)
    write_sources(program, tmp_path, "xczu9eg-ffvb1156-2-e", 300, pipelines="stp")
    (tmp_path / "data").mkdir()
    found = recorded(tmp_path / f"export_{kind}.tcl", tmp_path / "record")
    options = {name: given for name, given, _ in found}
    files = [(given.get("-tb"), given.get("-cflags"), others) for name, given, others in found if name == "add_files"]
    config = configparser.ConfigParser(strict=False, default_section="")
    text = (tmp_path / f"hls_config_{kind}.cfg").read_text()
    config.read_string(f"[tool]\n{text}")
    hls = config["hls"]
    assert config["tool"]["part"] == "xczu9eg-ffvb1156-2-e" and hls["clock"] == options["create_clock"]["-period"] == "3.333"
    assert hls["flow_target"] == options["open_solution"]["-flow_target"]
    assert hls["syn.compile.pipeline_style"] == options["config_compile"]["-pipeline_style"] == "stp"
    assert (hls["package.output.format"], hls["package.output.file"]) == tuple(options["export_design"].values())
    assert files[0] == (None, hls["syn.cflags"], [hls["syn.file"]])
    assert [flags for _, flags, _ in files[1:]] == [hls["tb.cflags"], None]
    assert [name for _, _, (name,) in files[1:]] == [line.partition("=")[2] for line in text.splitlines() if line.startswith("tb.file=")]
    interface = {key.removeprefix("syn.interface."): value for key, value in hls.items() if key.startswith("syn.interface.")}
    assert interface == {name.removeprefix("-"): value for name, value in options["config_interface"].items()}


def test_ports_state_the_latency_that_is_simulated(shared_build: Path) -> None:
    ports = [line for line in (shared_build / "hls" / "attnc_top.cpp").read_text().splitlines() if "INTERFACE m_axi" in line]
    assert len(ports) > 3 and all(f" latency = {READ_LATENCY} " in line for line in ports)


@needs_tcl
def test_stand_ins_refuse_what_the_tool_would(tmp_path: Path) -> None:
    for text, message in (
        ("csynth_dessign", 'invalid command name "csynth_dessign"'),
        ("open_project -wipe x", "unknown option '-wipe'"),
        ("csynth_design", "no project yet"),
        ("open_project p; add_files absent.cpp", "no file 'absent.cpp'"),
        ("open_project p; set_top t; open_solution s", "-flow_target"),
    ):
        (tmp_path / "wrong.tcl").write_text(text)
        done = run_tcl(tmp_path / "wrong.tcl", tmp_path / "record", tmp_path)
        assert done.returncode == 1 and message in done.stderr, done.stderr
