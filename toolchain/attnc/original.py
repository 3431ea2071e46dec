"""The model as its file has it: what every figure of accuracy is measured against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from attnc.arrays import Array
from attnc.frontend import load_float32
from attnc.frontend.quantized import runnable
from attnc.quant.samples import FloatModel
from attnc.report import decibels, margin

KEPT_BYTES = 1 << 28


class Original:
    """The model by onnxruntime, in float32; of a model that arrived quantized, with its rounding; with `length`, a decoder as a function of
    so many tokens. Answers are kept, up to `KEPT_BYTES`."""

    def __init__(self, path: Path, length: int | None = None) -> None:
        self._path, self._length = path, length
        self._model: FloatModel | None = self._loaded()
        self.name = self._model.name
        self._kept: dict[bytes, dict[str, Array]] = {}
        self._bytes = 0

    def _loaded(self) -> FloatModel:
        return FloatModel(runnable(load_float32(self._path, self._length)))

    def rest(self) -> None:
        """Give the memory of a large model back, until it is asked again."""
        if self._model is not None and self._model.mapped:
            self._model = None

    def __call__(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of one sample by name."""
        digest = hashlib.sha256()
        for name in sorted(sample):
            digest.update(f"{name}{sample[name].dtype}{sample[name].shape}".encode())
            digest.update(np.ascontiguousarray(sample[name]).data)
        key = digest.digest()
        if key not in self._kept:
            self._model = self._model or self._loaded()
            found = self._model(sample)
            self._bytes += sum(array.nbytes for array in found.values())
            if self._bytes > KEPT_BYTES:
                return found
            self._kept[key] = found
        return self._kept[key]


@dataclass
class Distance:
    """Energies of what was expected and of what was found beside it, by name, a number per sample."""

    signal: dict[str, list[float]] = field(default_factory=dict)
    noise: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, expected: Array, found: Array) -> None:
        """One more sample."""
        real = expected.astype(np.float64)
        self.signal.setdefault(name, []).append(float(np.square(real).sum()))
        self.noise.setdefault(name, []).append(float(np.square(found - real).sum()))

    def decibels(self) -> dict[str, float]:
        """10 log10(sum expected^2 / sum (found - expected)^2) of each."""
        return {name: decibels(sum(self.signal[name]), sum(self.noise[name])) for name in self.signal}

    def margins(self) -> dict[str, float]:
        """How many dB below that other samples may be, of each."""
        return {name: margin(self.signal[name], self.noise[name]) for name in self.signal}
