"""Evaluate a node whose operands are all constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from attnc.errors import ModelError
from attnc.frontend.builder import elements
from attnc.frontend.context import Context
from attnc.frontend.simplify import GROWING, infer_node
from attnc.frontend.values import Array

RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


class GatherElements(OpRun):
    """The operator by its definition; the evaluator of onnx 1.23 fails along an axis of more than 32 elements."""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        """Element i of the result along `axis` is data[..., indices[i], ...]; along other axes `data` may be longer than `indices`."""
        along = axis % data.ndim
        reached = tuple(slice(None) if i == along else slice(n) for i, n in enumerate(indices.shape))
        return (np.take_along_axis(data[reached], indices.astype(np.int64), along),)


class DequantizeLinear(OpRun):
    """The operator by its definition; the evaluator of onnx 1.23 lacks it in some opsets."""

    def _run(self, x: Array, scale: Array, zero: Array | None = None, axis: int = 1, **others: int) -> tuple[Array]:
        """(x - zero) * scale; scale and zero point are numbers, or lie along `axis`."""
        shape = [-1 if i == axis % max(x.ndim, 1) else 1 for i in range(x.ndim)] if scale.size > 1 else [1] * x.ndim
        steps = x.astype(np.int64) - (0 if zero is None else zero.astype(np.int64).reshape(shape))
        return ((steps * scale.astype(np.float64).reshape(shape)).astype(np.float32),)


def evaluate(ctx: Context, node: NodeProto, arrays: Sequence[Array | None]) -> list[Array]:
    """Results of a node on arrays; raises `UnsupportedError` where no evaluator knows the operator."""
    if node.op_type in RANDOM:
        ctx.fail(node, "random numbers are not supported")
    names = [name for name in dict.fromkeys(node.input) if name]
    by_name = {name: array for name, array in zip(node.input, arrays, strict=True) if name and array is not None}
    if any(array.dtype == np.float32 for array in by_name.values()):  # constants that were found here are in double precision
        by_name = {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in by_name.items()}
    ctx.fold(node, _sizes(ctx, node, by_name))
    try:
        evaluator = ReferenceEvaluator(_single(ctx, node, by_name), new_ops=[GatherElements, DequantizeLinear])
        with np.errstate(all="ignore"):
            results = evaluator.run(None, {name: by_name[name] for name in names})
    except Exception as error:  # whatever the evaluator of this operator raises
        raise ModelError(f"node {node.name!r} ({node.op_type}): cannot be evaluated on its constant operands: {error}") from error
    return [np.asarray(result) for result in results]


def _single(ctx: Context, node: NodeProto, arrays: dict[str, Array]) -> onnx.ModelProto:
    """A model of the one node."""
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", ctx.opset)])


def _sizes(ctx: Context, node: NodeProto, arrays: dict[str, Array]) -> int:
    """Bytes of the results, from their shapes: a few numbers may ask for more than memory holds."""
    total = 0
    for _, found in infer_node(node, ctx.opset, ctx.info, arrays):
        if found.shape is not None and found.elem_type:
            wide = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(found.elem_type)).itemsize
            total += wide * elements(found.shape)
        elif node.op_type in GROWING:
            raise ModelError(f"node {node.name!r} ({node.op_type}): the size of its result cannot be told before it is computed")
    return total
