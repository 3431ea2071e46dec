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
    """A memory of a kernel, as large as each of its engines has it: all engines of one kernel header place it alike."""

    kernel: str
    memories: tuple[Memory, ...]

    @property
    def memory(self) -> Memory:
        """The largest."""
        return max(self.memories, key=_bits)

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
        """Bits that it holds, in all engines."""
        return sum(map(_bits, self.memories))

    def cost(self, kind: str) -> Resources:
        """What it takes in memory of `kind`, in all engines."""
        return sum((memory_cost(memory, kind) for memory in self.memories), Resources())


def _bits(memory: Memory) -> int:
    return memory.depth * memory.width * memory.banks


def scaled(cost: Resources, factor: float) -> Resources:
    """`factor` times a cost."""
    lut, ff, dsp, bram36, uram = (factor * n for n in cost.astuple())
    return Resources(lut, ff, dsp, bram36, uram)


def collect(engines: Iterable[tuple[str, Resources]]) -> list[Buffer]:
    """The buffers of (kernel header without folder and suffix, resources)."""
    found: dict[tuple[str, str], tuple[Memory, ...]] = {}
    for kernel, resources in engines:
        for memory in resources.memories:
            found[kernel, memory.name] = (*found.get((kernel, memory.name), ()), memory)
    return [Buffer(kernel, found[kernel, name]) for kernel, name in sorted(found)]


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
    move([b for b in uram if b.bits >= URAM_FILL * URAM_BITS * b.cost("uram").uram], "uram", None)
    move([b for b in uram if kinds[b.key] == "bram"], "uram", "bram36")
    move(
        sorted((b for b in in_bram if kinds[b.key] == "bram"), key=lambda b: (-saved(b) / b.cost("lutram").lut, b.key)), "lutram", "bram36"
    )
    shallow = sorted((b for b in free if usual_kind(b.memory) == "lutram"), key=lambda b: (-b.cost("lutram").lut, b.key))
    move(shallow, "bram", "lut")
    assert set(kinds.values()) <= set(KINDS)
    return total(), kinds
