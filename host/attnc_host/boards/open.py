"""The driver on each board, by the names of backends."""

from __future__ import annotations

import glob
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from attnc_host.boards.pynq import PynqDevice
from attnc_host.boards.uio import UioDevice
from attnc_host.boards.xrt import XrtDevice
from attnc_host.driver import Driver
from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest
from attnc_host.virtual.board import VirtualBoard
from attnc_host.virtual.system import VirtualSystem


def pynq(manifest: Manifest, bitstream: str | None = None, **options: Any) -> Driver:
    """PYNQ; it shows no interrupts to the driver."""
    return Driver(manifest, PynqDevice(manifest, bitstream), interrupts=False, **options)


def xrt(manifest: Manifest, xclbin: str | None = None, index: int = 0, **options: Any) -> Driver:
    """XRT."""
    return Driver(manifest, XrtDevice(manifest, xclbin, index), **options)


def uio(manifest: Manifest, uio: str | None = None, bitstream: str | None = None, **options: Any) -> Driver:
    """UIO and u-dma-buf."""
    return Driver(manifest, UioDevice(manifest, uio, bitstream), **options)


class VirtualDriver(Driver):
    """The driver for UIO on a virtual board of its own. A run takes what the build estimates, or, with `time` "cosim", what the
    simulation in time says, which takes the compiler."""

    def __init__(self, manifest: Manifest, time: str = "estimate", **options: Any) -> None:
        if time not in ("estimate", "cosim"):
            raise AcceleratorError(f"time: needed estimate or cosim, found {time!r}")
        if time == "cosim" and importlib.util.find_spec("attnc") is None:
            raise AcceleratorError("time 'cosim' needs the compiler, which is not installed: pip install attnc")
        simulated = None if time == "estimate" else importlib.import_module("attnc.sim.backend").board_settings(manifest)
        self.board = VirtualBoard(manifest, settings=simulated)
        try:
            super().__init__(manifest, UioDevice(manifest, system=VirtualSystem(self.board, self.board.folder, manifest.top)), **options)
        except BaseException:
            self.board.close()
            raise

    def close(self) -> None:
        """The driver, then the board."""
        super().close()
        self.board.close()


def found(manifest: Manifest) -> str | None:
    """The board that is here and that there is a bitstream for."""
    bitstreams = manifest.folder / "bitstream"
    if (bitstreams / f"{manifest.top}.xclbin").is_file() and importlib.util.find_spec("pyxrt"):
        return "xrt"
    if (bitstreams / f"{manifest.top}.bit").is_file() and importlib.util.find_spec("pynq"):
        return "pynq"
    names = (Path(path) for path in glob.glob("/sys/class/uio/uio*/name"))
    return "uio" if any(manifest.top in path.read_text() for path in names) else None
