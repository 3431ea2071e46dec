"""The virtual board as Linux shows a real one: the files that `attnc_host.boards.uio` opens."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from attnc_host.boards.uio import MANAGER, System
from attnc_host.virtual.board import BASE

UIO, POOL = "/sys/class/uio/uio0", "/sys/class/u-dma-buf/udmabuf0"
POOL_SIZE = 1 << 28


class Bus(Protocol):
    """A virtual board, here or in another process."""

    def read(self, offset: int) -> int:
        """A register."""

    def write(self, offset: int, value: int) -> None:
        """A register."""

    def wait(self, seconds: float) -> bool:
        """For an interrupt."""

    def now(self) -> float:
        """Seconds."""

    def program(self) -> bool:
        """Load the bitstream."""

    def to_memory(self, at: int, data: bytes) -> None:
        """From the caches."""

    def from_memory(self, at: int, size: int) -> bytes | None:
        """Into the caches."""


class Registers:
    """Registers as an array: each access goes to the bus."""

    def __init__(self, bus: Bus, size: int) -> None:
        self.bus, self.size = bus, size

    def __getitem__(self, index: int) -> int:
        return self.bus.read(4 * index)

    def __setitem__(self, index: int, value: int) -> None:
        self.bus.write(4 * index, value)

    def __len__(self) -> int:
        return self.size // 4


class VirtualSystem(System):
    """One accelerator at /dev/uio0, one pool of memory at /dev/udmabuf0, fpga_manager. `folder` holds the locks of the devices; processes
    that share it share the board."""

    def __init__(self, bus: Bus, folder: Path, top: str, pool: int = POOL_SIZE) -> None:
        self.bus, self.folder, self.pool = bus, folder, pool
        self.cache = np.zeros(pool, np.uint8)
        """Memory as the processor sees it."""
        self.files = {f"{UIO}/name": top, f"{UIO}/maps/map0/size": "0x10000", f"{POOL}/phys_addr": hex(BASE), f"{POOL}/size": str(pool)}
        self.handles: dict[int, str] = {}

    def find(self, pattern: str) -> list[str]:
        """The folders of the three devices."""
        return [path for path in (UIO, POOL, MANAGER) if path == pattern or path.startswith(pattern.rstrip("*"))]

    def read(self, path: str) -> str:
        """What sysfs says."""
        if path == f"{MANAGER}/state":
            return self.files.get(path, "operating")
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def write(self, path: str, text: str) -> None:
        """Cache maintenance, and bitstreams."""
        if path == f"{MANAGER}/firmware":
            self.files[f"{MANAGER}/state"] = "operating" if self.bus.program() else "write error"
            return
        number = int(text, 0)
        at, size = number >> 32, number & 0xFFFFFFF0
        if path == f"{POOL}/sync_for_device":
            self.bus.to_memory(at, self.cache[at : at + size].tobytes())
        elif path == f"{POOL}/sync_for_cpu":
            data = self.bus.from_memory(at, size)
            if data is not None:
                self.cache[at : at + size] = np.frombuffer(data, np.uint8)
        else:
            raise FileNotFoundError(path)

    def open(self, path: str) -> int:
        """As on Linux: a lock of the device, which goes with the process."""
        place = self.folder / path.replace("/", "_")
        handle = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        self.handles[handle] = path
        return handle

    def map(self, handle: int, size: int, dtype: str) -> npt.NDArray[Any]:
        """Registers, or memory through the cache."""
        if "uio" in self.handles[handle]:
            return Registers(self.bus, size)  # type: ignore[return-value]
        return self.cache

    def interrupt(self, handle: int, seconds: float) -> bool:
        """Wait for one."""
        return self.bus.wait(seconds)

    def now(self) -> float:
        """Seconds of the board."""
        return self.bus.now()

    def copy(self, source: Path, target: str) -> None:
        """There is one bitstream."""

    def close(self, handle: int) -> None:
        """Let go."""
        del self.handles[handle]
        os.close(handle)
