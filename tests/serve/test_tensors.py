"""Tensors in JSON and as bytes, of every type."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from attnc_host import InputError
from attnc_host.manifest import Port
from attnc_host.serve.limits import Refusal
from attnc_host.serve.tensors import DATATYPES, read_request, write_response

SHAPE = (1, 3)


def extremes(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        return np.array([[True, False, True]])
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([[info.min, info.max, 0]], dtype)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_type_both_ways(datatype: str) -> None:
    """The ends of its range arrive as they left, in JSON and as bytes."""
    dtype = DATATYPES[datatype]
    ports, array = [Port("t", dtype, SHAPE, True)], extremes(dtype)
    for binary in (False, True):
        tensor: dict[str, Any] = {"name": "t", "datatype": datatype, "shape": [1, 3]}
        tensor.update({"parameters": {"binary_data_size": array.nbytes}} if binary else {"data": array.tolist()})
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()
        rest = array.astype(dtype.newbyteorder("<")).tobytes() if binary else b""
        request = read_request(text + rest, len(text) if binary else None, ports, ports, 4)
        assert request.given.arrays["t"].dtype == dtype
        np.testing.assert_array_equal(request.given.arrays["t"][0], array)
        content, length = write_response("m", "1", request, {"t": array})
        (output,) = json.loads(content[:length])["outputs"]
        assert output["datatype"] == datatype and output["shape"] == [1, 3]
        found = np.frombuffer(content[length:], dtype) if binary else np.array(output["data"], dtype)
        np.testing.assert_array_equal(found.reshape(array.shape), array)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT8", [1, 2, 128]),
        ("UINT8", [1, 2, -1]),
        ("INT64", [1, 2, 1 << 63]),
        ("UINT64", [0, 1, -1]),
        ("BOOL", [0, 1, 2]),
        ("FP16", [1, 2, 70000.0]),
    ],
)
def test_numbers_that_a_type_cannot_hold(datatype: str, data: list[Any]) -> None:
    ports = [Port("t", DATATYPES[datatype], SHAPE, True)]
    text = json.dumps({"inputs": [{"name": "t", "datatype": datatype, "shape": [1, 3], "data": data}]}).encode()
    with pytest.raises(InputError, match="'t'"):
        read_request(text, None, ports, ports, 4)


def test_bytes_that_are_no_bool() -> None:
    ports = [Port("t", np.dtype(np.bool_), SHAPE, True)]
    tensor = {"name": "t", "datatype": "BOOL", "shape": [1, 3], "parameters": {"binary_data_size": 3}}
    text = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(InputError, match="needed bytes 0 and 1"):
        read_request(text + b"\0\1\2", len(text), ports, ports, 4)


def test_an_infinite_output_needs_bytes() -> None:
    ports = [Port("t", np.dtype(np.float32), SHAPE, True)]
    text = json.dumps({"inputs": [{"name": "t", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}).encode()
    request = read_request(text, None, ports, ports, 4)
    with pytest.raises(Refusal, match="ask for it with 'binary_data'"):
        write_response("m", "1", request, {"t": np.float32([[0, -np.inf, 1]])})
