"""Make every input of the model static: options, batch, symbolic dimensions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, TensorShapeProto, ValueInfoProto, helper

from attnc.errors import ConfigError, DataError, ModelError
from attnc.model import TensorSpec

Dim = int | str | None
"""A declared dimension: a number, a symbol, or nothing."""
Pins = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Input:
    name: str
    dims: tuple[Dim, ...]
    dtype: np.dtype[np.generic]


def pin_shapes(model: ModelProto, pins: Pins, path: str, samples: Pins | None = None) -> list[TensorSpec]:
    """Write static shapes into the inputs of `model`, forget all other shapes, and describe the inputs.

    A dynamic dimension is what `pins` (options) say, else what the arrays of these shapes in `samples` have, else 1 where it is the batch.
    """
    initialized = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in initialized]
    names = [value.name for value in kept]
    for name in pins:
        if name not in names:
            raise ConfigError(f"a shape is given for {name!r}, but the inputs of the model are {', '.join(map(repr, names))}")
    inputs = [_read_input(value, pins.get(value.name), path) for value in kept]
    symbols = _symbols_of_pins(inputs, pins)
    shown = {spec.name: samples[spec.name] for spec in inputs if samples and spec.name in samples and spec.name not in pins}
    count = _count_in_front(inputs, shown)
    inputs = [_sized(spec, shown.get(spec.name), symbols, count) for spec in inputs]
    batched = {spec.name: _take_batch(spec, pins, symbols) for spec in inputs}
    _check_counts([spec for spec in inputs if batched[spec.name]], shown)
    specs = [_resolve(spec, pins, symbols, batched[spec.name], path) for spec in inputs]
    _rewrite(model, kept, specs)
    return specs


def _read_input(value: ValueInfoProto, pin: tuple[int, ...] | None, path: str) -> _Input:
    """Declared dimensions and type of an input, checked against its option."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(f"{path}: input {value.name!r} is a {kind or 'value without a type'}, only tensors are supported")
    tensor = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if tensor.elem_type else None
    if dtype is None or dtype.kind not in "fiub":
        raise ModelError(f"{path}: input {value.name!r} has element type {dtype or 'undefined'}, numbers are needed")
    if tensor.HasField("shape"):
        dims = tuple(_dim(dim) for dim in tensor.shape.dim)
    elif pin is not None:
        dims = (None,) * len(pin)
    else:
        raise ModelError(f"{path}: input {value.name!r} declares no shape; give one with --shape {value.name}=1,128")
    for axis, dim in enumerate(dims):
        if isinstance(dim, int) and dim <= 0:
            raise ModelError(f"{path}: input {value.name!r} has dimension {dim} at axis {axis}, a positive size is needed")
    if pin is not None:
        _check_pin(value.name, dims, pin)
    return _Input(value.name, dims, dtype)


def _dim(dim: TensorShapeProto.Dimension) -> Dim:
    kind = dim.WhichOneof("value")
    if kind == "dim_value":
        return int(dim.dim_value)
    return str(dim.dim_param) or None if kind == "dim_param" else None


def _check_pin(name: str, dims: tuple[Dim, ...], pin: tuple[int, ...]) -> None:
    declared = "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"
    if len(pin) != len(dims):
        raise ConfigError(f"the shape given for {name!r} has {len(pin)} dimensions, the model declares {declared}")
    for axis, (dim, value) in enumerate(zip(dims, pin, strict=True)):
        if not isinstance(value, (int, np.integer)) or value < 0:
            raise ConfigError(f"the shape given for {name!r} needs whole numbers of 0 or more, found {value!r}")
        if isinstance(dim, int) and dim != value:
            raise ConfigError(f"the shape given for {name!r} has {value} at axis {axis}, the model declares {declared}")


def _symbols_of_pins(inputs: list[_Input], pins: Pins) -> dict[str, int]:
    """What the options say about symbolic dimensions."""
    symbols: dict[str, int] = {}
    for spec in inputs:
        for dim, value in zip(spec.dims, pins.get(spec.name, ()), strict=False):
            if isinstance(dim, str) and symbols.setdefault(dim, int(value)) != value:
                raise ConfigError(f"the shapes given contradict each other: dimension {dim!r} is both {symbols[dim]} and {value}")
    return symbols


def _count_in_front(inputs: list[_Input], samples: Pins) -> int | None:
    """How many samples there are, if arrays that have them on an axis of their own agree on it."""
    counts = {samples[spec.name][0] for spec in inputs if len(samples.get(spec.name, ())) == len(spec.dims) + 1} - {1}
    return counts.pop() if len(counts) == 1 else None


def _sized(spec: _Input, found: tuple[int, ...] | None, symbols: dict[str, int], count: int | None) -> _Input:
    """The input with the dynamic dimensions that an array of samples shows; learns the values of their symbols.

    Samples have an axis of their own or lie along axis 0: in an array that has as many axes as the input, axis 0 says nothing about it,
    unless its length cannot be the `count` of samples: then the array has the shape of the input and serves all of them.
    """
    if found is None or len(found) - len(spec.dims) not in (0, 1):
        return spec
    along = len(found) == len(spec.dims) and (count is None or not found or found[0] in (1, count))
    sizes = [None, *found[1:]] if along else found[len(found) - len(spec.dims) :]
    dims: list[Dim] = []
    for dim, size in zip(spec.dims, sizes, strict=True):
        if isinstance(dim, str) and size is not None and symbols.setdefault(dim, size) != size:
            raise DataError(f"input {spec.name!r}: dimension {dim!r} is {size} in the calibration data, and {symbols[dim]} elsewhere")
        dims.append(size if dim is None else dim)
    return replace(spec, dims=tuple(dims))


def _check_counts(batched: list[_Input], samples: Pins) -> None:
    """Inputs that have a batch have equally many samples along it, or one; else one of those batches is none."""
    counts = {spec.name: samples[spec.name][0] for spec in batched if len(samples.get(spec.name, ())) == len(spec.dims)}
    if len(set(counts.values()) - {1}) > 1:
        least = min((spec for spec in batched if spec.name in counts), key=lambda spec: len(spec.dims)).name
        raise DataError(
            f"the first axes of these inputs are dynamic and taken for samples, of which all need the same number: {counts}; "
            f"fix one that is no batch, as with --shape {least}={','.join(map(str, samples[least]))}"
        )


def _take_batch(spec: _Input, pins: Pins, symbols: dict[str, int]) -> bool:
    """Whether axis 0 of the input is the batch, which becomes 1; learns the value of its symbol."""
    if not spec.dims or isinstance(spec.dims[0], int):
        return False
    if spec.name in pins:
        return pins[spec.name][0] == 1
    if spec.dims[0] is None:
        return True
    return symbols.setdefault(spec.dims[0], 1) == 1


def _resolve(spec: _Input, pins: Pins, symbols: dict[str, int], batched: bool, path: str) -> TensorSpec:
    """All dimensions as numbers."""
    shape = [_known(dim, symbols) for dim in spec.dims]
    if spec.name in pins:
        shape = [int(value) for value in pins[spec.name]]
    elif batched:
        shape[0] = 1
    for axis, value in enumerate(shape):
        if value is None:
            example = ",".join(str(known or 128) for known in shape)
            dim = f"{spec.dims[axis]!r} " if spec.dims[axis] is not None else ""
            raise ModelError(
                f"{path}: dimension {dim}(axis {axis}) of input {spec.name!r} is dynamic; "
                f"fix it with --shape {spec.name}={example}, or give --calib samples that have it"
            )
    return TensorSpec(spec.name, spec.dtype, tuple(int(value or 0) for value in shape), batched)


def _known(dim: Dim, symbols: dict[str, int]) -> int | None:
    """The number behind a dimension, if there is one; exporters write sums such as `seq + 1` as a symbol too."""
    if dim is None or isinstance(dim, int):
        return dim
    if dim in symbols:
        return symbols[dim]
    match = re.fullmatch(r"\s*(\w+)\s*([+*-])\s*(\d+)\s*", dim)
    if match and match[1] in symbols:
        left, right = symbols[match[1]], int(match[3])
        return {"+": left + right, "-": left - right, "*": left * right}[match[2]]
    return None


def _rewrite(model: ModelProto, kept: list[ValueInfoProto], specs: list[TensorSpec]) -> None:
    """Static inputs; outputs and inner tensors lose their shapes, which inference finds again."""
    values = [
        helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, spec.shape)
        for value, spec in zip(kept, specs, strict=True)
    ]
    del model.graph.input[:]
    model.graph.input.extend(values)
    del model.graph.value_info[:]
    for output in model.graph.output:
        if output.type.WhichOneof("value") == "tensor_type":
            output.type.tensor_type.ClearField("shape")
