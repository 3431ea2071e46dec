"""XRT through pyxrt: Alveo, and Kria with zocl.

XRT starts the kernel and waits for it; registers are its own, so this shows the driver those that it writes, and of control whether a run
is over. What the hardware is, XRT knows by the xclbin's UUID.
"""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc_host import registers as regs
from attnc_host.boards.pynq import lock
from attnc_host.errors import AcceleratorError, DeviceError
from attnc_host.manifest import Manifest


class XrtBuffer:
    """A buffer object, mapped."""

    def __init__(self, module: Any, given: Any, size: int, owner: XrtDevice) -> None:
        self.module, self.given, self.owner = module, given, owner
        self.address = int(given.address())
        self.array: npt.NDArray[np.uint8] = np.frombuffer(given.map(), np.uint8, size)

    def flush(self, start: int, size: int) -> None:
        """Host to device."""
        self.given.sync(self.module.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE, size, start)

    def invalidate(self, start: int, size: int) -> None:
        """Device to host."""
        self.given.sync(self.module.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE, size, start)

    def free(self) -> None:
        """The buffer goes with its last reference."""
        self.owner.buffers.pop(self.address, None)
        self.array, self.given = self.array[:0], None


class XrtDevice:
    """The accelerator as a kernel. `xclbin` is by default that of the archive; `index` is the card."""

    has_registers = False

    def __init__(self, manifest: Manifest, xclbin: str | None = None, index: int = 0, module: Any = None) -> None:
        path = Path(xclbin) if xclbin else manifest.folder / "bitstream" / f"{manifest.top}.xclbin"
        if not path.is_file():
            raise AcceleratorError(f"xrt: needed an xclbin: `attnc package --bitstream design.xclbin`, or {path}")
        try:
            self.pyxrt = module or importlib.import_module("pyxrt")
        except ImportError as error:
            raise AcceleratorError(f"backend 'xrt' needs pyxrt, which cannot be imported here: {error}") from error
        self.map, self.path, self.top, self.index = manifest.registers, path, manifest.top, index
        self.buffers: dict[int, XrtBuffer] = {}
        self.values: dict[int, int] = {}
        self.run: Any = None
        self.name = f"xrt {path.name} on card {index}"
        self._lock = lock(f"{manifest.top}-{index}")
        try:
            self._load()
        except RuntimeError as error:
            self.close()
            raise AcceleratorError(f"{self.name}: cannot be loaded: {error}") from error

    def _load(self) -> None:
        self.device = self.pyxrt.device(self.index)
        uuid = self.device.load_xclbin(self.pyxrt.xclbin(str(self.path)))
        self.kernel = self.pyxrt.kernel(self.device, uuid, self.top, self.pyxrt.kernel.exclusive)

    def read(self, offset: int) -> int:
        """Control, as XRT tells it; of arguments what was written."""
        if offset != regs.CONTROL:
            return self.values.get(offset, 0)
        if self.run is None:
            return regs.IDLE
        state, states = self.run.state(), self.pyxrt.ert_cmd_state
        if state == states.ERT_CMD_STATE_COMPLETED:
            return regs.IDLE | regs.DONE
        if state in (states.ERT_CMD_STATE_ERROR, states.ERT_CMD_STATE_ABORT, states.ERT_CMD_STATE_TIMEOUT):
            raise DeviceError(f"{self.name}: XRT says of the run: {state}")
        return regs.START

    def write(self, offset: int, value: int) -> None:
        """Arguments, or the start of a run."""
        if offset != regs.CONTROL:
            self.values[offset] = value
            return
        self.run = self.pyxrt.run(self.kernel)
        for number, one in enumerate(self.map.arguments):
            given = sum(self.values.get(one.offset + at, 0) << (8 * at) for at in range(0, one.bits // 8, 4))
            self.run.set_arg(number, self.buffers[given].given if one.kind == "pointer" else given)
        self.run.start()

    def allocate(self, size: int, memory: str) -> XrtBuffer:
        """In the bank that the first argument for this memory is connected to."""
        number = next(i for i, one in enumerate(self.map.arguments) if one.memory == memory)
        given = self.pyxrt.bo(self.device, size, self.pyxrt.bo.normal, self.kernel.group_id(number))
        buffer = XrtBuffer(self.pyxrt, given, size, self)
        self.buffers[buffer.address] = buffer
        return buffer

    def wait(self, seconds: float) -> bool:
        """For the end of the run."""
        if self.run is None:
            time.sleep(seconds)
            return False
        state = self.run.wait(max(1, int(seconds * 1000)))
        return bool(state == self.pyxrt.ert_cmd_state.ERT_CMD_STATE_COMPLETED)

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def program(self) -> bool:
        """Load the xclbin again."""
        self.run = None
        try:
            self._load()
        except RuntimeError as error:
            raise DeviceError(f"{self.name}: cannot be loaded again: {error}") from error
        return True

    def close(self) -> None:
        """Let another process have it."""
        self.run = self.kernel = self.device = None
        os.close(self._lock)
