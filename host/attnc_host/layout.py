"""How tensors lie in the accelerator's memory.

A tensor [rows, channels] is cut into tiles of `lanes` channels (the last padded with the zero point). Tiles follow each other; within a
tile, rows. A row of a tile is one word of `lanes` bytes, or two for elements of 16 bits: first all low bytes, then all high bytes,
so that every lane of the hardware keeps to its own wires. Two's complement.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def words(rows: int, channels: int, lanes: int, size: int) -> int:
    """Memory words (of `lanes` bytes) of a tensor whose elements take `size` bytes."""
    return -(-channels // lanes) * rows * size


def pack(array: npt.NDArray[Any], lanes: int, size: int, zero_point: int = 0) -> npt.NDArray[np.uint8]:
    """Integers [samples, rows, channels] to bytes [samples, words * lanes] (uint8)."""
    samples, rows, channels = array.shape
    tiles = -(-channels // lanes)
    padded = np.full((samples, rows, tiles * lanes), zero_point, np.dtype(f"<i{size}"))
    padded[:, :, :channels] = array
    parts = padded.view(np.uint8).reshape(samples, rows, tiles, lanes, size)
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 4, 3)).reshape(samples, -1)


def unpack(data: npt.NDArray[np.uint8], rows: int, channels: int, lanes: int, size: int) -> npt.NDArray[Any]:
    """Bytes [samples, words * lanes] to integers [samples, rows, channels]."""
    samples, tiles = data.shape[0], -(-channels // lanes)
    parts = data.reshape(samples, tiles, rows, size, lanes).transpose(0, 2, 1, 4, 3)
    tiled = np.ascontiguousarray(parts).view(np.dtype(f"<i{size}"))
    return tiled.reshape(samples, rows, tiles * lanes)[:, :, :channels]
