"""Inputs of a model: read from a file or made up, and brought to the edge of the device.

Samples are dictionaries from input name to [samples, *shape of the model], or [1, *shape] where one serves all samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx.reference import ReferenceEvaluator

from attnc.arrays import Array
from attnc.errors import DataError, ModelError
from attnc.frontend.load import drop_dead_nodes
from attnc.messages import one_line
from attnc.model import Model, TensorSpec
from attnc.npz import load_npz, npz_shapes
from attnc.tensors import ROOT, below_root, embedded, is_mapped
from attnc_host.errors import AcceleratorError
from attnc_host.samples import stack

SYNTHETIC_SAMPLES, SYNTHETIC_ELEMENTS = 16, 1 << 24
"""So many samples are made up, as long as an input has no more than so many elements in all of them."""


BESIDE = "calib.npz"


def calibration_beside(model: Path) -> Path | None:
    """`calib.npz` in the folder of a model, where it has an input of it. A model that cannot be read has none."""
    path = model.with_name(BESIDE)
    if not path.is_file():
        return None
    try:
        inputs = {value.name for value in onnx.load(model, load_external_data=False).graph.input}
        return path if inputs & npz_shapes(path).keys() else None
    except (DataError, DecodeError, OSError, UnicodeDecodeError):
        return None


def load_samples(path: Path, specs: list[TensorSpec]) -> dict[str, Array]:
    """Arrays of an `.npz` keyed by the model's inputs, as `check_samples` gives them; other keys (labels) are ignored."""
    found = load_npz(path)
    absent = [spec.name for spec in specs if spec.name not in found]
    if absent:
        raise DataError(f"{path}: input {', '.join(map(repr, absent))} is missing; the file has {', '.join(map(repr, found)) or 'nothing'}")
    return check_samples(found, specs, str(path))


def load_sequences(path: Path, spec: TensorSpec) -> Array:
    """Token ids of an `.npz`, under the name of the model's input, in whatever shape: cut into sequences as long as the model's, one behind
    the other, [samples, 1, length]; where there are fewer tokens than that, they are repeated."""
    found, length = load_npz(path), spec.shape[-1]
    if spec.name not in found:
        raise DataError(f"{path}: input {spec.name!r} is missing; the file has {', '.join(map(repr, found)) or 'nothing'}")
    ids = np.asarray(found[spec.name]).reshape(-1)
    if ids.dtype.kind not in "iu" or not ids.size:
        raise DataError(f"{path}: {spec.name!r}: needed token ids, found {ids.size} numbers of type {ids.dtype}")
    count = max(1, len(ids) // length)
    return np.resize(ids[: count * length], (count, *spec.shape)).astype(spec.dtype)


def check_samples(arrays: Mapping[str, Array], specs: list[TensorSpec], where: str) -> dict[str, Array]:
    """The inputs as [samples, *shape of the model], by the one rule of `attnc_host.samples`; [1, *shape] where one serves all samples."""
    try:
        return stack(arrays, specs).arrays
    except AcceleratorError as error:
        raise DataError(f"{where}: {error}") from error


def count_samples(arrays: Mapping[str, Array]) -> int:
    """Samples along axis 0."""
    return max((array.shape[0] for array in arrays.values()), default=1)


def one_sample(arrays: Mapping[str, Array], index: int) -> dict[str, Array]:
    """Sample `index` in the model's own shapes."""
    return {name: np.asarray(array[index if array.shape[0] > 1 else 0]) for name, array in arrays.items()}


def select_samples(arrays: Mapping[str, Array], indices: Array) -> dict[str, Array]:
    """Some of the samples; what all samples share stays."""
    return {name: array[indices] if array.shape[0] > 1 else array for name, array in arrays.items()}


def synthetic_samples(proto: onnx.ModelProto, specs: list[TensorSpec], seed: int, samples: int = SYNTHETIC_SAMPLES) -> dict[str, Array]:
    """Inputs in the domain of each input: token ids below the size of their table, masks of ones with a tail of zeros (none in the
    first sample), floats from a standard normal distribution."""
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    samples = max(1, min([samples, *(SYNTHETIC_ELEMENTS // max(1, math.prod(spec.shape)) for spec in specs)]))
    for spec in specs:
        shape = (samples, *spec.shape)
        if spec.dtype.kind == "f":
            made[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
            continue
        table = table_rows(proto, spec.name)
        if table and spec.dtype.kind in "iu":
            made[spec.name] = rng.integers(0, table, shape).astype(spec.dtype)
        else:
            length = spec.shape[-1] if spec.shape else 1
            kept = rng.integers(max(1, length // 2), length + 1, (samples, *spec.shape[:-1], 1))
            kept[:1] = length  # one sample without padding
            made[spec.name] = (np.arange(length) < kept).reshape(shape).astype(spec.dtype)
    return made


def table_rows(proto: onnx.ModelProto, name: str) -> int:
    """Rows of the smallest constant table that `name` indexes; 0 if it indexes none."""
    sizes = {init.name: init.dims[0] for init in proto.graph.initializer if init.dims}
    reached, rows = {name}, []
    for node in proto.graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze") and node.input and node.input[0] in reached:
            reached.update(node.output)
        elif node.op_type == "Gather" and len(node.input) == 2 and node.input[1] in reached and node.input[0] in sizes:
            rows.append(sizes[node.input[0]])
    return min(rows, default=0)


RUNTIME_IR_VERSION = 10
"""A file may claim a newer IR than onnxruntime knows, though it uses nothing of it: onnx.helper always claims the newest."""


IN_FLOAT32 = "session.qdq_matmulnbits_accuracy_level", "1"
"""Products with weights in blocks are computed as the file has them; by itself onnxruntime rounds their inputs to 8 bits."""


def session(proto: onnx.ModelProto, what: str) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU; without optimizations where these fail, as on some models that it has optimized before."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*IN_FLOAT32)
    options.log_severity_level = 4  # what fails is raised as well
    if any(map(is_mapped, proto.graph.initializer)):
        proto = below_root(proto)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", ROOT)
        options.add_session_config_entry("session.disable_prepacking", "1")  # large weights are read where they lie
    claimed = proto.ir_version
    proto.ir_version = min(claimed, RUNTIME_IR_VERSION)
    data = proto.SerializeToString()
    proto.ir_version = claimed
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class for its errors
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception:
            raise ModelError(f"onnxruntime cannot load {what}: {one_line(error)}") from error


OVERWRITING = ("MoE", "QMoE")
"""Operators of onnxruntime 1.31 that may write their result over an operand which they still read; over an output they do not."""


class FloatModel:
    """The ONNX model in float: by onnxruntime, or by ONNX's reference implementation where onnxruntime lacks an operator. `proto` loses
    its dead nodes."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        drop_dead_nodes(proto)
        self.mapped = any(map(is_mapped, proto.graph.initializer))
        self.outputs = [output.name for output in proto.graph.output]
        read_only = dict.fromkeys(node.input[0] for node in proto.graph.node if node.op_type in OVERWRITING)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in read_only if name not in self.outputs)
        self._run: Callable[..., Any]
        try:
            self._run, self.name = session(proto, "the model").run, "onnxruntime"
        except ModelError as error:
            try:
                self._run, self.name = ReferenceEvaluator(embedded(proto)).run, "onnx.reference"
            except Exception:  # it raises whatever an operator raises
                raise error from None

    def __call__(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of one sample by name."""
        try:
            return dict(zip(self.outputs, map(np.asarray, self._run(self.outputs, dict(sample))), strict=True))
        except Exception as error:
            raise ModelError(f"{self.name} cannot run the model: {one_line(error)}") from error


def _run(session: onnxruntime.InferenceSession, which: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a graph on the host."""
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, {i.name: tensors[i.name] for i in session.get_inputs()}), strict=True))
    except Exception as error:  # onnxruntime has no common base class for its errors
        raise ModelError(f"onnxruntime cannot run the {which} host graph: {one_line(error)}") from error


class Edge:
    """Brings inputs of the model to the device: runs the leading host graph and gathers the device's matrices."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._leading = session(model.leading, "the leading host graph") if model.leading else None
        self._trailing = session(model.trailing, "the trailing host graph") if model.trailing else None

    def tensors(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs of one sample and what the leading graph computes from them."""
        found = dict(sample)
        if self._leading:
            found.update(_run(self._leading, "leading", sample))
        return found

    def feed(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """The device's inputs for one sample, in float64 [1, rows, channels]; masks may hold minus infinity."""
        tensors = self.tensors(sample)
        return {feed.value: tensors[feed.tensor].reshape(-1)[feed.index][np.newaxis].astype(np.float64) for feed in self.model.feeds}

    def feeds(self, arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """`feed` of each sample."""
        return (self.feed(one_sample(arrays, index)) for index in range(count_samples(arrays)))

    def finish(self, sample: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of the model for one sample, from the device's outputs in float [1, rows, channels]."""
        tensors = self.tensors(sample)
        for fetch in self.model.fetches:
            tensors[fetch.tensor] = outputs[fetch.value].reshape(-1)[fetch.index].reshape(fetch.shape).astype(np.float32)
        if self._trailing:
            tensors.update(_run(self._trailing, "trailing", tensors))
        return {spec.name: tensors[spec.name] for spec in self.model.outputs}


def chunks(feeds: Iterator[dict[str, Array]], size: int) -> Iterator[dict[str, Array]]:
    """Join feeds of single samples along the sample axis, `size` at a time."""
    held: list[dict[str, Array]] = []
    for feed in feeds:
        held.append(feed)
        if len(held) == size:
            yield {name: np.concatenate([f[name] for f in held]) for name in feed}
            held = []
    if held:
        yield {name: np.concatenate([f[name] for f in held]) for name in held[0]}
