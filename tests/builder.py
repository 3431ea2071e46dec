"""Graphs of independent nodes: one simulator then serves many shapes and types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.ir import Graph, Node, TensorType
from attnc.ops import operator
from harness import quantized

Operand = tuple[tuple[int, int], TensorType] | tuple[tuple[int, int], TensorType, Array]


class Builder:
    """Collects nodes, each with operands of its own."""

    def __init__(self, name: str) -> None:
        self.graph = Graph(name)
        self.types: dict[str, TensorType] = {}

    def add(
        self,
        op: str,
        operands: list[Operand],
        output: TensorType,
        attrs: Mapping[str, Any] | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> str:
        """A node; an operand is (shape, type) for an input or (shape, type, values) for a constant. Returns its name, say n3: its
        operands are n3.0, n3.1 and its output n3.y."""
        name = f"n{len(self.graph.nodes)}"
        inputs = [f"{name}.{i}" for i in range(len(operands))]
        for value, (shape, type_, *constant) in zip(inputs, operands, strict=True):
            self.graph.add_value(value, shape)
            self.types[value] = type_
            if constant:
                self.graph.constants[value] = np.asarray(constant[0], np.float64)
            else:
                self.graph.inputs.append(value)
        node = Node(name, op, inputs, f"{name}.y", dict(attrs or {}), dict(params or {}))
        self.graph.add_value(node.output, operator(node).shape(node, [shape for shape, *_ in operands]))
        self.types[node.output] = output
        self.graph.outputs.append(node.output)
        self.graph.nodes.append(node)
        return name

    def quantized(self) -> Graph:
        """The graph with types and integers."""
        return quantized(self.graph, self.types)


def real(graph: Graph, name: str, integers: Array) -> Array:
    """Integers of a value as float64."""
    return graph.type(name).dequantize(integers)
