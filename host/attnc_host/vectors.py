"""The vectors of a build: what golden gave for some inputs when it was compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from attnc_host.boundary import Image
from attnc_host.caches import RUNS
from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest


@dataclass(frozen=True)
class Vector:
    """An input region, the output region that follows (None where the run gives none), the scalars of the run, and the bytes of the output
    region that it writes."""

    inputs: Image
    expected: Image | None
    scalars: Mapping[str, int] = field(default_factory=dict)
    written: slice = field(default_factory=lambda: slice(None))

    def kept(self, outputs: Image) -> Image:
        """Of an output region what the run writes, zeros beside it."""
        found = np.zeros_like(outputs)
        found[self.written] = outputs[self.written]
        return found


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
    scalars = manifest.decoder.scalars
    if settings.size != len(scalars) * len(inputs):
        raise AcceleratorError(f"{path}: needed {len(scalars)} integers for each of {len(inputs)} runs, found {settings.size}")
    rows = [dict(zip(scalars, row, strict=True)) for row in settings.reshape(-1, len(scalars)).tolist()]
    places = {row["first"]: written(manifest, row["first"]) for row in rows}
    return [
        Vector(a, None if places[row["first"]] is None else b, row, places[row["first"]] or slice(None))
        for a, b, row in zip(inputs, expected, rows, strict=True)
    ]


def written(manifest: Manifest, first: int | None) -> slice | None:
    """The bytes of the output region that a run writes which begins with an instruction; None where there are none."""
    if manifest.decoder is None:
        return slice(None)
    names = next((entry.outputs for entry in manifest.decoder.entries.values() if entry.first == first), ())
    found, start, lanes = [fetch for fetch in manifest.fetches if fetch.value in names], manifest.memory.output_offset, manifest.lanes
    if not found:
        return None
    return slice(*((word - start) * lanes for word in (min(one.offset for one in found), max(one.offset + one.words for one in found))))


def replay(execute: Callable[[Image, Mapping[str, int]], Image], vectors: list[Vector]) -> tuple[Image, Image]:
    """Output regions that are found, and those that are expected, of the vectors that have some: [vectors, bytes] each."""
    outputs = [(vector, execute(vector.inputs[np.newaxis], vector.scalars)[0]) for vector in vectors]
    pairs = [(vector.kept(found), vector.kept(vector.expected)) for vector, found in outputs if vector.expected is not None]
    return np.stack([found for found, _ in pairs]), np.stack([expected for _, expected in pairs])


def _read(manifest: Manifest, name: str, size: int) -> Image:
    path = manifest.folder / "golden" / f"{name}.bin"
    data = np.fromfile(path, np.uint8)
    if not data.size or data.size % size:
        raise AcceleratorError(f"{path}: needed whole samples of {size} bytes, found {data.size} bytes")
    return data.reshape(-1, size)
