"""Fused operators on integers, split into operators on integers and fused ones on float numbers, which are read each in their place."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from attnc.frontend.load import MICROSOFT

Parts = tuple[list[NodeProto], list[TensorProto]]


def split_integers(model: ModelProto) -> None:
    """Rewrite QAttention without a past, and QEmbedLayerNormalization, in place."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        write = OPERATORS.get(node.op_type) if node.domain == MICROSOFT else None
        made, constants = (write(node, shapes) if write else None) or ([node], [])
        nodes += made
        model.graph.initializer.extend(constants)
    if len(nodes) > len(model.graph.node):
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # those in the graph go
        del model.graph.node[:]
        model.graph.node.extend(kept)


def _attention(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> Parts | None:
    """The projections as a product of integers; attention of their parts, which has its masks and attributes."""
    given = [*node.input, *[""] * 9][:9]
    x, weight, bias, x_scale, weight_scale, mask, x_zero, weight_zero, past = given
    if past or any(node.output[1:]) or len(shapes.get(weight, ())) != 2:
        return None
    product, width = f"{node.name}::product", shapes[weight][1] // 3
    operands = [x, weight, x_scale, weight_scale, x_zero, weight_zero, bias]
    nodes = [helper.make_node("MatMulIntegerToFloat", operands, [product], name=product, domain=MICROSOFT)]
    ends = [f"{node.name}::end_{index}" for index in range(4)]
    constants = [numpy_helper.from_array(np.array([index * width]), name) for index, name in enumerate(ends)]
    constants.append(numpy_helper.from_array(np.array([2]), f"{node.name}::axis"))
    parts = [f"{node.name}::{part}" for part in ("query", "key", "value")]
    for part, bounds in zip(parts, pairwise(ends), strict=True):
        nodes.append(helper.make_node("Slice", [product, *bounds, f"{node.name}::axis"], [part], name=part))
    made = helper.make_node("MultiHeadAttention", [*parts, "", mask], [node.output[0]], name=node.name, domain=MICROSOFT)
    made.attribute.extend(attribute for attribute in node.attribute if attribute.name != "past_present_share_buffer")
    return [*nodes, made], constants


def _embedding(node: NodeProto, _: dict[str, tuple[int, ...]]) -> Parts | None:
    """Tables and gains of integers, each with a scale and a zero point behind the other operands, as float numbers."""
    given = [*node.input, *[""] * 18][:18]
    nodes, tables = [], list(given[2:7])
    for index, table in enumerate(given[2:7]):
        if table:
            tables[index] = f"{node.name}::table_{index}"
            operands = [table, given[8 + index], given[13 + index]]
            nodes.append(helper.make_node("DequantizeLinear", operands, [tables[index]], name=tables[index]))
    made = helper.make_node("EmbedLayerNormalization", [*given[:2], *tables, given[7]], list(node.output), name=node.name, domain=MICROSOFT)
    made.attribute.extend(node.attribute)
    return [*nodes, made], []


OPERATORS: dict[str, Callable[[NodeProto, dict[str, tuple[int, ...]]], Parts | None]] = {
    "QAttention": _attention, "QEmbedLayerNormalization": _embedding
}  # fmt: skip
