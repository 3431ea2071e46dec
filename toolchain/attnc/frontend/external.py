"""Data that a model has in files beside it."""

from __future__ import annotations

import os
from pathlib import Path

from onnx import TensorProto

from attnc.errors import ModelError


def check_external(path: Path, tensor: TensorProto, size: int) -> None:
    """External data: a regular file inside the model's folder that holds the bytes that the tensor needs."""
    where = f"{path}: external data of tensor {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        raise ModelError(f"{where}: no location given")
    relative = Path(location)
    if relative.is_absolute() or "\\" in location or ".." in relative.parts or "\0" in location:
        raise ModelError(f"{where}: location {location!r} must be relative and stay inside the folder of the model")
    folder = Path(os.path.realpath(path.parent))
    file = Path(os.path.realpath(path.parent / relative))
    if not file.is_relative_to(folder):
        raise ModelError(f"{where}: location {location!r} is a link that leaves the folder of the model")
    if not file.is_file():
        raise ModelError(f"{where}: file {location!r} is missing beside the model")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError as error:
        raise ModelError(f"{where}: offset and length must be whole numbers, found {entries}") from error
    available = file.stat().st_size
    if offset < 0 or length < 0 or offset + length > available:
        raise ModelError(f"{where}: bytes {offset} to {offset + length} of {location!r} are needed, the file has {available}")
    if length != size:
        raise ModelError(f"{where}: shape {list(tensor.dims)} needs {size} bytes, the entry gives {length}")
