"""Modules that look like pynq and pyxrt, over a virtual board: what `attnc_host.boards` calls of them, as their documentation has it."""

from __future__ import annotations

import enum
import types
from pathlib import Path
from typing import Any

import numpy as np

from attnc_host import registers as regs
from attnc_host.virtual.board import BASE, VirtualBoard

PAGE = 4096


class Memory:
    """The contiguous memory of a board: parts of the cache, and where they lie."""

    def __init__(self, board: VirtualBoard, size: int) -> None:
        self.board, self.cache, self.held = board, np.zeros(size, np.uint8), dict[int, int]()

    def take(self, size: int) -> int:
        at = max((start + -(-length // PAGE) * PAGE for start, length in self.held.items()), default=0)
        if at + size > self.cache.size:
            raise MemoryError(f"cannot allocate {size} bytes")
        self.held[at] = size
        return at

    def flush(self, at: int, size: int) -> None:
        self.board.to_memory(at, self.cache[at : at + size].tobytes())

    def invalidate(self, at: int, size: int) -> None:
        data = self.board.from_memory(at, size)
        if data is not None:
            self.cache[at : at + size] = np.frombuffer(data, np.uint8)


def pynq_module(board: VirtualBoard, size: int = 1 << 20) -> Any:
    """`Overlay`, `allocate`; a slice of a buffer is one itself."""
    memory = Memory(board, size)

    class PynqBuffer(np.ndarray):  # type: ignore[type-arg]
        def __array_finalize__(self, parent: Any) -> None:
            if isinstance(parent, PynqBuffer):
                self.device_address = parent.device_address + self.ctypes.data - parent.ctypes.data

        def flush(self) -> None:
            memory.flush(self.device_address - BASE, self.nbytes)

        def invalidate(self) -> None:
            memory.invalidate(self.device_address - BASE, self.nbytes)

        def freebuffer(self) -> None:
            del memory.held[self.device_address - BASE]

    def allocate(shape: tuple[int, ...], dtype: str, cacheable: bool) -> PynqBuffer:
        assert cacheable and dtype == "u1"
        at = memory.take(shape[0])
        found = memory.cache[at : at + shape[0]].view(PynqBuffer)
        found.device_address = BASE + at
        return found

    class Ip:
        def read(self, offset: int) -> int:
            return board.read(offset)

        def write(self, offset: int, value: int) -> None:
            if not isinstance(value, int):
                raise ValueError("only ints are written")
            board.write(offset, value)

    class Overlay:
        def __init__(self, bitfile: str) -> None:
            assert Path(bitfile).is_file()
            self.ip_dict = {
                "zynq_ultra_ps_e_0": {"type": "xilinx.com:ip:zynq_ultra_ps_e:3.4"},
                "attnc_0": {"type": "xilinx.com:hls:attnc_top:1.0"},
            }
            self.attnc_0 = Ip()
            board.program()

        def download(self) -> None:
            if not board.program():
                raise RuntimeError("the bitstream could not be loaded")

    return types.SimpleNamespace(Overlay=Overlay, allocate=allocate, memory=memory)


class State(enum.Enum):
    ERT_CMD_STATE_NEW = 1
    ERT_CMD_STATE_COMPLETED = 4
    ERT_CMD_STATE_ERROR = 5
    ERT_CMD_STATE_ABORT = 6
    ERT_CMD_STATE_TIMEOUT = 8


class Direction(enum.Enum):
    XCL_BO_SYNC_BO_TO_DEVICE = 0
    XCL_BO_SYNC_BO_FROM_DEVICE = 1


def pyxrt_module(board: VirtualBoard, size: int = 1 << 20) -> Any:
    """`device`, `xclbin`, `kernel`, `run`, `bo`: no registers, as in XRT."""
    memory, arguments = Memory(board, size), board.map.arguments

    class Device:
        def __init__(self, index: int) -> None:
            if index:
                raise RuntimeError(f"could not open device with index '{index}'")

        def load_xclbin(self, xclbin: Any) -> str:
            if not board.program():
                raise RuntimeError("load_xclbin: no answer")
            return "uuid"

    class Kernel:
        exclusive = "exclusive"

        def __init__(self, device: Device, uuid: str, name: str, mode: str) -> None:
            assert (uuid, name, mode) == ("uuid", "attnc_top", "exclusive")

        def group_id(self, number: int) -> int:
            assert arguments[number].kind == "pointer"
            return 0

    class Bo:
        normal = 0

        def __init__(self, device: Device, size: int, flags: int, group: int) -> None:
            try:
                self.at, self.bytes = memory.take(size), size
            except MemoryError as error:
                raise RuntimeError(f"bad_alloc: {error}") from error

        def address(self) -> int:
            return BASE + self.at

        def map(self) -> memoryview:
            return memoryview(memory.cache[self.at : self.at + self.bytes])

        def sync(self, direction: Direction, size: int, offset: int) -> None:
            assert offset + size <= self.bytes
            move = memory.flush if direction is Direction.XCL_BO_SYNC_BO_TO_DEVICE else memory.invalidate
            move(self.at + offset, size)

        def __del__(self) -> None:
            memory.held.pop(getattr(self, "at", -1), None)

    class Run:
        def __init__(self, kernel: Kernel) -> None:
            self.done = False

        def set_arg(self, number: int, value: Any) -> None:
            one = arguments[number]
            given = value.address() if isinstance(value, Bo) else value
            assert isinstance(value, Bo) == (one.kind == "pointer")
            for at in range(0, one.bits // 8, 4):
                board.write(one.offset + at, given >> (8 * at) & 0xFFFFFFFF)

        def start(self) -> None:
            board.write(regs.GLOBAL_ENABLE, 1)
            board.write(regs.ENABLE, 1)
            board.write(regs.CONTROL, regs.START)

        def state(self) -> State:
            control = board.read(regs.CONTROL)
            if control == regs.GONE:
                return State.ERT_CMD_STATE_ERROR
            self.done = self.done or bool(control & regs.DONE)
            return State.ERT_CMD_STATE_COMPLETED if self.done else State.ERT_CMD_STATE_NEW

        def wait(self, milliseconds: int) -> State:
            board.wait(milliseconds / 1000)
            return self.state()

    return types.SimpleNamespace(
        device=Device,
        xclbin=lambda path: path,
        kernel=Kernel,
        run=Run,
        bo=Bo,
        ert_cmd_state=State,
        xclBOSyncDirection=Direction,
        memory=memory,
    )
