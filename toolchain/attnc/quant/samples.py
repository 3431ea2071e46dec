"""Inputs of a model: read from a file or made up, and brought to the edge of the device.

Samples lie along axis 0: in place of the 1 that a model has there, else (a fixed batch of 2, no batch axis) on an axis in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from attnc.arrays import Array
from attnc.errors import DataError, ModelError
from attnc.model import Model, TensorSpec
from attnc.npz import load_npz

SYNTHETIC_SAMPLES = 16
LOWEST = float(np.finfo(np.float32).min)


def load_samples(path: Path, specs: list[TensorSpec]) -> dict[str, Array]:
    """Arrays of an `.npz` keyed by the model's inputs, samples along axis 0; other keys (labels) are ignored."""
    found = load_npz(path)
    arrays, names = {spec.name: found[spec.name] for spec in specs if spec.name in found}, list(found)
    absent = [spec.name for spec in specs if spec.name not in arrays]
    if absent:
        raise DataError(f"{path}: input {', '.join(map(repr, absent))} is missing; the file has {', '.join(map(repr, names)) or 'nothing'}")
    return check_samples(arrays, specs, str(path))


def in_front(array: Array, spec: TensorSpec) -> bool:
    """Whether the samples have an axis of their own in front of the model's shape."""
    return array.ndim > len(spec.shape)


def check_samples(arrays: Mapping[str, Array], specs: list[TensorSpec], where: str) -> dict[str, Array]:
    """Shapes, kinds and values fit the model; every input has as many samples."""
    checked, counts = {}, {}
    for spec in specs:
        array = arrays[spec.name]
        single, in_place = list(spec.shape), spec.shape[:1] == (1,)
        wanted = ", ".join(["samples", *map(str, spec.shape[in_place:])])
        wanted = f"[{wanted}]" if in_place else f"{single} or [{wanted}]"
        if array.dtype.kind not in "biuf":
            raise DataError(f"{where}: input {spec.name!r}: needed numbers ({spec.dtype}), found {array.dtype}")
        if array.dtype.kind == "f" and spec.dtype.kind != "f":
            raise DataError(f"{where}: input {spec.name!r}: needed {spec.dtype}, found {array.dtype}")
        stacked = array.ndim > 0 and array.shape[1:] == spec.shape[in_place:]
        if not (stacked or list(array.shape) == single) or 0 in array.shape:
            raise DataError(f"{where}: input {spec.name!r}: needed shape {wanted}, found {list(array.shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{where}: input {spec.name!r}: contains NaN or infinity")
        with np.errstate(over="ignore"):
            checked[spec.name] = array.astype(spec.dtype)
        if array.dtype.kind == "f" and not np.isfinite(checked[spec.name]).all():
            raise DataError(f"{where}: input {spec.name!r}: contains numbers that {spec.dtype} cannot hold")
        counts[spec.name] = array.shape[0] if stacked else 1
    samples = max(counts.values(), default=1)
    odd = {name: count for name, count in counts.items() if count not in (1, samples)}
    if odd:
        raise DataError(f"{where}: inputs differ in their number of samples: {counts}")
    return checked


def count_samples(arrays: Mapping[str, Array], specs: list[TensorSpec]) -> int:
    """Samples along axis 0."""
    stacked = (arrays[spec.name] for spec in specs if spec.shape[:1] == (1,) or in_front(arrays[spec.name], spec))
    return max((array.shape[0] for array in stacked), default=1)


def one_sample(arrays: Mapping[str, Array], specs: list[TensorSpec], index: int) -> dict[str, Array]:
    """Sample `index` in the model's own shapes."""
    result = {}
    for spec in specs:
        array = arrays[spec.name]
        if in_front(array, spec):
            result[spec.name] = array[index if array.shape[0] > 1 else 0]
        else:
            result[spec.name] = array[index : index + 1] if spec.shape[:1] == (1,) and array.shape[0] > 1 else array
    return result


def select_samples(arrays: Mapping[str, Array], specs: list[TensorSpec], indices: Array) -> dict[str, Array]:
    """Some of the samples; what all samples share stays."""
    chosen = {}
    for spec in specs:
        array = arrays[spec.name]
        stacked = spec.shape[:1] == (1,) or in_front(array, spec)
        chosen[spec.name] = array[indices] if stacked and array.shape[0] > 1 else array
    return chosen


def held_out(total: int, every: int) -> tuple[Array, Array]:
    """Indices of the samples that calibrate, and of those that are held out: every `every`-th; none for 0."""
    index = np.arange(total)
    out = (index % every == every - 1) if every else np.zeros(total, bool)
    return index[~out], index[out]


def synthetic_samples(proto: onnx.ModelProto, specs: list[TensorSpec], seed: int, samples: int = SYNTHETIC_SAMPLES) -> dict[str, Array]:
    """Inputs in the domain of each input: token ids below the size of their table, masks of ones with a tail of zeros (none in the
    first sample), floats from a standard normal distribution."""
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for spec in specs:
        shape = (samples, *spec.shape[spec.shape[0] == 1 :]) if spec.shape else ()
        if spec.dtype.kind == "f":
            made[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
            continue
        table = _table_rows(proto, spec.name)
        if table and spec.dtype.kind in "iu":
            made[spec.name] = rng.integers(0, table, shape).astype(spec.dtype)
        else:
            kept = rng.integers(max(1, shape[-1] // 2), shape[-1] + 1, (*shape[:-1], 1)) if shape else np.array(1)
            kept[:1] = shape[-1] if shape else 1  # one sample without padding
            made[spec.name] = (np.arange(shape[-1] if shape else 1) < kept).reshape(shape).astype(spec.dtype)
    return made


def _table_rows(proto: onnx.ModelProto, name: str) -> int:
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


def session(proto: onnx.ModelProto, what: str) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    claimed = proto.ir_version
    proto.ir_version = min(claimed, RUNTIME_IR_VERSION)
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class for its errors
        raise ModelError(f"onnxruntime cannot load {what}: {error}") from error
    finally:
        proto.ir_version = claimed


class FloatModel:
    """The ONNX model in float: by onnxruntime, or by ONNX's reference implementation where onnxruntime lacks an operator."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.outputs = [output.name for output in proto.graph.output]
        self._run: Callable[..., Any]
        try:
            self._run, self.name = session(proto, "the model").run, "onnxruntime"
        except ModelError as error:
            try:
                self._run, self.name = ReferenceEvaluator(proto).run, "onnx.reference"
            except Exception:  # it raises whatever an operator raises
                raise error from None

    def __call__(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of one sample by name."""
        try:
            return dict(zip(self.outputs, map(np.asarray, self._run(self.outputs, dict(sample))), strict=True))
        except Exception as error:
            raise ModelError(f"{self.name} cannot run the model: {str(error).splitlines()[0]}") from error


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
            names = [output.name for output in self._leading.get_outputs()]
            feeds = {i.name: sample[i.name] for i in self._leading.get_inputs()}
            found.update(zip(names, self._leading.run(names, feeds), strict=True))
        return found

    def feeds(self, arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """For each sample, the device's inputs in float64 [1, rows, channels]; minus infinity (masks) becomes the lowest float."""
        for index in range(count_samples(arrays, self.model.inputs)):
            tensors = self.tensors(one_sample(arrays, self.model.inputs, index))
            yield {
                feed.value: np.maximum(tensors[feed.tensor].reshape(-1)[feed.index][np.newaxis].astype(np.float64), LOWEST)
                for feed in self.model.feeds
            }

    def finish(self, sample: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of the model for one sample, from the device's outputs in float [1, rows, channels]."""
        tensors = self.tensors(sample)
        for fetch in self.model.fetches:
            tensors[fetch.tensor] = outputs[fetch.value].reshape(-1)[fetch.index].reshape(fetch.shape).astype(np.float32)
        if self._trailing:
            names = [output.name for output in self._trailing.get_outputs()]
            feeds = {i.name: tensors[i.name] for i in self._trailing.get_inputs()}
            tensors.update(zip(names, self._trailing.run(names, feeds), strict=True))
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
