"""The operators of QONNX: three formulas (https://github.com/fastmachinelearning/qonnx), evaluated here in double precision, since its
package would add eight others for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from attnc.fixedpoint import int_range
from attnc.frontend.load import QONNX_OPERATORS
from attnc.frontend.lowering import Lowering, check_scale, fail
from attnc.frontend.quantized_model import QuantizedConstant
from attnc.frontend.values import Array, Grid

MAX_WEIGHT_BITS = 8
PRODUCTS = {"MatMul", "Gemm", "Conv", "Einsum"}

ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.rint, "HALF_EVEN": np.rint, "CEIL": np.ceil, "FLOOR": np.floor, "DOWN": np.trunc,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}  # fmt: skip
"""The rounding modes of QONNX; those of activations must be among `NEAREST`."""
NEAREST = ("ROUND", "HALF_EVEN", "HALF_UP", "HALF_DOWN")


class QonnxLowering(Lowering):
    """Quant, BipolarQuant and Trunc."""

    def qonnx(self, node: NodeProto) -> None:
        """A node of one of its domains."""
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
        width = self.known(node, index, "bit width")
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
        scale, zero = self.known(node, 1, "scale").astype(np.float64), self.known(node, 2, "zero point").astype(np.float64)
        check_scale(node, node.input[1], scale, activation=given is None)
        low, high = int_range(bits, signed)
        low, high = low + (narrow and signed), high - (narrow and not signed)
        if np.any(zero != np.rint(zero)) or zero.min() < low or zero.max() > high:
            fail(node, node.input[2], f"a zero point of {zero.reshape(-1).tolist()[:4]}; needed whole numbers from {low} to {high}")
        if given is not None:
            axis = _axis_of(node, given, scale)
            real = given.astype(np.float64) / scale + zero
            q = np.where(real >= 0, 1, -1) if bits == 1 and signed else ROUNDINGS[mode](np.clip(real, low, high))
            self._remember(node, q - zero, scale, axis, bits)
            return
        if scale.size > 1 or zero.size > 1:
            fail(node, node.input[0], f"an activation with {max(scale.size, zero.size)} scales; one scale per tensor is needed")
        if mode not in NEAREST:
            fail(node, node.input[0], f"an activation rounded by {mode}; the device rounds to nearest")
        if narrow or bits == 1:
            fail(node, node.input[0], "an activation of narrow range or one bit; export it with the full range and 2 bits or more")
        self.count_rounding({"HALF_UP": "half away from zero", "HALF_DOWN": "half towards zero"}.get(mode, "half to even"))
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

    def _remember(self, node: NodeProto, q: Array, scale: Array, axis: int, bits: int) -> None:
        self.remember(node, QuantizedConstant.make(node.output[0], node.name, q.astype(np.int64), scale, axis, bits))

    def _bipolar(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        """BipolarQuant(x, scale): -scale or scale."""
        given = self.arrays.get(node.input[0])
        scale = self.known(node, 1, "scale").astype(np.float64)
        check_scale(node, node.input[1], scale)
        if given is None:
            fail(node, node.input[0], "an activation of one bit is a comparison and not a rounding, which the device does not have")
        self._remember(node, np.where(given >= 0, 1, -1), scale, _axis_of(node, given, scale), 1)

    def _trunc(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        """Trunc(x, scale, zero point, bits in, bits out): drops low bits; the result keeps the scale of x."""
        given = self.arrays.get(node.input[0])
        if given is None:
            fail(node, node.input[0], "an activation is truncated to fewer bits, which the device does not do; constants may be")
        if len(node.input) != 5:
            fail(node, node.input[0], f"{len(node.input)} operands; needed 5 (version 1 of Trunc)")
        scale, zero = self.known(node, 1, "scale").astype(np.float64), self.known(node, 2, "zero point").astype(np.float64)
        check_scale(node, node.input[1], scale)
        before, after = self._width(node, 3, 32), self._width(node, 4, 32)
        if after > before:
            fail(node, node.input[0], f"truncates {before} bits to {after}")
        mode = self._mode(node, attributes, "FLOOR")
        q = ROUNDINGS[mode](np.rint(given.astype(np.float64) / scale + zero) / 2.0 ** (before - after)) - zero
        self._remember(node, q, scale, _axis_of(node, given, scale), after)


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
