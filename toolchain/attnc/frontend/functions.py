"""Recognise a function of one real number by its samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from attnc.frontend.values import Array
from attnc.ops.functions import FUNCTIONS, find

_DENSE: Array = np.linspace(-12.0, 12.0, 2401)
_FAR: Array = 12 * 2 ** (np.arange(1, 10) / 4)
GRID: Array = np.concatenate([-_FAR[::-1], _DENSE, _FAR])
"""Dense from -12 to 12; beyond, to 57, a few points show how a function goes on."""
TOLERANCE = 1e-5
"""Largest deviation, relative to the function here or on [-4, 4], whichever is larger: constants such as 0.7978 are written with few
digits."""
_NEAR = np.abs(GRID) <= 4
_FITTED = np.abs(GRID) <= 12

_SAMPLES = {name: function(GRID) for name, function in FUNCTIONS.items() if name != "identity"}


@dataclass(frozen=True)
class Known:
    """gain * function(x) + offset; `function` is None for an affine function of x."""

    function: str | None
    gain: float
    offset: float


_UNDEFINED = {"Sqrt": "negative numbers", "Log": "negative numbers and 0", "Reciprocal": "0"}
_JUMPS = ("ThresholdedRelu", "Shrink", "Round", "Floor", "Ceil", "Sign")


def why_not(operator: str) -> str:
    """Why the function that ends in this ONNX operator is not one of the device's."""
    known = f"this pointwise function is not one of those known: {', '.join(sorted([*_SAMPLES, 'clip']))}"
    if operator in _UNDEFINED:
        return f"{known}; alone it is not defined for {_UNDEFINED[operator]}"
    return f"{known}; it jumps, and where it does a rounded input may land on either side" if operator in _JUMPS else known


def recognise(y: Array) -> Known | None:
    """The known function with these samples on `GRID`, scaled and shifted if need be; None if there is none."""
    if y.dtype.kind != "f" or not np.all(np.isfinite(y)):
        return None
    for candidates in ([(None, GRID)], list(_SAMPLES.items()), _parametric(y)):
        best = _best(candidates, y)
        if best is not None:
            return best
    return None


def recognise_sum(y: Array) -> list[Known] | None:
    """The function with these samples as a sum of one or two known ones, each with a gain, and an affine one last; None if it is none."""
    if y.dtype.kind != "f" or not np.all(np.isfinite(y)):
        return None
    limit = TOLERANCE * np.maximum(float(np.abs(y[_NEAR]).max()), np.abs(y))
    for count in (1, 2):
        for names in itertools.combinations(_SAMPLES, count):
            columns = np.stack([*(_SAMPLES[name] for name in names), GRID, np.ones_like(GRID)], axis=1)
            size = np.abs(columns[_FITTED]).max(axis=0)
            gains = np.linalg.lstsq(columns[_FITTED] / size, y[_FITTED], rcond=None)[0] / size
            if np.all(np.abs(columns @ gains - y) <= limit):
                *own, slope, offset = (_tidy(float(gain)) for gain in gains)
                return [*(Known(name, gain, 0.0) for name, gain in zip(names, own, strict=True)), Known(None, slope, offset)]
    return None


def _best(candidates: Iterable[tuple[str | None, Array]], y: Array) -> Known | None:
    """The one that comes closest, if any is within the tolerance."""
    peak = float(np.abs(y[_NEAR]).max())
    limit = TOLERANCE * np.maximum(peak, np.abs(y))
    best: tuple[float, Known] | None = None
    for name, samples in candidates:
        gain, offset = _fit(samples, y, limit)
        error = np.abs(gain * samples + offset - y)
        worst = float(error.max())
        if np.all(error <= limit) and (best is None or worst < best[0]):
            best = worst, Known(name, gain, offset)
    return best[1] if best else None


def _parametric(y: Array) -> Iterator[tuple[str, Array]]:
    """Functions with parameters that fit some of the samples: (name, samples)."""
    step = np.diff(y) / np.diff(GRID)
    left, right, middle = float(step[0]), float(step[-1]), float(y[GRID.size // 2])
    names = []
    if right != 0:
        names += [f"leaky_relu_{_short(left / right)}", f"elu_{_short((middle - y[0]) / right)}"]
    steepest = int(np.abs(step).argmax())
    if slope := float(step[steepest]):
        ends = [GRID[steepest] + (float(value) - y[steepest]) / slope for value in (y[0], y[-1])]
        low = -math.inf if math.isclose(left, slope, rel_tol=1e-9) else ends[0]
        high = math.inf if math.isclose(right, slope, rel_tol=1e-9) else ends[1]
        names.append(f"clip_{_short(low)}_{_short(high)}")
    for name in names:
        function = find(name)
        if function is not None:
            yield name, function(GRID)


def _short(value: float) -> str:
    """The shortest text that is this number in single precision."""
    return str(np.float32(value) + 0).removesuffix(".0")


def _fit(samples: Array, y: Array, limit: Array) -> tuple[float, float]:
    """Gain and offset of least squares; exactly 1 and 0 where these are as good as any."""
    if np.all(np.abs(samples - y) <= limit):
        return 1.0, 0.0
    samples, y = samples[_FITTED], y[_FITTED]
    center, mean = samples.mean(), y.mean()
    spread = samples - center
    if not np.any(spread):
        return 0.0, float(mean)
    gain = float(spread @ (y - mean) / (spread @ spread))
    offset = float(mean - gain * center)
    gain = _tidy(gain)
    return gain, 0.0 if abs(offset) <= float(limit.min()) else offset


def _tidy(gain: float) -> float:
    """Least squares leaves 1e-16 of noise: keep single precision, which the model was written in, where it is within that."""
    single = float(np.float32(gain))
    return single if abs(single - gain) <= 1e-12 * abs(gain) else gain
