"""Which samples calibrate and which are held out: figures are measured on samples that no scale has seen.

Unless the config says otherwise, every 4th sample is held out, fewer where that makes more than `MOST`; of 2 or 3 samples the last; of a
single one none. Samples that are equal count once, so that none is on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attnc.arrays import Array
from attnc.model import TensorSpec
from attnc.quant.samples import count_samples, one_sample, select_samples

EVERY, MOST = 4, 8
FEW = 8
"""Different samples below which scales and figures are said to stand on little."""


@dataclass(frozen=True)
class Split:
    """Indices of the samples that calibrate and of those that are held out, and how many samples differ."""

    calibrating: Array
    held_out: Array
    distinct: int


def split_samples(arrays: Mapping[str, Array], every: int | None) -> Split:
    """Hold out every `every`-th of the samples that differ (0: none; None: see above)."""
    total = count_samples(arrays)
    kinds: dict[bytes, int] = {}
    kind = np.array([kinds.setdefault(_digest(one_sample(arrays, index)), len(kinds)) for index in range(total)])
    step = default_every(len(kinds)) if every is None else every
    out = np.arange(len(kinds)) % step == step - 1 if step else np.zeros(len(kinds), bool)
    first = np.unique(kind, return_index=True)[1]
    return Split(np.flatnonzero(~out[kind]), first[out], len(kinds))


def default_every(distinct: int) -> int:
    """Every how many-th of so many different samples is held out; 0: none."""
    return max(min(distinct, EVERY), -(-distinct // MOST)) if distinct > 1 else 0


def _digest(sample: Mapping[str, Array]) -> bytes:
    found = hashlib.sha256()
    for array in sample.values():
        found.update(np.ascontiguousarray(array).tobytes())
    return found.digest()


def doubts(arrays: Mapping[str, Array], specs: list[TensorSpec], split: Split, elsewhere: bool) -> list[str]:
    """Why calibration with these samples cannot support the figures that are measured, or only weakly; `elsewhere`: on other samples."""
    total, found = count_samples(arrays), []
    if split.distinct < FEW:
        given = f"all {total} samples are equal" if split.distinct == 1 < total else f"{split.distinct} different samples"
        given = "there is 1 sample" if total == 1 else given
        found.append(f"{given}: scales stand on little, other inputs may exceed them (needed at least {FEW} that differ)")
    if not len(split.held_out) and not elsewhere:
        found.append("no sample is held out: the figures are of what calibration has seen, other inputs may be far below")
    calibrating = select_samples(arrays, split.calibrating)
    for spec in specs:
        array = calibrating[spec.name]
        if spec.dtype.kind == "f" and array.size > 1 and (array == array.flat[0]).all():
            found.append(f"input {spec.name!r} is {array.flat[0]:g} in all places of all samples; what it does otherwise was not seen")
    return found
