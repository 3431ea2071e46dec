"""Fold constants, inline functions, infer shapes; every node gets a name that is unique and stays."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript.optimizer
from onnx import ModelProto, NodeProto, TensorProto, inliner, shape_inference

from attnc.errors import ModelError
from attnc.frontend.load import MAX_ELEMENTS, operator_name
from attnc.frontend.mixture import Mixture
from attnc.messages import one_line
from attnc.tensors import array_of, tensor_of

log = logging.getLogger(__name__)
logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what its passes leave alone concerns nobody

GROWING = {
    "ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "Upsample", "OneHot", "EyeLike",
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "CenterCropPad", "Loop", "Scan",
}  # fmt: skip
"""Operators whose result may be far larger than what they read: folded by the interpreter, which looks at the size first."""
MISJUDGED = {"GatherElements"}
"""Operators that the evaluator of the onnx package gets wrong: folded by the interpreter, with an evaluator of its own."""
MAX_LIST = 1 << 22
_SMALL = 1024
_FREE = 1 << 20
"""Elements up to which a folded constant may be larger than its operands, whatever the operator."""


@dataclass
class TensorInfo:
    """What inference knows about a tensor: ONNX element type (0 if unknown) and static shape (None if unknown)."""

    elem_type: int
    shape: tuple[int, ...] | None

    @property
    def is_float(self) -> bool:
        """Floating point (an unknown type counts)."""
        return self.elem_type in (0, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass
class Simplified:
    """The folded graph and what is known about it; `original` are (name, operator) of all nodes before folding."""

    model: ModelProto
    original: list[tuple[str, str]]
    constants: dict[str, np.ndarray]
    info: dict[str, TensorInfo]
    opset: int
    outputs: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """Nodes that nothing can stand for, with the reason: of other domains, or routers of mixtures that are not read."""
    behind: set[str] = field(default_factory=set)
    """Other nodes of what such a router is part of: that they are not supported either is no news."""
    mixtures: dict[str, Mixture] = field(default_factory=dict)
    """Mixtures of experts by the nodes that stand for them."""
    mixed: dict[str, list[str]] = field(default_factory=dict)
    """The nodes that each stands for."""


def name_nodes(model: ModelProto) -> None:
    """Give every node of the main graph a name of its own."""
    taken: set[str] = {node.name for node in model.graph.node}
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        stem = node.name or node.op_type
        while True:
            name = f"{stem}_{counts.get(stem, 0)}"
            counts[stem] = counts.get(stem, 0) + 1
            if name not in taken:
                break
        node.name = name
        taken.add(name)
        seen.add(name)


def inline_functions(model: ModelProto, path: str) -> ModelProto:
    """Replace calls of the model's own functions by their bodies."""
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises whatever C++ throws
        raise ModelError(f"{path}: the functions of the model cannot be inlined: {one_line(error)}") from error


def simplify(model: ModelProto, path: str) -> Simplified:
    """`model` has static inputs, no functions, and named nodes."""
    original = [(node.name, operator_name(node)) for node in model.graph.node]
    outputs = [output.name for output in model.graph.output]
    before = infer(model, path)
    check_sizes(before, path)
    for name in outputs:
        shape = before[name].shape if name in before else None
        if shape and 0 in shape:
            raise ModelError(f"{path}: output {name!r} has shape {list(shape)} with the inputs' shapes: there is nothing to compute")
    model = fold(model, before)
    name_nodes(model)
    info = infer(model, path)
    check_sizes(info, path)
    constants = {tensor.name: array_of(tensor) for tensor in model.graph.initializer}
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return Simplified(model, original, constants, info, opset, outputs)


def fold(model: ModelProto, info: dict[str, TensorInfo]) -> ModelProto:
    """onnxscript's folding and rewriting; the model itself if that fails, since the interpreter folds on its own too."""

    def size(values: Iterable[ir.Value | None]) -> int:
        return sum(math.prod(info[value.name].shape or ()) for value in values if value is not None and value.name in info)

    def should_fold(node: ir.Node) -> bool | None:
        grows = size(node.outputs) > max(_FREE, size(node.inputs))
        return False if grows or node.op_type in GROWING | MISJUDGED else None

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            intermediate = ir.from_proto(model)
            onnxscript.optimizer.optimize_ir(
                intermediate, num_iterations=4, input_size_limit=MAX_ELEMENTS, output_size_limit=MAX_ELEMENTS, should_fold=should_fold
            )
            _declare(intermediate.graph)
            optimized: ModelProto = ir.to_proto(intermediate)
    except Exception as error:  # a third-party optimizer must not decide what can be compiled
        log.debug("the optimizer failed (%s); going on with the model as it is", error)
        return model
    if [output.name for output in optimized.graph.output] != [output.name for output in model.graph.output]:
        log.debug("the optimizer renamed outputs; going on with the model as it is")
        return model
    return optimized


def _declare(graph: ir.Graph) -> None:
    """Declare the constants that the optimizer made and forgot: those of several Flatten of one tensor take each other's place."""
    for value in (value for node in graph for value in node.inputs if value is not None):
        if value.producer() is None and value.const_value is not None and graph.initializers.get(value.name or "") is not value:
            stem, number = value.name or "constant", 0
            while value.name is None or value.name in graph.initializers:
                number += 1
                value.name = f"{stem}::{number}"
            graph.register_initializer(value)


def infer(model: ModelProto, path: str) -> dict[str, TensorInfo]:
    """Types and static shapes of all tensors; large constants are left out of the copy that inference reads."""
    skeleton = ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    graph = skeleton.graph
    graph.name = "shapes"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    _check_lists(_inferred(skeleton, path, data_prop=False), path)
    inferred = _inferred(skeleton, path, data_prop=True)
    values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
    info = {value.name: read_info(value) for value in values}
    for tensor in model.graph.initializer:
        info[tensor.name] = TensorInfo(tensor.data_type, tuple(tensor.dims))
    return info


def _inferred(model: ModelProto, path: str, data_prop: bool) -> ModelProto:
    try:
        return shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=data_prop)
    except Exception as error:  # raised from C++ with several types
        raise ModelError(f"{path}: shapes and types of the model contradict each other: {one_line(error)}") from error


def _check_lists(model: ModelProto, path: str) -> None:
    """Refuse long tensors of one axis: inference that follows the numbers of shapes takes each of them for a list of such numbers."""
    for value in model.graph.value_info:
        shape = read_info(value).shape
        if shape is not None and len(shape) == 1 and shape[0] > MAX_LIST:
            raise ModelError(f"{path}: tensor {value.name!r} has one axis of {shape[0]} elements, at most {MAX_LIST} are supported")


def read_info(value: onnx.ValueInfoProto) -> TensorInfo:
    """Element type and shape of a value, where both are known."""
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
        return TensorInfo(tensor.elem_type, None)
    dims = [dim.dim_value if dim.WhichOneof("value") == "dim_value" else None for dim in tensor.shape.dim]
    known = None if any(dim is None for dim in dims) else tuple(int(dim or 0) for dim in dims)
    return TensorInfo(tensor.elem_type, known)


def check_sizes(info: dict[str, TensorInfo], path: str) -> None:
    """Refuse tensors that no machine holds, before something tries to build them."""
    for name, found in info.items():
        if found.shape is not None and math.prod(found.shape) > MAX_ELEMENTS:
            raise ModelError(f"{path}: tensor {name!r} has shape {list(found.shape)}, at most {MAX_ELEMENTS} elements are supported")


def infer_node(node: NodeProto, opset: int, info: dict[str, TensorInfo], known: dict[str, np.ndarray]) -> Iterable[tuple[str, TensorInfo]]:
    """Inference of one node, given what is known about its operands; nothing where it fails."""
    graph = onnx.GraphProto(name="node")
    graph.node.append(node)
    for name in dict.fromkeys(filter(None, node.input)):
        found = info.get(name)
        if name in known and known[name].size <= _SMALL:
            graph.initializer.append(tensor_of(known[name], name))
        elif found is not None and found.elem_type:
            graph.input.append(onnx.helper.make_tensor_value_info(name, found.elem_type, found.shape))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
    except Exception:  # a node that inference does not know: its shape stays open
        return []
    return [(value.name, read_info(value)) for value in inferred.graph.output]
