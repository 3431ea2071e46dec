"""Tensors of the Open Inference Protocol, version 2: JSON with numbers, or JSON followed by their bytes (`binary_tensor_data`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnc_host.errors import InputError
from attnc_host.manifest import Port
from attnc_host.samples import Array, Samples, cast, stack
from attnc_host.serve.limits import Refusal

EXTENSIONS = ("binary_tensor_data",)
DATATYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"{sign}{bits}": np.dtype(f"{sign.lower()}{bits}") for sign in ("INT", "UINT") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
MOST_AXES = 16
JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; the rest are tensors."""


class Strict(BaseModel):
    """A part of a request: types are not converted, fields that it does not know are left alone."""

    model_config = ConfigDict(strict=True, extra="ignore")


class InputTensor(Strict):
    """An input."""

    name: str
    shape: list[int] = Field(max_length=MOST_AXES)
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputTensor(Strict):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(Strict):
    """The JSON of a request."""

    id: str = ""
    parameters: dict[str, Any] = {}
    inputs: list[InputTensor]
    outputs: list[OutputTensor] | None = None


@dataclass(frozen=True)
class Request:
    """A request that is understood: samples, and what to answer. `binary` names the outputs that go as bytes; `seconds` is None where the
    client sets no deadline."""

    id: str
    given: Samples
    outputs: tuple[str, ...]
    binary: frozenset[str]
    seconds: float | None


def explain(error: ValidationError) -> str:
    """What is wrong with the JSON of a request, in a line: of what a field may be, what was nearest."""
    found = error.errors(include_url=False, include_input=False)
    near = max(found, key=lambda one: (not one["type"].endswith("_type"), len(one["loc"])))
    where = ".".join(map(str, near["loc"]))
    return f"request{f' field {where!r}' if where else ''}: {near['msg']}"


def read_request(body: bytes, json_length: int | None, inputs: Sequence[Port], outputs: Sequence[Port], most: int) -> Request:
    """A request of at most `most` samples; raises `InputError`. `json_length` is what the header says, if it is there."""
    if json_length is not None and not 0 < json_length <= len(body):
        raise InputError(f"{JSON_LENGTH}: needed 1 to {len(body)}, the bytes of the body, found {json_length}")
    try:
        request = InferRequest.model_validate_json(body[:json_length])
    except ValidationError as error:
        raise InputError(explain(error)) from None
    arrays = _arrays(request, memoryview(body)[json_length or len(body) :], {port.name: port for port in inputs}, most)
    given = stack(arrays, inputs)
    if given.count > most:
        raise InputError(f"inputs: needed at most {most} samples, found {given.count}")
    return Request(request.id, given, *_wanted(request, [port.name for port in outputs]), _seconds(request.parameters))


def _arrays(request: InferRequest, rest: memoryview, ports: Mapping[str, Port], most: int) -> dict[str, Array]:
    """The inputs by name, each with the shape and type that the request declares; no more of them than the model takes."""
    arrays: dict[str, Array] = {}
    for tensor in request.inputs:
        if tensor.name not in ports or tensor.name in arrays:
            raise InputError(f"inputs: needed {', '.join(map(repr, ports))}, each once, found {tensor.name!r}")
        where, port = f"input {tensor.name!r}", ports[tensor.name]
        dtype = DATATYPES.get(tensor.datatype)
        if dtype is None:
            raise InputError(f"{where}: needed a datatype out of {', '.join(DATATYPES)}, found {tensor.datatype!r}")
        limit = most * max(1, math.prod(port.shape))
        if any(not 0 <= size <= limit for size in tensor.shape) or math.prod(tensor.shape) > limit:
            raise InputError(f"{where}: needed a shape of at most {most} samples of {list(port.shape)}, found {tensor.shape}")
        if "shared_memory_region" in tensor.parameters:
            raise InputError(f"{where}: there is no shared memory; send the data")
        size = tensor.parameters.get("binary_data_size")
        if (size is None) == (tensor.data is None):
            raise InputError(f"{where}: needed either 'data' or the parameter 'binary_data_size', found {'both' if size else 'neither'}")
        if tensor.data is not None:
            arrays[tensor.name] = _from_json(tensor.data, tensor.shape, replace(port, dtype=dtype))
        else:
            needed = math.prod(tensor.shape) * dtype.itemsize
            if size is not None and (isinstance(size, bool) or size != needed or size > len(rest)):
                raise InputError(f"{where}: needed {needed} bytes, found {size!r} of the {len(rest)} that follow")
            arrays[tensor.name] = _from_bytes(where, rest[:needed], dtype).reshape(tensor.shape)
            rest = rest[needed:]
    if len(rest):
        raise InputError(f"body: {len(rest)} bytes more than the inputs have")
    missing = [name for name in ports if name not in arrays]
    if missing:
        raise InputError(f"inputs: missing {', '.join(map(repr, missing))}")
    return arrays


def _from_bytes(where: str, data: memoryview, dtype: np.dtype[Any]) -> Array:
    """Little-endian numbers. A byte that is neither 0 nor 1 is no BOOL."""
    if dtype.kind == "b" and data.tobytes().strip(b"\0\1"):
        raise InputError(f"{where}: needed bytes 0 and 1 for BOOL")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False)


def _from_json(data: list[Any], shape: Sequence[int], port: Port) -> Array:
    """Numbers of JSON, in one list or in lists that are nested as the shape says, as the type of `port`."""
    where, flat = f"input {port.name!r}", data
    for axis, size in enumerate(shape[:-1]):
        if not flat or not isinstance(flat[0], list):
            break
        if len(flat) != math.prod(shape[: axis + 1]):
            raise InputError(f"{where}: needed 'data' of shape {list(shape)}, found {len(flat)} lists where the shape has {size}")
        if any(not isinstance(part, list) or len(part) != shape[axis + 1] for part in flat):
            raise InputError(f"{where}: needed 'data' of shape {list(shape)}, found parts of axis {axis + 1} that differ from it")
        flat = list(chain.from_iterable(flat))
    if len(flat) != math.prod(shape):
        raise InputError(f"{where}: needed {math.prod(shape)} elements for shape {list(shape)}, found {len(flat)}")
    kinds = set(map(type, flat))
    allowed = {"b": {bool, int}, "f": {float, int}}.get(port.dtype.kind, {int})
    if not kinds <= allowed:
        found = ", ".join(sorted(kind.__name__ for kind in kinds - allowed))
        raise InputError(f"{where}: needed numbers of type {NAMES[port.dtype]}, found {found}")
    try:
        array = np.array(flat, np.float64 if port.dtype.kind == "f" else np.int64 if port.dtype != np.uint64 else np.uint64)
    except (OverflowError, ValueError):
        raise InputError(f"{where}: found numbers that {NAMES[port.dtype]} cannot hold") from None
    return cast(port, array.reshape(shape))


def _wanted(request: InferRequest, names: Sequence[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of the outputs to answer with, and of those that go as bytes."""
    whole = _flag(request.parameters, "binary_data_output", False)
    if request.outputs is None:
        return tuple(names), frozenset(names if whole else ())
    for output in request.outputs:
        if output.name not in names:
            raise InputError(f"outputs: needed names out of {', '.join(map(repr, names))}, found {output.name!r}")
        for parameter in ("classification", "shared_memory_region"):
            if output.parameters.get(parameter):
                raise InputError(f"output {output.name!r}: the parameter {parameter!r} is not supported")
    asked = {output.name: _flag(output.parameters, "binary_data", whole) for output in request.outputs}
    return tuple(asked), frozenset(name for name, binary in asked.items() if binary)


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    found = parameters.get(name, default)
    if not isinstance(found, bool):
        raise InputError(f"parameter {name!r}: needed true or false, found {found!r:.80}")
    return found


def _seconds(parameters: Mapping[str, Any]) -> float | None:
    """The deadline that the client sets with the parameter `timeout`, in microseconds."""
    found = parameters.get("timeout")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found < 1 << 62:
        raise InputError(f"parameter 'timeout': needed a whole number of microseconds above 0, found {found!r:.80}")
    return found * 1e-6


def write_response(model: str, version: str, request: Request, outputs: Mapping[str, Array]) -> tuple[bytes, int | None]:
    """The body of an answer, and how many of its bytes are JSON where bytes of tensors follow."""
    described, parts = [], []
    for name in request.outputs:
        array = outputs[name]
        entry: dict[str, Any] = {"name": name, "datatype": NAMES[array.dtype], "shape": list(array.shape)}
        if name in request.binary:
            parts.append(array.astype(array.dtype.newbyteorder("<"), order="C").tobytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Refusal(406, f"output {name!r} has infinite numbers or NaN, which JSON cannot say: ask for it with 'binary_data'")
        else:
            entry["data"] = array.reshape(-1).tolist()
        described.append(entry)
    answer = {"model_name": model, "model_version": version, **({"id": request.id} if request.id else {}), "outputs": described}
    text = json.dumps(answer).encode()
    return b"".join([text, *parts]), len(text) if parts else None
