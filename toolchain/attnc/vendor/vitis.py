"""Vitis HLS on a build: its own scripts in a copy of the sources, with whichever of the vendor's programs is there.

`vitis_hls -f SCRIPT` (up to 2024.1) and `vitis-run --mode hls --tcl SCRIPT` (2024.2 and later) run the Tcl of the build; `v++`, where it is
named, runs the same project from a file of settings. All paths are relative to the folder that they work in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from attnc.codegen.render import EXPORTS, TOP
from attnc.errors import BuildError
from attnc.vendor.cosim_report import CosimReport, read_cosim_report
from attnc.vendor.tool import Log, Told, copy_sources, failed, find_program, run_logged, workplace
from attnc_host.manifest import Manifest
from attnc_host.registers import check_synthesized

PROGRAMS = ("vitis_hls", "vitis-run", "v++")
WHAT = "Vitis HLS 2022.2 or later; its settings64.sh puts it on PATH"
PROJECTS = (f"{TOP}_project/solution", f"{TOP}_component/hls")
"""Where a project keeps its reports: that of the scripts, that of v++."""
PLAIN = re.compile(r"[A-Za-z0-9_./+,=@-]*")
"""Paths that the vendor's tools take."""


@dataclass(frozen=True)
class Vitis:
    """The program that is there."""

    program: Path

    @property
    def name(self) -> str:
        """As a user calls it."""
        return self.program.name

    def commands(self, step: str, kind: str = "ip") -> list[list[str | Path]]:
        """What runs a step ("csim", "csynth", "cosim", "export") of the project for a kind of export, in the folder of the sources."""
        if self.name != "v++":
            script = f"export_{kind}.tcl" if step == "export" else f"{step}.tcl"
            return [[self.program, *(("-f",) if self.name == "vitis_hls" else ("--mode", "hls", "--tcl")), script]]
        settings = ["--config", f"hls_config_{kind}.cfg", "--work_dir", f"{TOP}_component"]
        synthesis: list[str | Path] = [self.program, "-c", "--mode", "hls", *settings]
        if step == "csynth":
            return [synthesis]
        further = find_program(["vitis-run"], self.program.parent, "--vitis", WHAT)
        run: list[str | Path] = [further, "--mode", "hls", {"export": "--package"}.get(step, f"--{step}"), *settings]
        return [run] if step == "csim" else [synthesis, run]


def find_vitis(where: Path | None) -> Vitis:
    """The first of `PROGRAMS` on PATH, or `where`: one of them, or a folder with it."""
    return Vitis(find_program(PROGRAMS, where, "--vitis", WHAT))


@dataclass(frozen=True)
class Run:
    """A step that has run: where, with what, its log, and what the test bench said where it ran: bytes compared and those that differ."""

    vitis: Vitis
    folder: Path
    log: Path
    compared: tuple[int, int] | None

    @property
    def reports(self) -> Path:
        """The solution, whose reports lie in syn/report and sim/report."""
        found = [path for path in (self.folder / place for place in PROJECTS) if path.is_dir()]
        if not found:
            raise BuildError(f"{self.vitis.name} left no project in {self.folder} ({', '.join(PROJECTS)}); its log: {self.log}")
        return found[0]

    def report(self, place: str) -> Path:
        """A report of the solution, which the tool must have written."""
        path = self.reports / place
        if not path.is_file():
            raise BuildError(f"{self.vitis.name} ended well, but left no {path} behind; its log: {self.log}")
        return path

    @property
    def co_simulation(self) -> CosimReport | None:
        """What the report of the co-simulation says, where there is one."""
        paths = [self.folder / place / f"sim/report/{TOP}_cosim.rpt" for place in PROJECTS]
        return next((read_cosim_report(path) for path in paths if path.is_file()), None)

    @property
    def differs(self) -> bool:
        """Whether the test bench found a byte that is not golden's, or the RTL did not do what the C++ does."""
        told = self.co_simulation
        return (self.compared is not None and self.compared[1] > 0) or (told is not None and not told.passed)


def run_step(vitis: Vitis, manifest: Manifest, step: str, work: Path | None, told: Told, kind: str = "ip") -> Run:
    """Run a step on a copy of a build's sources; `told` gets every line. Raises `BuildError` with the end of the log where the tool fails,
    unless it is the test bench that found a difference."""
    folder = workplace(manifest.folder, work, "vitis", step if step != "export" else f"export_{kind}")
    copy_sources(manifest, folder, one_sample=step == "cosim")
    log, said = Log(folder / "vitis.log"), Said(told)
    for command in vitis.commands(step, kind):
        code = run_logged(command, folder, log, said)
        run = Run(vitis, folder, log.path, said.compared)
        if code != 0 and not run.differs:
            raise _failed(vitis, step, code, log)
        if code != 0:
            break
    check_registers(run, manifest)
    return run


def check_registers(run: Run, manifest: Manifest) -> None:
    """Where the tool wrote headers for drivers, the registers in them are those of the manifest."""
    for place in PROJECTS:
        for path in sorted((run.folder / place).rglob(f"x{TOP}_hw.h")):
            check_synthesized(manifest.registers, path, TOP)


class Said:
    """Hears what the test bench says among the lines of a tool."""

    def __init__(self, told: Told) -> None:
        self.told, self.bytes = told, 0
        self.compared: tuple[int, int] | None = None

    def __call__(self, line: str) -> None:
        """One line."""
        found = re.match(r"(bytes|mismatches) (\d{1,18})$", line.strip())
        if found and found[1] == "bytes":
            self.bytes = int(found[2])
        elif found:
            before = self.compared[1] if self.compared else 0  # a co-simulation runs the test bench twice
            self.compared = self.bytes, max(before, int(found[2]))
        self.told(line)


def _failed(vitis: Vitis, step: str, code: int, log: Log) -> BuildError:
    error = failed(f"{vitis.name} ({step})", code, log)
    if PLAIN.fullmatch(str(log.path)):
        return error
    return BuildError(f"{error}\nThe path holds characters that the vendor's tools may not take: --work names another place")


def exported(run: Run, kind: str) -> Path:
    """The file that an export made: where the scripts ask for it, or where the tool puts it by default."""
    name = EXPORTS[kind].output
    places = [run.folder / name, run.folder / f"{TOP}_component" / name, *run.reports.glob(f"impl/*{Path(name).suffix}")]
    found = [path for path in places if path.is_file()]
    if not found:
        raise BuildError(f"{run.vitis.name} ended well, but left no {name} in {run.folder}; its log: {run.log}")
    return found[0]
