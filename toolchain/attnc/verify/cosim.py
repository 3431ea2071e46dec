"""The emitted C++ in simulated time: cycles, waiting, levels of FIFOs, deadlocks (sim/attnc_cosim.h says what time means)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from attnc.errors import BuildError
from attnc.kernels.latency import READ_LATENCY, WRITE_RESPONSE
from attnc.kernels.loops import LOOPS
from attnc.kernels.network import Loop
from attnc.schedule.given import Style
from attnc_host import csim

STYLES: tuple[str, ...] = get_args(Style)
"""Pipelines that stall as a whole, and pipelines that flush."""
CAUSES = ("empty", "full", "memory", "join")
DEADLOCK = 4
"""Exit code of the simulator."""


@dataclass(frozen=True)
class Timing:
    """What is assumed of the world: cycles of the memory, bytes that the DDR moves per cycle (0: no limit), board ports by interface, and
    II and depth of every loop."""

    read_latency: int = READ_LATENCY
    write_response: int = WRITE_RESPONSE
    bytes_per_cycle: float = 0.0
    ports: Mapping[str, str] = field(default_factory=dict)
    loops: Mapping[str, Loop] = field(default_factory=lambda: LOOPS)


@dataclass(frozen=True)
class Tracing:
    """What is to be written where: the largest level of every FIFO in each `levels` cycles, waits of at least `waits` cycles."""

    path: Path
    levels: int = 1
    waits: int = 1


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
    its writer full. Who wrote and who read it last, where anyone did."""

    path: str
    depth: int
    most: int
    tokens: int
    empty: int
    full: int
    writer: str | None = None
    reader: str | None = None

    @property
    def name(self) -> str:
        """As the sources name it."""
        return fifo_name(self.path)


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
    """Process, cause, FIFO or interface, cycles."""
    ports: tuple[tuple[str, int, int], ...]
    """Port of the board, beats read and written."""
    bit_exact: bool
    loops: tuple[str, ...] = ()
    """Those that were entered, by "function.LABEL"."""
    deadlock: int | None = None
    """The cycle in which nothing could go on."""
    blocked: tuple[Blocked, ...] = ()
    held: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Results that a process which waits for ever keeps in its pipeline, by process and FIFO."""
    bins: Mapping[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    """Cycles of a process by cause, "working" and "active", or of a port by "read" and "write", in each bin of time."""


def fifo_name(path: str) -> str:
    """The name that a stream has in the sources, wherever it is."""
    return path.rpartition("/")[2]


def build_cosim(folder: Path) -> Path:
    """Compile the simulator in time in `folder` (the `hls` folder of a build, writable) and return the program."""
    return csim.build_simulator(folder, "native", mode="cosim")


def settings(
    style: str,
    timing: Timing,
    depths: Mapping[str, int],
    unbounded: bool = False,
    trace: Tracing | None = None,
    bin_cycles: int = 0,
    stalls: int | None = None,
) -> str:
    """The text of the simulator's settings."""
    lines = [
        f"style {style}",
        f"read_latency {timing.read_latency}",
        f"write_response {timing.write_response}",
        f"bytes_per_cycle {timing.bytes_per_cycle}",
    ]
    lines += [f"loop {name} {loop.ii} {loop.depth}" for name, loop in timing.loops.items()]
    lines += [f"port {pointer} {tag}" for pointer, tag in timing.ports.items()]
    lines += [f"fifo {name} {depth}" for name, depth in depths.items()]
    lines += ["unbounded"] if unbounded else []
    lines += [f"trace {trace.levels} {trace.waits} {trace.path}"] if trace is not None else []
    lines += [f"bin {bin_cycles}"] if bin_cycles else []
    lines += [f"stalls {stalls}"] if stalls is not None else []
    return "\n".join(lines) + "\n"


def run_cosim(
    program: Path,
    data: Path,
    style: str,
    timing: Timing,
    depths: Mapping[str, int] | None = None,
    unbounded: bool = False,
    trace: Tracing | None = None,
    bin_cycles: int = 0,
    stalls: int | None = None,
    files: Sequence[Path] = (),
) -> CosimRun:
    """Run the simulator on the first of the vectors in `data`. `depths` of FIFOs (by path, or by name) replace those of the sources, 0 is
    no bound; with `bin_cycles` the counts over time come too; `stalls` is the seed of random ones. `files` are other inputs, and where
    their outputs go: then nothing is compared."""
    with tempfile.TemporaryDirectory(prefix="attnc-cosim-") as temporary:
        given, report = Path(temporary) / "settings.txt", Path(temporary) / "report.txt"
        given.write_text(settings(style, timing, depths or {}, unbounded, trace, bin_cycles, stalls))
        env = {**os.environ, "ATTNC_COSIM_SETTINGS": str(given), "ATTNC_COSIM_REPORT": str(report)}
        done = subprocess.run(
            [str(program.resolve()), str(data), *map(str, files)], env=env, capture_output=True, text=True, errors="replace"
        )
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
    ends = {path: [None if end == "-" else end for end in pair] for path, *pair in rows.get("ends", [])}
    fifos = tuple(Fifo(path, *map(int, numbers), *ends[path]) for path, *numbers in rows.get("fifo", []))  # type: ignore[arg-type]
    waits = tuple((process, cause, on, int(cycles)) for process, cause, on, cycles in rows.get("wait", []))
    blocked = tuple(
        Blocked(process, cause, fifo, int(cycle), loop, int(depth)) for process, cause, fifo, cycle, loop, depth in rows.get("blocked", [])
    )
    held: dict[tuple[str, str], int] = {}
    for process, fifo in rows.get("held", []):
        held[process, fifo] = held.get((process, fifo), 0) + 1
    bins = {(path, name): tuple(map(int, numbers)) for path, name, *numbers in rows.get("bins", [])}
    ports = tuple((tag, int(read), int(written)) for tag, read, written in rows.get("port", []))
    loops = tuple(name for name, *_ in rows.get("loop", []))
    deadlock = int(rows["deadlock"][0][0]) if "deadlock" in rows else None
    cycles = deadlock if deadlock is not None else int(rows["cycles"][0][0])
    exact = bit_exact and deadlock is None
    return CosimRun(style, cycles, stages, processes, fifos, waits, ports, exact, loops, deadlock, blocked, held, bins)
