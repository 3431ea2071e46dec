"""Weights in blocks: MatMulNBits and GatherBlockQuantized of onnxruntime, and DequantizeLinear with a block size.

A block is `block` elements along one axis that share a scale and a zero point; the last one of an axis may be shorter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, helper

from attnc.frontend.lowering import BITS, Lowering, check_scale, fail
from attnc.frontend.quantized_model import QuantizedConstant
from attnc.frontend.values import Array

BLOCKED = ("MatMulNBits", "GatherBlockQuantized")
"""Operators of the domain com.microsoft that read weights in blocks."""
PACKED_BITS = (2, 3, 4, 5, 6, 7, 8)


class BlockLowering(Lowering):
    """They become MatMul and Gather of a constant that is known to be quantized."""

    def blocked(self, node: NodeProto) -> None:
        """A node of `BLOCKED`."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "MatMulNBits":
            self._matmul(node, attributes)
        else:
            self._gather(node, attributes)

    def remember_blocks(
        self, node: NodeProto, name: str, given: Array, scale: Array, zero: Array, axis: int, bits: int, block: int
    ) -> None:  # fmt: skip
        """`given` with a scale and a zero point for every `block` of its elements along `axis`."""
        shape = [-(-size // block) if i == axis else size for i, size in enumerate(given.shape)]
        if list(scale.shape) != shape or zero.shape != scale.shape:
            found = f"scales of shape {list(scale.shape)} and zero points of shape {list(zero.shape)}"
            fail(node, node.input[0], f"{found} for blocks of {block}; needed {shape}")
        whole = np.repeat(zero, block, axis).take(range(given.shape[axis]), axis)
        self.remember(node, QuantizedConstant.make(name, node.name, given.astype(np.int64) - whole, scale, axis, bits, block))

    def _matmul(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        """x [..., K] times a weight [N, K] of `bits` bits, packed within blocks along K, low bits first."""
        n, k, block, bits = (int(attributes.get(key, default)) for key, default in (("N", 0), ("K", 0), ("block_size", 0), ("bits", 4)))
        if attributes.get("weight_prepacked", 0):
            fail(node, node.input[1], "it is packed for one kind of GPU; needed weight_prepacked 0, as onnxruntime's quantizer writes it")
        if min(n, k, block) < 1 or bits not in PACKED_BITS:
            fail(node, node.input[1], f"found N {n}, K {k}, block_size {block}, bits {bits}; needed sizes above 0 and 2 to 8 bits")
        if len(node.input) > 4 and node.input[4]:
            fail(node, node.input[4], "blocks in another order (g_idx) are not supported: quantize again without act-order")
        count = -(-k // block)
        packed = self._operand(node, 1, "weight", (n, count, -(-block * bits // 8)))
        codes = unpack(packed, bits, block).reshape(n, count * block)[:, :k]
        scale = self._operand(node, 2, "scale", (n, count))
        check_scale(node, node.input[2], scale)
        zero = self._zero_points(node, n, count, bits)
        name = f"{node.output[0]}:weight"
        if zero.dtype.kind == "f" and np.any(zero != np.rint(zero)):
            self._off_grid(node, name, codes.astype(np.float64) - np.repeat(zero, block, 1)[:, :k], np.repeat(scale, block, 1)[:, :k])
        else:
            self.remember_blocks(node, name, codes, scale, zero.astype(np.int64), 1, bits, block)
        bias = node.input[5] if len(node.input) > 5 else ""
        turned, product = f"{name}:turned", f"{node.output[0]}:product" if bias else node.output[0]
        self.other(helper.make_node("Transpose", [name], [turned], name=f"{node.name}:Transpose", perm=(1, 0)))
        self.other(helper.make_node("MatMul", [node.input[0], turned], [product], name=node.name))
        if bias:
            self.other(helper.make_node("Add", [product, bias], [node.output[0]], name=f"{node.name}:Add"))

    def _off_grid(self, node: NodeProto, name: str, steps: Array, scale: Array) -> None:
        """A weight whose zero points are no whole numbers: it is on no grid of integers, and is quantized again."""
        self.new[name] = self.arrays[name] = (steps * scale).astype(np.float32)
        self.found.changed.append(f"{node.name}: its zero points are no whole numbers: quantized again")

    def _zero_points(self, node: NodeProto, n: int, count: int, bits: int) -> Array:
        """[N, blocks]: half of the range if there are none; packed like the weight, or one by one in the type of the scales."""
        if len(node.input) < 4 or not node.input[3]:
            return np.full((n, count), 1 << (bits - 1), np.int64)
        given = self.known(node, 3, "zero point")
        if given.dtype != np.uint8:
            return self._operand(node, 3, "zero point", (n, count))
        width = -(-count * bits // 8)
        return unpack(self._operand(node, 3, "zero point", (n, width)), bits, count)

    def _operand(self, node: NodeProto, index: int, what: str, shape: tuple[int, ...]) -> Array:
        """A constant with as many elements as `shape` has; files come with it flat as well."""
        given = self.known(node, index, what)
        if given.size != np.prod(shape):
            fail(node, node.input[index], f"its {what} has shape {list(given.shape)}; needed {list(shape)}")
        return given.reshape(shape)

    def _gather(self, node: NodeProto, attributes: dict[str, Any]) -> None:
        """Rows of a table in blocks, by index."""
        data, scale = self.known(node, 0, "table"), self.known(node, 2, "scale").astype(np.float64)
        check_scale(node, node.input[2], scale)
        bits, block = int(attributes.get("bits", 4)), int(attributes.get("block_size", 128))
        axis, along = int(attributes.get("quantize_axis", 1)), int(attributes.get("gather_axis", 0))
        zero = self.known(node, 3, "zero point") if len(node.input) > 3 and node.input[3] else None
        if data.dtype == np.uint8:
            data = unpack(data, bits, data.shape[-1] * 8 // bits)
            zero = np.full(scale.shape, 1 << (bits - 1)) if zero is None else unpack(zero, bits, scale.shape[-1])
        elif data.dtype.name not in BITS:
            fail(node, node.input[0], f"a table of {data.dtype.name}; needed integers")
        if not -data.ndim <= axis < data.ndim or block < 1:
            fail(node, node.input[0], f"found quantize_axis {axis} and block_size {block} for a table of {data.ndim} axes")
        zero = np.zeros(scale.shape) if zero is None else zero.reshape(scale.shape)
        name = f"{node.output[0]}:table"
        self.remember_blocks(node, name, data, scale, zero.astype(np.int64), axis % data.ndim, bits, block)
        self.other(helper.make_node("Gather", [name, node.input[1]], [node.output[0]], name=node.name, axis=along))


def unpack(packed: Array, bits: int, count: int) -> Array:
    """`count` numbers of `bits` bits out of the bytes along the last axis, low bits first."""
    flat = np.unpackbits(packed, axis=-1, bitorder="little")[..., : count * bits]
    parts = flat.reshape(*packed.shape[:-1], count, bits).astype(np.int64)
    return np.asarray(parts @ (1 << np.arange(bits)))
