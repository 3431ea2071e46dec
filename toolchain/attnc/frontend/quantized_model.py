"""What a quantized model says, and the model without QuantizeLinear and DequantizeLinear: in float, or rounded in standard operators."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from attnc.frontend.values import Array, Grid

SPELLED = "::"
"""Behind the name of a node that is spelled out in several."""
PASSING = {"Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Gather", "Expand", "MaxPool"}
"""Operators that hand constants on: a product behind them still reads a quantized weight."""


@dataclass(frozen=True)
class QuantizedConstant:
    """A constant that arrived as integers: real = scale * q, with q = integers - zero point. `scale` is positive; it has shape (), lies
    along `axis`, or, with `block`, has the shape of q with a scale for every `block` elements along `axis`. `bits` is the declared
    width."""

    name: str
    node: str
    q: Array
    scale: Array
    axis: int
    bits: int
    block: int = 0

    @classmethod
    def make(cls, name: str, node: str, q: Array, scale: Array, axis: int, bits: int, block: int = 0) -> QuantizedConstant:
        """With any finite scales: the sign of one goes into the integers, and so does a zero."""
        scale = scale.astype(np.float64) if block else scale.reshape(() if scale.size == 1 else -1).astype(np.float64)
        if (scale <= 0).any():
            q = q * np.sign(cls(name, node, q, scale, axis, bits, block).spread()).astype(q.dtype)
            scale = np.where(scale == 0, 1.0, np.abs(scale))
        return cls(name, node, q, scale, axis, bits, block)

    def spread(self) -> Array:
        """The scale, in a shape that meets q."""
        if self.block:
            return np.repeat(self.scale, self.block, self.axis).take(range(self.q.shape[self.axis]), self.axis)
        shape = [1] * self.q.ndim
        if self.scale.ndim:
            shape[self.axis] = -1
        return self.scale.reshape(shape) if self.q.ndim else self.scale

    def dequantize(self) -> Array:
        """float32, as the frameworks hand it on."""
        return np.asarray(self.q.astype(np.float64) * self.spread(), np.float32)


@dataclass
class Quantized:
    """What a quantized model says. `readers` maps a node to the quantized constants that it reads (directly or through operators
    that only rearrange), `products` names those nodes that multiply, `grids` maps the integers that a QuantizeLinear makes to their
    type; `passed` are pairs that the device leaves out, with the reason; `rounded` are those whose rounding is in the imported graph
    already, `centred` those of 16 bits with a zero point; `lost` are scores of attention that round to nothing. `changed` are weights
    that do not keep their integers, with the reason, `dynamic` products whose activations get their scale from data. `lowered` is the model
    as it is here, with constants in float and pairs on activations."""

    dialects: list[str] = field(default_factory=list)
    constants: dict[str, QuantizedConstant] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    products: set[str] = field(default_factory=set)
    grids: dict[str, Grid] = field(default_factory=dict)
    roundings: dict[str, int] = field(default_factory=dict)
    passed: dict[str, str] = field(default_factory=dict)
    weights: list[dict[str, Any]] = field(default_factory=list)
    requantized: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    rounded: set[str] = field(default_factory=set)
    centred: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    dynamic: set[str] = field(default_factory=set)
    lowered: ModelProto = field(default_factory=ModelProto)

    def float_model(self) -> ModelProto:
        """The model without rounding."""
        return self.unrounded(self.lowered)

    def unrounded(self, model: ModelProto) -> ModelProto:
        """The model, or what the host computes of it, without rounding: a pair only saturates (onnxruntime's quantizer drops a Relu that
        saturation does anyway), one that the device leaves out does nothing, and one that the imported graph has rounds."""
        return without_pairs(model, paired_integers(self.lowered, self.grids), self.grids, self.passed, self.rounded.__contains__)

    def runnable(self) -> ModelProto:
        """The model as the framework computes it, in standard operators: pairs as division, rounding half to even, and saturation."""
        return without_pairs(self.lowered, paired_integers(self.lowered, self.grids), self.grids, (), lambda name: True)


def weight_names(found: Quantized, sources: tuple[str, ...]) -> Iterator[QuantizedConstant]:
    """The quantized constants that these ONNX nodes read."""
    for name in dict.fromkeys(name for source in sources for name in found.readers.get(written(source, found.readers), ())):
        yield found.constants[name]


def written(name: str, known: Container[str]) -> str:
    """The node of the file, of those that are known, that a node is or is a part of: one of onnxruntime's may be spelled out in several."""
    return name if name in known else name.partition(SPELLED)[0]


def paired_integers(model: ModelProto, grids: Mapping[str, Grid]) -> set[str]:
    """Tensors of integers between the two nodes of pairs; `grids` by those that a QuantizeLinear makes. Outputs of the model are none."""
    outputs = {output.name for output in model.graph.output}
    integers: set[str] = set()
    for node in model.graph.node:
        made = node.output[0] if node.output else ""
        if node.op_type == "QuantizeLinear" and made in grids and made not in outputs:
            integers.add(made)
        elif node.op_type in PASSING and node.input and node.input[0] in integers:
            integers.update(node.output)
    return integers


def without_pairs(
    model: ModelProto, integers: Set[str], grids: Mapping[str, Grid], passed: Collection[str], rounds: Callable[[str], bool]
) -> ModelProto:
    """A model, or a part of one, whose `integers` are in float. Pairs in `passed` do nothing, others saturate and, where `rounds` says so
    of the name of their QuantizeLinear, round."""
    twin = ModelProto()
    twin.CopyFrom(model)
    del twin.graph.node[:], twin.graph.value_info[:]
    for value in (*twin.graph.input, *twin.graph.output):
        if value.name in integers:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        made = node.output[0] if node.output else ""
        if node.op_type == "QuantizeLinear" and made in integers:
            twin.graph.node.extend(_pair_in_float(twin, node, None if node.name in passed else grids[made], rounds(node.name)))
        elif node.op_type == "DequantizeLinear" and node.input[0] in integers:
            twin.graph.node.append(helper.make_node("Identity", [node.input[0]], [made], name=node.name))
        else:
            twin.graph.node.append(node)
    return twin


def _pair_in_float(twin: ModelProto, node: NodeProto, grid: Grid | None, rounded: bool) -> list[NodeProto]:
    """A pair that only saturates, or also rounds."""
    made = node.output[0]
    if grid is None:
        return [helper.make_node("Identity", [node.input[0]], [made], name=node.name)]
    unit = grid.scale if rounded else 1.0
    low, high, scale = (f"{made}:{what}" for what in ("lowest", "highest", "step"))
    for name, number in zip((low, high), grid.range, strict=True):
        twin.graph.initializer.append(numpy_helper.from_array(np.array(number / unit, np.float32), name))
    if not rounded:
        return [helper.make_node("Clip", [node.input[0], low, high], [made], name=node.name)]
    twin.graph.initializer.append(numpy_helper.from_array(np.array(grid.scale, np.float32), scale))
    steps = [("Div", [node.input[0], scale]), ("Round", [f"{made}:0"]), ("Clip", [f"{made}:1", low, high]), ("Mul", [f"{made}:2", scale])]
    outputs = [f"{made}:0", f"{made}:1", f"{made}:2", made]
    return [helper.make_node(op, read, [out], name=f"{node.name}:{op}") for (op, read), out in zip(steps, outputs, strict=True)]
