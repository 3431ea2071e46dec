"""Archives of arrays (.npz): read without trusting them, written at once and always with the same bytes."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc.errors import DataError
from attnc.files import check_writable, written_whole

MARK = b"attnc"
"""The comment of an archive that attnc wrote."""


def load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every array of an .npz file by name; no pickles."""
    if not path.is_file():
        raise DataError(f"{path}: is no file; an .npz archive is needed" if path.exists() else f"{path}: no such file")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DataError(f"{path}: needed an .npz archive of named arrays (numpy.savez), found a single array")
        with file:
            arrays = {name: file[name] for name in file.files}
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"{path}: not an .npz archive of numbers, or a damaged one ({str(error) or type(error).__name__})") from error
    strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise DataError(f"{path}: {', '.join(map(repr, strange))} is no array; an .npz archive of arrays is needed")
    if not arrays:
        raise DataError(f"{path}: the archive is empty")
    return arrays


def made_by_attnc(path: Path) -> bool:
    """Whether `save_npz` wrote a file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == MARK
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in an .npz file by name, from their headers; what cannot be read is for `load_npz` to refuse."""
    shapes: dict[str, tuple[int, ...]] = {}
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    read = headers.get(np.lib.format.read_magic(file))
                    if read is not None:
                        shapes[name.removesuffix(".npy")] = read(file)[0]
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        pass
    return shapes


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
