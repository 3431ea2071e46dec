"""The vectors of a build: what golden gave for some inputs when it was compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from attnc_host.boundary import Image
from attnc_host.caches import DECODE, RUNS, SCALARS
from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest


@dataclass(frozen=True)
class Vector:
    """An input region, the output region that follows (None where the run gives none), and the scalars of the run."""

    inputs: Image
    expected: Image | None
    scalars: Mapping[str, int] = field(default_factory=dict)


def stored(manifest: Manifest) -> list[Vector]:
    """All; of a decoder they are runs that follow each other."""
    inputs, expected = (
        _read(manifest, name, size) for name, size in (("inputs", manifest.input_bytes), ("expected", manifest.output_bytes))
    )
    if len(inputs) != len(expected):
        raise AcceleratorError(f"{manifest.folder}: golden has {len(inputs)} samples in inputs.bin and {len(expected)} in expected.bin")
    if manifest.decoder is None:
        return [Vector(*pair) for pair in zip(inputs, expected, strict=True)]
    path = manifest.folder / "golden" / RUNS
    settings = np.fromfile(path, "<i4")
    if settings.size != len(SCALARS) * len(inputs):
        raise AcceleratorError(f"{path}: needed {len(SCALARS)} integers for each of {len(inputs)} runs, found {settings.size}")
    first = manifest.decoder.entries[DECODE].first
    rows = [dict(zip(SCALARS, row, strict=True)) for row in settings.reshape(-1, len(SCALARS)).tolist()]
    return [Vector(a, b if row["first"] == first else None, row) for a, b, row in zip(inputs, expected, rows, strict=True)]


def replay(execute: Callable[[Image, Mapping[str, int]], Image], vectors: list[Vector]) -> tuple[Image, Image]:
    """Output regions that are found, and those that are expected, of the vectors that have some: [vectors, bytes] each."""
    outputs = [(execute(vector.inputs[np.newaxis], vector.scalars)[0], vector.expected) for vector in vectors]
    pairs = [(found, expected) for found, expected in outputs if expected is not None]
    return np.stack([found for found, _ in pairs]), np.stack([expected for _, expected in pairs])


def _read(manifest: Manifest, name: str, size: int) -> Image:
    path = manifest.folder / "golden" / f"{name}.bin"
    data = np.fromfile(path, np.uint8)
    if not data.size or data.size % size:
        raise AcceleratorError(f"{path}: needed whole samples of {size} bytes, found {data.size} bytes")
    return data.reshape(-1, size)
