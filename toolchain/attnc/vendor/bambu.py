"""PandA-bambu on the kernels of a build: RTL of one by itself, run by Verilator on what a simulated sample brings it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnc.errors import BuildError
from attnc.vendor.kernels import TOP, Bench, compare, write_bench
from attnc.vendor.tool import Log, Told, failed, find_program, run_logged, workplace
from attnc_host.manifest import Manifest

OPTIONS = (
    "kernel.cpp",
    f"--top-fname={TOP}",
    "--generate-tb=testbench.cpp",
    "--simulate",
    "--simulator=VERILATOR",
    "--compiler=I386_CLANG13",
    "-O1",
    "--std=c++14",
    "--generate-interface=INFER",
    "-I.",
    "-Iinclude",
)
"""What bambu is called with, in the folder of the kernel: `ap_int` as it has it, the front end at -O1."""


def find_bambu() -> Path:
    """bambu, with the simulator that it needs."""
    found = find_program(["bambu"], None, "", "PandA-bambu 2023.1 or later, https://panda.deib.polimi.it")
    find_program(["verilator"], None, "", "the simulator that bambu runs; Debian package verilator")
    return found


@dataclass(frozen=True)
class Outcome:
    """What became of a kernel: elements compared and those that differ, the first of them in words, cycles of the RTL; or why the tool did
    not take it (`refused`)."""

    bench: Bench
    log: Path
    mismatches: int = 0
    difference: str = ""
    cycles: int | None = None
    refused: BuildError | None = None

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        kernel = {"kernel": self.bench.kernel.name, "function": self.bench.kernel.function, "calls": len(self.bench.calls)}
        if self.refused is not None:
            return {**kernel, "refused": str(self.refused), "log": str(self.log)}
        return {
            **kernel,
            "elements": self.bench.expected.size,
            "mismatches": self.mismatches,
            "difference": self.difference,
            "bit_exact": self.mismatches == 0,
            "cycles": self.cycles,
            "log": str(self.log),
        }


def run_bambu(program: Path, manifest: Manifest, bench: Bench, lanes: int, work: Path | None, told: Told) -> Outcome:
    """Make RTL of a kernel, run it, and compare what it gives."""
    folder = workplace(manifest.folder, work, "bambu", bench.kernel.name)
    found = folder / "found.txt"
    write_bench(bench, manifest.folder / "hls", folder, lanes, found)
    log, cycles = Log(folder / "bambu.log"), _Cycles(told)
    period = f"--clock-period={1000 / manifest.data['target']['clock_mhz']:.3f}"
    code = run_logged([program, *OPTIONS, period], folder, log, cycles)
    if code != 0 or not found.is_file():
        error = failed(f"bambu ({bench.kernel.name})", code, log)
        return Outcome(bench, log.path, refused=error)
    mismatches, difference = compare(bench, found.read_text().splitlines())
    return Outcome(bench, log.path, mismatches, difference, cycles.total)


class _Cycles:
    """Hears the cycles of the simulation among the lines of the tool."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.total: int | None = None

    def __call__(self, line: str) -> None:
        found = re.search(r"Total cycles\s*:\s*(\d{1,18})\b", line)
        self.total = int(found[1]) if found else self.total
        self.told(line)
