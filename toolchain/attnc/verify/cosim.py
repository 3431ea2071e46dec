"""The emitted C++ in simulated time: cycles, waiting, levels of FIFOs, deadlocks (sim/attnc_cosim.h says what time means)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attnc.errors import BuildError
from attnc.kernels.loops import LOOPS
from attnc_host import csim
from attnc_host.manifest import Manifest

STYLES = ("stp", "flp")
"""Pipelines that stall as a whole, and pipelines that flush."""
CAUSES = ("empty", "full", "memory", "join")
DEADLOCK = 4
"""Exit code of the simulator."""
READ_LATENCY = 60
"""Cycles from a read request to its first word (about 200 ns through an HP port at 250 MHz)."""
WRITE_RESPONSE = 30
"""Cycles from the last word written to the answer."""


@dataclass(frozen=True)
class Timing:
    """What is assumed of the world: cycles of the memory, bytes that the DDR moves per cycle (0: no limit), board ports by interface."""

    read_latency: int = READ_LATENCY
    write_response: int = WRITE_RESPONSE
    bytes_per_cycle: float = 0.0
    ports: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Process:
    """A process of a dataflow region over the whole run: cycles from start to end summed over its runs, cycles in which an iteration
    began, and cycles in which it waited, by cause."""

    path: str
    runs: int
    active: int
    working: int
    waited: Mapping[str, int]


@dataclass(frozen=True)
class Fifo:
    """A stream: its depth (0: no bound), the most tokens that it held, tokens that passed, cycles in which its reader found it empty or
    its writer full."""

    path: str
    depth: int
    most: int
    tokens: int
    empty: int
    full: int


@dataclass(frozen=True)
class Blocked:
    """A process that waits for ever, for a FIFO that is empty or full, since a cycle, in a loop."""

    process: str
    cause: str
    fifo: str
    cycle: int
    loop: str
    depth: int


@dataclass(frozen=True)
class CosimRun:
    """One sample in one pipeline style."""

    style: str
    cycles: int
    stages: tuple[tuple[int, int, int], ...]
    """Number of the instruction (or step), first and last cycle."""
    processes: tuple[Process, ...]
    fifos: tuple[Fifo, ...]
    waits: tuple[tuple[str, str, str, int], ...]
    """Process, cause, FIFO, cycles."""
    bit_exact: bool
    deadlock: int | None = None
    """The cycle in which nothing could go on."""
    blocked: tuple[Blocked, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def build_cosim(folder: Path) -> Path:
    """Compile the simulator in time in `folder` (the `hls` folder of a build, writable) and return the program."""
    return csim.build_simulator(folder, "native", mode="cosim")


def settings(style: str, timing: Timing, depths: Mapping[str, int], unbounded: bool = False, trace: Path | None = None) -> str:
    """The text of the simulator's settings."""
    lines = [
        f"style {style}",
        f"read_latency {timing.read_latency}",
        f"write_response {timing.write_response}",
        f"bytes_per_cycle {timing.bytes_per_cycle}",
    ]
    lines += [f"loop {name} {loop.ii} {loop.depth}" for name, loop in LOOPS.items()]
    lines += [f"port {pointer} {tag}" for pointer, tag in timing.ports.items()]
    lines += [f"fifo {path} {depth}" for path, depth in depths.items()]
    lines += ["unbounded"] if unbounded else []
    lines += [f"trace {trace}"] if trace is not None else []
    return "\n".join(lines) + "\n"


def run_cosim(
    program: Path,
    data: Path,
    style: str,
    timing: Timing,
    depths: Mapping[str, int] | None = None,
    unbounded: bool = False,
    trace: Path | None = None,
) -> CosimRun:
    """Run the simulator on the first of the vectors in `data`."""
    with tempfile.TemporaryDirectory(prefix="attnc-cosim-") as temporary:
        given, report = Path(temporary) / "settings.txt", Path(temporary) / "report.txt"
        given.write_text(settings(style, timing, depths or {}, unbounded, trace))
        env = {**os.environ, "ATTNC_COSIM_SETTINGS": str(given), "ATTNC_COSIM_REPORT": str(report)}
        done = subprocess.run([str(program.resolve()), str(data)], env=env, capture_output=True, text=True, errors="replace")
        if done.returncode not in (0, 1, DEADLOCK) or not report.is_file():
            said = (done.stderr or done.stdout).strip()
            raise BuildError(f"the simulator {program} failed with exit code {done.returncode}: {said or 'no message'}")
        return _parse(report.read_text(), style, done.returncode == 0)


def _parse(text: str, style: str, bit_exact: bool) -> CosimRun:
    rows: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        key, *words = line.split()
        rows.setdefault(key, []).append(words)
    stages = tuple((int(a), int(b), int(c)) for a, b, c in rows.get("stage", []))
    processes = tuple(
        Process(path, int(runs), int(active), int(working), dict(zip(CAUSES, map(int, waited), strict=True)))
        for path, runs, active, working, *waited in rows.get("process", [])
    )
    fifos = tuple(Fifo(path, *map(int, numbers)) for path, *numbers in rows.get("fifo", []))
    waits = tuple((process, cause, fifo, int(cycles)) for process, cause, fifo, cycles in rows.get("wait", []))
    blocked = tuple(
        Blocked(process, cause, fifo, int(cycle), loop, int(depth)) for process, cause, fifo, cycle, loop, depth in rows.get("blocked", [])
    )
    deadlock = int(rows["deadlock"][0][0]) if "deadlock" in rows else None
    cycles = deadlock if deadlock is not None else int(rows["cycles"][0][0])
    return CosimRun(style, cycles, stages, processes, fifos, waits, bit_exact and deadlock is None, deadlock, blocked)


def timing_of(manifest: Manifest) -> Timing:
    """That of a build: the ports of its board."""
    return Timing()
