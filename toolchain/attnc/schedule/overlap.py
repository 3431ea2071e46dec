"""Whether two walks touch the same memory: what decides which instructions may run at the same time, or trade places."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from attnc.kernels.call import Walk


@lru_cache(maxsize=1 << 12)
def runs(walk: Walk) -> tuple[npt.NDArray[np.int64], int]:
    """First words of the stretches that a walk passes, ascending, and the words of each."""
    starts = np.zeros(1, np.int64)
    for count, stride in zip(walk.counts[:3], walk.strides, strict=True):
        starts = (starts[:, None] + np.arange(count) * stride).reshape(-1)
    if walk.half:  # whole words: those at the ends may be shared; all begin alike, since tiles have an even number of rows
        return np.unique((walk.offset + starts) // 2), (walk.counts[3] + walk.offset % 2 + 1) // 2
    return walk.offset + walk.bytes * np.unique(starts), walk.bytes * walk.counts[3]


@lru_cache(maxsize=1 << 16)
def overlap(a: Walk, b: Walk) -> bool:
    """Whether any word belongs to both."""
    if not a.vectors or not b.vectors or a.span[0] >= b.span[1] or b.span[0] >= a.span[1]:
        return False
    (starts, size), (others, other_size) = runs(a), runs(b)
    after = np.searchsorted(others, starts)  # the first of the others that does not start before
    behind, ahead = others[np.maximum(after - 1, 0)], others[np.minimum(after, len(others) - 1)]
    touches = ((after > 0) & (behind + other_size > starts)) | ((after < len(others)) & (ahead < starts + size))
    return bool(touches.any())
