"""How the inputs of linear layers hang together: X^T X, collected while a graph runs over the calibration samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from attnc.arrays import Array
from attnc.blas import one_thread
from attnc.errors import DataError
from attnc.ir import Graph, TensorType

CHUNK_ROWS = 4096
"""Rows that are converted and multiplied together, so that no second copy of a wide value is ever whole in memory."""


def linear_inputs(graph: Graph) -> list[str]:
    """Values that linear layers read, each once."""
    return list(dict.fromkeys(node.inputs[0] for node in graph.nodes if node.op == "linear"))


class GramObserver:
    """Sums X^T X of the values in `names`, for `run_reference` and `run_golden`; all others pass by.

    Holds a matrix [channels, channels] of `dtype` per name. With `types`, X is what the device will see: floats are rounded to
    their type first, and integers (from `run_golden`) become real. `dtype` float32 halves the memory and the time, at a relative error
    of about 1e-6.
    """

    def __init__(self, names: Collection[str], types: Mapping[str, TensorType] | None = None, dtype: npt.DTypeLike = np.float64) -> None:
        self.names, self.types, self.dtype = frozenset(names), dict(types or {}), np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype: needed float32 or float64, found {self.dtype}")
        self._sums: dict[str, Array] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, name: str, array: Array) -> None:
        """Take note of `array` [samples, rows, channels]."""
        if name not in self.names:
            return
        flat = array.reshape(-1, array.shape[-1])
        for start in range(0, len(flat), CHUNK_ROWS):
            rows = self._real(name, flat[start : start + CHUNK_ROWS])
            with one_thread():
                product = rows.T @ rows
            if not np.isfinite(product).all():
                raise DataError(f"calibration: value {name!r} becomes NaN, infinite or too large to square in the float model")
            if name in self._sums:
                self._sums[name] += product
            else:
                self._sums[name] = product
        self._counts[name] = self._counts.get(name, 0) + len(flat)

    def _real(self, name: str, rows: Array) -> Array:
        """Rows [n, channels] as the device sees them."""
        type_ = self.types.get(name)
        if rows.dtype.kind in "iu":
            if type_ is None:
                raise DataError(f"calibration: value {name!r} comes as integers, and its type is not known")
            return type_.dequantize(rows).astype(self.dtype)
        if not np.isfinite(rows).all():
            raise DataError(f"calibration: value {name!r} becomes NaN or infinite in the float model")
        return (rows if type_ is None else type_.dequantize(type_.quantize(rows))).astype(self.dtype)

    def gram(self, name: str) -> Array:
        """X^T X / count [channels, channels] of `name`, in float64."""
        if name not in self._sums:
            raise DataError(f"calibration: value {name!r} was not seen; the inputs are empty, or it was not asked for")
        return self._sums[name].astype(np.float64) / self._counts[name]

    def grams(self) -> dict[str, Array]:
        """The gram of everything seen."""
        return {name: self.gram(name) for name in self._sums}
