"""What a driver asks of a board: registers, buffers that the accelerator reaches, interrupts, time."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class Buffer(Protocol):
    """Memory that processor and accelerator share."""

    @property
    def address(self) -> int:
        """Where the accelerator finds it."""

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """As this process sees it, through caches: `flush` what was written, `invalidate` what will be read."""

    def flush(self, start: int, size: int) -> None:
        """Write bytes [start, start + size) from the caches to memory."""

    def invalidate(self, start: int, size: int) -> None:
        """Forget what the caches hold of them."""

    def free(self) -> None:
        """Give it back."""


class Device(Protocol):
    """A board with the accelerator in it. Whatever fails is an `AcceleratorError`, or an `OSError` of the system."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def has_registers(self) -> bool:
        """Whether registers are the hardware's own; False where a driver below starts runs and tells no more than that they are over."""

    def read(self, offset: int) -> int:
        """A register of 32 bits."""

    def write(self, offset: int, value: int) -> None:
        """Write a register of 32 bits."""

    def allocate(self, size: int, memory: str) -> Buffer:
        """Physically contiguous memory for "program", "weights" or "memory", from a multiple of 4096 on."""

    def wait(self, seconds: float) -> bool:
        """Until an interrupt comes (True), at most so long; where there are no interrupts, a part of it."""

    def now(self) -> float:
        """Seconds."""

    def program(self) -> bool:
        """Load the bitstream again, which resets the accelerator; False where that cannot be done from here."""

    def close(self) -> None:
        """Let go of the board."""


def blank(size: int) -> npt.NDArray[np.uint8]:
    """Bytes that nobody wrote yet: a pattern, so that what reads them is seen."""
    return np.full(size, 0xA5, np.uint8)
