"""Stand-ins for the programs of Vitis, under their names: they take the arguments that the guides list, and nothing else; write down how
they were called; and leave the reports that the tools leave. Tcl is evaluated by vitis.tcl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SETTINGS = {
    "part", "flow_target", "clock", "syn.top", "syn.file", "syn.cflags", "tb.file", "tb.cflags", "syn.compile.pipeline_style",
    "syn.interface.m_axi_addr64", "syn.interface.m_axi_alignment_byte_size", "syn.interface.m_axi_max_widen_bitwidth",
    "package.output.format", "package.output.file",
}  # fmt: skip
"""Settings that UG1399 and UG1702 list, of those that matter here."""


def main(name: str, args: list[str]) -> int:
    with open(os.environ["STAND_IN_CALLS"], "a") as file:
        file.write(json.dumps({"program": name, "args": args, "cwd": os.getcwd()}) + "\n")
    if name == "vitis_hls" and args[:1] == ["-f"] and len(args) == 2:
        return tcl(args[1])
    if name == "vitis-run" and args[:3] == ["--mode", "hls", "--tcl"] and len(args) == 4:
        return tcl(args[3])
    if name == "v++" and args[:4] == ["-c", "--mode", "hls", "--config"] and args[5:6] == ["--work_dir"] and len(args) == 7:
        return component("--csynth", Path(args[4]), Path(args[6]))
    if name == "vitis-run" and args[:2] == ["--mode", "hls"] and args[3::2] == ["--config", "--work_dir"] and len(args) == 7:
        return component(args[2], Path(args[4]), Path(args[6]))
    print(f"ERROR: [{name}] unknown arguments {args}")
    return 9


def tcl(script: str) -> int:
    return subprocess.run(["tclsh", HERE / "vitis.tcl", script]).returncode


def component(step: str, config: Path, work: Path) -> int:
    """A step of the unified flow."""
    lines = [line.partition("=") for line in config.read_text().splitlines() if "=" in line and not line.startswith("#")]
    unknown = {key for key, _, _ in lines} - SETTINGS
    absent = [value for key, _, value in lines if key.endswith(".file") and key != "package.output.file" and not Path(value).exists()]
    if unknown or absent:
        print(f"ERROR: unknown settings {unknown}, absent files {absent}")
        return 1
    given = {key: value for key, _, value in lines}
    differs = "STAND_IN_DIFFERS" in os.environ
    hls = work / "hls"
    if step == "--csynth":
        (hls / "syn" / "report").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE.parent / "verify" / "csynth.xml", hls / "syn" / "report" / "csynth.xml")
        return 0
    if step == "--csim":
        print("bytes 60\nmismatches 7\nFAIL" if differs else "bytes 60\nmismatches 0\nPASS")
        return int(differs)
    if not hls.is_dir():
        print("ERROR: nothing is synthesized")
        return 1
    if step == "--cosim":
        (hls / "sim" / "report").mkdir(parents=True, exist_ok=True)
        text = (HERE / "cosim.rpt").read_text().replace("@STATUS@", "Fail" if differs else "Pass")
        (hls / "sim" / "report" / f"{given['syn.top']}_cosim.rpt").write_text(text)
        return 0
    if step == "--package":
        (work / given["package.output.file"]).write_text(given["package.output.format"])
        return 0
    print(f"ERROR: unknown step {step}")
    return 9


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).name, sys.argv[2:]))
