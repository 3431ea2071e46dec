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
from attnc.frontend.context import MAX_INDEX, Context
from attnc.frontend.simplify import GROWING
from attnc.frontend.values import Array

RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


class GatherElements(OpRun):
    """The operator by its definition; the evaluator of onnx 1.23 fails along an axis of more than 32 elements."""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        """Element i of the result along `axis` is data[..., indices[i], ...]; along other axes `data` may be longer than `indices`."""
        along = axis % data.ndim
        reached = tuple(slice(None) if i == along else slice(n) for i, n in enumerate(indices.shape))
        return (np.take_along_axis(data[reached], indices.astype(np.int64), along),)


def evaluate(ctx: Context, node: NodeProto, arrays: Sequence[Array | None]) -> list[Array]:
    """Results of a node on arrays; raises `UnsupportedError` where no evaluator knows the operator."""
    if node.op_type in RANDOM:
        ctx.fail(node, "random numbers are not supported")
    if node.op_type in GROWING:
        _check_growth(node, arrays)
    names = [name for name in dict.fromkeys(node.input) if name]
    by_name = {name: array for name, array in zip(node.input, arrays, strict=True) if name and array is not None}
    if any(array.dtype == np.float32 for array in by_name.values()):  # constants that were found here are in double precision
        by_name = {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in by_name.items()}
    try:
        evaluator = ReferenceEvaluator(_single(ctx, node, by_name), new_ops=[GatherElements])
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


def _check_growth(node: NodeProto, arrays: Sequence[Array | None]) -> None:
    """Refuse results that are far larger than their operands before they are made."""
    sizes = [np.asarray(array) for array in arrays if array is not None]
    if node.op_type == "ConstantOfShape":
        count = elements(tuple(int(n) for n in sizes[0].reshape(-1)))
    elif node.op_type == "Expand":
        count = elements(tuple(int(n) for n in sizes[1].reshape(-1))) * max(1, sizes[0].size)
        count = min(count, MAX_INDEX) if elements(tuple(int(n) for n in sizes[1].reshape(-1))) <= MAX_INDEX else count
    elif node.op_type == "Tile":
        count = sizes[0].size * elements(tuple(int(n) for n in sizes[1].reshape(-1)))
    elif node.op_type == "Range":
        start, limit, step = (float(array.reshape(-1)[0]) for array in sizes)
        count = int(abs((limit - start) / step)) if step else 0
    elif node.op_type == "OneHot":
        count = sizes[0].size * int(sizes[1].reshape(-1)[0])
    else:
        return
    if count > MAX_INDEX:
        raise ModelError(f"node {node.name!r} ({node.op_type}): a constant of {count} elements is too large")
