"""A process that drives a virtual board which another one serves: python -m board.processes SOCKET BUILD FOLDER [SAMPLES]."""

from __future__ import annotations

import sys
from pathlib import Path

from attnc_host import Accelerator, AcceleratorError
from attnc_host.boards.uio import UioDevice
from attnc_host.driver import Driver
from attnc_host.virtual.remote import RemoteBoard
from attnc_host.virtual.system import VirtualSystem
from board.cases import Bench

KEY = b"board"


def drive(socket: Path, bench: Bench, folder: Path, timeout: float | None = None) -> Accelerator:
    system = VirtualSystem(RemoteBoard(socket, KEY), folder, bench.manifest.top, pool=1 << 20)
    device = UioDevice(bench.manifest, bitstream="design.bin", system=system)
    return Accelerator(bench.manifest, Driver(bench.manifest, device, timeout=timeout))


def main() -> int:
    socket, build, folder, stop = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    bench = Bench.of(build)
    try:
        with drive(socket, bench, folder, timeout=1e9) as accelerator:
            print("open", flush=True)
            if stop == "in a run":
                driver = accelerator.backend
                assert isinstance(driver, Driver)
                driver.device.wait = lambda seconds: print("runs", flush=True) or sys.stdin.read() or False  # type: ignore
                accelerator.run(bench.inputs)
            sys.stdin.read()
    except AcceleratorError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
