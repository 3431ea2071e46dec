"""Nodes and initializers of an export, with the pairs that put values on the grids of their types."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from attnc.arrays import Array
from attnc.ir import Graph, TensorType

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
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
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

    def shape(self, x: str) -> tuple[int, int]:
        """[rows, channels] of a value of the device, by its name here."""
        return self.graph.value(x.split("/", 2)[2]).shape

    def type(self, x: str) -> TensorType:
        """Its type."""
        return self.graph.type(x.split("/", 2)[2])

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
