"""Budgets of accuracy, and how golden's outputs are scored against those of the float model.

cosine         of a sample: between the two output vectors. Of a model: the mean over the samples; of several outputs, the worst.
sqnr           10 log10(sum float^2 / sum (golden - float)^2) in dB over all samples; of several outputs, the worst.
accuracy_drop  top-1 accuracy of float less that of golden, in points of 100: the first output's largest element against the label.

cosine and sqnr are means over a few samples, so a budget is held only if the mean, less two standard errors, is within it: other
samples of the same kind then are too. The drop of accuracy is taken as it is counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from attnc.arrays import Array
from attnc.errors import ConfigError, DataError

METRICS = {"cosine": (">=", 0.0, 1.0), "sqnr": (">=", -99.0, 99.0), "accuracy_drop": ("<=", 0.0, 100.0)}
"""Direction and range of each metric."""
UNITS = {"cosine": "", "sqnr": " dB", "accuracy_drop": " points"}
ERRORS = 2.0
"""Standard errors between a mean and what is relied on: 97.7 % of a normal distribution."""
FORM = 'needed "cosine>=0.99", "sqnr>=30" (dB) or "accuracy_drop<=1" (points)'

Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Score:
    """A metric over some samples, and how far it may be off (`ERRORS` standard errors)."""

    value: float
    margin: float = 0.0


@dataclass(frozen=True)
class Budget:
    """What a model must keep."""

    metric: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From "cosine>=0.99"."""
        match = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*(\S+)\s*", text)
        if match is None or match[1] not in METRICS:
            raise ConfigError(f"--budget: {FORM}, found {text!r}")
        sign, low, high = METRICS[match[1]]
        try:
            bound = float(match[3])
        except ValueError:
            raise ConfigError(f"--budget: {FORM}, found {text!r}: {match[3]!r} is no number") from None
        if match[2] != sign:
            raise ConfigError(f"--budget: {match[1]} needs {sign}, found {text!r}")
        if not low <= bound <= high:  # NaN too
            raise ConfigError(f"--budget: {match[1]} lies in {low:g} to {high:g}, found {text!r}")
        return cls(match[1], bound)

    def __str__(self) -> str:
        return f"{self.metric}{METRICS[self.metric][0]}{self.bound:g}"

    def holds(self, score: Score) -> bool:
        """Whether the score is within the budget, its margin included."""
        return self.slack(score) >= 0

    def slack(self, score: Score) -> float:
        """How much is left, in the metric's unit; negative beyond the budget."""
        if METRICS[self.metric][0] == ">=":
            return score.value - score.margin - self.bound
        return self.bound - score.value - score.margin


@dataclass(frozen=True)
class Pool:
    """Which rows of the outputs count: those where the input `mask` [samples, T] is not zero, averaged or as they are."""

    kind: Literal["mean", "rows"]
    mask: str

    @classmethod
    def parse(cls, text: str, inputs: Sequence[str]) -> Pool:
        """From "mean:attention_mask"."""
        kind, colon, mask = text.partition(":")
        if kind not in ("mean", "rows") or not colon or mask not in inputs:
            raise ConfigError(f"--pool: needed mean:MASK or rows:MASK with MASK one of {', '.join(inputs)}, found {text!r}")
        return cls("mean" if kind == "mean" else "rows", mask)

    def apply(self, outputs: Outputs, sample: Outputs) -> dict[str, Array]:
        """Of the outputs with an axis for each of the mask's, the rows that count; the others as they are."""
        mask = sample[self.mask] != 0
        if not mask.any():
            raise DataError(f"--pool: {self.mask} of a sample is zero everywhere")
        fitting = {name for name, array in outputs.items() if array.ndim > mask.ndim and array.shape[: mask.ndim] == mask.shape}
        if not fitting:
            raise DataError(
                f"--pool: no output begins with the shape of {self.mask}, {list(mask.shape)}; "
                f"the outputs are {', '.join(f'{name} {list(array.shape)}' for name, array in outputs.items())}"
            )
        rows = {name: array[mask] if name in fitting else array for name, array in outputs.items()}
        return {name: array.mean(axis=0) if name in fitting and self.kind == "mean" else array for name, array in rows.items()}


class Yardstick:
    """Float outputs of some samples, and how far golden's are from them."""

    def __init__(
        self, metric: str, expected: Sequence[Outputs], samples: Sequence[Outputs], pool: Pool | None, labels: Array | None
    ) -> None:
        if len(expected) < 2:
            raise DataError(f"held-out samples: needed at least 2, found {len(expected)}")
        self.metric, self.samples, self.pool = metric, samples, pool
        self.expected = [self._pooled(outputs, sample) for outputs, sample in zip(expected, samples, strict=True)]
        first = expected[0]
        self.names = [name for name, array in first.items() if array.dtype.kind == "f"]
        if metric == "accuracy_drop":
            self.names, self.labels = list(first)[:1], _checked_labels(labels, len(expected))
        if not self.names:
            raise DataError(f"--budget: {metric} compares outputs of floating point, and the model has none")
        for index, outputs in enumerate(self.expected):
            for name in self.names:
                if not np.isfinite(outputs[name]).all():
                    raise DataError(f"held-out sample {index}: the float model gives NaN or infinity in output {name!r}")

    def _pooled(self, outputs: Outputs, sample: Outputs) -> Outputs:
        return outputs if self.pool is None else self.pool.apply(outputs, sample)

    def vectors(self, index: int, outputs: Outputs) -> list[Array]:
        """What is compared of the outputs of sample `index`, a vector per output."""
        pooled = self._pooled(outputs, self.samples[index])
        return [np.asarray(pooled[name], np.float64).ravel() for name in self.names]

    def score(self, found: Sequence[Outputs]) -> Score:
        """The metric over all samples."""
        real = [[np.asarray(outputs[name], np.float64).ravel() for name in self.names] for outputs in self.expected]
        golden = [self.vectors(index, outputs) for index, outputs in enumerate(found)]
        if self.metric == "accuracy_drop":
            right = np.array([[int(v[0].argmax() == label) for v in pair] for *pair, label in zip(real, golden, self.labels, strict=True)])
            return Score(100 * float(right[:, 0].mean() - right[:, 1].mean()))
        score = cosine if self.metric == "cosine" else sqnr
        columns = zip(zip(*real, strict=True), zip(*golden, strict=True), strict=True)
        return min((score(r, g) for r, g in columns), key=lambda s: s.value - s.margin)


def cosine(real: Sequence[Array], golden: Sequence[Array]) -> Score:
    """Mean over the samples of the cosine between two vectors: 1 where both are zero, 0 where one is."""
    found = np.array([_cosine(r, g) for r, g in zip(real, golden, strict=True)])
    return Score(float(found.mean()), ERRORS * _standard_error(found))


def _cosine(a: Array, b: Array) -> float:
    sizes = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not all(sizes):
        return float(sizes[0] == sizes[1])
    return float(np.dot(a / sizes[0], b / sizes[1]))


def sqnr(real: Sequence[Array], golden: Sequence[Array]) -> Score:
    """Signal over noise in dB, between -99 and 99. Its standard error is that of a ratio of means (delta method)."""
    signal = np.array([float(np.square(r).sum()) for r in real])
    noise = np.array([float(np.square(g - r).sum()) for r, g in zip(real, golden, strict=True)])
    if not noise.any():
        return Score(99.0)
    if not signal.any():
        return Score(-99.0)
    ratio = float(noise.mean() / signal.mean())
    error = ERRORS * _standard_error(noise - ratio * signal) / float(signal.mean())
    value, worst = (float(np.clip(-10 * math.log10(r), -99, 99)) for r in (ratio, ratio + error))
    return Score(value, value - worst)


def _standard_error(samples: Array) -> float:
    return float(samples.std(ddof=1) / math.sqrt(len(samples)))


def _checked_labels(labels: Array | None, samples: int) -> Array:
    if labels is None:
        raise DataError('--budget: accuracy_drop needs labels beside the samples, called "label" or as --labels says; found none')
    if labels.shape != (samples,) or labels.dtype.kind not in "iu":
        raise DataError(f"labels: needed a whole number per sample [{samples}], found {labels.dtype} of shape {list(labels.shape)}")
    return labels
