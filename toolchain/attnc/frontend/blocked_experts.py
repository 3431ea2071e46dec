"""QMoE of onnxruntime: a mixture of experts whose weights are integers, with scales per output channel or per block of inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, helper

from attnc.frontend.blocks import BlockLowering, unpack
from attnc.frontend.lowering import check_scale, fail
from attnc.frontend.values import Array

MICROSOFT = "com.microsoft"
PRODUCTS = {1: 2, 2: 5, 3: 8}
"""Where the weight of each product is; its scales and bias follow."""
ZERO_POINTS, ROUTER_WEIGHTS = 10, 14
BITS = (2, 4, 8)


class ExpertsLowering(BlockLowering):
    """It becomes MoE of constants that are known to be quantized."""

    def experts(self, node: NodeProto) -> None:
        """The gate of a fused SwiGLU becomes a weight of its own, so that each matrix has its scales. The weights of the experts of a token
        are divided by their sum, whatever the attribute says, unless they come from the router itself, as onnxruntime on CPUs does."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._check(node, attributes)
        given = [*node.input, *[""] * (ROUTER_WEIGHTS + 1 - len(node.input))]
        fused = attributes.get("activation_type", b"relu") == b"swiglu" and not given[PRODUCTS[3]]
        if fused and attributes.get("swiglu_fusion", 0) != 1:
            fail(node, given[PRODUCTS[1]], "SwiGLU whose halves do not alternate: needed swiglu_fusion 1, as onnxruntime on CPUs")
        operands = [*given[:2], *self._product(node, attributes, 1, slice(0, None, 2) if fused else slice(None))]
        operands += self._product(node, attributes, 2, slice(None))
        if fused:
            operands += self._product(node, attributes, 1, slice(1, None, 2), ":up")
        elif given[PRODUCTS[3]]:
            operands += self._product(node, attributes, 3, slice(None))
        if given[ROUTER_WEIGHTS]:
            operands += [*[""] * (ROUTER_WEIGHTS - len(operands)), given[ROUTER_WEIGHTS]]
        again = attributes.get("normalize_routing_weights", 0) if given[ROUTER_WEIGHTS] else 1
        kept = {key: attributes[key] for key in ("k", "activation_type", "activation_alpha", "activation_beta", "swiglu_limit")
                if key in attributes}  # fmt: skip
        made = helper.make_node("MoE", operands, node.output, name=node.name, domain=MICROSOFT, normalize_routing_weights=again, **kept)
        self.other(made)

    @staticmethod
    def _check(node: NodeProto, attributes: dict[str, Any]) -> None:
        kind = attributes.get("quant_type", b"int").decode()
        if kind != "int":
            fail(node, node.input[PRODUCTS[1]], f"quant_type {kind!r}: needed integers")
        if attributes.get("weights_prepacked", -1) == 1:
            fail(node, node.input[PRODUCTS[1]], "it is packed for one kind of GPU; needed weights_prepacked 0")
        if attributes.get("use_sparse_mixer", 0):
            fail(node, node.input[1], "its router is a sparse mixer: needed the largest of softmaxes")

    def _product(self, node: NodeProto, attributes: dict[str, Any], number: int, rows: slice, mark: str = "") -> list[str]:
        """The names of weight and bias of some rows (output channels) of a product."""
        at = PRODUCTS[number]
        bits = int(attributes.get(f"fc{number}_expert_weight_bits", attributes.get("expert_weight_bits", 4)))
        if bits not in BITS:
            fail(node, node.input[at], f"weights of {bits} bits; needed {', '.join(map(str, BITS))}")
        packed = self.known(node, at, "weight")
        k = packed.shape[-1] * 8 // bits
        block = int(attributes.get("block_size", 0)) or k
        q = unpack(packed, bits, k)[:, rows]
        scale = self.known(node, at + 1, "scale").astype(np.float64)
        scale = scale.reshape(*packed.shape[:2], -1)[:, rows]
        check_scale(node, node.input[at + 1], scale)
        zero = self._zero(node, number, packed.shape, bits, scale.shape[2])[:, rows]
        name = f"{node.output[0]}:fc{number}{mark}"
        self.remember_blocks(node, name, q, scale, zero, 2, bits, block)
        if len(node.input) <= at + 2 or not node.input[at + 2]:
            return [name, ""]
        self.new[f"{name}:bias"] = self.arrays[f"{name}:bias"] = self.known(node, at + 2, "bias")[:, rows]
        return [name, f"{name}:bias"]

    def _zero(self, node: NodeProto, number: int, shape: tuple[int, ...], bits: int, blocks: int) -> Array:
        """Zero points [E, N, blocks]: half of the range if there are none; packed along blocks, or along channels without blocks."""
        at = ZERO_POINTS + number
        if len(node.input) <= at or not node.input[at]:
            return np.full((*shape[:2], blocks), 1 << (bits - 1), np.int64)
        packed = self.known(node, at, "zero point")
        return unpack(packed, bits, blocks) if packed.ndim == 3 else unpack(packed, bits, shape[1])[..., None]
