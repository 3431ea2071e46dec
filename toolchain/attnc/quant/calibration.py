"""What activations look like, and the scales that follow."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from attnc.arrays import Array
from attnc.config import Calibration
from attnc.errors import DataError
from attnc.fixedpoint import int_range

KEPT_ELEMENTS = 1 << 16
HEADROOM_16 = 1.6
"""A 16-bit range reaches this far beyond what calibration saw: resolution is plentiful, saturation is not forgiven."""
HEADROOM_FEW = 0.6
"""Of a single sample, every range reaches this part further, of n samples the n-th part of that: other samples exceed few ones. Measured on
small transformers of random weights."""
PERCENTILE = 99.99
CLIP_CANDIDATES = 48


@dataclass
class Statistics:
    """Largest magnitude per channel, exactly, and an even selection of rows."""

    peak: Array
    rows: list[Array] = field(default_factory=list)
    samples: int = 0
    """How many were seen; 0: the value is constant, there are no others."""

    @property
    def headroom(self) -> float:
        """How far beyond what was seen a range reaches."""
        return 1 + HEADROOM_FEW / self.samples if self.samples else 1.0

    def sample(self) -> Array:
        """Kept rows [n, channels]."""
        return np.concatenate(self.rows) if self.rows else self.peak[np.newaxis]


class Observer:
    """Collects statistics of every value while the float graph runs."""

    def __init__(self, total_samples: int) -> None:
        self.total = max(total_samples, 1)
        self.found: dict[str, Statistics] = {}

    def __call__(self, name: str, array: Array) -> None:
        """Take note of `array` [samples, rows, channels]."""
        _, rows, channels = array.shape
        if not np.isfinite(array).all():
            raise DataError(f"calibration: value {name!r} becomes NaN or infinite in the float model")
        peak = np.abs(array).max(axis=(0, 1))
        flat = array.reshape(-1, channels)
        step = max(1, -(-self.total * rows * channels // KEPT_ELEMENTS))
        kept = flat[::step].astype(np.float32)
        if name in self.found:
            seen = self.found[name]
            seen.peak = np.maximum(seen.peak, peak)
            seen.rows.append(kept)
        else:
            seen = self.found[name] = Statistics(peak, [kept])
        seen.samples += len(array)

    def constant(self, name: str, array: Array) -> None:
        """Take note of a constant [rows, channels]."""
        self(name, array[np.newaxis])
        self.found[name].samples = 0


def symmetric_scale(stats: Statistics, bits: int, method: Calibration, channel_factor: Array | None = None) -> float:
    """Scale of a symmetric type: of the values, or of the values divided by `channel_factor` [channels].

    minmax: the largest magnitude. percentile: the 99.99th. mse: the clipping point with the least mean squared error on the
    sample. 16-bit types always take the largest magnitude and headroom; few samples ask for more.
    """
    limit = int_range(bits, True)[1]
    peak = float((stats.peak / (1.0 if channel_factor is None else channel_factor)).max(initial=0.0))
    if peak == 0.0:
        return 1.0 / limit
    if bits > 8:
        return peak * HEADROOM_16 * stats.headroom / limit
    sample = stats.sample() / (1.0 if channel_factor is None else channel_factor)
    if method == "minmax":
        reach = peak
    elif method == "percentile":
        reach = max(float(np.percentile(np.abs(sample), PERCENTILE)), peak * 1e-3)
    else:
        reach = _least_error_clip(np.abs(sample).ravel(), peak, limit)
    return reach * stats.headroom / limit


LARGEST_SQUARED = 1e15
"""Squares of larger values, and sums of them, overflow float32: these are not clipped."""


def _least_error_clip(magnitudes: Array, peak: float, limit: int) -> float:
    """Clipping point in [peak/8, peak] that minimises the mean squared quantization error."""
    if peak > LARGEST_SQUARED:
        return peak
    clips = peak * np.geomspace(0.125, 1.0, CLIP_CANDIDATES)
    errors = []
    for clip in clips:
        scale = np.float32(clip / limit)
        restored = np.minimum(np.rint(magnitudes / scale), limit) * scale
        errors.append(float(np.square(restored - magnitudes, dtype=np.float32).mean()))
    return float(clips[int(np.argmin(errors))])


def smoothing(stats: Statistics, weights: Array, strength: float = 0.5) -> Array:
    """Factor per channel that moves outliers from activations into the weights (SmoothQuant, arXiv 2211.10438):
    peak_x**strength / peak_w**(1-strength), geometric mean 1, kept within 2**±8."""
    x, w = np.asarray(stats.peak, np.float64), np.asarray(weights, np.float64)
    usable = (x > 0) & (w > 0)
    if not usable.any():
        return np.ones_like(x)
    log = np.where(usable, strength * np.log2(np.where(usable, x, 1)) - (1 - strength) * np.log2(np.where(usable, w, 1)), 0.0)
    log = np.where(usable, log - log[usable].mean(), 0.0)
    return np.exp2(np.clip(log, -8, 8))
