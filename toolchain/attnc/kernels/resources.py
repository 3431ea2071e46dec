"""What a kernel takes on a device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    """A buffer of a kernel: `banks` times `depth` words of `width` bits. `name` is that of its macro in the kernel's header,
    ATTNC_<KERNEL>_<NAME>, through which the emitted code says where it lies; `kind` where it does anyhow."""

    name: str
    depth: int
    width: int
    banks: int = 1
    kind: str = ""


@dataclass(frozen=True)
class Resources:
    """An estimate of what a kernel takes on the device; `bram36` in units of 36 Kbit, `uram` of 288 Kbit.

    `memories` are the buffers that `lut`, `ff` and `bram36` already hold, for the planner to place them elsewhere.
    """

    lut: float = 0
    ff: float = 0
    dsp: float = 0
    bram36: float = 0
    uram: float = 0
    memories: tuple[Memory, ...] = ()

    def __add__(self, other: Resources) -> Resources:
        lut, ff, dsp, bram36, uram = (a + b for a, b in zip(self.astuple(), other.astuple(), strict=True))
        return Resources(lut, ff, dsp, bram36, uram, self.memories + other.memories)

    def astuple(self) -> tuple[float, float, float, float, float]:
        """lut, ff, dsp, bram36, uram."""
        return self.lut, self.ff, self.dsp, self.bram36, self.uram
