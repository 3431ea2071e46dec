"""Every fault of the virtual board: what the driver makes of it, and what a driver without its care would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc_host import DeviceError, boundary
from attnc_host import manifest as manifests
from attnc_host import registers as regs
from attnc_host.accelerator import Accelerator
from attnc_host.boards.uio import UioDevice
from attnc_host.driver import Driver
from attnc_host.manifest import Manifest
from attnc_host.virtual.board import VirtualBoard
from attnc_host.virtual.faults import Fault
from attnc_host.virtual.system import VirtualSystem

SAMPLES = 4
ALWAYS = 10**9


@dataclass(frozen=True)
class Case:
    """A fault, how the driver is opened, and how that ends: "equal" to golden (after `recovered` tries), or an error with this text.
    `naive` is what becomes of a driver that takes done for done: "wrong", or "hangs"."""

    fault: dict[str, Any]
    ends: str
    naive: str = "wrong"
    recovered: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    bitstream: bool = True

    def __str__(self) -> str:
        given = {**self.fault, **self.options, **({} if self.bitstream else {"bitstream": False})}
        return ", ".join(str(value) if key in ("kind", "where") else f"{key}={value}" for key, value in given.items() if key != "skip")


def case(kind: str, ends: str, naive: str = "wrong", recovered: int = 0, bitstream: bool = True, **given: Any) -> Case:
    """The fault strikes the first run of the user's unless `skip` says otherwise."""
    options = {key: given.pop(key) for key in ("retries", "checks", "timeout") if key in given}
    return Case({"kind": kind, "skip": 1, **given}, ends, naive, recovered, options, bitstream)


AGAIN: dict[str, Any] = {"retries": 1, "recovered": 1}
ALL: dict[str, Any] = {"checks": "all"}
CASES = [
    case("never done", r"not done after 0\.25 s; reached: step 0 of 8 \(first\)", "hangs"),
    case("never done", "equal", "hangs", **AGAIN),
    case("never done", "still busy after .* load the bitstream again", "hangs", retries=1, bitstream=False),
    case("never done", r"not done after 0\.001 s", "hangs", timeout=1e-3),
    case("done late", "equal", "hangs", value=0.2),
    case("done late", r"not done after 0\.25 s; reached: step 2 of 8 \(first\)", "hangs", value=1),
    case("done late", "equal", "hangs", value=1, **AGAIN),
    case("done late", "equal", "hangs", value=0.4, bitstream=False, **AGAIN),
    case("done twice", "equal", times=3),
    case("lost interrupt", "equal", "hangs", times=2),
    case("flip", "the golden vector comes out differently", where="weights", **ALL),
    case("flip", "equal", where="weights", **ALL, **AGAIN),
    case("flip", "memory does not hold the weights", where="weights", value=3, skip=9, **ALL),
    case("flip", "the golden vector comes out differently", where="program", value=1028, **ALL),
    case("flip", "equal", where="program", value=1028, **ALL, **AGAIN),
    case("flip", "comes out differently when it runs again", where="activations", **ALL),
    case("flip", "equal", where="activations", **ALL, **AGAIN),
    case("flip", "comes out differently when it runs again", where="inputs", **ALL),
    case("flip", "comes out differently when it runs again", where="outputs", **ALL),
    case("short store", "it is done, but bytes 192 to 199 of the outputs", where="outputs"),
    case("short store", "equal", where="outputs", **AGAIN),
    case("short store", "comes out differently when it runs again", where="activations", **ALL),
    case("short store", "the golden vector comes out differently", where="activations", skip=0, times=ALWAYS),
    case("reordered store", "comes out differently when it runs again", where="outputs", **ALL),
    case("reordered store", "equal", where="activations", **ALL, **AGAIN),
    case("reordered store", "the golden vector comes out differently", where="activations", skip=0, times=ALWAYS),
    case("short load", "memory does not hold the weights as written", value=16, skip=0),
    case("short load", "memory does not hold the program", value=1024),
    case("stale write", "memory does not hold the weights as written", skip=0),
    case("stale write", "memory does not hold the inputs as written", skip=10, times=1),
    case("stale read", "bytes 0 to 7 of the outputs .* are what they were before", skip=-1),
    case("power", "nothing answers at the registers.*the board has no power", value=0.01),
    case("power", "equal", value=0.01, **AGAIN),
    case("power", "was not loaded: write error", value=1000, retries=1),
    case("other bitstream", "the hardware says that it is 0x.* a bitstream of another build, or an older one", bitstream=False),
    case("other bitstream", "the bitstream was loaded again; before that: .* the hardware says", times=ALWAYS),
    case("other bitstream", "equal"),
    case("moved registers", "register 'load_0' at 0x1c does not keep what is written", value=1, bitstream=False),
    case("moved registers", "register 'result_0' at 0x38 does not keep what is written", "hangs", value=-1, bitstream=False),
    case("moved registers", "equal", value=1),
]


@dataclass
class Bench:
    """A build with its golden answers to some inputs."""

    manifest: Manifest
    inputs: dict[str, npt.NDArray[Any]]
    expected: npt.NDArray[Any]
    name: str

    @classmethod
    def of(cls, build: Path, expected: npt.NDArray[Any] | None = None) -> Bench:
        """Answers are `expected` where the golden model is not at hand."""
        manifest = manifests.load(build)
        (port,) = manifest.inputs
        inputs = {port.name: np.random.default_rng(5).normal(size=(SAMPLES, *port.shape[1:])).astype(np.float32)}
        (output,) = manifest.outputs
        if expected is not None:
            return cls(manifest, inputs, expected, output.name)
        with Accelerator.open(build, "golden") as golden:
            return cls(manifest, inputs, golden.run(inputs)[output.name], output.name)


def outcome(bench: Bench, one: Case, faults: Sequence[dict[str, Any]] = ()) -> tuple[str, int]:
    """What the driver makes of a case: "equal", "wrong", or the text of its error; and how often it brought the board back. `faults` in
    place of the one of the case."""
    board = VirtualBoard(bench.manifest, [Fault(**fault) for fault in faults or [_fault(bench, one)]])
    try:
        system = VirtualSystem(board, board.folder, bench.manifest.top)
        device = UioDevice(bench.manifest, bitstream="design.bin" if one.bitstream else None, system=system)
        try:
            with Accelerator(bench.manifest, Driver(bench.manifest, device, **one.options)) as accelerator:
                found = accelerator.run(bench.inputs)[bench.name]
                driver = accelerator.backend
                assert isinstance(driver, Driver)
                return ("equal" if np.array_equal(found, bench.expected) else "wrong"), driver.recovered
        except DeviceError as error:
            return str(error), 0
    finally:
        board.close()


def _fault(bench: Bench, one: Case) -> dict[str, Any]:
    return {**one.fault, "skip": stale_read_of_a_run(bench) if one.fault["skip"] < 0 else one.fault["skip"]}


def stale_read_of_a_run(bench: Bench) -> int:
    """Reads into the cache until the outputs of the user's first run come."""
    board = VirtualBoard(bench.manifest)
    counted: list[int] = []
    whole = board.from_memory
    board.from_memory = lambda at, size: (counted.append(size), whole(at, size))[1]  # type: ignore[method-assign]
    try:
        device = UioDevice(bench.manifest, system=VirtualSystem(board, board.folder, bench.manifest.top))
        driver = Driver(bench.manifest, device)
        driver.close()
        return len(counted) + 2  # before them inputs are read back, and those of the next run
    finally:
        board.close()


def naive(bench: Bench, one: Case) -> str:
    """What becomes of a driver that writes everything, starts, waits for done, and takes what is there."""
    board = VirtualBoard(bench.manifest, [Fault(**{**one.fault, "skip": 0 if one.fault["kind"] not in LATER else 2})])
    system = VirtualSystem(board, board.folder, bench.manifest.top)
    device = UioDevice(bench.manifest, system=system)
    try:
        return _naive(bench, device, board, waits="interrupt" in one.fault["kind"])
    finally:
        device.close()
        board.close()


LATER = ("stale write",)
"""Faults that strike where it matters only a little later: a line of the weights is not one of the first to be read."""


def _naive(bench: Bench, device: UioDevice, board: VirtualBoard, waits: bool) -> str:
    manifest, lanes = bench.manifest, bench.manifest.lanes
    images = boundary.to_image(manifest, boundary.prepare(manifest, boundary.check_inputs(manifest, bench.inputs)).values)
    files = {name: np.fromfile(manifest.folder / "weights" / f"{name}.bin", np.uint8) for name in ("weights", "program")}
    buffers = {name: device.allocate(-(-(data.size + 64) // 4096) * 4096, name) for name, data in files.items()}
    for name, data in files.items():
        buffers[name].array[: data.size] = data
        buffers[name].flush(0, data.size)
    memory = buffers["memory"] = device.allocate(-(-manifest.memory.words * lanes // 4096) * 4096, "memory")
    outputs = []
    for image in images:
        at = manifest.memory.input_offset * lanes
        memory.array[at : at + image.size] = image
        memory.flush(at, image.size)
        for argument in manifest.registers.arguments:
            value = manifest.program.steps if argument.kind == "scalar" else buffers[argument.memory].address if argument.memory else 0
            if argument.kind != "status":
                for part in range(0, argument.bits // 8, 4):
                    device.write(argument.offset + part, value >> (8 * part) & 0xFFFFFFFF)
        device.write(regs.GLOBAL_ENABLE, 1)
        device.write(regs.ENABLE, 1)
        device.write(regs.CONTROL, regs.START)
        if not _waited(device, waits):
            return "hangs"
        at = manifest.memory.output_offset * lanes
        memory.invalidate(at, manifest.output_bytes)
        outputs.append(memory.array[at : at + manifest.output_bytes].copy())
    values = boundary.from_image(manifest, np.stack(outputs))
    prepared = boundary.prepare(manifest, boundary.check_inputs(manifest, bench.inputs))
    found = boundary.finish(manifest, values, prepared)[bench.name].reshape(bench.expected.shape)
    return "equal" if np.array_equal(found, bench.expected) else "wrong"


def _waited(device: UioDevice, interrupt: bool) -> bool:
    """Done within a tenth of a second of the board's time."""
    end = device.now() + 0.1
    while device.now() < end:
        if interrupt and device.wait(0.01):
            return True
        if not interrupt and device.read(regs.CONTROL) & regs.DONE:
            return True
        if not interrupt:
            device.wait(0.01)
    return False
