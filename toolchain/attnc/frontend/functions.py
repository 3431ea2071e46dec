"""Recognise a function of one real number by its samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnc.frontend.values import Array
from attnc.ops.functions import FUNCTIONS

GRID: Array = np.linspace(-12.0, 12.0, 2401)
TOLERANCE = 1e-5
"""Largest deviation, relative to the largest magnitude: constants such as 0.7978 are written with few digits."""

_SAMPLES = {name: function(GRID) for name, function in FUNCTIONS.items() if name != "identity"}


@dataclass(frozen=True)
class Known:
    """gain * function(x) + offset; `function` is None for an affine function of x."""

    function: str | None
    gain: float
    offset: float


def names() -> str:
    """The functions that are known, for messages."""
    return ", ".join(sorted(_SAMPLES))


def recognise(y: Array) -> Known | None:
    """The known function with these samples on `GRID`, scaled and shifted if need be; None if there is none."""
    if y.dtype.kind != "f" or not np.all(np.isfinite(y)):
        return None
    limit = TOLERANCE * max(1.0, float(np.abs(y).max()))
    best: tuple[float, Known] | None = None
    for name, samples in [(None, GRID), *_SAMPLES.items()]:
        gain, offset = _fit(samples, y, limit)
        error = float(np.abs(gain * samples + offset - y).max())
        if error <= limit and (best is None or error < best[0]):
            best = error, Known(name, gain, offset)
        if best is not None and name is None:
            break
    return best[1] if best else None


def _fit(samples: Array, y: Array, limit: float) -> tuple[float, float]:
    """Gain and offset of least squares; exactly 1 and 0 where these are as good as any."""
    if float(np.abs(samples - y).max()) <= limit:
        return 1.0, 0.0
    center, mean = samples.mean(), y.mean()
    spread = samples - center
    gain = float(spread @ (y - mean) / (spread @ spread))
    offset = float(mean - gain * center)
    gain = _tidy(gain)
    return gain, 0.0 if abs(offset) <= limit else offset


def _tidy(gain: float) -> float:
    """Least squares leaves 1e-16 of noise: keep single precision, which the model was written in, where it is within that."""
    single = float(np.float32(gain))
    return single if abs(single - gain) <= 1e-12 * abs(gain) else gain
