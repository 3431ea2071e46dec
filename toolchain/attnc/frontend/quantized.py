"""Models that arrive quantized: what QuantizeLinear, DequantizeLinear (ONNX), Quant, BipolarQuant and Trunc (QONNX) say, checked.

Quantized constants become float constants, their integers and scales remembered. On activations one form is left, QuantizeLinear and
DequantizeLinear, with a `Grid` each; `imposed.py` turns those into types of the device's graph.

The operators of QONNX are three formulas (https://github.com/fastmachinelearning/qonnx), evaluated here in double precision: its
package would add eight others for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attnc.errors import UnsupportedError
from attnc.fixedpoint import int_range
from attnc.frontend.load import MICROSOFT, QONNX_DOMAINS, QONNX_OPERATORS
from attnc.frontend.quantized_model import PASSING, Quantized, QuantizedConstant
from attnc.frontend.values import Array, Grid

MAX_WEIGHT_BITS = 8
BITS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16}

PRODUCTS = {"MatMul", "Gemm", "Conv", "Einsum"}

ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.rint, "HALF_EVEN": np.rint, "CEIL": np.ceil, "FLOOR": np.floor, "DOWN": np.trunc,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}  # fmt: skip
"""The rounding modes of QONNX; those of activations must be among `NEAREST`."""
NEAREST = ("ROUND", "HALF_EVEN", "HALF_UP", "HALF_DOWN")


def lower_quantization(model: ModelProto) -> Quantized | None:
    """Rewrite `model` in place; None if nothing in it is quantized. Raises `UnsupportedError`."""
    nodes = list(model.graph.node)
    if not any(node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.domain in QONNX_DOMAINS for node in nodes):
        return None
    lowering = _Lowering(model)
    for node in nodes:
        lowering.visit(node)
    return lowering.finish()


class _Lowering:
    """One walk over the nodes. `arrays` are all constants known so far, `sources` leads from integers back to their QuantizeLinear."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.found = Quantized()
        self.arrays: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.new: dict[str, Array] = {}
        self.kept: list[NodeProto] = []
        self.sources: dict[str, NodeProto] = {}
        self.carried: dict[str, list[str]] = {}

    def visit(self, node: NodeProto) -> None:
        """Keep, replace or evaluate one node."""
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            self._constant(node)
        elif node.domain in QONNX_DOMAINS:
            self._dialect("QONNX")
            self._qonnx(node)
        elif node.op_type == "QuantizeLinear":
            self._dialect("ONNX QDQ")
            self._quantize(node)
        elif node.op_type == "DequantizeLinear":
            self._dialect("ONNX QDQ")
            self._dequantize(node)
        else:
            self._other(node)

    def _dialect(self, name: str) -> None:
        if name not in self.found.dialects:
            self.found.dialects.append(name)

    def _constant(self, node: NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                self.arrays[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif attribute.name in ("value_float", "value_int", "value_floats", "value_ints"):
                dtype = np.float32 if "float" in attribute.name else np.int64
                self.arrays[node.output[0]] = np.array(helper.get_attribute_value(attribute), dtype)
        self.kept.append(node)

    def _other(self, node: NodeProto) -> None:
        read = [name for operand in node.input for name in self.carried.get(operand, ())]
        if read:
            self.found.readers[node.name] = list(dict.fromkeys(read))
            if node.op_type in PRODUCTS:
                self.found.products.add(node.name)
        if node.op_type in PASSING:
            for output in node.output:
                if read:
                    self.carried[output] = read
                if node.input and node.input[0] in self.sources:
                    self.sources[output] = self.sources[node.input[0]]
            if all(name in self.arrays for name in node.input if name):
                self._rearrange(node)
        self.kept.append(node)

    def _rearrange(self, node: NodeProto) -> None:
        """Constants in another order are constants."""
        operands = {name: self.arrays[name] for name in node.input if name}
        inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in operands.items()]
        graph = helper.make_graph([node], "node", inputs, [helper.make_empty_tensor_value_info(name) for name in node.output])
        try:
            evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=self.model.opset_import))
            results = [np.asarray(result) for result in evaluator.run(None, operands)]
            self.arrays.update(zip(node.output, results, strict=True))
        except Exception:  # whatever the evaluator raises: the node is then met again, and judged, with all others
            return

    # ---- ONNX ----

    def _quantize(self, node: NodeProto) -> None:
        """On a float constant: its integers; on an activation: a grid."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        scale, zero, dtype = self._parameters(node, attributes)
        given = self.arrays.get(node.input[0])
        if given is not None and given.dtype.kind == "f":
            shape = self._broadcast(node, given, scale, int(attributes.get("axis", 1)))
            low, high = _limits(dtype)
            q = np.rint(given.astype(np.float32) / scale.astype(np.float32).reshape(shape)).astype(np.float64) + zero.reshape(shape)
            self.arrays[node.output[0]] = np.clip(q, low, high).astype(np.int64).astype(dtype)
            return
        if scale.size > 1:
            fail(node, node.input[0], f"an activation with {scale.size} scales along an axis; one scale per tensor is needed")
        self._count_rounding("half to even")
        self._activation(node, node.output[0], dtype.name, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))
        self.sources[node.output[0]] = node
        self.kept.append(node)

    def _activation(self, node: NodeProto, tensor: str, dtype: str, scale: float, zero: int) -> None:
        bits = BITS[dtype]
        zero = zero - (1 << (bits - 1)) if dtype.startswith("u") else zero
        if bits > 8 and zero:
            fail(node, node.input[0], f"a zero point off the middle with {bits} bits; the device has zero points for 8 bits and less")
        self.found.grids[tensor] = Grid(tensor, bits, scale, zero)

    def _dequantize(self, node: NodeProto) -> None:
        """Of integers that are constant: a quantized constant. Of an activation: the end of a pair."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        source = self.sources.get(node.input[0])
        if node.input[0] not in self.arrays:
            self._check_pair(node, attributes, source)
            self.kept.append(node)
            return
        given = self.arrays[node.input[0]]
        if block := int(attributes.get("block_size", 0)):
            self._blocks(node, attributes, given, block)
            return
        scale, zero, dtype = self._parameters(node, attributes, given.dtype)
        axis = int(attributes.get("axis", 1))
        shape = self._broadcast(node, given, scale, axis)
        q = given.astype(np.int64) - zero.reshape(shape)
        bits = 32 if dtype.name == "int32" else BITS[dtype.name]
        self._remember(node, node.output[0], q, scale, axis % max(given.ndim, 1), bits)

    def _blocks(self, node: NodeProto, attributes: dict[str, Any], given: Array, block: int) -> None:
        """A constant with a scale per block: its numbers, as float. The device's scales of groups are not those of the blocks."""
        axis = int(attributes.get("axis", 1))
        scale, zero, _ = self._parameters(node, {k: v for k, v in attributes.items() if k != "block_size"}, given.dtype)
        if not -given.ndim <= axis < given.ndim:
            fail(node, node.input[0], f"its axis is {axis}, the tensor has {given.ndim} axes")
        shape = list(given.shape)
        shape[axis] = -(-shape[axis] // block)
        if list(scale.shape) != shape or zero.shape != scale.shape:
            fail(node, node.input[0], f"scales of shape {list(scale.shape)} for blocks of {block}; needed {shape}")
        scale, zero = (np.repeat(array, block, axis).take(range(given.shape[axis]), axis) for array in (scale, zero))
        name = node.output[0]
        self.new[name] = self.arrays[name] = ((given.astype(np.int64) - zero) * scale).astype(np.float32)
        self.found.blocks.append(f"{name}: blocks of {block}")

    def _check_pair(self, node: NodeProto, attributes: dict[str, Any], source: NodeProto | None) -> None:
        """A pair has one scale and one zero point."""
        if source is None:
            scale, zero, dtype = self._parameters(node, attributes, None)
            if scale.size > 1:
                fail(node, node.input[0], f"an activation with {scale.size} scales along an axis; one scale per tensor is needed")
            if dtype.name in BITS:
                self._activation(node, node.output[0], dtype.name, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))
            return
        ours = self._parameters(node, attributes)
        theirs = self._parameters(source, {a.name: helper.get_attribute_value(a) for a in source.attribute})
        if not (np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])):
            fail(node, node.input[0], f"its scale or zero point differs from that of {source.name!r}, which made the integers")

    def _parameters(
        self, node: NodeProto, attributes: dict[str, Any], given: np.dtype[Any] | None = None
    ) -> tuple[Array, Array, np.dtype[Any]]:
        """Scale (float64), zero point (int64, of the shape of the scale) and type of the integers."""
        if attributes.get("block_size", 0):
            fail(node, node.input[0], f"scales per block of {attributes['block_size']} are not supported; a scale per tensor or channel is")
        scale = self._known(node, 1, "scale")
        zero = self._known(node, 2, "zero point") if len(node.input) > 2 and node.input[2] else None
        named = attributes.get("output_dtype", 0)
        if zero is None:
            dtype = given if given is not None else helper.tensor_dtype_to_np_dtype(named) if named else np.dtype(np.uint8)
        else:
            dtype = zero.dtype
        if given is not None and given != dtype:
            fail(node, node.input[0], f"integers of {given.name} and a zero point of {dtype.name}")
        if dtype.name not in BITS and not (dtype.name == "int32" and node.op_type == "DequantizeLinear"):
            fail(node, node.input[0], f"integers of {dtype.name}; needed {', '.join(BITS)}")
        zero = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
        if zero.size != scale.size:
            fail(node, node.input[0], f"{scale.size} scales and {zero.size} zero points")
        _check_scale(node, node.input[1], scale)
        return scale.astype(np.float64), zero, dtype

    def _known(self, node: NodeProto, index: int, what: str) -> Array:
        found = self.arrays.get(node.input[index]) if len(node.input) > index else None
        if found is None:
            fail(node, node.input[index] if len(node.input) > index else "", f"its {what} is not constant: it depends on data")
        return found

    def _broadcast(self, node: NodeProto, given: Array, scale: Array, axis: int) -> list[int]:
        """The shape in which scales meet `given`."""
        if scale.size == 1:
            return [1] * given.ndim
        if scale.ndim != 1:
            shape = list(scale.shape)
            fail(node, node.input[0], f"scales of shape {shape}: scales per block are not supported, a scale per tensor or channel is")
        if not -given.ndim <= axis < given.ndim:
            fail(node, node.input[0], f"its axis is {axis}, the tensor has {given.ndim} axes")
        if given.shape[axis] != scale.size:
            fail(node, node.input[0], f"{scale.size} scales along axis {axis}, which has size {given.shape[axis]}")
        return [-1 if i == axis % given.ndim else 1 for i in range(given.ndim)]

    def _remember(self, node: NodeProto, name: str, q: Array, scale: Array, axis: int, bits: int) -> None:
        scale = scale.reshape(()) if scale.size == 1 else scale.reshape(-1)
        constant = QuantizedConstant(name, node.name, q, scale, axis, bits)
        self.found.constants[name] = constant
        self.carried[name] = [name]
        self.new[name] = self.arrays[name] = constant.dequantize()

    def _count_rounding(self, name: str) -> None:
        self.found.roundings[name] = self.found.roundings.get(name, 0) + 1

    # ---- QONNX ----

    def _qonnx(self, node: NodeProto) -> None:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        handler = {"Quant": self._quant, "IntQuant": self._quant, "BipolarQuant": self._bipolar, "Trunc": self._trunc}.get(node.op_type)
        if handler is None:
            fail(node, node.input[0] if node.input else "", f"only {', '.join(QONNX_OPERATORS)} of QONNX are supported")
        handler(node, attributes)

    def _mode(self, node: NodeProto, attributes: dict[str, Any], default: str) -> str:
        given = attributes.get("rounding_mode", default)
        mode = (given.decode() if isinstance(given, bytes) else str(given)).upper()
        if mode not in ROUNDINGS:
            fail(node, node.input[0], f"rounding mode {mode!r}; needed one of {', '.join(ROUNDINGS)}")
        return mode

    def _width(self, node: NodeProto, index: int, most: int) -> int:
        width = self._known(node, index, "bit width")
        bits = float(width.reshape(-1)[0]) if width.size == 1 else float("nan")
        if bits not in range(1, most + 1):
            fail(node, node.input[index], f"a bit width of {width.reshape(-1).tolist()[:4]}; needed one whole number from 1 to {most}")
        return int(bits)

    def _quant(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        """Quant(x, scale, zero point, bit width)."""
        given = self.arrays.get(node.input[0])
        bits = self._width(node, 3, MAX_WEIGHT_BITS if given is None else 32)
        mode = self._mode(node, attributes, "ROUND")
        signed, narrow = bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 0))
        scale, zero = self._known(node, 1, "scale").astype(np.float64), self._known(node, 2, "zero point").astype(np.float64)
        _check_scale(node, node.input[1], scale)
        low, high = int_range(bits, signed)
        low, high = low + (narrow and signed), high - (narrow and not signed)
        if np.any(zero != np.rint(zero)) or zero.min() < low or zero.max() > high:
            fail(node, node.input[2], f"a zero point of {zero.reshape(-1).tolist()[:4]}; needed whole numbers from {low} to {high}")
        if given is not None:
            axis = _axis_of(node, given, scale)
            real = given.astype(np.float64) / scale + zero
            q = np.where(real >= 0, 1, -1) if bits == 1 and signed else ROUNDINGS[mode](np.clip(real, low, high))
            self._remember(node, node.output[0], (q - zero).astype(np.int64), scale, axis, bits)
            return
        if scale.size > 1 or zero.size > 1:
            fail(node, node.input[0], f"an activation with {max(scale.size, zero.size)} scales; one scale per tensor is needed")
        if mode not in NEAREST:
            fail(node, node.input[0], f"an activation rounded by {mode}; the device rounds to nearest")
        if narrow or bits == 1:
            fail(node, node.input[0], "an activation of narrow range or one bit; export it with the full range and 2 bits or more")
        self._count_rounding({"HALF_UP": "half away from zero", "HALF_DOWN": "half towards zero"}.get(mode, "half to even"))
        self._pair(node, bits, signed, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))

    def _pair(self, node: NodeProto, bits: int, signed: bool, scale: float, zero: int) -> None:
        """A QuantizeLinear and a DequantizeLinear in the place of a node, with a grid of fewer bits."""
        middle, names = f"{node.output[0]}:integers", [f"{node.output[0]}:{part}" for part in ("scale", "zero_point")]
        self.new[names[0]] = self.arrays[names[0]] = np.array(scale, np.float32)
        self.new[names[1]] = self.arrays[names[1]] = np.array(zero, np.int8 if signed else np.uint8)
        first = helper.make_node("QuantizeLinear", [node.input[0], *names], [middle], name=node.name)
        second = helper.make_node("DequantizeLinear", [middle, *names], [node.output[0]], name=f"{node.name}:dequantize")
        zero = zero if signed else zero - (1 << (bits - 1))
        self.found.grids[middle] = Grid(middle, bits, scale, zero)
        self.sources[middle] = first
        self.kept += [first, second]

    def _bipolar(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        """BipolarQuant(x, scale): -scale or scale."""
        given = self.arrays.get(node.input[0])
        scale = self._known(node, 1, "scale").astype(np.float64)
        _check_scale(node, node.input[1], scale)
        if given is None:
            fail(node, node.input[0], "an activation of one bit is a comparison and not a rounding, which the device does not have")
        self._remember(node, node.output[0], np.where(given >= 0, 1, -1), scale, _axis_of(node, given, scale), 1)

    def _trunc(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        """Trunc(x, scale, zero point, bits in, bits out): drops low bits; the result keeps the scale of x."""
        given = self.arrays.get(node.input[0])
        if given is None:
            fail(node, node.input[0], "an activation is truncated to fewer bits, which the device does not do; constants may be")
        if len(node.input) != 5:
            fail(node, node.input[0], f"{len(node.input)} operands; needed 5 (version 1 of Trunc)")
        scale, zero = self._known(node, 1, "scale").astype(np.float64), self._known(node, 2, "zero point").astype(np.float64)
        _check_scale(node, node.input[1], scale)
        before, after = self._width(node, 3, 32), self._width(node, 4, 32)
        if after > before:
            fail(node, node.input[0], f"truncates {before} bits to {after}")
        mode = self._mode(node, attributes, "FLOOR")
        q = ROUNDINGS[mode](np.rint(given.astype(np.float64) / scale + zero) / 2.0 ** (before - after)) - zero
        self._remember(node, node.output[0], q.astype(np.int64), scale, _axis_of(node, given, scale), after)

    # ---- the end ----

    def finish(self) -> Quantized:
        """Put nodes and constants into the model, and make its float twin."""
        graph = self.model.graph
        replaced = set(self.new)
        kept = [tensor for tensor in graph.initializer if tensor.name not in replaced]
        used = {name for node in self.kept for name in node.input} | {output.name for output in graph.output}
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self.kept)
        graph.initializer.extend(tensor for tensor in kept if tensor.name in used)
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.new.items() if name in used)
        opsets = [entry for entry in self.model.opset_import if entry.domain not in QONNX_DOMAINS]
        del self.model.opset_import[:]
        self.model.opset_import.extend(opsets)
        for node in graph.node:
            if node.domain == MICROSOFT and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                node.domain = ""
        self.found.lowered.CopyFrom(self.model)
        return self.found


def runnable(model: ModelProto) -> ModelProto:
    """A model that onnxruntime runs: the model itself, unless it is written in QONNX."""
    if not any(node.domain in QONNX_DOMAINS for node in model.graph.node):
        return model
    found = lower_quantization(model)
    assert found is not None
    return found.runnable()


def fail(node: NodeProto, tensor: str, reason: str) -> NoReturn:
    """The node cannot be imported because of `tensor`."""
    raise UnsupportedError(node.name, node.op_type, f"tensor {tensor!r}: {reason}")


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    return int_range(BITS[dtype.name], not dtype.name.startswith("u"))


def _check_scale(node: NodeProto, name: str, scale: Array) -> None:
    if scale.size == 0 or not np.all(np.isfinite(scale.astype(np.float64))) or not np.all(scale > 0):
        bad = [float(s) for s in scale.reshape(-1) if not (np.isfinite(s) and s > 0)][:3]
        fail(node, name, f"needed finite scales above zero, found {bad or 'none'}")


def _axis_of(node: NodeProto, given: Array, scale: Array) -> int:
    """The one axis along which scales of QONNX (which broadcast) differ."""
    if scale.size == 1:
        return 0
    if scale.ndim > given.ndim:
        fail(node, node.input[1], f"scales of shape {list(scale.shape)} for a tensor of shape {list(given.shape)}")
    padded = (1,) * (given.ndim - scale.ndim) + scale.shape
    axes = [axis for axis, size in enumerate(padded) if size > 1]
    if len(axes) != 1 or padded[axes[0]] != given.shape[axes[0]]:
        shapes = f"scales of shape {list(scale.shape)} for a tensor of shape {list(given.shape)}"
        fail(node, node.input[1], f"{shapes}; a scale per tensor or along one axis is needed")
    return axes[0]
