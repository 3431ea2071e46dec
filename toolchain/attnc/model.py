"""An imported model: the device's graph and what the host does around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from attnc.ir import Graph


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the ONNX model, for one sample: `shape` has 1 at the batch axis.

    `batched` says that axis 0 was dynamic, so that the host may feed any number of samples along it.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    batched: bool


@dataclass(frozen=True)
class Feed:
    """Where an input of the device's graph comes from.

    `tensor` is an ONNX tensor (an input of the model or an output of `leading`); `index` [rows, channels] holds, for every
    element of the device's matrix, its flat position in that tensor (one sample, C order).
    """

    value: str
    tensor: str
    index: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fetch:
    """Where an output of the device goes: ONNX tensor `tensor` of `shape`, flat element i taken from flat element `index[i]`
    of the device's matrix."""

    tensor: str
    value: str
    shape: tuple[int, ...]
    index: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """Where one node of the ONNX model runs: `where` is "device", "host" or "folded"; `reason` says why, if not on the device."""

    node: str
    operator: str
    where: str
    reason: str = ""


@dataclass(frozen=True)
class MadeSparse:
    """A mixture of experts that the ONNX model computes with all experts, most of them times zero: products of a sample by the experts
    that are taken, and by all."""

    node: str
    taken: int
    whole: int


@dataclass
class Model:
    """Everything that the frontend found.

    `leading` runs on the host before the device and `trailing` after it (onnxruntime), where they exist. `trailing` reads
    the tensors of `fetches`, and may also read inputs of the model and outputs of `leading`.
    """

    graph: Graph
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    feeds: list[Feed]
    fetches: list[Fetch]
    leading: onnx.ModelProto | None = None
    trailing: onnx.ModelProto | None = None
    placements: list[Placement] = field(default_factory=list)
    made_sparse: list[MadeSparse] = field(default_factory=list)
    quantized: Any = None
    """What a model that arrived quantized says (`frontend.quantized.Quantized`)."""
