"""One run of a kernel: how each port goes through memory, its scalars, and the cycles of its processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from attnc.kernels.kernel import KernelCall


@dataclass(frozen=True)
class Walk:
    """How a port goes through memory: vector i0*stride[0] + i1*stride[1] + i2*stride[2] + i3 of a tensor, the innermost
    contiguous. `offset` is in words, `bytes` per element (1 or 2); for packed words, `counts[3]` words from `offset`. A loader takes
    `zero_point` off every element, a storer puts it on. `value` names the tensor; packed words have none. Operators get walks from
    `Lowering`, which knows where a value lies and what its bytes mean, and make none themselves."""

    offset: int
    counts: tuple[int, int, int, int]
    strides: tuple[int, int, int]
    bytes: int = 1
    zero_point: int = 0
    value: str = ""

    @property
    def vectors(self) -> int:
        """Vectors that pass."""
        return math.prod(self.counts)

    @cached_property
    def order(self) -> tuple[Any, ...]:
        """Equal for walks that pass the same vectors in the same order: nested loops without those that go on where another ends."""
        loops = [(self.counts[3], 1)]
        for count, stride in zip(self.counts[2::-1], self.strides[::-1], strict=True):
            inner, step = loops[-1]
            if count > 1 and stride == inner * step:
                loops[-1] = (inner * count, step)
            elif count > 1 and inner == 1:
                loops[-1] = (count, stride)
            elif count > 1:
                loops.append((count, stride))
        return self.offset, self.bytes, self.zero_point, *loops

    def encode(self) -> list[int]:
        """As integers of an instruction."""
        runs = math.prod(self.counts[:3])
        return [self.offset, *self.counts, *self.strides, self.bytes | (self.zero_point << 8), runs, runs * self.counts[3]]


NO_WALK = Walk(0, (0, 0, 0, 0), (0, 0, 0))
"""Of a port through which nothing passes."""


@dataclass(frozen=True)
class WeightGroups:
    """The groups of channels whose weights a run goes through, all multiplied together: how many, and of the first one the tiles, the words
    (0 where a run before cannot load them: they are packed, or have multipliers), and the words between the halves of a matrix that comes
    through two memory ports."""

    groups: int
    tiles: int
    words: int
    apart: int = 0


@dataclass(frozen=True)
class Call:
    """One run of a kernel: its walks (a per port, in order) and scalars (in order). `cycles` maps the processes of the kernel to the
    cycles that each is busy while its operands arrive; `held` those that work once all of them have arrived, and that packed words
    are for. The processes of each overlap, so the call takes the longest of `cycles` and then the longest of `held`. A kernel with scalars
    `FILL` can be brought its operand beforehand, or find there what a run before had: `operand` are the rows, tiles and bytes of it, and
    `ready` is `held` of a run that finds it there. `weights` are the channel groups, and the tiles and words of the first of them, of a
    kernel with scalars `AHEAD` where the run before may load these."""

    node: str
    kernel: KernelCall
    walks: tuple[Walk, ...]
    scalars: tuple[int, ...]
    cycles: dict[str, int]
    macs: int = 0
    held: dict[str, int] = field(default_factory=dict)
    operand: tuple[int, int, int] | None = None
    ready: dict[str, int] = field(default_factory=dict)
    weights: WeightGroups | None = None

    def waiting(self) -> Call:
        """The same call where the operand is in the kernel already."""
        return replace(self, cycles={}, held=self.ready)

    @property
    def span(self) -> int:
        """Cycles of its slowest processes."""
        return max(self.cycles.values(), default=0) + max(self.held.values(), default=0)
