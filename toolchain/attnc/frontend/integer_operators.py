"""Operators on integers, as onnxruntime's quantizer writes them, in float between QuantizeLinear and DequantizeLinear.

A QLinear operator is DequantizeLinear of its operands, the operator in float, and QuantizeLinear of its result. In dynamic quantization
DynamicQuantizeLinear makes integers with a scale and a zero point that depend on the data; here it makes the data itself, with scale 1 and
zero point 0, and the products that read it are named: their inputs get a scale per token on the device.
The schemas are those of onnxruntime (docs/ContribOperators.md) and ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from attnc.frontend.load import ONNX_DOMAINS
from attnc.frontend.lowering import fail, visited
from attnc.frontend.quantized_model import PASSING, Quantized
from attnc.frontend.values import Array
from attnc.tensors import array_of

Place = tuple[int, int, int]
"""Where integers, scale and zero point stand among the inputs."""
FIRST, SECOND = (0, 1, 2), (3, 4, 5)


@dataclass(frozen=True)
class Form:
    """An operator on integers: the float one, where its operands stand, and scale and zero point of its result."""

    operator: str
    operands: tuple[Place, ...]
    result: tuple[int, int]
    bias: int = 0
    """Where integers of 32 bits in steps of the product stand; 0 if there are none."""


FORMS = {
    "QLinearMatMul": Form("MatMul", (FIRST, SECOND), (6, 7)),
    "QLinearConv": Form("Conv", (FIRST, SECOND), (6, 7), bias=8),
    "QGemm": Form("Gemm", (FIRST, SECOND), (7, 8), bias=6),
    "QLinearAdd": Form("Add", (FIRST, SECOND), (6, 7)),
    "QLinearMul": Form("Mul", (FIRST, SECOND), (6, 7)),
    "QLinearWhere": Form("Where", ((1, 2, 3), (4, 5, 6)), (7, 8)),
    **{f"QLinear{name}": Form(name, (FIRST,), (3, 4)) for name in ("Softmax", "Sigmoid", "LeakyRelu", "GlobalAveragePool", "AveragePool")},
    "QLinearReduceMean": Form("ReduceMean", (FIRST,), (3, 4)),
}  # fmt: skip
OPERATORS = {
    *FORMS, "QLinearConcat", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
}  # fmt: skip
FLATTENED = 13
"""The opset from which on Softmax has one axis: before, it flattens the axes from its own on."""
AXES_AS_INPUT = 18


def with_pairs(model: ModelProto) -> Quantized:
    """Rewrite the operators on integers of `model` in place; what is known of it then."""
    if not any(node.op_type in OPERATORS for node in model.graph.node):
        return Quantized()
    rewriting = _Rewriting(model)
    for node in list(model.graph.node):
        visited(rewriting.visit, node)
    return rewriting.finish()


@dataclass
class _Rewriting:
    """One walk over the nodes. `types` are those of integers, `real` the data that stand for integers made by DynamicQuantizeLinear."""

    model: ModelProto
    found: Quantized = field(default_factory=Quantized)
    kept: list[NodeProto] = field(default_factory=list)
    new: dict[str, Array] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    real: set[str] = field(default_factory=set)
    made: dict[tuple[str, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.arrays = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.arrays.update((node.output[0], a.t) for a in node.attribute if a.type == AttributeProto.TENSOR)
        self.types = {name: tensor.data_type for name, tensor in self.arrays.items()}
        self.types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self.readers: dict[str, list[NodeProto]] = {}
        self.makers: dict[str, NodeProto] = {}
        self.gone: set[str] = set()
        for node in graph.node:
            self.makers.update((name, node) for name in node.output)
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.opset = next(entry.version for entry in self.model.opset_import if entry.domain in ONNX_DOMAINS)

    # ---- nodes ----

    def visit(self, node: NodeProto) -> None:
        """Keep or replace one node."""
        if node.name in self.gone:
            return
        handlers: dict[str, Callable[[NodeProto], None]] = {
            "DynamicQuantizeLinear": self._dynamic, "QLinearConcat": self._concat,
            "MatMulInteger": self._integer_product, "ConvInteger": self._integer_product,
            "DynamicQuantizeMatMul": self._float_product, "MatMulIntegerToFloat": self._float_product,
        }  # fmt: skip
        if node.op_type in FORMS:
            self._dialect("QOperator")
            self._form(node, FORMS[node.op_type])
        elif node.op_type in handlers:
            handlers[node.op_type](node)
        else:
            self._other(node)

    def _other(self, node: NodeProto) -> None:
        if node.op_type == "QuantizeLinear":
            named = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
            zero = node.input[2] if len(node.input) > 2 else ""
            self.types[node.output[0]] = self.types.get(zero, 0) or named or TensorProto.UINT8
        elif node.op_type in PASSING and node.input:
            self.types |= {output: self.types[node.input[0]] for output in node.output if node.input[0] in self.types}
            if node.input[0] in self.real:
                self.real.update(node.output)
        self.kept.append(node)

    def _form(self, node: NodeProto, form: Form) -> None:
        """A QLinear operator, or QGemm (whose result is float where it has no scale)."""
        attributes = _attributes(node)
        last = bool(attributes.pop("channels_last", 0))
        axes = self._axes(node, form, attributes)
        operands = [self._real(node, place, axis) for place, axis in zip(form.operands, axes, strict=True)]
        if last:
            operands[0] = self._turned(node, operands[0], first=True)
        if form.operator == "Where":
            operands.insert(0, node.input[0])
        if form.bias and _given(node, form.bias):
            operands.append(self._bias(node, form, float(attributes.get("alpha", 1.0))))
        if form.operator == "Softmax":
            operands = [self._flattened(node, operands[0], attributes)]
        if form.operator == "ReduceMean" and self.opset >= AXES_AS_INPUT:
            operands.append(self._constant(f"{node.output[0]}:axes", np.array(attributes.pop("axes"), np.int64)))
        rounded = _given(node, form.result[0])
        result = f"{node.output[0]}:real" if rounded else node.output[0]
        if form.operator == "Softmax":
            self._softmax(node, operands[0], result, attributes)
        else:
            straight = f"{result}:channels" if last else result
            self.kept.append(helper.make_node(form.operator, operands, [straight], name=node.name, **attributes))
            if last:
                self._turned(node, straight, first=False, made=result)
        if rounded:
            self._round(node, result, node.input[form.result[0]], node.input[form.result[1]] if _given(node, form.result[1]) else "")

    def _concat(self, node: NodeProto) -> None:
        """Scale and zero point of the result, then three inputs for every operand."""
        self._dialect("QOperator")
        operands = [self._real(node, (i, i + 1, i + 2)) for i in range(2, len(node.input), 3)]
        result = f"{node.output[0]}:real"
        self.kept.append(helper.make_node("Concat", operands, [result], name=node.name, **_attributes(node)))
        self._round(node, result, node.input[0], node.input[1])

    def _dynamic(self, node: NodeProto) -> None:
        """The data stay as they are, in steps of 1."""
        self._dialect("dynamic int8")
        self.kept.append(helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name))
        self.real.add(node.output[0])
        for name, number in zip(node.output[1:], (np.float32(1), np.uint8(0)), strict=False):
            self._constant(name, np.array(number))

    def _integer_product(self, node: NodeProto) -> None:
        """Both operands without their zero points, multiplied; whoever reads it multiplies with the scales. Where that is done as the
        quantizer does it, the scale of the second operand goes where it belongs."""
        self._dialect("dynamic int8")
        convolution = node.op_type == "ConvInteger"
        result, scale = self._scaled(node)
        zeros = [node.input[i] if _given(node, i) else "" for i in (2, 3)]
        units = [self._unit(f"{node.output[0]}:unit_{i}", zero) for i, zero in enumerate(zeros)]
        extended = helper.make_node(node.op_type, [node.input[0], units[0], zeros[0], node.input[1], scale or units[1], zeros[1]], [])
        extended.name = node.name
        operands = [self._real(extended, FIRST, -2), self._real(extended, SECOND, 0 if convolution else -1)]
        self._note_dynamic(node, node.input[0])
        operator = "Conv" if convolution else "MatMul"
        self.kept.append(helper.make_node(operator, operands, [result], name=node.name, **_attributes(node)))

    def _unit(self, name: str, zero: str) -> str:
        """Scales of 1, as many as there are zero points."""
        shape = tuple(self.arrays[zero].dims) if zero in self.arrays else ()
        return self._constant(name, np.ones(shape, np.float32))

    def _scaled(self, node: NodeProto) -> tuple[str, str]:
        """Where the integers of a dynamic product become float: the result of Cast and Mul with both scales, which go, and the constant one
        of the scales. Its own result and no scale where it is spelled another way."""
        plain = node.output[0], ""
        cast, product = self._only_reader(node, "Cast"), None
        product = self._only_reader(cast, "Mul") if cast is not None else None
        if cast is None or product is None or node.input[0] not in self.real or node.op_type == "ConvInteger":
            return plain
        both = self.makers.get(next((name for name in product.input if name != cast.output[0]), ""))
        if both is None or both.op_type != "Mul":
            return plain
        constant = [name for name in both.input if name in self.arrays and name not in self.new]
        data = [name for name in both.input if self.new.get(name, np.zeros(1)).shape == ()]
        zero = self.arrays.get(node.input[3]) if _given(node, 3) else None
        if len(constant) != 1 or len(data) != 1 or (zero is not None and self._scales(node.input[3]) != self._scales(constant[0])):
            return plain
        self.gone |= {cast.name, product.name}
        return product.output[0], constant[0]

    def _only_reader(self, node: NodeProto, operator: str) -> NodeProto | None:
        readers = self.readers.get(node.output[0], [])
        outputs = {value.name for value in self.model.graph.output}
        return readers[0] if len(readers) == 1 and readers[0].op_type == operator and node.output[0] not in outputs else None

    def _float_product(self, node: NodeProto) -> None:
        """DynamicQuantizeMatMul (A, B, scale, zero point, bias) and MatMulIntegerToFloat (A, B, scales, zero points, bias)."""
        self._dialect("dynamic int8")
        whole = node.op_type == "DynamicQuantizeMatMul"
        second, bias = ((1, 2, 3), 4) if whole else ((1, 3, 5), 6)
        if whole:
            self.real.add(node.input[0])
        left = node.input[0] if node.input[0] in self.real else self._real(node, (0, 2, 4), -2)
        self._note_dynamic(node, node.input[0])
        product = f"{node.output[0]}:product" if _given(node, bias) else node.output[0]
        self.kept.append(helper.make_node("MatMul", [left, self._real(node, second, -1)], [product], name=node.name))
        if _given(node, bias):
            self.kept.append(helper.make_node("Add", [product, node.input[bias]], [node.output[0]], name=f"{node.name}:Add"))

    # ---- parts of them ----

    def _axes(self, node: NodeProto, form: Form, attributes: dict[str, Any]) -> tuple[int, ...]:
        """The axis of each operand along which it may have several scales."""
        if form.operator == "Conv":
            return 1, 0
        if form.operator == "Gemm":
            return (1 if attributes.get("transA", 0) else 0), (0 if attributes.get("transB", 0) else 1)
        return (-2, -1) if form.operator == "MatMul" else (0,) * len(form.operands)

    def _real(self, node: NodeProto, place: Place, axis: int = 0) -> str:
        """The float tensor that integers stand for, made once."""
        names = [node.input[i] if _given(node, i) else "" for i in place]
        if names[0] in self.real:
            return names[0]
        if not (names[0] and names[1]):
            fail(node, names[0], f"needed integers and their scale as inputs {place[0]} and {place[1]}, found {len(node.input)} inputs")
        if names[0] in self.arrays:
            axis %= max(len(self.arrays[names[0]].dims), 1)
        elif self._scales(names[1]) > 1:
            fail(node, names[0], f"an activation with {self._scales(names[1])} scales along an axis; one scale per tensor is needed")
        key = (*names, str(axis))
        if key not in self.made:
            result = self.made[key] = f"{names[0]}:real_{len(self.made)}"
            made = helper.make_node("DequantizeLinear", [n for n in names if n], [result], name=f"{result}:DequantizeLinear", axis=axis)
            self.kept.append(made)
        return self.made[key]

    def _scales(self, name: str) -> int:
        return int(np.prod(self.arrays[name].dims, dtype=int)) if name in self.arrays else 1

    def _round(self, node: NodeProto, real: str, scale: str, zero: str) -> None:
        """The integers of a result."""
        if not zero:
            kind = self.types.get(node.input[0], TensorProto.UINT8)
            zero = self._constant(f"{node.output[0]}:zero_point", np.zeros((), helper.tensor_dtype_to_np_dtype(kind)))
        self.types[node.output[0]] = self.types.get(zero, TensorProto.UINT8)
        self.kept.append(helper.make_node("QuantizeLinear", [real, scale, zero], [node.output[0]], name=f"{node.name}:QuantizeLinear"))

    def _bias(self, node: NodeProto, form: Form, alpha: float) -> str:
        """Integers of 32 bits in steps of both scales (and alpha) as float."""
        scales = [self._number(node, place[1]) for place in form.operands]
        scale = np.float32(alpha) * scales[0].reshape(-1)[0] * scales[1].reshape(-1)
        unit = self._constant(f"{node.output[0]}:bias_scale", np.asarray(scale if scale.size > 1 else scale[0], np.float32))
        name = f"{node.output[0]}:bias"
        self.kept.append(helper.make_node("DequantizeLinear", [node.input[form.bias], unit], [name], name=f"{node.name}:bias", axis=0))
        return name

    def _number(self, node: NodeProto, index: int) -> Array:
        if node.input[index] not in self.arrays:
            fail(node, node.input[index], "its scale is not constant: it depends on data")
        return array_of(self.arrays[node.input[index]])

    def _turned(self, node: NodeProto, name: str, first: bool, made: str = "") -> str:
        """Channels from the last axis to the second, or back."""
        result = made or f"{node.output[0]}:channels_first"
        perm = (0, 3, 1, 2) if first else (0, 2, 3, 1)
        self.kept.append(helper.make_node("Transpose", [name], [result], name=f"{node.name}:{'first' if first else 'last'}", perm=perm))
        return result

    def _flattened(self, node: NodeProto, name: str, attributes: dict[str, Any]) -> str:
        """The operand of a Softmax of old opsets whose axis is not the last, as a matrix."""
        attributes.setdefault("axis", -1 if attributes["opset"] >= FLATTENED else 1)
        if attributes["opset"] >= FLATTENED or attributes["axis"] == -1:
            return name
        result = f"{node.output[0]}:rows"
        self.kept.append(helper.make_node("Flatten", [name], [result], name=f"{node.name}:Flatten", axis=attributes["axis"]))
        return result

    def _softmax(self, node: NodeProto, operand: str, result: str, attributes: dict[str, Any]) -> None:
        flat = operand == f"{node.output[0]}:rows"
        made = f"{result}:rows" if flat else result
        self.kept.append(helper.make_node("Softmax", [operand], [made], name=node.name, axis=-1 if flat else attributes["axis"]))
        if flat:
            shape = f"{node.output[0]}:shape"
            self.kept.append(helper.make_node("Shape", [node.input[0]], [shape], name=f"{node.name}:Shape"))
            self.kept.append(helper.make_node("Reshape", [made, shape], [result], name=f"{node.name}:Reshape"))

    def _note_dynamic(self, node: NodeProto, operand: str) -> None:
        if operand in self.real:
            self.found.dynamic.add(node.name)

    def _constant(self, name: str, array: Array) -> str:
        self.new[name] = array
        self.arrays[name] = numpy_helper.from_array(array, name)
        self.types[name] = self.arrays[name].data_type
        return name

    def _dialect(self, name: str) -> None:
        if name not in self.found.dialects:
            self.found.dialects.append(name)

    def finish(self) -> Quantized:
        """Put nodes and constants into the model; what was said of the types of tensors holds no more."""
        graph = self.model.graph
        kept = [NodeProto.FromString(node.SerializeToString()) for node in self.kept]  # those in the graph go
        del graph.node[:], graph.value_info[:]
        graph.node.extend(kept)
        graph.initializer.extend(self.arrays[name] for name in self.new)
        return self.found


def _given(node: NodeProto, index: int) -> bool:
    return index < len(node.input) and bool(node.input[index])


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
