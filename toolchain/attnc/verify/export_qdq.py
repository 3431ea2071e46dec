"""The quantized graph of a build as an ONNX model in QuantizeLinear / DequantizeLinear form, for a second opinion on accuracy.

Weights are int8 initializers with their scales, every value of the device passes through QuantizeLinear and DequantizeLinear of its
own type, and operators are float in between. What is left of a difference to golden is the integer arithmetic inside operators: the
softmax and function tables, multipliers of 17 bits, ties (ONNX rounds them to even, the device up), and float32.
Device tensors are [samples, rows, channels]. The graphs of the host are merged in; they take one sample, so the whole does then.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, compose, helper, numpy_helper, version_converter

from attnc.codegen.graph_file import load_graph
from attnc.errors import BuildError
from attnc.ir import Graph, Node, TensorType
from attnc.ops.attention_bias import bias_type
from attnc.ops.attention_channels import channel_table
from attnc.ops.attention_sizes import Sizes
from attnc.ops.base import Array
from attnc.ops.linear_weights import effective_weight
from attnc_host import manifest as manifests
from attnc_host.manifest import Feed, Fetch, Manifest, Port

OPSET = 21
"""The first with QuantizeLinear to 16 bits."""
IR_VERSION = 10
BATCH = "batch"
DEVICE = "device/"
"""Prefix of every name that is not the model's own."""
SCALE_FLOOR = 1e-30


class Writer:
    """Nodes and initializers under construction; `samples` is 1 or -1 (any number)."""

    def __init__(self, graph: Graph, samples: int) -> None:
        self.graph, self.samples = graph, samples
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._count = 0

    def fresh(self, stem: str) -> str:
        """A free name."""
        self._count += 1
        return f"{DEVICE}{self._count}/{stem}"

    def constant(self, array: Array, stem: str = "constant") -> str:
        """An initializer."""
        name = self.fresh(stem)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, array: object) -> str:
        """A float32 initializer."""
        return self.constant(np.asarray(array, np.float32))

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def op(self, op: str, *inputs: str, output: str | None = None, **attrs: Any) -> str:
        """A node; returns its output."""
        output = output or self.fresh(op)
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attrs))
        return output

    def reshape(self, x: str, *shape: int) -> str:
        """x as `shape`, where -1 stands for the samples."""
        return self.op("Reshape", x, self.ints(*shape))

    def rounded(self, x: str, type_: TensorType, stem: str) -> str:
        """x on the grid of a type."""
        scale, zero, axis = self._grid(type_)
        low, high = type_.range
        full = type_.bits in (8, 16)
        if not full:
            x = self.op("Min", self.op("Max", x, self.number(low * type_.scale)), self.number(high * type_.scale))
        q = self.op("QuantizeLinear", x, scale, zero, **axis)
        return self.op("DequantizeLinear", q, scale, zero, output=self.fresh(stem), **axis)

    def moved(self, op: str, x: str, *operands: str, type_: TensorType, **attrs: Any) -> str:
        """A rearrangement of a value, with its pair behind it again: the form that onnxruntime's quantizer writes. Without the pair
        onnxruntime 1.31 adds one itself, and fails over its type."""
        stem = x.split("/", 2)[2]
        return self.rounded(self.op(op, x, *operands, **attrs), type_, stem)

    def integers(self, q: Array, type_: TensorType, stem: str) -> str:
        """Integers [1, rows, channels] of a type as floats."""
        scale, zero, axis = self._grid(type_)
        return self.op("DequantizeLinear", self.constant(type_.to_memory(q).astype(_storage(type_)), stem), scale, zero, **axis)

    def _grid(self, type_: TensorType) -> tuple[str, str, dict[str, Any]]:
        """Scale, zero point and axis of a Q or DQ node."""
        scale = np.maximum(np.asarray(type_.scale, np.float64), SCALE_FLOOR)
        zero = np.full(scale.shape, type_.zero_point, _storage(type_))
        return self.number(scale), self.constant(zero), {"axis": 2} if scale.ndim else {}


def _storage(type_: TensorType) -> np.dtype[np.generic]:
    """The ONNX type that holds the integers."""
    return np.dtype(f"{'i' if type_.signed else 'u'}{1 if type_.bits <= 8 else 2}")


# ---- operators ----


def _linear(w: Writer, node: Node, x: Sequence[str]) -> str:
    """DequantizeLinear(weight) per output channel, MatMul, and the bias in units of the accumulator. Weights with scales per group or
    plane have these multiplied in, in int16."""
    p, x_type = node.params, w.graph.type(node.inputs[0])
    weight = effective_weight(p["weight"], p.get("group_multiplier"), int(node.attrs.get("group_size", 0)))
    weight, scale = weight.astype(np.int8 if "group_multiplier" not in p else np.int16), np.asarray(p["weight_scale"], np.float64)
    per_channel = np.asarray(x_type.scale, np.float64)
    unit = float(per_channel.max())
    name = w.constant(np.ascontiguousarray(weight.T), f"{node.name}.weight")
    real = w.op("DequantizeLinear", name, w.number(scale), w.constant(np.zeros(scale.shape, weight.dtype)), axis=1)
    if per_channel.ndim:
        real = w.op("Mul", real, w.number((unit / per_channel)[:, None]))
    product = w.op("MatMul", x[0], real)
    # Of three axes, so that onnxruntime does not make a Gemm of it: see `Writer.moved`.
    return w.op("Add", product, w.number((p["bias"] * scale * unit)[None, None]))


def _heads(w: Writer, x: str, groups: int, heads: int, order: Sequence[int]) -> str:
    """[S, G*T, H*D] as [S, G, T, H, D], permuted by `order`."""
    (rows, channels), type_ = _shape(w, x), _type(w, x)
    shape = w.ints(w.samples, groups, rows // groups, heads, channels // heads)
    return w.moved("Transpose", w.moved("Reshape", x, shape, type_=type_), type_=type_, perm=list(order))


def _shape(w: Writer, x: str) -> tuple[int, int]:
    return w.graph.value(x.split("/", 2)[2]).shape


def _type(w: Writer, x: str) -> TensorType:
    return w.graph.type(x.split("/", 2)[2])


def _attention(w: Writer, node: Node, x: Sequence[str]) -> str:
    """Softmax(cap(scale * Q K^T) + bias + mask) V, in the model's own terms."""
    attr, sizes = node.attrs, Sizes.of(node, [_shape(w, name) for name in x])
    groups, heads, kv_heads = attr.get("groups", 1), attr["num_heads"], attr["num_kv_heads"]
    q = _heads(w, x[0], groups, heads, (0, 1, 3, 2, 4))
    k = _heads(w, x[1], groups, kv_heads, (0, 1, 3, 4, 2))
    v = _heads(w, x[2], groups, kv_heads, (0, 1, 3, 2, 4))
    if kv_heads != heads:
        which = w.constant(np.repeat(np.arange(kv_heads), heads // kv_heads))
        k, v = (w.moved("Gather", name, which, type_=_type(w, name), axis=2) for name in (k, v))
    scores = w.op("Mul", w.op("MatMul", q, k), w.number(attr["scale"]))
    if attr.get("softcap"):
        cap = w.number(attr["softcap"])
        scores = w.op("Mul", w.op("Tanh", w.op("Div", scores, cap)), cap)
    if len(x) > 3:
        shape = w.ints(-1, 1, attr.get("bias_heads", 1), attr.get("bias_rows", 1), _shape(w, x[3])[1])
        bias = w.moved("Reshape", x[3], shape, type_=_type(w, x[3]))
        scores = w.op("Add", scores, bias)
    if sizes.channels:
        table = channel_table(node) * float(bias_type(attr["bias_shift"]).scale)
        scores = w.op("Add", scores, w.number(table.reshape(-1, sizes.queries, sizes.keys)))
    allowed = sizes.mask.allowed(sizes.queries, sizes.keys)
    if allowed is not None:
        scores = w.op("Add", scores, w.number(np.where(allowed, 0.0, np.finfo(np.float32).min / 2)))
    merged = w.op("Transpose", w.op("MatMul", w.op("Softmax", scores, axis=-1), v), perm=[0, 1, 3, 2, 4])
    rows, channels = w.graph.value(node.output).shape
    return w.reshape(merged, w.samples, rows, channels)


def _layer_normalization(w: Writer, node: Node, x: Sequence[str]) -> str:
    """gamma, beta and epsilon as the integers stand for them: z has 16 fraction bits, gamma `shift` - 16, beta `shift`."""
    attr, p = node.attrs, node.params
    channels, step = w.graph.value(node.output).shape[1], w.graph.type(node.output).scale
    gamma = np.broadcast_to(p["gamma"] * 2.0 ** (16 - attr["shift"]) * step, channels)
    beta = np.broadcast_to(p["beta"] * 2.0 ** -attr["shift"] * step, channels)
    epsilon = attr["epsilon_int"] * (float(w.graph.type(node.inputs[0]).scale) / channels) ** 2
    return w.op("LayerNormalization", x[0], w.number(gamma), w.number(beta), axis=-1, epsilon=float(epsilon))


def _sigmoid_product(factor: float) -> Callable[[Writer, str], str]:
    return lambda w, x: w.op("Mul", x, w.op("Sigmoid", x if factor == 1 else w.op("Mul", x, w.number(factor))))


FUNCTIONS: dict[str, Callable[[Writer, str], str]] = {
    "gelu": lambda w, x: w.op("Gelu", x),
    "gelu_sigmoid": _sigmoid_product(1.702),
    "gelu_tanh": lambda w, x: w.op("Gelu", x, approximate="tanh"),
    "hard_sigmoid": lambda w, x: w.op("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "hard_swish": lambda w, x: w.op("HardSwish", x),
    "identity": lambda w, x: x,
    "relu": lambda w, x: w.op("Relu", x),
    "sigmoid": lambda w, x: w.op("Sigmoid", x),
    "silu": _sigmoid_product(1.0),
    "softplus": lambda w, x: w.op("Softplus", x),
    "tanh": lambda w, x: w.op("Tanh", x),
}


def _unary(w: Writer, node: Node, x: Sequence[str]) -> str:
    name = node.attrs["function"]
    if name not in FUNCTIONS:
        raise BuildError(f"export-qdq: node {node.name!r}: function {name!r} cannot be written as ONNX; known are {', '.join(FUNCTIONS)}")
    return FUNCTIONS[name](w, x[0])


def _concat_rows(w: Writer, node: Node, x: Sequence[str]) -> str:
    """Constants are repeated for every sample."""
    parts = list(x)
    varying = next((name for name, given in zip(x, node.inputs, strict=True) if given not in w.graph.constants), None)
    if w.samples == -1 and varying is not None:
        size = w.op("Shape", varying, start=0, end=1)
        for i, given in enumerate(node.inputs):
            if given in w.graph.constants:
                parts[i] = w.op("Expand", x[i], w.op("Concat", size, w.ints(1, 1), axis=0))
    return w.op("Concat", *parts, axis=1)


def _mean_rows(w: Writer, node: Node, x: Sequence[str]) -> str:
    groups, (rows, channels) = node.attrs["groups"], _shape(w, x[0])
    split = w.moved("Reshape", x[0], w.ints(w.samples, groups, rows // groups, channels), type_=_type(w, x[0]))
    return w.op("ReduceMean", split, w.ints(2), keepdims=0)


OPERATORS: dict[str, Callable[[Writer, Node, Sequence[str]], str]] = {
    "add": lambda w, node, x: w.op("Add", *x),
    "attention": _attention,
    "concat_rows": _concat_rows,
    "gather_rows": lambda w, node, x: w.op("Gather", x[0], w.ints(*node.attrs["rows"]), axis=1),
    "layer_normalization": _layer_normalization,
    "linear": _linear,
    "mean_rows": _mean_rows,
    "mul": lambda w, node, x: w.op("Mul", *x),
    "requantize": lambda w, node, x: x[0],
    "softmax": lambda w, node, x: w.op("Softmax", x[0], axis=-1),
    "unary": _unary,
}


# ---- the model ----


def export_qdq(build: Path) -> ModelProto:
    """The quantized graph of a build folder with the model's own inputs and outputs. Raises `BuildError`.

    Any number of samples where nothing runs on the host and the model takes them; else one sample.
    """
    manifest = manifests.load(build)
    graph = load_graph(manifest.folder / "golden")
    ports = [*manifest.inputs, *manifest.outputs]
    many = manifest.leading is None and manifest.trailing is None and all(port.batched and port.shape[:1] == (1,) for port in ports)
    writer = Writer(graph, -1 if many else 1)
    names = {feed.value: _feed(writer, feed) for feed in manifest.feeds}
    names |= {name: writer.integers(array[np.newaxis], graph.type(name), name) for name, array in graph.constants.items()}
    named = {name: writer.op("Identity", made, output=writer.fresh(name)) for name, made in names.items()}
    for node in graph.nodes:
        if node.op not in OPERATORS:
            raise BuildError(f"{build}: node {node.name!r}: operator {node.op!r} cannot be written as ONNX")
        result = OPERATORS[node.op](writer, node, [named[name] for name in node.inputs])
        named[node.output] = writer.rounded(result, graph.type(node.output), node.output)
    for fetch in manifest.fetches:
        _fetch(writer, fetch, named[fetch.value])
    core = _core(writer, manifest, many)
    return _checked(_merged(core, manifest), build)


def save_qdq(build: Path, output: Path) -> ModelProto:
    """Export a build to a file (written beside and renamed) and return the model."""
    model = export_qdq(build)
    beside = output.with_name(f".{output.name}.new")
    try:
        onnx.save(model, beside)
        os.replace(beside, output)
    except (OSError, ValueError) as error:
        beside.unlink(missing_ok=True)
        raise BuildError(f"{output}: cannot be written: {error}") from error
    return model


def _feed(w: Writer, feed: Feed) -> str:
    """The device's matrix out of a tensor of the host, on the grid of its type."""
    index = feed.source.index()
    real = w.op("Cast", DEVICE + feed.tensor, to=TensorProto.FLOAT)
    flat = w.reshape(real, 1, -1) if w.samples == 1 else w.op("Flatten", real, axis=1)
    picked = w.reshape(w.op("Gather", flat, w.constant(index), axis=1), w.samples, feed.rows, feed.channels)
    return w.rounded(picked, w.graph.type(feed.value), feed.value)


def _fetch(w: Writer, fetch: Fetch, value: str) -> None:
    """A tensor of the host out of the device's matrix."""
    (rows, channels), type_ = _shape(w, value), _type(w, value)
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
