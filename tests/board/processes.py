"""Two processes at one board, and one that is killed while it computes. As a program: one that drives a board which another serves."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from attnc_host import Accelerator, AcceleratorError
from attnc_host.boards.uio import UioDevice
from attnc_host.driver import Driver
from attnc_host.virtual import remote
from attnc_host.virtual.board import VirtualBoard
from attnc_host.virtual.faults import Fault
from attnc_host.virtual.remote import RemoteBoard
from attnc_host.virtual.system import VirtualSystem
from board.cases import Bench

KEY = b"board"
OPEN, IN_A_RUN = "open", "in a run"


def drive(socket: Path, bench: Bench, folder: Path, timeout: float | None = None, pool: int = 1 << 20) -> Accelerator:
    """The driver on a board that another process serves."""
    system = VirtualSystem(RemoteBoard(socket, KEY), folder, bench.manifest.top, pool)
    device = UioDevice(bench.manifest, bitstream="design.bin", system=system)
    return Accelerator(bench.manifest, Driver(bench.manifest, device, timeout=timeout))


@contextlib.contextmanager
def served(bench: Bench, folder: Path, faults: list[Fault]) -> Iterator[tuple[VirtualBoard, Path]]:
    """A board, and the socket at which it answers."""
    with contextlib.closing(VirtualBoard(bench.manifest, faults)) as board, remote.served(board, folder / "socket", KEY):
        yield board, folder / "socket"


@contextlib.contextmanager
def other(socket: Path, bench: Bench, folder: Path, stop: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, which opens the board and stops there, or in its first run."""
    command = [sys.executable, "-m", "board.processes", str(socket), str(bench.manifest.folder), str(folder), stop]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for wanted in (OPEN, IN_A_RUN)[: 1 + (stop == IN_A_RUN)]:
            found = process.stdout.readline().strip()
            assert found == wanted, found
        yield process
    finally:
        process.kill()
        process.communicate()


def answers(bench: Bench, socket: Path, folder: Path, pool: int = 1 << 20) -> str:
    """What becomes of a driver: "equal", "wrong", or the text of its error."""
    try:
        with drive(socket, bench, folder, pool=pool) as accelerator:
            return "equal" if np.array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected) else "wrong"
    except AcceleratorError as error:
        return str(error)


def two_at_once(bench: Bench, folder: Path) -> tuple[str, str]:
    """What becomes of the second of two processes, and of one that comes when the first was killed."""
    with served(bench, folder, []) as (_, socket), other(socket, bench, folder, OPEN) as process:
        second = answers(bench, socket, folder)
        process.kill()
        process.wait()
        return second, answers(bench, socket, folder)


def killed(bench: Bench, folder: Path, seconds: float) -> tuple[str, int]:
    """What becomes of a driver that comes when another one was killed in a run that lasts so long; and bitstreams that were loaded."""
    late = Fault("done late", value=seconds, skip=1)
    with served(bench, folder, [late]) as (board, socket), other(socket, bench, folder, IN_A_RUN) as process:
        assert board.run is not None and late.struck == 1
        process.kill()
        process.wait()
        return answers(bench, socket, folder), board.loaded


def memory(bench: Bench, folder: Path, pages: int) -> str:
    """What becomes of a driver with so many pages of memory."""
    with served(bench, folder, []) as (_, socket):
        return answers(bench, socket, folder, pages * 4096)


def main() -> int:
    socket, build, folder, stop = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    bench = Bench.of(build)
    with drive(socket, bench, folder, timeout=1e9) as accelerator:
        print(OPEN, flush=True)
        if stop == IN_A_RUN:
            driver = accelerator.backend
            assert isinstance(driver, Driver)
            driver.device.wait = lambda seconds: print(IN_A_RUN, flush=True) or sys.stdin.read() or False  # type: ignore
            accelerator.run(bench.inputs)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
