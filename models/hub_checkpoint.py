"""A language model as hubs have it: config.json, tokenizer.json, and weights in *.safetensors, read one tensor at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I8": "i1"}
PACKED = 4
"""Ternary weights that lie in a byte, two bits each."""


class CheckpointError(Exception):
    """A file that is missing, or says what is not understood."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a file."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """Of a folder. Nothing but headers is read before a tensor is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, path = folder, folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{folder}: needed a folder with config.json, tokenizer.json and *.safetensors, found no config.json")
        self.config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self._places: dict[str, _Place] = {}
        for file in sorted(folder.glob("*.safetensors")):
            self._places.update(_header(file))
        if not self._places:
            raise CheckpointError(f"{folder}: needed weights in *.safetensors, found none; other formats have to be converted")

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def parameters(self) -> int:
        """Numbers in all matrices and vectors, those that are packed one by one."""
        return sum(int(np.prod(p.shape)) * (PACKED if p.dtype == "U8" else 1) for p in self._places.values())

    def tensor(self, name: str) -> np.ndarray:
        """As float32, or the bytes of what is packed."""
        if name not in self._places:
            raise CheckpointError(f"{self.folder}: tensor {name!r} is missing")
        place = self._places[name]
        if place.dtype not in DTYPES:
            raise CheckpointError(f"{place.file}: tensor {name!r}: needed a type out of {', '.join(DTYPES)}, found {place.dtype}")
        found = np.memmap(place.file, DTYPES[place.dtype], "r", place.offset, place.shape or (1,))
        if place.dtype == "BF16":  # the upper half of a float32
            return (found.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(found) if place.dtype == "U8" else found.astype(np.float32)

    def matrix(self, name: str) -> np.ndarray:
        """Weights [outputs, inputs] of a product. Ternary ones are unpacked, or rounded where the checkpoint wants that done on use."""
        weight, quantization = self.tensor(f"{name}.weight"), self.config.get("quantization_config") or {}
        if weight.dtype == np.uint8:
            scale = self.tensor(f"{name}.weight_scale").reshape(-1)[0]
            return unpacked(weight) * (scale if quantization.get("linear_class") == "autobitlinear" else 1 / scale)
        if quantization.get("quant_method") == "bitnet" and quantization.get("quantization_mode") == "online" and ".layers." in name:
            scale = max(float(np.abs(weight).mean()), 1e-5)
            return np.clip(np.rint(weight / scale), -1, 1).astype(np.float32) * np.float32(scale)
        return weight


def unpacked(packed: np.ndarray) -> np.ndarray:
    """Bytes [outputs / 4, inputs] as -1, 0 and 1 [outputs, inputs]: the lowest bits are the first quarter of the outputs."""
    return np.concatenate([(packed >> 2 * i) & 3 for i in range(PACKED)]).astype(np.float32) - 1


def _header(file: Path) -> dict[str, _Place]:
    """Eight bytes say how long the JSON is that says what lies behind it."""
    try:
        with open(file, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            data = json.loads(handle.read(size))
        return {
            name: _Place(file, 8 + size + one["data_offsets"][0], one["dtype"], tuple(one["shape"]))
            for name, one in data.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        raise CheckpointError(f"{file}: is no file of safetensors ({type(error).__name__})") from error
