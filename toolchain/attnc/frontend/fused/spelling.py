"""The nodes of ONNX that stand for one fused node."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from attnc.errors import UnsupportedError
from attnc.frontend.simplify import TensorInfo
from attnc.frontend.values import Array

REDUCTIONS_OPSET = 18
"""From here on the axes of ReduceMean are an input."""


class UnknownShape(Exception):
    """The shape of a tensor is needed and not inferred yet."""

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor
        super().__init__(tensor)


class Spelling:
    """`s("Add", x, y)` writes a node and returns the name of its tensor; numbers and arrays become constants, "" is an operand left out."""

    def __init__(self, node: NodeProto, opset: int, info: dict[str, TensorInfo], read: set[str]) -> None:
        self.node, self.opset, self.info = node, opset, info
        self.read = read
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.results: dict[int, str] = {}

    # ---- what the fused node says ----

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute as a Python value; text for bytes."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if attribute.type == AttributeProto.STRING else value
        return default

    def given(self, index: int) -> str:
        """The name of an operand; "" if it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def wanted(self, index: int) -> bool:
        """Whether something reads an output."""
        return index < len(self.node.output) and self.node.output[index] in self.read

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The static shape of a tensor; raises `UnknownShape`."""
        found = self.info.get(tensor)
        if found is None or found.shape is None:
            raise UnknownShape(tensor)
        return found.shape

    def refuse(self, reason: str) -> NoReturn:
        """The node cannot be spelled out."""
        raise UnsupportedError(self.node.name, self.node.op_type, reason)

    def without(self, *operands: tuple[int, str]) -> None:
        """Refuse the operands (index, what they are), where they are given."""
        for index, what in operands:
            if self.given(index):
                self.refuse(f"its {what} (input {index}) is not supported")

    # ---- what it becomes ----

    def __call__(self, op: str, *operands: str | float | Array, **attributes: Any) -> str:
        """The name of what a new node makes."""
        return self.several(1, op, *operands, **attributes)[0]

    def several(self, count: int, op: str, *operands: str | float | Array, **attributes: Any) -> list[str]:
        """The names of the first `count` tensors that a new node makes."""
        names = [operand if isinstance(operand, str) else self.constant(operand) for operand in operands]
        label = f"{self.node.name}::{op}_{len(self.nodes)}"
        made = [label, *(f"{label}_{number}" for number in range(1, count))]
        self.nodes.append(helper.make_node(op, names, made, name=label, **attributes))
        return made

    def constant(self, value: float | Array) -> str:
        """A constant; of float32 if it is no array."""
        name = f"{self.node.name}::constant_{len(self.constants)}"
        array = value if isinstance(value, np.ndarray) else np.array(value, np.float32)
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def sum(self, *operands: str) -> str:
        """Those that are given, added from the left."""
        named = [operand for operand in operands if operand]
        total = named[0]
        for operand in named[1:]:
            total = self("Add", total, operand)
        return total

    def mean(self, x: str) -> str:
        """Over the last axis, which stays."""
        if self.opset >= REDUCTIONS_OPSET:
            return self("ReduceMean", x, np.array([-1]), keepdims=1)
        return self("ReduceMean", x, axes=[-1], keepdims=1)

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        """x[start:end] along an axis."""
        return self("Slice", x, np.array([start]), np.array([end]), np.array([axis]))

    def result(self, index: int, tensor: str) -> None:
        """`tensor` is an output of the fused node."""
        self.results[index] = tensor

    def finish(self) -> list[NodeProto]:
        """The nodes, with the outputs' names where results are made."""
        for index, name in enumerate(self.node.output):
            if not self.wanted(index):
                continue
            if index not in self.results:
                self.refuse(f"its output {index} is not supported")
            self.nodes.append(helper.make_node("Identity", [self.results[index]], [name], name=f"{self.node.name}::output_{index}"))
        return self.nodes
