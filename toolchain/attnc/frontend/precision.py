"""Half, bfloat16 and double models become float32 ones: the device calibrates in float32 anyway."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, numpy_helper

from attnc.arrays import Array
from attnc.tensors import array_of, is_mapped, scratch

OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_TYPE_ATTRIBUTES = ("to", "dtype", "stash_type", "softmax_precision")


def to_float32(model: ModelProto) -> bool:
    """Rewrite every other float type of the model in place; says whether there was one."""
    changed = False
    for graph in _graphs(model.graph):
        changed |= _convert_graph(graph)
    for function in model.functions:
        for node in function.node:
            changed |= _convert_node(node)
    return changed


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    stack = [graph]
    while stack:
        current = stack.pop()
        yield current
        for node in current.node:
            for attribute in node.attribute:
                stack += [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)


def _convert_graph(graph: GraphProto) -> bool:
    changed = False
    for tensor in graph.initializer:
        changed |= _convert_tensor(tensor)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        changed |= _convert_type(value.type)
    for node in graph.node:
        changed |= _convert_node(node)
    return changed


def _convert_type(type_proto: TypeProto) -> bool:
    if type_proto.WhichOneof("value") != "tensor_type" or type_proto.tensor_type.elem_type not in OTHER_FLOATS:
        return False
    type_proto.tensor_type.elem_type = TensorProto.FLOAT
    return True


def _convert_tensor(tensor: TensorProto) -> bool:
    if tensor.data_type not in OTHER_FLOATS:
        return False
    made = scratch().float32(tensor, _float32) if is_mapped(tensor) else numpy_helper.from_array(_float32(array_of(tensor)), tensor.name)
    tensor.CopyFrom(made)
    return True


def _float32(found: Array) -> Array:
    with np.errstate(over="ignore"):
        array = found.astype(np.float32)
    if found.dtype == np.float64:
        # A double "minus a lot" of a mask must not become minus infinity.
        array = np.where(np.isinf(array) & np.isfinite(found), np.sign(array) * np.finfo(np.float32).max, array)
    return array.astype(np.float32, copy=False)


def _convert_node(node: NodeProto) -> bool:
    changed = False
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            changed |= _convert_tensor(attribute.t)
        elif attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES and attribute.i in OTHER_FLOATS:
            attribute.i = TensorProto.FLOAT
            changed = True
    return changed
