"""The virtual board: an AXI-Lite register file, an interrupt, and DDR in a sparse file, around the emitted C++ that works on this file.

Time is its own: an access to a register takes ACCESS seconds, a run what the build estimates, or in the mode "cosim" what the simulation in
time says, and who waits for an interrupt waits as long as it takes, at once. So nothing here depends on how fast this computer is.

The first half of a program's steps is done when a run starts, the other one when it ends: inputs that are written over, or outputs that are
read, while a run is under way are what they would be on a board.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attnc_host import registers as regs
from attnc_host.csim import simulator
from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest
from attnc_host.virtual.faults import Fault

ACCESS = 2e-7
BASE = 0x8_7000_0000
"""Where the memory begins: above 4 GiB, as on boards with more than 2 GB."""
SIZE = 1 << 30
PAGE, LINE = 4096, 64
PATIENCE = 120.0
"""Seconds of this computer that the C++ may take for a run: a damaged program may count to anything."""


@dataclass
class Run:
    """A run that is under way: when it begins and ends, its arguments, and how many of its steps the C++ has done."""

    begin: float
    end: float
    values: dict[str, int]
    steps: int
    half: int
    dead: bool = False


class VirtualBoard:
    """A board with the bitstream of a build, from its folder. `settings` are those of the simulator in time: runs take what it says."""

    def __init__(self, manifest: Manifest, faults: Sequence[Fault] = (), size: int = SIZE, settings: str | None = None) -> None:
        self.manifest, self.map, self.faults = manifest, manifest.registers, list(faults)
        self.clock, self.size, self.settings = 0.0, size, settings
        self.loaded = 0
        """Bitstreams that were loaded."""
        self._held = contextlib.ExitStack()
        self.folder = Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix="attnc-board-")))
        try:
            mode = "csim" if settings is None else "cosim"
            self.program_file = self._held.enter_context(simulator(manifest.folder / "hls", mode=mode)).resolve()
            with open(self.folder / "ddr", "w+b") as file:
                file.truncate(size + PAGE)
                self._map = mmap.mmap(file.fileno(), size + PAGE)
        except BaseException:
            self._held.close()
            raise
        self.memory: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self._lock = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._back: float | None = None
        self._dies: Fault | None
        self._flips: Fault | None
        self._stores: Fault | None
        self._reset()

    def _reset(self) -> None:
        """What a bitstream is when it was loaded."""
        self._end_process()
        self.values: dict[str, int] = {one.name: 0 for one in self.map.arguments}
        self.done, self.enabled, self.pending, self.raised = False, [0, 0], 0, False
        self.run: Run | None = None
        self.status = 0
        self._ring = True
        self._dies = self._flips = self._stores = None

    def _strikes(self, *kinds: str) -> Fault | None:
        return next((fault for fault in self.faults if fault.kind in kinds and fault.strikes()), None)

    def _has(self, kind: str) -> Fault | None:
        """A fault that holds until a bitstream is loaded."""
        return next((fault for fault in self.faults if fault.kind == kind and self.loaded < fault.times), None)

    # --- what the bus shows

    def now(self) -> float:
        """Seconds."""
        return self.clock

    def read(self, offset: int) -> int:
        """A register."""
        with self._lock:
            self._tick()
            if self._back is not None:
                return regs.GONE
            if offset == regs.CONTROL:
                found = regs.START if self.run else regs.IDLE
                found |= regs.DONE | regs.READY if self.done else 0
                self.done = False
                return found
            if offset in (regs.GLOBAL_ENABLE, regs.ENABLE):
                return self.enabled[offset == regs.ENABLE]
            if offset == regs.PENDING:
                return self.pending
            argument, shift = self._argument(offset)
            if argument is None:
                return 0
            value = self.status if argument == self.map.status.name else self.values[argument]
            return (value >> shift) & 0xFFFFFFFF

    def write(self, offset: int, value: int) -> None:
        """A register."""
        with self._lock:
            self._tick()
            if self._back is not None:
                return
            if offset == regs.CONTROL:
                if value & regs.START and self.run is None:
                    self._start()
            elif offset in (regs.GLOBAL_ENABLE, regs.ENABLE):
                self.enabled[offset == regs.ENABLE] = value & 1
            elif offset == regs.PENDING:
                self.pending ^= value & 1
            else:
                argument, shift = self._argument(offset)
                if argument is not None and argument != self.map.status.name:
                    self.values[argument] = self.values[argument] & ~(0xFFFFFFFF << shift) | value << shift

    def _argument(self, offset: int) -> tuple[str | None, int]:
        """The argument whose word is at an offset, and the bits of it that lie below."""
        moved = self._has("moved registers")
        for number, one in enumerate(self.map.arguments):
            start = one.offset + (12 * int(moved.value) if moved and number else 0)
            if start <= offset < start + one.bits // 8 and not (moved and moved.value < 0 and number == 1):
                return one.name, 8 * (offset - start)
        return None, 0

    def wait(self, seconds: float) -> bool:
        """For an interrupt, which is taken."""
        with self._lock:
            until = self.clock + seconds
            self._tick()
            if not self.raised and self.run is not None and self.run.end <= until:
                self.clock = max(self.clock, self.run.end)
                self._advance()
            if not self.raised:
                self.clock = max(self.clock, until)
                self._advance()
                return False
            self.raised = False
            return True

    def program(self) -> bool:
        """Load the bitstream of the build."""
        with self._lock:
            self._advance()
            if self._back is not None:
                return False
            self.loaded += 1
            self._reset()
            return True

    def to_memory(self, at: int, data: bytes) -> None:
        """What leaves the caches of the host."""
        with self._lock:
            size = len(data)
            large = size > LINE
            if large and (short := self._strikes("short load")):
                size -= int(short.value)
            if large and self._strikes("stale write"):
                self.memory[at + LINE : at + size] = np.frombuffer(data, np.uint8)[LINE:size]
                return
            self.memory[at : at + size] = np.frombuffer(data, np.uint8, size)

    def from_memory(self, at: int, size: int) -> bytes | None:
        """What comes into the caches of the host; nothing where they keep what they have."""
        with self._lock:
            return None if self._strikes("stale read") else self.memory[at : at + size].tobytes()

    # --- what the accelerator does

    def _tick(self) -> None:
        self.clock += ACCESS
        self._advance()

    def _start(self) -> None:
        steps = self.values["instructions"]
        seconds = self.manifest.program.seconds * steps / self.manifest.program.steps
        self.run = Run(self.clock, self.clock + seconds + 1e-7, dict(self.values), steps, steps // 2)
        self.status = self._identity() << 32
        self._ring = True
        if steps == 0:
            return
        if self._strikes("never done"):
            self.run.end = float("inf")
        if late := self._strikes("done late"):
            self.run.end += late.value
        if self._strikes("done twice"):
            self.done = True
            self._raise()
        self._ring = not self._strikes("lost interrupt")
        self._dies = self._strikes("power")
        self._flips = self._strikes("flip")
        self._stores = self._strikes("short store", "reordered store")
        if self._flips and self._flips.where == "inputs":
            self._flip(self.run, self._flips)
        before = self._before(self.run, early=True)
        if self.settings is None:
            self._execute(0, self.run.half)
            self._store_badly(self.run, before)
        else:
            self.run.end += self._execute(0, steps) - seconds
            self.run.half = steps

    def _advance(self) -> None:
        """What has happened by now."""
        if self._back is not None and self.clock >= self._back:
            self._back = None
            self._reset()
        run = self.run
        if run is None or self.clock < run.end:
            if run is not None and run.steps:
                passed = (self.clock - run.begin) / max(run.end - run.begin, 1e-12)
                self.status = self._identity() << 32 | min(run.steps - 1, int(run.steps * passed))
            return
        if run.steps:
            if self._dies:
                self._lose_power(self._dies)
                return
            if self._flips and self._flips.where not in ("inputs", "outputs"):
                self._flip(run, self._flips)
            before = self._before(run, early=False)
            if run.half < run.steps:
                self._execute(run.half, run.steps - run.half)
            self._store_badly(run, before)
            if self._flips and self._flips.where == "outputs":
                self._flip(run, self._flips)
            if self._has("other bitstream"):
                self.memory[self._place(run, "outputs")] ^= 1
        else:
            self._execute(0, 0)
        if run.dead:
            run.end = float("inf")
            return
        self.status = self._identity() << 32 | run.steps
        self.run, self.done = None, True
        if self._ring:
            self._raise()

    def _raise(self) -> None:
        if self.enabled[1]:
            self.pending = 1
            self.raised = bool(self.enabled[0])

    def _lose_power(self, fault: Fault) -> None:
        self._reset()
        self._map.madvise(mmap.MADV_REMOVE)
        self._back = self.clock + fault.value

    def _flip(self, run: Run, fault: Fault) -> None:
        at = self._place(run, fault.where)
        self.memory[at.start + int(fault.value or (at.stop - at.start) // 3)] ^= 0x10

    def _before(self, run: Run, early: bool) -> npt.NDArray[np.uint8] | None:
        """What lies where stores of this half of the run will go wrong; activations are stored in the first, outputs in the second."""
        if self._stores is None or (self._stores.where == "activations") != early:
            return None
        return self.memory[self._place(run, self._stores.where)].copy()

    def _store_badly(self, run: Run, before: npt.NDArray[np.uint8] | None) -> None:
        fault = self._stores
        if fault is None or before is None:
            return
        place = self._place(run, fault.where)
        if fault.kind == "short store":
            size = min(int(fault.value) or LINE, before.size)
            self.memory[place][-size:] = before[-size:]
            return
        beat = self.manifest.lanes
        first, second = self.memory[place][:beat].copy(), self.memory[place][-beat:].copy()
        self.memory[place][:beat], self.memory[place][-beat:] = second, first

    def _place(self, run: Run, where: str) -> slice:
        """Where something lies in memory during a run."""
        pointers = {one.memory: run.values[one.name] - BASE for one in self.map.of("pointer")}
        if where in ("weights", "program"):
            size = (self.manifest.folder / "weights" / f"{where}.bin").stat().st_size
            return slice(pointers[where], pointers[where] + size)
        memory, lanes = self.manifest.memory, self.manifest.lanes
        regions = {
            "inputs": (memory.input_offset, memory.input_words),
            "constants": (memory.constant_offset, memory.constant_words),
            "outputs": (self.manifest.fetches[0].offset, self.manifest.fetches[0].words),
        }
        for value in self.manifest.data["values"]:
            if value["kind"] == "activation":
                regions["activations"] = (value["offset"], value["words"])
        offset, words = regions[where]
        return slice(pointers["memory"] + offset * lanes, pointers["memory"] + (offset + words) * lanes)

    def _identity(self) -> int:
        return self.map.identity ^ (1 if self._has("other bitstream") else 0)

    def _execute(self, first: int, count: int) -> float:
        """Run steps of the program in C++; the seconds that they take, where it is simulated in time."""
        assert self.run is not None
        values = {**self.run.values, "instructions": count}
        values["program"] += first * 4 * int(self.manifest.data["program"]["instruction_ints"])
        line = " ".join(str(values[one.name]) for one in self.map.arguments if one.kind != "status")
        if self._process is None:
            env = dict(os.environ)
            if self.settings is not None:
                (self.folder / "settings.txt").write_text(self.settings)
                env |= {"ATTNC_COSIM_SETTINGS": str(self.folder / "settings.txt"), "ATTNC_COSIM_REPORT": str(self.folder / "report.txt")}
            self._process = subprocess.Popen(
                [str(self.program_file), "--board", str(self.folder / "ddr"), str(BASE)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
            )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline() if select.select([self._process.stdout], [], [], PATIENCE)[0] else ""
        except BrokenPipeError:
            answer = ""
        if answer != "done\n":  # an address where no memory is, or a kernel that stands still: the hardware would hang
            self.run.dead = True
            self._end_process()
            return 0.0
        own = int.from_bytes(self.memory[self.size : self.size + 8].tobytes(), "little")
        if own != self.map.identity << 32 | count:
            raise AcceleratorError(f"{self.program_file}: needed status {self.map.identity << 32 | count:#x}, found {own:#x}")
        if self.settings is None:
            return 0.0
        self._end_process()
        rows = dict(row.split()[:2] for row in (self.folder / "report.txt").read_text().splitlines() if row.startswith("cycles "))
        return int(rows["cycles"]) / self.manifest.program.clock_mhz / 1e6

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None

    def close(self) -> None:
        """End the simulator and forget the memory."""
        self._end_process()
        self._held.close()
