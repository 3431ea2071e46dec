"""onnxruntime's own operators (`com.microsoft`), as its optimizers write them in place of several, spelled out in ONNX's.

So the interpreter meets products, softmaxes and normalisations, as in a plain export. onnxruntime runs the file as it is, and everything is
measured against that. The meaning of each operator is in its documentation
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md), and where that is silent, what its kernels for CPUs do.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx import ModelProto, NodeProto

from attnc.errors import UnsupportedError
from attnc.frontend.fused import attention, blocked, experts, normalization, pointwise, rotary
from attnc.frontend.fused.spelling import Spelling, UnknownShape
from attnc.frontend.load import MICROSOFT, NCHWC, ONNX_DOMAINS, all_nodes
from attnc.frontend.simplify import TensorInfo, fold, infer

OPERATORS: dict[str, Callable[[Spelling], None]] = {
    "Gelu": pointwise.gelu, "BiasGelu": pointwise.gelu, "FastGelu": pointwise.fast_gelu, "QuickGelu": pointwise.quick_gelu,
    "FusedMatMul": pointwise.fused_matmul, "TransposeMatMul": pointwise.fused_matmul,
    "FusedGemm": pointwise.fused_gemm, "FusedConv": pointwise.fused_conv,
    "LayerNormalization": normalization.layer_normalization,
    "SimplifiedLayerNormalization": normalization.simplified, "SkipLayerNormalization": normalization.skip,
    "SkipSimplifiedLayerNormalization": normalization.skip_simplified, "EmbedLayerNormalization": normalization.embed,
    "RotaryEmbedding": rotary.rotary_embedding, "Attention": attention.attention,
    "MoE": experts.mixture, "MultiHeadAttention": attention.multi_head_attention, "GroupQueryAttention": attention.group_query_attention,
}  # fmt: skip
IN_BLOCKS = {"Conv": blocked.conv, "ReorderInput": blocked.reorder_input, "ReorderOutput": blocked.reorder_output}
LAYER_NORMALIZATION_OPSET = 17


def spell_out(model: ModelProto, path: str) -> tuple[ModelProto, dict[str, str]]:
    """`model`, whose inputs are static, without fused operators; and the names of nodes that stay as they are, with the reason.

    An operator whose spelling depends on shapes waits for those before it: then they are inferred again, and where inference does not find
    them, constants are folded first.
    """
    opset = max(entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS)
    refused: dict[str, str] = {}
    folded = False
    waiting = _fused(model, opset)
    while waiting:
        info = infer(model, path)
        unknown = _pass(model, opset, info, refused)
        left = [node for node in _fused(model, opset) if node.name not in refused]
        if len(left) == len(waiting) and folded:
            refused |= {node.name: f"the shape of its operand {unknown[node.name]!r} cannot be inferred" for node in left}
            break
        folded = len(left) == len(waiting)
        model = fold(model, info) if folded else model
        waiting = left
    return model, refused


def _fused(model: ModelProto, opset: int) -> list[NodeProto]:
    return [node for node in model.graph.node if _is_fused(node, opset)]


def _is_fused(node: NodeProto, opset: int) -> bool:
    """onnxruntime also writes normalisations under ONNX's own domain, before ONNX had them or where it never will."""
    early = node.op_type == "LayerNormalization" and opset < LAYER_NORMALIZATION_OPSET
    if node.domain in ONNX_DOMAINS:
        return early or node.op_type == "SimplifiedLayerNormalization"
    return (node.domain == MICROSOFT and node.op_type in OPERATORS) or (node.domain == NCHWC and node.op_type in IN_BLOCKS)


def _pass(model: ModelProto, opset: int, info: dict[str, TensorInfo], refused: dict[str, str]) -> dict[str, str]:
    """Spell out what can be; of the others, the tensor whose shape is not known yet."""
    unknown: dict[str, str] = {}
    nodes: list[NodeProto] = []
    read = {name for node in all_nodes(model.graph.node) for name in node.input if name} | {output.name for output in model.graph.output}
    for node in model.graph.node:
        if not _is_fused(node, opset) or node.name in refused:
            nodes.append(node)
            continue
        spelling = Spelling(node, opset, info, read)
        try:
            (IN_BLOCKS if node.domain == NCHWC else OPERATORS)[node.op_type](spelling)
            made = spelling.finish()
        except UnknownShape as waits:
            unknown[node.name] = waits.tensor
            made = [node]
        except UnsupportedError as error:
            refused[node.name] = error.reason
            made = [node]
        else:
            model.graph.initializer.extend(spelling.constants)
        nodes += made
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # those in the graph go
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return unknown
