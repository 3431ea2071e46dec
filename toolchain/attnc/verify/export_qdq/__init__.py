"""The quantized graph of a build as an ONNX model in QuantizeLinear / DequantizeLinear form, for a second opinion on accuracy.

Weights are int8 initializers with their scales, every value of the device passes through QuantizeLinear and DequantizeLinear of its
own type, and operators are float in between. What is left of a difference to golden is the integer arithmetic inside operators: the
softmax and function tables, multipliers of 17 bits, ties (ONNX rounds them to even, the device up), reciprocals of the peaks of tokens,
and float32. A query that may look at no key gives zeros on the device, and a mean of all values here.
Device tensors are [samples, rows, channels]. The graphs of the host are merged in; they take one sample, so the whole does then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, compose, helper, version_converter

from attnc.codegen.graph_file import load_graph
from attnc.errors import BuildError
from attnc.files import written_whole
from attnc.verify.export_qdq.operators import OPERATORS
from attnc.verify.export_qdq.writer import DEVICE, Writer
from attnc_host import manifest as manifests
from attnc_host.manifest import Feed, Fetch, Manifest, Port

OPSET = 21
"""The first with QuantizeLinear to 16 bits."""
IR_VERSION = 10
BATCH = "batch"


def export_qdq(build: Path | Manifest) -> ModelProto:
    """The quantized graph of a build folder with the model's own inputs and outputs. Raises `BuildError`.

    Any number of samples where nothing runs on the host and the model takes them; else one sample.
    """
    manifest = manifests.load(build, edited=True)
    if manifest.decoder is not None:
        raise BuildError(f"{manifest.folder}: is a decoder with caches, which QDQ cannot say; compile the model without --max-length")
    graph = load_graph(manifest.folder / "golden")
    ports = [*manifest.inputs, *manifest.outputs]
    many = manifest.leading is None and manifest.trailing is None and all(port.batched and port.shape[:1] == (1,) for port in ports)
    writer = Writer(graph, -1 if many else 1)
    names = {feed.value: _feed(writer, feed) for feed in manifest.feeds}
    names |= {name: writer.integers(array[np.newaxis], graph.type(name), name) for name, array in graph.constants.items()}
    named = {name: writer.op("Identity", made, output=writer.fresh(name)) for name, made in names.items()}
    for node in graph.nodes:
        if node.op not in OPERATORS:
            raise BuildError(f"{manifest.folder}: node {node.name!r}: operator {node.op!r} cannot be written as ONNX")
        result = OPERATORS[node.op](writer, node, [named[name] for name in node.inputs])
        named[node.output] = writer.rounded(result, graph.type(node.output), node.output)
    for fetch in manifest.fetches:
        _fetch(writer, fetch, named[fetch.value])
    core = _core(writer, manifest, many)
    return _checked(_merged(core, manifest), manifest.folder)


def save_qdq(build: Path | Manifest, output: Path) -> ModelProto:
    """Export a build to a file (written beside and renamed) and return the model."""
    model = export_qdq(build)
    try:
        with written_whole(output) as beside:
            onnx.save(model, beside)
    except (OSError, ValueError) as error:
        raise BuildError(f"{output}: cannot be written: {error}") from error
    return model


def made_by_attnc(path: Path) -> bool:
    """Whether `save_qdq` wrote a file: the producer stands near its beginning."""
    with open(path, "rb") as file:
        return b"\x12\x05attnc" in file.read(32)


def _feed(w: Writer, feed: Feed) -> str:
    """The device's matrix out of a tensor of the host, on the grid of its type."""
    index = feed.source.index()
    real = w.op("Cast", DEVICE + feed.tensor, to=TensorProto.FLOAT)
    flat = w.reshape(real, 1, -1) if w.samples == 1 else w.op("Flatten", real, axis=1)
    picked = w.reshape(w.op("Gather", flat, w.constant(index), axis=1), w.samples, feed.rows, feed.channels)
    return w.rounded(picked, w.graph.type(feed.value), feed.value)


def _fetch(w: Writer, fetch: Fetch, value: str) -> None:
    """A tensor of the host out of the device's matrix."""
    (rows, channels), type_ = w.shape(value), w.type(value)
    flat = w.moved("Reshape", value, w.ints(w.samples, rows * channels), type_=type_)
    flat = w.moved("Gather", flat, w.constant(fetch.source.index()), type_=type_, axis=1)
    shape = fetch.shape if w.samples == 1 else (-1, *fetch.shape[1:])
    w.op("Identity", w.moved("Reshape", flat, w.ints(*shape), type_=type_), output=DEVICE + fetch.tensor)


def _core(w: Writer, manifest: Manifest, many: bool) -> ModelProto:
    """The device alone, its inputs and outputs named after the tensors of the host."""
    types = _host_types(manifest)
    inputs = [helper.make_tensor_value_info(DEVICE + name, *types[name]) for name in dict.fromkeys(feed.tensor for feed in manifest.feeds)]
    outputs = [helper.make_tensor_value_info(DEVICE + fetch.tensor, TensorProto.FLOAT, None) for fetch in manifest.fetches]
    if many:
        for info in inputs:
            info.type.tensor_type.shape.dim[0].dim_param = BATCH
    return _model(helper.make_graph(w.nodes, w.graph.name, inputs, outputs, w.constants))


def _model(graph: onnx.GraphProto) -> ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="attnc")


def _host_types(manifest: Manifest) -> dict[str, tuple[int, Sequence[int] | None]]:
    """ONNX element type and shape of every tensor that the host may feed."""
    found: dict[str, tuple[int, Sequence[int] | None]] = {port.name: (_element(port), port.shape) for port in manifest.inputs}
    if manifest.leading is not None:
        for value in onnx.load(manifest.leading).graph.output:
            tensor = value.type.tensor_type
            found[value.name] = (tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim] if tensor.HasField("shape") else None)
    return found


def _element(port: Port) -> int:
    return helper.np_dtype_to_tensor_dtype(port.dtype)


def _host(path: Path | None, prefix: str) -> ModelProto | None:
    """A graph of the host in the opset of the export; inner names are prefixed, so that nothing collides."""
    if path is None:
        return None
    try:
        model = version_converter.convert_version(onnx.load(path), OPSET)
    except Exception as error:  # the converter raises what C++ throws
        raise BuildError(f"{path}: cannot be converted to opset {OPSET}, so that the export would lack it: {error}") from error
    model.ir_version = IR_VERSION
    return compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False)


def _merged(core: ModelProto, manifest: Manifest) -> ModelProto:
    """Leading graph, device and trailing graph as one list of nodes under the model's names."""
    leading, trailing = _host(manifest.leading, "leading/"), _host(manifest.trailing, "trailing/")
    elements = {port.name: _element(port) for port in manifest.outputs}
    fetched = [fetch.tensor for fetch in manifest.fetches]
    feeds = [_link("Identity", name, DEVICE + name) for name in dict.fromkeys(feed.tensor for feed in manifest.feeds)]
    fetches = [_link("Cast", DEVICE + name, name, to=elements.get(name, TensorProto.FLOAT)) for name in fetched]
    before, after = (graph.graph.node if graph else [] for graph in (leading, trailing))
    made = {name for node in [*before, *after] for name in node.output} | set(fetched)
    lost = [name for name in elements if name not in made]
    if lost:
        raise BuildError(f"{manifest.folder}: nothing makes the outputs {', '.join(map(repr, lost))}")
    constants = [tensor for graph in (core, leading, trailing) if graph for tensor in graph.graph.initializer]
    first = core.graph.input[0].type.tensor_type.shape.dim if core.graph.input else []
    batched = len(first) > 0 and first[0].dim_param == BATCH
    inputs, outputs = ([_info(port, batched) for port in ports] for ports in (manifest.inputs, manifest.outputs))
    nodes = [*before, *feeds, *core.graph.node, *fetches, *after]
    return _model(helper.make_graph(nodes, core.graph.name, inputs, outputs, constants))


def _link(op: str, source: str, target: str, **attrs: Any) -> NodeProto:
    return helper.make_node(op, [source], [target], name=f"link/{target}", **attrs)


def _info(port: Port, batched: bool) -> onnx.ValueInfoProto:
    shape: list[int | str] = list(port.shape)
    if batched:
        shape[0] = BATCH
    return helper.make_tensor_value_info(port.name, _element(port), shape)


def _checked(model: ModelProto, build: Path) -> ModelProto:
    try:
        if model.ByteSize() < math.ldexp(1, 31):
            onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise BuildError(f"{build}: the export is not valid ONNX: {error}") from error
    return model
