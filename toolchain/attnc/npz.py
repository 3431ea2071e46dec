"""Archives of arrays (.npz): read without trusting them, written at once and always with the same bytes."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc.errors import DataError
from attnc.files import check_writable, written_whole
from attnc.messages import one_line

MARK = b"attnc"
"""The comment of an archive that attnc wrote."""


MAX_BYTES = 1 << 29
"""Bytes of arrays that an archive may hold, however small it is; a larger archive may hold up to `MAX_GROWTH` times its own size."""
MAX_GROWTH = 8
MAX_HEADER = 1 << 14
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BROKEN = (
    OSError, ValueError, EOFError, KeyError, TypeError, MemoryError, NotImplementedError, OverflowError, RuntimeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What the readers of archives raise where one is damaged."""


def load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every array of an .npz file by name; no pickles, and none that expands to far more than the file."""
    if not path.is_file():
        raise DataError(f"{path}: is no file; an .npz archive is needed" if path.exists() else f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                raise DataError(f"{path}: needed an .npz archive of named arrays (numpy.savez), found a single array")
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, {name: _header(archive, name) for name in archive.namelist()})
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except _BROKEN as error:
        raise DataError(f"{path}: not an .npz archive of numbers, or a damaged one ({one_line(error)})") from error
    if not arrays:
        raise DataError(f"{path}: the archive is empty")
    return arrays


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], int]:
    """Shape and bytes of an array in an archive, which must be what its entry holds."""
    with archive.open(name) as file:
        start = io.BytesIO(file.read(MAX_HEADER))
    read = _HEADERS.get(np.lib.format.read_magic(start))
    if read is None:
        raise ValueError(f"{name!r} is no array of numbers")
    shape, _, dtype = read(start)
    size, held = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - start.tell()
    if min(shape, default=0) < 0 or (size != held and not dtype.hasobject):
        raise ValueError(f"{name!r} has shape {list(shape)} of {dtype}, which takes {size} bytes, and holds {held}")
    return shape, size


def _check_sizes(path: Path, headers: Mapping[str, tuple[tuple[int, ...], int]]) -> None:
    """Refuse an archive that expands to what no calibration needs."""
    total, most = sum(size for _, size in headers.values()), max(MAX_BYTES, MAX_GROWTH * path.stat().st_size)
    if total > most:
        name, (shape, size) = max(headers.items(), key=lambda item: item[1][1])
        largest = f"the largest is {name!r} of shape {list(shape)}, {size} bytes"
        raise DataError(
            f"{path}: needed arrays of at most {most} bytes in an archive of this size, found {total}; {largest}; give fewer samples, or "
            "store them uncompressed (numpy.savez)"
        )


def made_by_attnc(path: Path) -> bool:
    """Whether `save_npz` wrote a file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == MARK
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in an .npz file by name, from their headers; what cannot be read is for `load_npz` to refuse."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _header(archive, name)[0] for name in archive.namelist()}
    except _BROKEN:
        return {}


def save_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an .npz file whole or not at all; equal arrays give equal bytes, and every name is allowed."""
    check_writable(path)
    try:
        with written_whole(path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
            archive.comment = MARK
            for name, array in arrays.items():
                data = io.BytesIO()
                np.lib.format.write_array(data, np.asanyarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
