"""PYNQ 3 and 4: `Overlay` loads the bitstream, `allocate` gives memory, registers through the driver that PYNQ makes for the IP.

Interrupts are left alone: PYNQ's need an event loop that is the caller's, so this looks at the control register, at short intervals.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest
from attnc_host.registers import check_synthesized

INTERVAL = 5e-5


class PynqBuffer:
    """A buffer of `pynq.allocate`."""

    def __init__(self, given: Any) -> None:
        self.array, self.address = given, int(given.device_address)

    def flush(self, start: int, size: int) -> None:
        """Caches to memory."""
        self.array[start : start + size].flush()

    def invalidate(self, start: int, size: int) -> None:
        """Memory to what is read next."""
        self.array[start : start + size].invalidate()

    def free(self) -> None:
        """Give it back."""
        self.array.freebuffer()


class PynqDevice:
    """The accelerator in an overlay. `bitstream` is its .bit or .xsa (by default that of the archive), with its .hwh beside it."""

    has_registers = True

    def __init__(self, manifest: Manifest, bitstream: str | None = None, module: Any = None) -> None:
        path = Path(bitstream) if bitstream else manifest.folder / "bitstream" / f"{manifest.top}.bit"
        if not path.is_file():
            raise AcceleratorError(f"pynq: needed a bitstream: `attnc package --bitstream design.bit --bitstream design.hwh`, or {path}")
        description = path.with_suffix(".hwh")
        if description.is_file():
            check_synthesized(manifest.registers, description, manifest.top)
        try:
            self.pynq = module or importlib.import_module("pynq")
        except ImportError as error:
            raise AcceleratorError(f"backend 'pynq' needs PYNQ, which cannot be imported here: {error}") from error
        self._lock = lock(manifest.top)
        try:
            self.overlay = self.pynq.Overlay(str(path))
            self.ip = self._ip(manifest.top)
        except AcceleratorError:
            self.close()
            raise
        except Exception as error:  # PYNQ's errors share no base class
            self.close()
            raise AcceleratorError(f"pynq: {path} cannot be loaded: {error}") from error
        self.name = f"pynq {path.name}"

    def _ip(self, top: str) -> Any:
        kinds = {name: str(facts.get("type", "")) for name, facts in self.overlay.ip_dict.items()}
        for name, kind in kinds.items():
            if f":{top}:" in kind:
                found = self.overlay
                for part in name.split("/"):
                    found = getattr(found, part)
                return found
        raise AcceleratorError(f"pynq: needed an IP {top!r} in the overlay, found {', '.join(kinds.values()) or 'none'}")

    def read(self, offset: int) -> int:
        """A register."""
        return int(self.ip.read(offset))

    def write(self, offset: int, value: int) -> None:
        """A register."""
        self.ip.write(offset, value)

    def allocate(self, size: int, memory: str) -> PynqBuffer:
        """Of PYNQ's contiguous memory, cached."""
        return PynqBuffer(self.pynq.allocate(shape=(size,), dtype="u1", cacheable=True))

    def wait(self, seconds: float) -> bool:
        """A short while."""
        time.sleep(min(seconds, INTERVAL))
        return False

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def program(self) -> bool:
        """Load the overlay again."""
        self.overlay.download()
        return True

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._lock)


def lock(name: str) -> int:
    """The board for this process alone, until the handle is closed or the process ends."""
    path = Path(tempfile.gettempdir()) / f"attnc-{name}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with contextlib.suppress(PermissionError):
        os.chmod(path, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise AcceleratorError(f"{path}: another process drives the accelerator; one at a time can") from None
    return handle
