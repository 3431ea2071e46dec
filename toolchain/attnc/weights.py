"""Formats of weights: how many values a weight may take, which weights share a scale, what they take in memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attnc.errors import ConfigError

Array = npt.NDArray[Any]
GROUP_SIZES = (16, 32, 64, 128)
GROUP_MULTIPLIER_BITS = 8
"""Scales of the groups of a channel are integers of this many bits, times one scale of the channel."""
SCALE_BYTES = 4
"""Multiplier (24 bits) and shift (8 bits) of an output channel."""
TERNARY_BITS = 5 / 3
NAMES = "int8, int6, int5, int4, int3, int2, ternary, binary2, binary3 or binary4"


@dataclass(frozen=True)
class WeightFormat:
    """integer: symmetric, -(2**(bits-1) - 1) to 2**(bits-1) - 1. ternary: -1, 0, 1. binary: a sum of `bits` planes of -1 and 1, each with a
    scale of its own (LUT-GEMM, arXiv 2206.09557). `group_size` weights along the reduction axis share a scale; 0: the whole channel."""

    kind: Literal["integer", "ternary", "binary"]
    bits: int
    group_size: int = 0

    @classmethod
    def parse(cls, name: str, group_size: int = 0) -> WeightFormat:
        """From a name of the command line, such as int4 or ternary."""
        match = re.fullmatch(r"int([234568])|ternary|binary([234])", name)
        if match is None:
            raise ConfigError(f"weights: needed {NAMES}, found {name!r}")
        if group_size not in (0, *GROUP_SIZES):
            raise ConfigError(f"group_size: needed 0 (a scale per channel), 16, 32, 64 or 128, found {group_size!r}")
        if match[1]:
            return cls("integer", int(match[1]), group_size)
        return cls("binary", int(match[2]), group_size) if match[2] else cls("ternary", 2, group_size)

    @property
    def name(self) -> str:
        """The inverse of `parse`, without the group size."""
        return "ternary" if self.kind == "ternary" else f"{'int' if self.kind == 'integer' else 'binary'}{self.bits}"

    @property
    def limit(self) -> int:
        """Largest magnitude of an integer or ternary weight."""
        return 1 if self.kind == "ternary" else (1 << (self.bits - 1)) - 1

    def promised_bytes(self, outputs: int, inputs: int) -> float:
        """What a weight [outputs, inputs] takes, scales included: its codes (ternary: 5 bits for 3), 4 bytes for the scale of a channel,
        a byte for the scale of every group (and plane of a binary weight). Padding of sizes that are no multiple of a memory word
        comes on top."""
        planes = self.bits if self.kind == "binary" else 1
        groups = math.ceil(inputs / self.group_size) if self.group_size else 1
        scales = SCALE_BYTES + (groups * planes if groups * planes > 1 else 0)
        return outputs * (inputs * (TERNARY_BITS if self.kind == "ternary" else self.bits) / 8 + scales)


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight [N, K] on its grid.

    integer, ternary: `q` [N, K] int8, real = scale[n, group of k] * q. binary: `q` [planes, N, K] of -1 and 1, real = sum over planes of
    scale[plane, n, group] * q (no offset). `multiplier` (integers of 8 bits, shape of `scale`) and `unit` [N]: scale = unit * multiplier.
    """

    format: WeightFormat
    q: Array
    unit: Array
    multiplier: Array

    @property
    def scale(self) -> Array:
        """Real scale per group: [N, groups], or [planes, N, groups]."""
        return self.unit[:, None] * self.multiplier

    def dequantize(self) -> Array:
        """The real weight [N, K]."""
        k = self.q.shape[-1]
        size = self.format.group_size or k
        spread = np.repeat(self.scale, size, axis=-1)[..., :k]
        real = spread * self.q
        return real.sum(axis=0) if self.format.kind == "binary" else real


def snap_scales(scale: Array) -> tuple[Array, Array]:
    """Real scales [..., N, groups] as unit[N] * multiplier: nearest integers of 8 bits, at least 1; exact where a channel has one scale.

    Quantizers snap first and round the weights to the snapped grid, so that nothing is lost afterwards.
    """
    if scale.shape[-1] == 1 and scale.ndim == 2:
        return scale[:, 0].copy(), np.ones(scale.shape, np.int64)
    largest = scale.max(axis=-1) if scale.ndim == 2 else scale.max(axis=(0, 2))
    unit = np.where(largest > 0, largest, 1.0) / ((1 << GROUP_MULTIPLIER_BITS) - 1)
    return unit, np.clip(np.rint(scale / unit[:, None]), 1, (1 << GROUP_MULTIPLIER_BITS) - 1).astype(np.int64)
