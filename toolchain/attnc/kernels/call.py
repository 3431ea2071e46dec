"""One run of a kernel: how each port goes through memory, its scalars, and the cycles of its processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from attnc.kernels.kernel import KernelCall
from attnc.kernels.network import Timing
from attnc.kernels.ports import FILL, OPERAND

POSITION, SESSION, PREFIX = "position", "session", "prefix"
"""Registers: the place of the first token of a run in its sequence, whose caches it works with, and where the run is for branches of a
sequence how many tokens these share."""
REGISTERS = (POSITION, SESSION, PREFIX)
"""Those that the host sets; the last one of a program with branches alone."""
EXPERT, START, ROWS = "expert", "start", "rows"
"""Registers that the accelerator sets for each entry of a queue of experts: the expert, its first row, and how many rows it has."""
ENTRY = (EXPERT, START, ROWS)
Moves = tuple[tuple[str, int], ...]
"""By how much for each more in a register."""
WALK = ("offset", "count_0", "count_1", "count_2", "count_3", "stride_0", "stride_1", "stride_2", "type", "runs", "vectors")
"""The integers of a walk."""
MIXED = ("first_offset", "first_count", "low_offset", "low_count", "low_stride", "recent_offset", "recent_count", "scale_offset")
"""Those of what comes before, where a loader brings caches of two precisions."""


@dataclass(frozen=True)
class Derived:
    """A register that follows from the position p of a run, or from another register (`of`): where a cache is a ring of fewer rows than a
    sequence has tokens, p modulo `modulus`, or p up to `limit`; 0 is neither. Of that and `more`, how often it has `unit`."""

    name: str
    modulus: int = 0
    limit: int = 0
    unit: int = 1
    more: int = 0
    of: str = POSITION

    def at(self, number: int) -> int:
        """What it holds where the register that it follows from holds a number."""
        found = number % self.modulus if self.modulus else min(number, self.limit) if self.limit else number
        return (found + self.more) // self.unit


def place_in(rows: int) -> Derived:
    """The row of a ring of so many that a token lies in."""
    return Derived(f"place_in_{rows}", modulus=rows)


def filled_to(limit: int) -> Derived:
    """The tokens before a run, as far as there are rows for them."""
    return Derived(f"filled_to_{limit}", limit=limit)


def steps_to(keys: int, unit: int, limit: int = 0) -> tuple[Derived, int]:
    """Steps of `unit` keys, a power of two, for the tokens before a run, up to `limit` if there is one, and so many `keys` more: those in a
    register, and how many come on top of them."""
    more = keys % unit
    return Derived(f"steps_of_{unit}_with_{more}" + (f"_to_{limit}" if limit else ""), 0, limit, unit, more + unit - 1), keys // unit


def steps_of_prefix(unit: int) -> Derived:
    """Steps of `unit` keys for the tokens that branches share, the last one filled up with keys of branches."""
    return Derived(f"steps_of_{unit}_of_{PREFIX}", unit=unit, more=unit - 1, of=PREFIX)


def _grown(by: Moves, more: Mapping[str, int]) -> int:
    return sum(each * more.get(register, 0) for register, each in by)


@dataclass(frozen=True)
class Walk:
    """How a port goes through memory: vector i0*stride[0] + i1*stride[1] + i2*stride[2] + i3 of a tensor, the innermost
    contiguous. `offset` is in words, `bytes` per element (1 or 2); of elements of 4 bits, two vectors to a word, `half` counts offset and
    `moves` in halves of words; for packed words, `counts[3]` words from `offset`. A loader takes
    `zero_point` off every element, a storer puts it on. `value` names the tensor; packed words have none. Operators get walks from
    `Lowering`, which knows where a value lies and what its bytes mean, and make none themselves. Numbers are those of one setting of the
    registers: for each more of a register the walk starts `moves` words further, and its innermost loop is `grows` longer."""

    offset: int
    counts: tuple[int, int, int, int]
    strides: tuple[int, int, int]
    bytes: int = 1
    zero_point: int = 0
    value: str = ""
    moves: Moves = ()
    grows: Moves = ()
    half: bool = False
    before: tuple[Walk, ...] = ()
    """Of a cache of two precisions: what comes first in each turn of the loops around the innermost one (kernels/chunks.py)."""
    scales: Walk | None = None
    """Where its elements of 4 bits have a scale for each token: through these, which the loader takes before anything else."""

    def at(self, more: Mapping[str, int]) -> Walk:
        """The same with so much more in the registers."""
        if not (self.moves or self.grows or self.before):
            return self
        counts = (*self.counts[:3], self.counts[3] + _grown(self.grows, more))
        before, scales = tuple(each.at(more) for each in self.before), self.scales and self.scales.at(more)
        return replace(self, offset=self.offset + _grown(self.moves, more), counts=counts, before=before, scales=scales)

    @cached_property
    def stretches(self) -> tuple[Walk, ...]:
        """What it consists of: itself, or each of what comes in turn and is not empty."""
        if not self.before:
            return (self,)
        scales = () if self.scales is None else (self.scales,)
        return tuple(each for each in (*scales, *self.before, replace(self, before=(), scales=None)) if each.vectors)

    @cached_property
    def vectors(self) -> int:
        """Vectors that pass."""
        return math.prod(self.counts) + sum(each.vectors for each in self.before)

    @cached_property
    def span(self) -> tuple[int, int]:
        """First word, and the one after the last, of what it may touch."""
        ends = [(count - 1) * stride for count, stride in zip(self.counts[:3], self.strides, strict=True)]
        first, last = sum(min(end, 0) for end in ends), sum(max(end, 0) for end in ends)
        if self.half:
            return (self.offset + first) // 2, (self.offset + last + self.counts[3] + 1) // 2
        return self.offset + first * self.bytes, self.offset + (last + self.counts[3]) * self.bytes

    @property
    def run_words(self) -> int:
        """Words of a run."""
        return (self.counts[3] + 1) // 2 if self.half else self.counts[3] * self.bytes

    @property
    def words(self) -> int:
        """Words that pass."""
        others = (*self.before, *([self.scales] if self.scales else []))
        return math.prod(self.counts[:3]) * self.run_words + sum(each.words for each in others)

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
        return self.offset, self.half, self.bytes, self.zero_point, *loops, *(each.order for each in self.before)

    @property
    def numbers(self) -> dict[str, int]:
        """What the loops of loaders and storers depend on: runs of `count` vectors that follow each other; where several stretches come in
        turn, all of a turn, those of bytes and those of `low` precision between the `first` and the `recent` ones."""
        low = sum(each.counts[3] for each in self.before if each.half)
        return {
            "runs": math.prod(self.counts[:3]) * (1 + sum(each.vectors > 0 for each in self.before)),
            "scales": 0 if self.scales is None else self.scales.vectors,
            "first": self.before[0].counts[3] if self.before else 0,
            "recent": self.before[-1].counts[3] if self.before else 0,
            "count": self.counts[3] + sum(each.counts[3] for each in self.before) - low,
            "low": low,
            "vectors": self.vectors,
            "bytes": self.bytes,
            "more": 0,
            "half": int(self.half),
        }

    def encode(self) -> dict[str, int]:
        """As integers of an instruction, by the names in `WALK` and `MIXED` and in their order."""
        runs = math.prod(self.counts[:3])
        type_ = (0 if self.half else self.bytes) | (self.zero_point << 8)
        own = (self.offset, *self.counts, *self.strides, type_, runs, self.vectors)
        first, low, recent = self.before or (NO_WALK,) * 3
        mixed = (first.offset, first.counts[3], low.offset, low.counts[3], low.strides[2], recent.offset, recent.counts[3])
        mixed += ((self.scales or NO_WALK).offset,)
        return dict(zip((*WALK, *MIXED), (*own, *mixed), strict=True))


NO_WALK = Walk(0, (0, 0, 0, 0), (0, 0, 0))
"""Of a port through which nothing passes."""


@dataclass(frozen=True)
class WeightGroups:
    """The groups of channels whose weights a run goes through, all multiplied together: how many, and of the first one the words, with what
    a run before has to know to load them (`NEXT`), and the words between the parts of a matrix that comes through several memory ports."""

    groups: int
    words: int
    format: tuple[int, int, int, int]
    apart: int = 0


@dataclass(frozen=True)
class Call:
    """One run of a kernel: its walks (a per port, in order) and scalars (by name). A kernel with scalars `FILL` can be brought its
    operand beforehand, or find there what a run before had; `weights` are those that a run before may load for a kernel with scalars
    `AHEAD`. For each more of a register scalars grow by `slopes`, and multiply-adds by `more_macs`; `derived` are registers that only some
    calls need."""

    node: str
    kernel: KernelCall
    walks: tuple[Walk, ...]
    scalars: Mapping[str, int]
    macs: int = 0
    weights: WeightGroups | None = None
    slopes: Mapping[str, Moves] = field(default_factory=dict)
    more_macs: Moves = ()
    derived: tuple[Derived, ...] = ()

    def __post_init__(self) -> None:
        assert self.scalars.keys() == set(self.kernel.scalars), (self.kernel.function, self.scalars)

    def at(self, more: Mapping[str, int]) -> Call:
        """The same with so much more in the registers."""
        walks = tuple(walk.at(more) for walk in self.walks)
        if all(new is old for new, old in zip(walks, self.walks, strict=True)) and not self.slopes:
            return self
        scalars = {name: number + _grown(self.slopes.get(name, ()), more) for name, number in self.scalars.items()}
        return replace(self, walks=walks, scalars=scalars, macs=self.macs + _grown(self.more_macs, more))

    @cached_property
    def timing(self) -> Timing:
        """Cycles of the processes of the kernel."""
        return self.kernel.timing(self.scalars)

    @property
    def cycles(self) -> Mapping[str, int]:
        """The processes of the kernel, each with the cycles that it is busy while operands arrive. They overlap, and take the longest."""
        return self.timing.cycles

    @property
    def depth(self) -> int:
        """Cycles that a vector takes through the kernel."""
        return self.kernel.network.depth

    @property
    def giving(self) -> int:
        """Iterations in the pipeline that gives its results."""
        return self.kernel.network.processes[-1].loops[-1].depth

    @property
    def held(self) -> Mapping[str, int]:
        """The same once all operands have arrived, where the kernel gives nothing before."""
        return self.timing.held

    def encode(self) -> tuple[int, ...]:
        """Its scalars as integers of an instruction."""
        return tuple(self.scalars[name] for name in self.kernel.scalars)

    @property
    def operand(self) -> dict[str, int] | None:
        """Rows, tiles and bytes of the operand that can be brought beforehand; None where the kernel takes it as it runs."""
        return {name: self.scalars[name] for name in OPERAND} if self.kernel.network.holds else None

    @cached_property
    def waiting(self) -> Call:
        """The same call where the operand is in the kernel already."""
        return replace(self, scalars={**self.scalars, **dict.fromkeys(FILL, 0)})

    @cached_property
    def bringing(self) -> Call:
        """One that does nothing but take in the operand of this one."""
        assert self.operand is not None
        return replace(self, scalars={**dict.fromkeys(self.scalars, 0), **self.operand, "fill_first": 1})

    @property
    def span(self) -> int:
        """Cycles of its slowest processes."""
        return max(self.cycles.values(), default=0) + max(self.held.values(), default=0)
