"""Compare the emitted C++ with golden, element by element."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnc.errors import BuildError
from attnc.npz import load_npz
from attnc.verify.golden_backend import GoldenBackend
from attnc_host import boundary
from attnc_host import manifest as manifests
from attnc_host.boundary import Image
from attnc_host.csim import CsimBackend
from attnc_host.errors import InputError
from attnc_host.manifest import Manifest
from attnc_host.progress import Progress
from attnc_host.vectors import replay
from attnc_host.vectors import stored as runs_of


@dataclass(frozen=True)
class CsimResult:
    """What a comparison found. `first_mismatch` has output (the device's value), sample, index [row, channel], expected, found;
    `seconds` is the time of the simulation alone; `depths` is the depth that each stream reached."""

    bit_exact: bool
    elements: int
    mismatches: int
    first_mismatch: dict[str, Any] | None
    samples: int
    seconds: float
    types: str
    depths: dict[str, int]

    @property
    def difference(self) -> str:
        """The first mismatch in words; empty where there is none."""
        first = self.first_mismatch
        if first is None:
            return ""
        where = f"output {first['output']!r}, sample {first['sample']}, row {first['index'][0]}, channel {first['index'][1]}"
        return f"{where}: expected {first['expected']}, found {first['found']}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def compare_build(
    build: Path | Manifest, inputs: Mapping[str, Any] | None = None, types: str = "native", progress: Progress | None = None
) -> CsimResult:
    """Simulate a build folder and compare every element of the device's outputs with golden.

    Without `inputs` (arrays by input name) the folder's own vectors are used, and both golden computed now and the vectors that
    were stored with the build must agree with the C++.
    """
    manifest = manifests.load(build, edited=True)
    if manifest.decoder is not None:
        return _compare_runs(manifest, inputs, types, progress)
    images, stored = stored_vectors(manifest) if inputs is None else (_image(manifest, inputs), None)
    golden = GoldenBackend(manifest, progress=progress).execute(images)
    backend = CsimBackend(manifest, types, progress=progress)
    started = time.perf_counter()
    try:
        found = backend.execute(images)
    finally:
        backend.close()
    seconds = time.perf_counter() - started
    return compare_images(manifest, [golden] if stored is None else [golden, stored], found, seconds, types, backend.depths)


def _compare_runs(manifest: Manifest, inputs: Mapping[str, Any] | None, types: str, progress: Progress | None) -> CsimResult:
    """The runs of a decoder, which follow each other."""
    if inputs is not None:
        raise InputError(f"{manifest.folder}: is a decoder, which generates tokens: use `attnc generate`")
    vectors, backend = runs_of(manifest), CsimBackend(manifest, types, progress=progress)
    golden, _ = replay(GoldenBackend(manifest, progress=progress).execute, vectors)
    started = time.perf_counter()
    try:
        found, stored = replay(backend.execute, vectors)
    finally:
        backend.close()
    return compare_images(manifest, [golden, stored], found, time.perf_counter() - started, types)


def compare_images(
    manifest: Manifest,
    expected: list[Image],
    found: Image,
    seconds: float = 0.0,
    types: str = "native",
    depths: dict[str, int] | None = None,
) -> CsimResult:
    """Output regions of the C++ against those of every reference; an element that differs from any of them counts once."""
    ours = boundary.from_image(manifest, found)
    theirs = [boundary.from_image(manifest, image) for image in expected]
    elements = mismatches = 0
    first: dict[str, Any] | None = None
    for name, array in ours.items():
        wrong = np.zeros(array.shape, bool)
        for reference in theirs:
            wrong |= reference[name] != array
        elements += array.size
        mismatches += int(wrong.sum())
        if first is None and wrong.any():
            sample, row, channel = (int(i[0]) for i in np.nonzero(wrong))
            at = sample, row, channel
            value = next(reference[name][at] for reference in theirs if reference[name][at] != array[at])
            first = {"output": name, "sample": sample, "index": [row, channel], "expected": int(value), "found": int(array[at])}
    return CsimResult(mismatches == 0, elements, mismatches, first, found.shape[0], seconds, types, depths or {})


def stored_vectors(manifest: Manifest) -> tuple[Image, Image | None]:
    """The vectors of the build folder: memory images of the inputs and, where they are there, of the expected outputs.

    The images and not the float inputs, because a host graph in front may round differently on another machine.
    """
    folder = manifest.folder / "golden"
    if not (folder / "inputs.bin").is_file():
        return _image(manifest, load_npz(folder / "inputs.npz")), None
    images = _read_image(folder / "inputs.bin", manifest.input_bytes)
    if not (folder / "expected.bin").is_file():
        return images, None
    expected = _read_image(folder / "expected.bin", manifest.output_bytes)
    if expected.shape[0] != images.shape[0]:
        raise BuildError(f"{folder}: inputs.bin holds {images.shape[0]} samples, expected.bin {expected.shape[0]}; compile the model again")
    return images, expected


def _image(manifest: Manifest, inputs: Mapping[str, Any]) -> Image:
    """What the device gets for arrays by input name."""
    return boundary.to_image(manifest, boundary.prepare(manifest, boundary.check_inputs(manifest, inputs)).values)


def _read_image(path: Path, size: int) -> Image:
    data = np.fromfile(path, np.uint8)
    if data.size == 0 or data.size % size:
        raise BuildError(f"{path}: needed a multiple of {size} bytes (a sample), found {data.size}; compile the model again")
    return data.reshape(-1, size)
