"""Constants of a model as arrays. Those that lie in a file beside it stay there: mapped, read where they are used, and no part of the
protobuf, which holds at most 2 GiB."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from attnc.arrays import Array

MAPPED_BYTES = 1 << 16
"""Smaller ones are read at once: inference looks at their numbers."""
PLAIN = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8)
"""Types that NumPy has as files have them."""
ROOT = os.path.abspath(os.sep)


def array_of(tensor: TensorProto) -> Array:
    """The numbers of a constant; those of a file are mapped, and cannot be written."""
    if not is_mapped(tensor):
        return numpy_helper.to_array(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    return np.memmap(entries["location"], dtype, "r", int(entries["offset"]), tuple(tensor.dims))


def mapped(name: str, data_type: int, dims: tuple[int, ...], location: str, offset: int, size: int) -> TensorProto:
    """A constant that stays in a file; `location` is its whole path."""
    tensor = TensorProto(name=name, data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def tensor_of(array: Array, name: str) -> TensorProto:
    """A constant of these numbers: in its file where `array` is all of one that is mapped there."""
    source: Any = array if isinstance(array, np.memmap) else array.base
    base: Any = getattr(source, "base", None)
    if isinstance(source, np.memmap) and isinstance(base, mmap.mmap) and _same(array, source):
        data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        return mapped(name, data_type, array.shape, str(source.filename), int(source.offset), array.nbytes)
    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def _same(array: Array, source: Array) -> bool:
    """Whether an array is another one, maybe of another shape."""
    there = array.__array_interface__["data"][0] == source.__array_interface__["data"][0]
    return there and array.nbytes == source.nbytes and array.dtype == source.dtype and array.flags.c_contiguous


def is_mapped(tensor: TensorProto) -> bool:
    """Whether it is one of those that stay in a file."""
    return tensor.data_location == TensorProto.EXTERNAL and any(os.path.isabs(e.value) for e in tensor.external_data if e.key == "location")


def may_stay(tensor: TensorProto) -> bool:
    """Whether a constant of a file is large, and lies there as NumPy has it in memory."""
    if tensor.data_location != TensorProto.EXTERNAL or tensor.data_type not in PLAIN:
        return False
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize >= MAPPED_BYTES


def embedded(model: ModelProto) -> ModelProto:
    """The model with all of its data in it: to be written, or for those that look for no files."""
    found = ModelProto()
    found.CopyFrom(model)
    for tensor in filter(is_mapped, found.graph.initializer):
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(array_of(tensor)), tensor.name))
    return found


def below_root(model: ModelProto) -> ModelProto:
    """The model with the paths of mapped constants from `ROOT` on: onnxruntime takes none that begins with it."""
    found = ModelProto()
    found.CopyFrom(model)
    for tensor in filter(is_mapped, found.graph.initializer):
        for entry in tensor.external_data:
            entry.value = os.path.relpath(entry.value, ROOT) if entry.key == "location" else entry.value
    return found


class Scratch:
    """A file of mapped constants in single precision; it goes with the process. A model is read more than once: what lies there already is
    not written again."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="attnc-")
        self._path = os.path.join(os.path.realpath(self._folder.name), "constants")
        self._offsets: dict[tuple[object, ...], int] = {}
        self._end = 0

    def float32(self, tensor: TensorProto, convert: Callable[[Array], Array]) -> TensorProto:
        """A mapped constant, as `convert` makes its numbers float32."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        status = os.stat(entries["location"])
        source = entries["location"], entries["offset"], status.st_mtime_ns, status.st_size, tensor.data_type, tuple(tensor.dims)
        if source not in self._offsets:
            with open(self._path, "ab") as file:
                np.ascontiguousarray(convert(array_of(tensor))).tofile(file)
            self._offsets[source] = self._end
            self._end += 4 * math.prod(tensor.dims)
        size = 4 * math.prod(tensor.dims)
        return mapped(tensor.name, TensorProto.FLOAT, tuple(tensor.dims), self._path, self._offsets[source], size)


@cache
def scratch() -> Scratch:
    """The one of this process."""
    return Scratch()
