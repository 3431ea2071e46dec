"""Read an ONNX file and refuse everything that is broken, hostile or not ONNX, before anything else looks at it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, shape_inference, version_converter

from attnc.errors import ModelError
from attnc.frontend.external import check_external
from attnc.messages import listed, one_line
from attnc.tensors import is_mapped, mapped, may_stay

MIN_OPSET = 11
CONVERTED_OPSET = 13
"""Models of an older opset are converted to this one, from which on the axes of reductions are inputs and Softmax has one axis."""
ONNX_DOMAINS = ("", "ai.onnx")
QONNX_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas")
QONNX_OPERATORS = ("Quant", "IntQuant", "BipolarQuant", "Trunc")
MICROSOFT = "com.microsoft"
"""onnxruntime's own operators: what its optimizers write for several of ONNX's, and what its quantizers write before ONNX has it."""
QUANTIZED = ("QLinear", "QGemm", "QAttention", "DynamicQuantize", "MatMulInteger")
"""Beginnings of the names of its operators on integers."""
RUNTIME_NAMES = ("SimplifiedLayerNormalization", "LayerNormalization")
"""Normalisations that onnxruntime writes under ONNX's own domain, whether the opset has them or not."""
NCHWC = "com.microsoft.nchwc"
"""onnxruntime's convolutions in an order for the machine that optimized the model."""
KEPT = "attnc.kept"
"""A domain that ONNX's converter passes over."""
MAX_ELEMENTS = 1 << 31
"""More elements than that in one tensor are taken for a mistake (or an attack on the memory of the machine)."""

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.DOUBLE: 64, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16, TensorProto.UINT16: 16, TensorProto.INT32: 32,
    TensorProto.UINT32: 32, TensorProto.INT64: 64, TensorProto.UINT64: 64, TensorProto.BOOL: 8,
    TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
    TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2,
    TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8, TensorProto.FLOAT8E5M2FNUZ: 8,
}  # fmt: skip


def load_model(path: Path) -> ModelProto:
    """The checked model, its data in memory but for large weights of files beside it (`tensors.array_of`); raises `ModelError`."""
    path = Path(path)
    model = _parse(path)
    _check_text(path, model)
    _check_opset(path, model)
    for tensor in tensors_of_model(model):
        _check_tensor(path, tensor)
    _run_checker(path, model, sort_nodes(model.graph))
    _check_domains(path, model)
    _load_external(path, model)
    _drop_repeated_outputs(model)
    return _converted(path, model)


def _converted(path: Path, model: ModelProto) -> ModelProto:
    """The model in an opset that the frontend reads, by ONNX's own converter."""
    version = _version(model)
    if version >= CONVERTED_OPSET:
        return model
    early = [node for node in model.graph.node if node.op_type in RUNTIME_NAMES and node.domain in ONNX_DOMAINS]
    for node in [*early, *_softmaxes_of_one_axis(model)]:
        node.domain = KEPT
    model.opset_import.add(domain=KEPT, version=1)
    try:
        converted: ModelProto = version_converter.convert_version(model, CONVERTED_OPSET)
    except Exception as error:  # the converter raises whatever C++ throws
        reason = f"{path}: opset {version} cannot be converted to {CONVERTED_OPSET}; export the model again ({one_line(error)})"
        raise ModelError(reason) from error
    for node in converted.graph.node:
        if node.domain == KEPT:
            node.domain = ""
    converted.opset_import.remove(next(entry for entry in converted.opset_import if entry.domain == KEPT))
    return converted


def _version(model: ModelProto) -> int:
    return min(entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS)


def _softmaxes_of_one_axis(model: ModelProto) -> list[NodeProto]:
    """Before opset 13 a Softmax took all axes from one on together: those that take the last one alone mean the same since then."""
    nodes = [node for node in model.graph.node if node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and node.domain in ONNX_DOMAINS]
    axes = {id(node): next((entry.i for entry in node.attribute if entry.name == "axis"), 1) for node in nodes}
    if all(axis == -1 for axis in axes.values()):
        return nodes
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # whatever inference throws: what it cannot say is left to the converter
        return [node for node in nodes if axes[id(node)] == -1]
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in [*inferred.input, *inferred.value_info]}
    return [node for node in nodes if axes[id(node)] in (-1, ranks.get(node.input[0], 0) - 1)]


def sort_nodes(graph: GraphProto) -> bool:
    """Put the nodes, in place, behind those that they read, as onnxruntime does; says whether they were not. Of nodes that read each other
    in a circle one comes first."""
    nodes = list(graph.node)
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    reads = [[maker[name] for inner in all_nodes([node]) for name in inner.input if name in maker] for node in nodes]
    if all(before < index for index, found in enumerate(reads) for before in found):
        return False
    order: list[int] = []
    entered: set[int] = set()
    for first in range(len(nodes)):
        stack = [(first, False)]
        while stack:
            index, ready = stack.pop()
            if ready:
                order.append(index)
            elif index not in entered:
                entered.add(index)
                stack += [(index, True), *((before, False) for before in reversed(reads[index]))]
    kept = [NodeProto.FromString(nodes[index].SerializeToString()) for index in order]  # those in the graph go
    del graph.node[:]
    graph.node.extend(kept)
    return True


def _drop_repeated_outputs(model: ModelProto) -> None:
    """An output that is listed twice (as torch does for one that is returned twice) is one output: they go by name."""
    outputs = {output.name: output for output in reversed(model.graph.output)}
    if len(outputs) < len(model.graph.output):
        kept = list(reversed(outputs.values()))
        del model.graph.output[:]
        model.graph.output.extend(kept)


def _parse(path: Path) -> ModelProto:
    """The file as a protobuf, without its external data."""
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    if not path.is_file():
        raise ModelError(f"{path}: is a folder or a device, an ONNX file is needed")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX file, or one that is cut off ({one_line(error)})") from error
    if not model.HasField("graph"):
        raise ModelError(f"{path}: not an ONNX model: it has no graph")
    return model


def _check_text(path: Path, model: ModelProto) -> None:
    """Names and other texts are UTF-8: protobuf lets other bytes pass, and hands them out as bytes."""
    stack: list[tuple[Message, str]] = [(model, "")]
    while stack:
        message, around = stack.pop()
        name = getattr(message, "name", "") or around
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                stack += [(part, name) for part in ([value] if isinstance(value, Message) else value)]
            elif field.type == FieldDescriptor.TYPE_STRING or (isinstance(message, AttributeProto) and field.name in ("s", "strings")):
                for text in [value] if isinstance(value, str | bytes) else value:
                    if not _is_text(text):
                        where = f"{type(message).__name__} near {name!r}" if name else type(message).__name__
                        raise ModelError(f"{path}: field {field.name!r} of a {where}: needed text in UTF-8, found {text!r}")


def _is_text(value: str | bytes) -> bool:
    try:
        return isinstance(value, str) or value.decode() is not None
    except UnicodeDecodeError:
        return False


def _check_opset(path: Path, model: ModelProto) -> None:
    versions = [entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS]
    if not versions:
        raise ModelError(f"{path}: declares no opset of ONNX (opset_import is missing)")
    if min(versions) < MIN_OPSET:
        raise ModelError(f"{path}: opset {min(versions)} is too old, {MIN_OPSET} or later is needed; export the model again")
    newest = onnx.defs.onnx_opset_version()
    if max(versions) > newest:
        raise ModelError(f"{path}: opset {max(versions)} is unknown, the installed onnx {onnx.__version__} knows up to {newest}")


def _run_checker(path: Path, model: ModelProto, sorted_here: bool) -> None:
    """ONNX's own checker; by path, so that models above 2 GiB work. Where the file has what onnxruntime takes and ONNX does not, what is
    left of the model without that."""
    foreign = any(node.op_type in RUNTIME_NAMES and node.domain in ONNX_DOMAINS for node in model.graph.node)
    try:
        checker.check_model(_skeleton(model) if foreign or sorted_here else str(path))
    except (checker.ValidationError, ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"{path}: not a valid ONNX model: {one_line(error)}") from error


def _skeleton(model: ModelProto) -> ModelProto:
    """The model without the data of its constants, which are inputs instead, and normalisations of onnxruntime under its own domain."""
    kept = ModelProto()
    kept.CopyFrom(model)
    known = {value.name for value in kept.graph.input}
    constants = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in kept.graph.initializer if t.name not in known]
    del kept.graph.initializer[:]
    kept.graph.input.extend(constants)
    for node in kept.graph.node:
        if node.op_type in RUNTIME_NAMES and node.domain in ONNX_DOMAINS:
            node.domain = MICROSOFT
    if not any(entry.domain == MICROSOFT for entry in kept.opset_import):
        kept.opset_import.add(domain=MICROSOFT, version=1)
    return kept


def _check_domains(path: Path, model: ModelProto) -> None:
    """Every operator is ONNX's own, a function that the model defines, or of a domain that is read; the message names all others."""
    functions = {(function.domain, function.name) for function in model.functions}
    read = (*ONNX_DOMAINS, *QONNX_DOMAINS, MICROSOFT, NCHWC)
    foreign: dict[tuple[str, str], list[str]] = {}
    for body in [model.graph.node, *(function.node for function in model.functions)]:
        for node in all_nodes(body):
            if node.domain not in read and (node.domain, node.op_type) not in functions:
                foreign.setdefault((node.domain, node.op_type), []).append(repr(node.name or node.op_type))
    if foreign:
        found = "; ".join(f"operator {op!r} of domain {domain!r}, {listed(nodes)}" for (domain, op), nodes in foreign.items())
        needed = f"only operators of ONNX and of onnxruntime ({MICROSOFT}) are supported"
        raise ModelError(f"{path}: {needed}, found {found}; export the model with operators of ONNX itself")


def _check_tensor(path: Path, tensor: TensorProto) -> None:
    """Dimensions, type and amount of data of a constant agree."""
    where = f"{path}: tensor {tensor.name!r}"
    if tensor.data_type not in _BITS and tensor.data_type != TensorProto.STRING:
        raise ModelError(f"{where} has the unsupported type {_type_name(tensor.data_type)}")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{where} has a negative dimension: {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    if count > MAX_ELEMENTS:
        raise ModelError(f"{where} has {count} elements, at most {MAX_ELEMENTS} are supported")
    if tensor.data_type == TensorProto.STRING:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError(f"{where} holds text in a file of its own: needed numbers")
        if len(tensor.string_data) != count:
            raise ModelError(f"{where} of shape {list(tensor.dims)} needs {count} texts, found {len(tensor.string_data)}")
        return
    size = -(-count * _BITS[tensor.data_type] // 8)
    if tensor.data_location == TensorProto.EXTERNAL:
        check_external(path, tensor, size)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != size:
            raise ModelError(f"{where} of shape {list(tensor.dims)} needs {size} bytes, found {len(tensor.raw_data)}")
    else:
        _check_typed_data(where, tensor, count)


def _check_typed_data(where: str, tensor: TensorProto, count: int) -> None:
    """The field of its type: one entry for each element, two for complex numbers, packed for 4 bits."""
    field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    found = len(getattr(tensor, field))
    needed = count
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        needed = 2 * count
    elif _BITS[tensor.data_type] < 8:
        needed = -(-count * _BITS[tensor.data_type] // 8)
    if found != needed:
        raise ModelError(f"{where} of shape {list(tensor.dims)} needs {needed} numbers in its {field}, found {found}")


def _load_external(path: Path, model: ModelProto) -> None:
    """Bring external data into memory, the bytes that `check_external` found to be there and no more; large weights stay in their file."""
    if _version(model) >= CONVERTED_OPSET:  # the converter takes whole models
        for tensor in filter(may_stay, model.graph.initializer):
            location, offset, size = _place(path, tensor)
            tensor.CopyFrom(mapped(tensor.name, tensor.data_type, tuple(tensor.dims), os.path.realpath(location), offset, size))
    for tensor in tensors_of_model(model):
        if tensor.data_location != TensorProto.EXTERNAL or is_mapped(tensor):
            continue
        location, offset, size = _place(path, tensor)
        try:
            with open(location, "rb") as file:
                file.seek(offset)
                tensor.raw_data = file.read(size)
        except OSError as error:
            raise ModelError(f"{path}: external data of tensor {tensor.name!r} cannot be read: {error.strerror}") from error
        if len(tensor.raw_data) != size:
            raise ModelError(f"{path}: external data of tensor {tensor.name!r}: needed {size} bytes, found {len(tensor.raw_data)}")
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT


def _place(path: Path, tensor: TensorProto) -> tuple[Path, int, int]:
    """File, offset and bytes of external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    size = -(-math.prod(tensor.dims) * _BITS[tensor.data_type] // 8)
    return path.parent / entries["location"], int(entries.get("offset", 0)), size


def external_files(path: Path) -> list[Path]:
    """The files beside the model that hold data of it."""
    used = (tensor for tensor in tensors_of_model(_parse(path)) if tensor.data_location == TensorProto.EXTERNAL)
    names = dict.fromkeys(entry.value for tensor in used for entry in tensor.external_data if entry.key == "location")
    return [path.parent / name for name in names]


def tensors_of_model(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant of the model, wherever it hides."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        for node in all_nodes(function.node):
            for attribute in node.attribute:
                yield from _tensors_of_attribute(attribute)


def _tensors_of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    stack = [graph]
    while stack:
        current = stack.pop()
        yield from current.initializer
        for sparse in current.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in current.node:
            for attribute in node.attribute:
                yield from _tensors_of_attribute(attribute)
                stack += [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)


def _tensors_of_attribute(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.type == AttributeProto.TENSOR:
        yield attribute.t
    elif attribute.type == AttributeProto.SPARSE_TENSOR:
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    yield from attribute.tensors


def all_nodes(nodes: object) -> Iterator[NodeProto]:
    """The nodes and those of their subgraphs."""
    stack: list[NodeProto] = list(nodes)  # type: ignore[call-overload]
    while stack:
        node = stack.pop()
        yield node
        for attribute in node.attribute:
            for graph in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                stack += list(graph.node)


def live_nodes(graph: GraphProto, outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes that the outputs depend on, in order."""
    needed, live = set(outputs), []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        live.append(node)
        for inner in all_nodes([node]):
            needed.update(inner.input)
            for attribute in inner.attribute:
                for body in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                    needed.update(output.name for output in body.output)
    return live[::-1]


def drop_dead_nodes(model: ModelProto) -> None:
    """Leave out, in place, what no output depends on: onnxruntime would run it all the same."""
    live = live_nodes(model.graph, [output.name for output in model.graph.output])
    kept = [NodeProto.FromString(node.SerializeToString()) for node in live]  # those in the graph go
    del model.graph.node[:]
    model.graph.node.extend(kept)


def operator_name(node: NodeProto) -> str:
    """The operator as messages name it: with its domain, if that is not ONNX's."""
    return node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}.{node.op_type}"


def _type_name(data_type: int) -> str:
    names = {value: name for name, value in TensorProto.DataType.items()}
    return names.get(data_type, str(data_type))
