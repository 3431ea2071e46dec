"""Arrays and their shapes, as the whole compiler speaks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, int]
"""Rows and channels."""


def samples_first(inputs: Sequence[Array]) -> list[Array]:
    """Constants `[rows, channels]` get a sample axis, so that they broadcast."""
    return [x[np.newaxis] if x.ndim == 2 else x for x in inputs]


def single(array: Array) -> Array:
    """In single precision, if it is not whole numbers."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
