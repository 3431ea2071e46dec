"""Index arrays as nested affine walks, where they are one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_DEPTH = 8


@dataclass(frozen=True)
class Nest:
    """offset + sum of i_k * strides[k], the last index running fastest."""

    offset: int
    counts: tuple[int, ...]
    strides: tuple[int, ...]


def affine_nest(index: npt.NDArray[np.int64]) -> Nest | None:
    """The nest whose flat sequence is `index` (C order), or None when there is none of at most MAX_DEPTH loops.

    From the inside out: the longest run of constant stride becomes a loop, and what is left are the starts of the runs.
    """
    starts = np.ascontiguousarray(index).reshape(-1)
    counts: list[int] = []
    strides: list[int] = []
    while starts.size > 1 and len(counts) < MAX_DEPTH:
        steps = np.diff(starts)
        breaks = np.flatnonzero(steps != steps[0])
        run = int(breaks[0]) + 1 if breaks.size else starts.size
        if starts.size % run:
            run = math.gcd(run, starts.size)
        if run == 1:
            return None
        rows = starts.reshape(-1, run)
        if not np.array_equal(rows, rows[:, :1] + steps[0] * np.arange(run)):
            return None
        counts.insert(0, run)
        strides.insert(0, int(steps[0]))
        starts = rows[:, 0]
    return Nest(int(starts[0]), tuple(counts), tuple(strides)) if starts.size == 1 else None
