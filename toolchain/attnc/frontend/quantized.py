"""Models that arrive quantized: what QuantizeLinear and DequantizeLinear (ONNX), and the operators of `qonnx.py` and `blocks.py`, say.

Quantized constants become float constants, their integers and scales remembered. On activations one form is left, QuantizeLinear and
DequantizeLinear, with a `Grid` each; `imposed.py` turns those into types of the device's graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from attnc.fixedpoint import int_range
from attnc.frontend.blocked_experts import ExpertsLowering
from attnc.frontend.blocks import BLOCKED
from attnc.frontend.integer_operators import with_pairs
from attnc.frontend.load import QONNX_DOMAINS
from attnc.frontend.lowering import BITS, check_scale, fail, visited
from attnc.frontend.qonnx import QonnxLowering
from attnc.frontend.quantized_model import Quantized, QuantizedConstant
from attnc.frontend.values import Array, Grid

EXPERTS = "QMoE"
PAIR = ("QuantizeLinear", "DequantizeLinear")


def lower_quantization(model: ModelProto) -> Quantized | None:
    """Rewrite `model` in place; None if nothing in it is quantized. Raises `UnsupportedError`."""
    found = with_pairs(model)
    nodes = list(model.graph.node)
    if not found.dialects and any(node.op_type in PAIR for node in nodes):
        found.dialects.append("ONNX QDQ")
    if not found.dialects and not any(node.op_type in (*BLOCKED, EXPERTS) or node.domain in QONNX_DOMAINS for node in nodes):
        return None
    lowering = _Lowering(model, found)
    for node in nodes:
        visited(lowering.visit, node)
    return lowering.finish()


class _Lowering(QonnxLowering, ExpertsLowering):
    """What each node means, and the operators of ONNX itself."""

    def visit(self, node: NodeProto) -> None:
        """Keep, replace or evaluate one node."""
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            self.constant(node)
        elif node.domain in QONNX_DOMAINS:
            self.dialect("QONNX")
            self.qonnx(node)
        elif node.op_type in BLOCKED:
            self.dialect("weights in blocks")
            self.blocked(node)
        elif node.op_type == EXPERTS:
            self.dialect("experts of integers")
            self.experts(node)
        elif node.op_type == "QuantizeLinear":
            self._quantize(node)
        elif node.op_type == "DequantizeLinear":
            self._dequantize(node)
        else:
            self.other(node)

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
        self.count_rounding("half to even")
        self._activation(node, node.output[0], dtype.name, float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))
        self.sources[node.output[0]] = node
        self.kept.append(node)

    def _activation(self, node: NodeProto, tensor: str, dtype: str, scale: float, zero: int) -> None:
        bits = BITS[dtype]
        zero = zero - (1 << (bits - 1)) if dtype.startswith("u") else zero
        check_scale(node, node.input[1], np.array(scale), activation=True)
        grid = Grid(tensor, bits, scale, zero)
        if bits > 8 and zero:
            self.found.centred.append(node.name)
            grid = grid.centred()
        self.found.grids[tensor] = grid

    def _dequantize(self, node: NodeProto) -> None:
        """Of integers that are constant: a quantized constant. Of an activation: the end of a pair."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        source = self.sources.get(node.input[0])
        if node.input[0] not in self.arrays:
            self._check_pair(node, attributes, source)
            self.kept.append(node)
            return
        given = self.arrays[node.input[0]]
        axis, block = int(attributes.get("axis", 1)), int(attributes.get("block_size", 0))
        scale, zero, dtype = self._parameters(node, attributes, given.dtype)
        if (block or scale.size > 1) and not -given.ndim <= axis < given.ndim:
            fail(node, node.input[0], f"its axis is {axis}, the tensor has {given.ndim} axes")
        axis %= max(given.ndim, 1)
        bits = 32 if dtype.name == "int32" else BITS[dtype.name]
        if block:
            self.remember_blocks(node, node.output[0], given, scale, zero, axis, bits, block)
            return
        q = given.astype(np.int64) - zero.reshape(self._broadcast(node, given, scale, axis))
        self.remember(node, QuantizedConstant.make(node.output[0], node.name, q, scale, axis, bits))

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
        if attributes.get("block_size", 0) and given is None:
            fail(node, node.input[0], f"an activation with scales per block of {attributes['block_size']}; one scale per tensor is needed")
        scale = self.known(node, 1, "scale")
        zero = self.known(node, 2, "zero point") if len(node.input) > 2 and node.input[2] else None
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
        check_scale(node, node.input[1], scale)
        return scale.astype(np.float64), zero, dtype

    def _broadcast(self, node: NodeProto, given: Array, scale: Array, axis: int) -> list[int]:
        """The shape in which scales meet `given`."""
        if scale.size == 1:
            return [1] * given.ndim
        if scale.ndim != 1:
            shape = list(scale.shape)
            fail(node, node.input[0], f"scales of shape {shape} without a block_size; needed one scale, or one per channel")
        if not -given.ndim <= axis < given.ndim:
            fail(node, node.input[0], f"its axis is {axis}, the tensor has {given.ndim} axes")
        if given.shape[axis] != scale.size:
            fail(node, node.input[0], f"{scale.size} scales along axis {axis}, which has size {given.shape[axis]}")
        return [-1 if i == axis % given.ndim else 1 for i in range(given.ndim)]


def runnable(model: ModelProto) -> ModelProto:
    """A model that onnxruntime runs: the model itself, unless it is written in QONNX."""
    if not any(node.domain in QONNX_DOMAINS for node in model.graph.node):
        return model
    found = lower_quantization(model)
    assert found is not None
    return found.runnable()


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    return int_range(BITS[dtype.name], not dtype.name.startswith("u"))
