"""Images without PYNQ: registers and interrupts through UIO, memory through u-dma-buf, bitstreams through fpga_manager.

/dev/uioN               mapped: the registers; read: waits for an interrupt; written: allows the next one
/sys/class/uio/uioN     name, maps/map0/size
/dev/udmabufN           mapped: memory, through the caches
/sys/class/u-dma-buf/N  phys_addr, size, sync_for_device, sync_for_cpu
/sys/class/fpga_manager/fpga0/firmware   written: the name of a file in /lib/firmware
"""

from __future__ import annotations

import fcntl
import glob
import mmap
import os
import select
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc_host.errors import AcceleratorError, DeviceError
from attnc_host.manifest import Manifest

PAGE = 4096
LINE = 64
TO_DEVICE, FROM_DEVICE = 1, 2
FIRMWARE, MANAGER = "/lib/firmware", "/sys/class/fpga_manager/fpga0"


class System:
    """What this module asks of Linux."""

    def find(self, pattern: str) -> list[str]:
        """Paths that match, in order."""
        return sorted(glob.glob(pattern))

    def read(self, path: str) -> str:
        """A small file of sysfs."""
        return Path(path).read_text().strip()

    def write(self, path: str, text: str) -> None:
        """The same."""
        Path(path).write_text(text)

    def open(self, path: str) -> int:
        """A device, for this process alone: another one gets a BlockingIOError."""
        handle = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle

    def map(self, handle: int, size: int, dtype: str) -> npt.NDArray[Any]:
        """A device as an array."""
        return np.frombuffer(mmap.mmap(handle, size, mmap.MAP_SHARED), dtype)

    def interrupt(self, handle: int, seconds: float) -> bool:
        """Wait for an interrupt, and take it."""
        os.write(handle, (1).to_bytes(4, "little"))
        if not select.select([handle], [], [], seconds)[0]:
            return False
        os.read(handle, 4)
        return True

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def copy(self, source: Path, target: str) -> None:
        """A file to where firmware is looked for."""
        shutil.copyfile(source, target)

    def close(self, handle: int) -> None:
        """Let go of a device."""
        os.close(handle)


class UioBuffer:
    """A part of a u-dma-buf."""

    def __init__(self, pool: Pool, offset: int, size: int) -> None:
        self.pool, self.offset, self.size = pool, offset, size
        self.address = pool.address + offset
        self.array = pool.array[offset : offset + size]

    def _sync(self, name: str, start: int, size: int, direction: int) -> None:
        """Whole cache lines; offset, size and direction in one number, as u-dma-buf has it."""
        first = (self.offset + start) // LINE * LINE
        length = -(-(self.offset + start + size - first) // LINE) * LINE
        self.pool.system.write(f"{self.pool.folder}/{name}", f"{first << 32 | length | direction << 2 | 1:#018x}")

    def flush(self, start: int, size: int) -> None:
        """Caches to memory."""
        self._sync("sync_for_device", start, size, TO_DEVICE)

    def invalidate(self, start: int, size: int) -> None:
        """Memory to what is read next."""
        self._sync("sync_for_cpu", start, size, FROM_DEVICE)

    def free(self) -> None:
        """Give it back to the pool."""
        self.pool.held.pop(self.offset, None)


class Pool:
    """A u-dma-buf; parts of it are given away, the first gap that is large enough."""

    def __init__(self, system: System, folder: str) -> None:
        self.system, self.folder = system, folder
        self.address = int(system.read(f"{folder}/phys_addr"), 0)
        self.size = min(int(system.read(f"{folder}/size"), 0), 1 << 32)  # offsets of what is synchronised have 32 bits
        self.handle = system.open(f"/dev/{folder.rpartition('/')[2]}")
        self.array = system.map(self.handle, self.size, "u1")
        self.held: dict[int, int] = {}

    def allocate(self, size: int) -> UioBuffer | None:
        """None where there is no room."""
        at = 0
        for offset, length in sorted(self.held.items()):
            if offset - at >= size:
                break
            at = offset + -(-length // PAGE) * PAGE
        if at + size > self.size:
            return None
        self.held[at] = size
        return UioBuffer(self, at, size)

    def close(self) -> None:
        """Unmap and close."""
        self.array = self.array[:0]
        self.system.close(self.handle)


class UioDevice:
    """The accelerator behind UIO. `uio` names the node (by default the one whose name in the device tree has the accelerator's),
    `bitstream` a file for fpga_manager (by default the .bin of the archive)."""

    has_registers = True

    def __init__(self, manifest: Manifest, uio: str | None = None, bitstream: str | None = None, system: System | None = None) -> None:
        self.system = system or System()
        own = manifest.folder / "bitstream" / f"{manifest.top}.bin"
        self.bitstream = Path(bitstream) if bitstream else own if own.is_file() else None
        self.name = f"/dev/{uio.rpartition('/')[2]}" if uio else self._find(manifest.top)
        number = self.name.rpartition("/")[2]
        self.pools: list[Pool] = []
        try:
            self.handle = self.system.open(self.name)
        except BlockingIOError:
            raise AcceleratorError(f"{self.name}: another process has it open; one at a time can drive the accelerator") from None
        except OSError as error:
            raise AcceleratorError(f"{self.name}: cannot be opened: {error.strerror} (root, or a udev rule, may)") from error
        try:
            size = int(self.system.read(f"/sys/class/uio/{number}/maps/map0/size"), 0)
            if size < manifest.registers.bytes:
                raise AcceleratorError(f"{self.name}: maps {size} bytes of registers, the accelerator has {manifest.registers.bytes}")
            self.words = self.system.map(self.handle, size, "<u4")
            self.pools = [Pool(self.system, folder) for folder in self.system.find("/sys/class/u-dma-buf/*")]
        except BaseException:
            self.close()
            raise

    def _find(self, top: str) -> str:
        folders = self.system.find("/sys/class/uio/uio*")
        names = {folder: self.system.read(f"{folder}/name") for folder in folders}
        for folder, name in names.items():
            if top in name:
                return f"/dev/{folder.rpartition('/')[2]}"
        found = ", ".join(f"{folder.rpartition('/')[2]} ({name})" for folder, name in names.items()) or "none"
        raise AcceleratorError(f"uio: needed a node named {top!r} in the device tree, found {found}: is the overlay loaded?")

    def read(self, offset: int) -> int:
        """A register."""
        return int(self.words[offset // 4])

    def write(self, offset: int, value: int) -> None:
        """A register, unless it lies behind those that are mapped."""
        if offset // 4 < len(self.words):
            self.words[offset // 4] = value

    def allocate(self, size: int, memory: str) -> UioBuffer:
        """Of the first u-dma-buf that has so much left."""
        for pool in self.pools:
            buffer = pool.allocate(size)
            if buffer is not None:
                return buffer
        left = ", ".join(f"{pool.folder.rpartition('/')[2]} of {pool.size:,} bytes" for pool in self.pools) or "no u-dma-buf"
        raise MemoryError(f"{left}; in use: {sum(sum(pool.held.values()) for pool in self.pools):,} bytes")

    def wait(self, seconds: float) -> bool:
        """For an interrupt."""
        return self.system.interrupt(self.handle, seconds)

    def now(self) -> float:
        """Seconds."""
        return self.system.now()

    def program(self) -> bool:
        """Through fpga_manager, where there is a bitstream for it."""
        if self.bitstream is None or not self.system.find(MANAGER):
            return False
        self.system.copy(self.bitstream, f"{FIRMWARE}/{self.bitstream.name}")
        self.system.write(f"{MANAGER}/firmware", self.bitstream.name)
        if self.system.read(f"{MANAGER}/state") != "operating":
            raise DeviceError(f"fpga_manager: {self.bitstream.name} was not loaded: {self.system.read(f'{MANAGER}/state')}")
        return True

    def close(self) -> None:
        """Let go of all devices."""
        for pool in self.pools:
            pool.close()
        self.pools = []
        if self.handle >= 0:
            self.words = np.zeros(0, "<u4")
            self.system.close(self.handle)
            self.handle = -1
