"""What the quantizers share: checks of their input, groups, scales that are safe to divide by, damping, the error they reduce."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attnc.arrays import Array
from attnc.errors import ConfigError, DataError
from attnc.weights import QuantizedWeight, WeightFormat, snap_scales

DAMPING = 0.01
"""Share of the mean of the gram's diagonal that is added to all of it (GPTQ, arXiv 2210.17323): inputs that calibration never
saw keep a little weight, and a singular gram becomes definite."""
TINY = 1e-200
"""Scales below this are those of a channel of zeros: squares of its weights would not be numbers any more."""
BLOCK_ELEMENTS = 1 << 16
"""Elements that are searched together, so that they stay in the cache."""


def checked_weight(weight: Array, format: WeightFormat, name: str) -> Array:
    """`weight` as float64 [N, K]; finite, and K a multiple of the group size."""
    weight = np.asarray(weight, np.float64)
    if weight.ndim != 2 or weight.size == 0:
        raise DataError(f"weight of {name!r}: needed a matrix [outputs, inputs], found shape {list(weight.shape)}")
    if not np.isfinite(weight).all():
        row, column = np.argwhere(~np.isfinite(weight))[0]
        raise DataError(f"weight of {name!r}: contains {weight[row, column]} (first at [{row}, {column}])")
    if format.group_size and weight.shape[1] % format.group_size:
        raise ConfigError(
            f"weight of {name!r}: group_size {format.group_size} does not divide its {weight.shape[1]} inputs; "
            "give this layer group_size 0 (a scale per channel) or one that divides"
        )
    return weight


def checked_gram(gram: Array, inputs: int, name: str) -> Array:
    """`gram` as float64 [K, K], symmetric and finite, with no negative diagonal."""
    gram = np.asarray(gram, np.float64)
    if gram.shape != (inputs, inputs):
        raise DataError(f"calibration of {name!r}: needed a gram matrix {inputs}x{inputs}, found shape {list(gram.shape)}")
    if not np.isfinite(gram).all():
        raise DataError(f"calibration of {name!r}: the gram matrix of its inputs contains NaN or infinity")
    if (np.diag(gram) < 0).any():
        raise DataError(f"calibration of {name!r}: the gram matrix of its inputs has a negative diagonal, it is no X^T X")
    return (gram + gram.T) / 2


def damped(gram: Array) -> Array:
    """gram [K, K] with DAMPING on its diagonal, scaled to a mean diagonal of 1; the identity where no input is ever nonzero."""
    k = gram.shape[0]
    mean = float(np.diag(gram).mean())
    if mean < TINY:
        return np.eye(k)
    return (gram / mean + DAMPING * np.eye(k)) / (1 + DAMPING)


def importance(gram: Array | None, inputs: int) -> Array:
    """Weight of each input's error [K], positive with mean 1: the damped diagonal of the gram, or ones without one."""
    return np.ones(inputs) if gram is None else np.diag(damped(gram)).copy()


def grouped(array: Array, format: WeightFormat) -> Array:
    """[..., K] as [..., groups, size]."""
    size = format.group_size or array.shape[-1]
    return array.reshape(*array.shape[:-1], array.shape[-1] // size, size)


def spread(scale: Array, inputs: int) -> Array:
    """A scale per group [..., groups] as one per weight [..., K]."""
    return np.repeat(scale, inputs // scale.shape[-1], axis=-1)


def snapped(scale: Array) -> tuple[Array, Array]:
    """Unit and multipliers of scales [N, groups]. A channel of zeros has scale 1; a group of zeros in another channel, the
    smallest scale there is."""
    scale = np.where(scale < TINY, 0.0, scale)
    dead = scale.max(axis=-1, keepdims=True) == 0
    return snap_scales(np.where(dead, 1.0, scale))


def nearest(weight: Array, step: Array, limit: int) -> Array:
    """Grid point nearest to weight / step, ties to even, saturated; float64."""
    return np.clip(np.rint(weight / step), -limit, limit)


def on_grid(weight: Array, format: WeightFormat, scale: Array) -> QuantizedWeight:
    """`weight` [N, K] rounded to the grid of `scale` [N, groups], which is snapped first."""
    unit, multiplier = snapped(scale)
    q = nearest(weight, spread(unit[:, None] * multiplier, weight.shape[1]), format.limit)
    return QuantizedWeight(format, q.astype(np.int8), unit, multiplier)


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices over rows of about BLOCK_ELEMENTS elements each."""
    step = max(1, BLOCK_ELEMENTS // columns)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def output_error(weight: Array, found: QuantizedWeight, gram: Array | None = None) -> float:
    """||X (W - Q)^T|| / ||X W^T||, from X^T X; without a gram ||W - Q|| / ||W||. 0 where both are 0."""
    noise = weight - found.dequantize()
    signal_square = float((weight * (weight if gram is None else weight @ gram)).sum())
    noise_square = float((noise * (noise if gram is None else noise @ gram)).sum())
    if signal_square <= 0:
        return 0.0 if noise_square <= 0 else float("inf")
    return float(np.sqrt(max(noise_square, 0.0) / signal_square))
