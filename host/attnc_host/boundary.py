"""Between the arrays of a user and the integers in the accelerator's memory.

    inputs -> (leading graph) -> gather -> quantize -> pack -> accelerator -> unpack -> dequantize -> gather -> (trailing graph) -> outputs

The accelerator and the host's graphs see one sample at a time; arrays here carry the samples in front: `[samples, *shape]`. How they
come from the arrays of a user is told in `attnc_host.samples`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc_host import layout
from attnc_host.errors import AcceleratorError, InputError
from attnc_host.manifest import Feed, Fetch, Manifest, NumberType, Port
from attnc_host.samples import Samples, stack, unstack

Array = npt.NDArray[Any]
Image = npt.NDArray[np.uint8]

EXCLUDED_BELOW = -1e4
"""Numbers of an attention bias that are this far below the largest of their row mean that a key is left out."""
UNIFORM_BELOW = -(2.0**23)
"""Where the largest of a row is no higher, float32 loses the scores beside it: the keys that have it share the row evenly."""


def quantize(real: Array, number_type: NumberType) -> Array:
    """Float to integers: nearest, ties to even, saturated; NaN becomes 0 before the zero point is added."""
    low, high = (bound - number_type.zero_point for bound in number_type.range)
    with np.errstate(over="ignore"):
        q = np.rint(np.nan_to_num(np.asarray(real, np.float64) / number_type.scale, nan=0.0, posinf=high, neginf=low))
    return np.asarray((np.clip(q, low, high).astype(np.int64) + number_type.zero_point).astype(number_type.dtype))


def quantize_excluded(real: Array, number_type: NumberType) -> Array:
    """As `quantize`, of an attention bias [..., keys]: the smallest integer leaves a key out, the next one says that its score does not
    count, and where the largest number of a row is beyond the range of the others, it is taken off the row, which softmax does not see."""
    low = number_type.range[0]
    real = np.where(np.isnan(real), 0.0, real)
    peak = real.max(axis=-1, keepdims=True)
    finite, uniform = np.isfinite(peak), np.isfinite(peak) & (peak <= UNIFORM_BELOW)
    numbers = real - np.where(finite & (np.abs(peak) > -(low + 2) * number_type.scale), peak, 0.0)
    excluded = (numbers <= EXCLUDED_BELOW) | (uniform & (real < peak))
    q = np.maximum(quantize(np.where(excluded, 0.0, numbers), number_type), low + 2)
    return np.asarray(np.where(excluded, low, np.where(uniform, low + 1, q)).astype(number_type.dtype))


def dequantize(q: Array, number_type: NumberType) -> npt.NDArray[np.float64]:
    """Integers [..., channels] to float64."""
    return np.asarray((q.astype(np.float64) - number_type.zero_point) * number_type.scale)


class HostGraphs:
    """The ONNX graphs that run on the host before and after the accelerator; onnxruntime is loaded on first use."""

    def __init__(self, manifest: Manifest) -> None:
        self.leading = _session(manifest.leading) if manifest.leading else None
        self.trailing = _session(manifest.trailing) if manifest.trailing else None


def _session(path: Path) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise AcceleratorError(f"{path} runs on the host and needs onnxruntime, which is not installed: pip install onnxruntime") from error
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise AcceleratorError(f"{path}: onnxruntime cannot load it: {error}") from error


@dataclass(frozen=True)
class Prepared:
    """What goes to the device, and what `finish` needs again: `values` integers [S, R, C] by device value, `tensors`
    [S, *shape] by ONNX tensor; `framed` as in `Samples`."""

    values: dict[str, Array]
    tensors: dict[str, Array]
    samples: int
    framed: bool


def check_inputs(manifest: Manifest, inputs: Mapping[str, Any], ports: Sequence[Port] | None = None) -> Samples:
    """The samples in the arrays of a user, by the rule of `attnc_host.samples`; `ports` in place of its inputs."""
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs: needed a dictionary from input name to array, found {type(inputs).__name__}")
    needed = [port.name for port in manifest.inputs]
    names = ", ".join(map(repr, needed))
    missing = [name for name in needed if name not in inputs]
    unknown = [name for name in inputs if name not in needed]
    if missing or unknown:
        parts = [f"{what} {', '.join(map(repr, found))}" for what, found in (("missing", missing), ("unknown", unknown)) if found]
        raise InputError(f"inputs: {'; '.join(parts)}; the model takes {names}")
    return stack(inputs, manifest.inputs if ports is None else ports)


def integer_ports(manifest: Manifest) -> tuple[Port, ...]:
    """The inputs as they are given in integers: of the types that the device takes."""
    if manifest.leading is not None or manifest.trailing is not None:
        raise InputError("integers: parts of this model run on the host, in float, before or after the accelerator")
    types: dict[str, NumberType] = {}
    for feed in manifest.feeds:
        first = types.setdefault(feed.tensor, feed.type)
        if (first.bits, first.signed) != (feed.type.bits, feed.type.signed) or not np.array_equal(first.scale, feed.type.scale):
            raise InputError(f"integers: the device takes {feed.tensor!r} in several types; give it as float")
    return tuple(replace(port, dtype=types[port.name].dtype) if port.name in types else port for port in manifest.inputs)


def prepare_integers(manifest: Manifest, given: Samples) -> Prepared:
    """Gather integers that are of the device's types already."""
    tensors, values = {name: given.all(name) for name in given.arrays}, {}
    for feed in manifest.feeds:
        q, (low, high) = _gather(tensors[feed.tensor], feed, (feed.rows, feed.channels)), feed.type.range
        if q.size and (int(q.min()) < low or int(q.max()) > high):
            raise InputError(f"input {feed.tensor!r}: needed integers from {low} to {high}, found {q.min()} to {q.max()}")
        values[feed.value] = q
    return Prepared(values, {}, given.count, given.framed)


def finish_integers(manifest: Manifest, values: Mapping[str, Array]) -> dict[str, Array]:
    """What the device made, as it made it: the outputs of the model, [samples, *shape]."""
    return {fetch.tensor: _gather(values[fetch.value], fetch, fetch.shape) for fetch in manifest.fetches}


def prepare(manifest: Manifest, given: Samples, host: HostGraphs | None = None) -> Prepared:
    """Run the leading graph, gather and quantize."""
    tensors = {name: given.all(name) for name in given.arrays}
    leading = (host or HostGraphs(manifest)).leading
    if leading is not None:
        tensors.update(_run(leading, tensors, given.count, manifest.leading, InputError))
    values = {}
    for feed in manifest.feeds:
        if feed.tensor not in tensors:
            raise AcceleratorError(f"{manifest.folder}: feed {feed.value!r} reads tensor {feed.tensor!r}, which nothing makes")
        real = _gather(tensors[feed.tensor], feed, (feed.rows, feed.channels))
        _check_numbers(real, feed)
        values[feed.value] = (quantize_excluded if feed.excluded else quantize)(real, feed.type)
    return Prepared(values, tensors, given.count, given.framed)


def _check_numbers(real: Array, feed: Feed) -> None:
    """NaN and infinity would saturate in silence; minus infinity means something in a mask alone, and not everywhere in a row unless the
    model says what a query without any key gets."""
    fine = np.isfinite(real) | (real == -np.inf) if feed.excluded else np.isfinite(real)
    if not fine.all():
        sample = int(np.argmin(fine.reshape(fine.shape[0], -1).all(axis=1)))
        raise InputError(f"{feed.tensor!r}, which the host computes for the device, becomes NaN or infinite in sample {sample}")
    if feed.excluded and not feed.keyless:
        none = np.isneginf(real.max(axis=-1)).reshape(real.shape[0], -1).any(axis=1)
        if none.any():
            raise InputError(
                f"{feed.tensor!r}, a mask, leaves a query of sample {int(np.argmax(none))} no key: the model itself gives NaN there"
            )


def _gather(stacked: Array, link: Feed | Fetch, shape: tuple[int, ...]) -> Array:
    """Elements of `stacked` [samples, ...] in the order of the link, as [samples, *shape]."""
    flat, index = stacked.reshape(stacked.shape[0], -1), link.source.index()
    if index.size and (int(index.min()) < 0 or int(index.max()) >= flat.shape[1]):
        raise AcceleratorError(f"{link.value!r} reads element {index.max()} of {link.tensor!r}, which has {flat.shape[1]} a sample")
    whole = index.size == flat.shape[1] and np.array_equal(index, np.arange(index.size))
    return np.asarray((flat if whole else flat[:, index]).reshape(stacked.shape[0], *shape))


def _run(
    session: Any, tensors: Mapping[str, Array], samples: int, path: Path | None, failure: type[AcceleratorError] = AcceleratorError
) -> dict[str, Array]:
    """Every output of an ONNX graph, sample by sample; where a sample makes it fail, that is a `failure`."""
    names = [output.name for output in session.get_outputs()]
    feeds = [found.name for found in session.get_inputs()]
    absent = [name for name in feeds if name not in tensors]
    if absent:
        raise AcceleratorError(f"{path}: reads {', '.join(map(repr, absent))}, which nothing makes; the build folder is damaged")
    results = []
    for sample in range(samples):
        try:
            results.append(session.run(names, {name: np.asarray(tensors[name][sample], order="C") for name in feeds}))
        except Exception as error:  # onnxruntime's errors share no base class
            raise failure(f"{path}: failed on sample {sample}: {error}") from error
    return {name: np.stack([result[i] for result in results]) for i, name in enumerate(names)}


def finish(manifest: Manifest, values: Mapping[str, Array], prepared: Prepared, host: HostGraphs | None = None) -> dict[str, Array]:
    """Dequantize what the device made and run the trailing graph: the outputs of the model, [samples, *shape]."""
    trailing = (host or HostGraphs(manifest)).trailing
    types = {port.name: port.dtype for port in manifest.outputs}
    if trailing is not None:
        types.update({found.name: _ort_dtype(found.type) for found in trailing.get_inputs()})
    tensors = dict(prepared.tensors)
    for fetch in manifest.fetches:
        real = dequantize(values[fetch.value], fetch.type).astype(types.get(fetch.tensor, np.dtype(np.float32)))
        tensors[fetch.tensor] = _gather(real, fetch, fetch.shape)
    if trailing is not None:
        tensors.update(_run(trailing, tensors, prepared.samples, manifest.trailing))
    for port in manifest.outputs:
        if port.name not in tensors:
            raise AcceleratorError(f"{manifest.folder}: nothing makes the output {port.name!r}; the build folder is damaged")
    return {port.name: tensors[port.name].astype(port.dtype) for port in manifest.outputs}


def _ort_dtype(text: str) -> np.dtype[Any]:
    """ "tensor(float)" to float32."""
    names = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}
    inner = text[len("tensor(") : -1]
    return np.dtype(names.get(inner, inner))


def join(manifest: Manifest, stacked: Mapping[str, Array], framed: bool) -> dict[str, Array]:
    """Outputs [samples, *shape] as a user gets them."""
    return {port.name: unstack(port, stacked[port.name], framed) for port in manifest.outputs}


def to_image(manifest: Manifest, values: Mapping[str, Array]) -> Image:
    """Integers of the feeds to the input region, uint8 [samples, input_bytes]."""
    return _pack(manifest.feeds, manifest.memory.input_offset, manifest.input_bytes, manifest.lanes, values)


def from_image(manifest: Manifest, image: Image) -> dict[str, Array]:
    """The output region to integers of the fetches, [samples, rows, channels]."""
    return _unpack(manifest.fetches, manifest.memory.output_offset, manifest.output_bytes, manifest.lanes, image)


def read_inputs(manifest: Manifest, image: Image) -> dict[str, Array]:
    """The input region to integers of the feeds: what the device sees."""
    return _unpack(manifest.feeds, manifest.memory.input_offset, manifest.input_bytes, manifest.lanes, image)


def write_outputs(manifest: Manifest, values: Mapping[str, Array]) -> Image:
    """Integers of the fetches to the output region: what the device writes."""
    return _pack(manifest.fetches, manifest.memory.output_offset, manifest.output_bytes, manifest.lanes, values)


def different(manifest: Manifest, found: Image, expected: Image) -> int:
    """Bytes of values in output regions [..., output_bytes] that are not equal; what lies between values is nobody's."""
    lanes, start = manifest.lanes, manifest.memory.output_offset
    places = [slice((one.offset - start) * lanes, (one.offset - start + one.words) * lanes) for one in manifest.fetches]
    return sum(int(np.count_nonzero(found[..., place] != expected[..., place])) for place in places)


def _pack(links: Sequence[Feed | Fetch], start: int, size: int, lanes: int, values: Mapping[str, Array]) -> Image:
    samples = values[links[0].value].shape[0]
    image = np.zeros((samples, size), np.uint8)
    for link in links:
        at = (link.offset - start) * lanes
        image[:, at : at + link.words * lanes] = layout.pack(values[link.value], lanes, link.type.size, link.type.zero_point)
    return image


def _unpack(links: Sequence[Feed | Fetch], start: int, size: int, lanes: int, image: Image) -> dict[str, Array]:
    if image.ndim != 2 or image.shape[1] != size:
        raise AcceleratorError(f"memory image: needed [samples, {size}] bytes, found {list(image.shape)}")
    values = {}
    for link in links:
        at = (link.offset - start) * lanes
        data = image[:, at : at + link.words * lanes]
        values[link.value] = layout.unpack(data, link.rows, link.channels, lanes, link.type.size).astype(link.type.dtype)
    return values
