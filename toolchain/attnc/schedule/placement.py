"""Which memory of the device holds each buffer of a kernel: distributed RAM, BRAM or URAM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from attnc.kernels.resources import Memory, Resources
from attnc.kernels.storage import KINDS, memory_cost, usual_kind

URAM_FILL = 0.5
"""A buffer that fills at least this share of the URAM it would take lies there even where BRAM would do."""
URAM_BITS = 4096 * 72


@dataclass(frozen=True)
class Buffer:
    """A memory of `copies` engines: all engines of one kernel header place it alike."""

    kernel: str
    memory: Memory
    copies: int

    @property
    def key(self) -> str:
        """Its name in the schedule."""
        return f"{self.kernel}.{self.memory.name}"

    @property
    def macro(self) -> str:
        """The macro by which the kernel's header learns its place."""
        return f"ATTNC_{self.kernel}_{self.memory.name}".upper()

    @property
    def bits(self) -> int:
        """Bits that it holds, in one engine."""
        return self.memory.depth * self.memory.width * self.memory.banks

    def cost(self, kind: str) -> Resources:
        """What all its copies take in memory of `kind`."""
        return scaled(memory_cost(self.memory, kind), self.copies)


def scaled(cost: Resources, factor: float) -> Resources:
    """`factor` times a cost."""
    lut, ff, dsp, bram36, uram = (factor * n for n in cost.astuple())
    return Resources(lut, ff, dsp, bram36, uram)


def collect(engines: Iterable[tuple[str, Resources]]) -> list[Buffer]:
    """The buffers of (kernel header without folder and suffix, resources); of equal names the largest counts for all."""
    found: dict[tuple[str, str], Buffer] = {}
    for kernel, resources in engines:
        for memory in resources.memories:
            old = found.get((kernel, memory.name))
            new = Buffer(kernel, memory, 1 + (old.copies if old else 0))
            if old and old.bits > new.bits:
                new = Buffer(kernel, old.memory, new.copies)
            found[kernel, memory.name] = new
    return [found[key] for key in sorted(found)]


def place(
    logic: Resources, buffers: list[Buffer], limits: Mapping[str, float], fixed: Mapping[str, str] | None = None
) -> tuple[Resources, dict[str, str]]:
    """Total of `logic` (which counts no buffer) and of the buffers, and the kind of memory of each, so that no class overflows
    where that is possible. `fixed` places are kept.

    Shallow buffers start in LUTs and others in BRAM; those that fill URAM well go there. While BRAM is over its limit, what saves
    most blocks per URAM follows, then what saves most per LUT; where LUTs are over it, shallow buffers move to BRAM.
    """
    kinds = {b.key: (fixed or {}).get(b.key, usual_kind(b.memory)) for b in buffers}
    free = [b for b in buffers if b.key not in (fixed or {})]

    def total() -> Resources:
        return sum((b.cost(kinds[b.key]) for b in buffers), logic)

    def move(candidates: list[Buffer], target: str, needed: str | None) -> None:
        """Move candidates in order while `needed` is over its limit (or all, if None) and the target's class has room."""
        for buffer in candidates:
            now = total()
            if needed is not None and getattr(now, needed) <= limits[needed]:
                return
            extra = buffer.cost(target)
            if all(n == 0 or getattr(now, name) + n <= limits[name] for name, n in zip(limits, extra.astuple(), strict=True)):
                kinds[buffer.key] = target

    def saved(b: Buffer) -> float:
        return b.cost("bram").bram36

    in_bram = [b for b in free if kinds[b.key] == "bram"]
    uram = sorted(in_bram, key=lambda b: (-saved(b) / b.cost("uram").uram, b.key))
    move([b for b in uram if b.copies * b.bits >= URAM_FILL * URAM_BITS * b.cost("uram").uram], "uram", None)
    move([b for b in uram if kinds[b.key] == "bram"], "uram", "bram36")
    move(
        sorted((b for b in in_bram if kinds[b.key] == "bram"), key=lambda b: (-saved(b) / b.cost("lutram").lut, b.key)), "lutram", "bram36"
    )
    shallow = sorted((b for b in free if usual_kind(b.memory) == "lutram"), key=lambda b: (-b.cost("lutram").lut, b.key))
    move(shallow, "bram", "lut")
    assert set(kinds.values()) <= set(KINDS)
    return total(), kinds
