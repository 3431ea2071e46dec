"""How arrays hold the samples of a model's inputs and outputs: the one rule, of calibration data as of what an accelerator runs on.

The model says what one sample looks like: [1, 128] with a batch axis of 1 in front, [2, 16] or [] without one. Samples lie

- along that batch axis: [samples, 128];
- or, whatever the shape, on an axis of their own in front of it: [samples, 1, 128], [samples, 2, 16], [samples].

An input with one sample, or in the model's own shape, serves all samples. Outputs come back along their batch axis of 1 where they have
one, else on an axis in front; a single sample that had no such axis comes back without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from attnc_host.errors import InputError

Array = npt.NDArray[Any]
CONVERTIBLE = {"f": "fiub", "i": "iub", "u": "iub", "b": "iub"}
"""Kinds of numbers (NumPy's letters) that a kind takes, if it holds every value."""


class Spec(Protocol):
    """An input or output of a model: its name, and type and shape of one sample."""

    @property
    def name(self) -> str:
        """Name of the tensor."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""


@dataclass(frozen=True)
class Samples:
    """Arrays by input name, all as [samples, *shape of the model]; 1 in place of `count` where one sample serves all. `framed`: they were
    given on an axis of their own."""

    arrays: dict[str, Array]
    count: int
    framed: bool

    def part(self, start: int, size: int) -> Samples:
        """Up to `size` of the samples, from `start` on."""
        arrays = {name: array if array.shape[0] == 1 else array[start : start + size] for name, array in self.arrays.items()}
        return Samples(arrays, min(size, self.count - start), self.framed)

    def all(self, name: str) -> Array:
        """An input of every sample: [count, *shape]."""
        array = self.arrays[name]
        return np.broadcast_to(array, (self.count, *array.shape[1:]))


def stack(given: Mapping[str, Any], specs: Sequence[Spec]) -> Samples:
    """The inputs that `specs` name, in the model's types; raises `InputError` where an array does not fit."""
    arrays, framed = {}, False
    for spec in specs:
        array = cast(spec, given[spec.name])
        arrays[spec.name] = _in_front(spec, array)
        framed = framed or array.ndim > len(spec.shape)
    counts = {name: array.shape[0] for name, array in arrays.items()}
    count = max(counts.values(), default=1)
    if any(found not in (1, count) for found in counts.values()):
        raise InputError(f"inputs: all need the same number of samples, or one that serves all, found {counts}")
    return Samples(arrays, count, framed)


def unstack(spec: Spec, array: Array, framed: bool) -> Array:
    """An input or output [samples, *shape] as it is given and returned."""
    if spec.shape[:1] == (1,):
        return np.asarray(array.reshape(array.shape[0], *array.shape[2:]))
    return array if framed or array.shape[0] > 1 else np.asarray(array[0])


def _in_front(spec: Spec, array: Array) -> Array:
    """[samples, *shape]."""
    batch = spec.shape[:1] == (1,)
    if array.shape[1:] == spec.shape and array.ndim > len(spec.shape):
        found = array
    elif array.shape == spec.shape:
        found = array[np.newaxis]
    elif batch and array.ndim and array.shape[1:] == spec.shape[1:]:
        found = array[:, np.newaxis]
    else:
        own = list(spec.shape)
        in_front = ", ".join(["samples", *map(str, own)])
        wanted = f"[{', '.join(['samples', *map(str, own[1:])])}] or [{in_front}]" if batch else f"{own} or [{in_front}]"
        raise InputError(f"input {spec.name!r}: needed shape {wanted}, found {list(array.shape)}")
    if not found.shape[0]:
        raise InputError(f"input {spec.name!r}: needed at least one sample, found shape {list(array.shape)}")
    return found


def cast(spec: Spec, given: Any) -> Array:
    """The array in the model's type, if no value changes its meaning on the way; numbers must be finite."""
    where = f"input {spec.name!r}"
    try:
        array = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: not an array: {error}") from error
    kind, needed = array.dtype.kind, spec.dtype.kind
    if kind not in CONVERTIBLE[needed]:
        raise InputError(f"{where}: needed {spec.dtype}, found {array.dtype}, which does not convert safely")
    if needed in "iub" and kind in "iu" and array.size:
        low, high = (0, 1) if needed == "b" else (int(np.iinfo(spec.dtype).min), int(np.iinfo(spec.dtype).max))
        if int(array.min()) < low or int(array.max()) > high:
            raise InputError(f"{where}: needed {spec.dtype}, values from {low} to {high}, found {array.min()} to {array.max()}")
    if kind == "f":
        _check_finite(where, array, "NaN or infinity")
    with np.errstate(over="ignore"):
        found = array.astype(spec.dtype, copy=False)
    if needed == "f" and found.dtype != array.dtype:
        _check_finite(where, found, f"a number that {spec.dtype} cannot hold")
    return np.asarray(found)


def _check_finite(where: str, array: Array, what: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        first = [int(i) for i in np.unravel_index(int(np.argmin(finite)), array.shape)]
        raise InputError(f"{where}: contains {what}, the first at {first} of shape {list(array.shape)}")
