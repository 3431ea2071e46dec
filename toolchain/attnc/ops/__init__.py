"""The operators: the one explicit list."""

from __future__ import annotations

from attnc.ir import Graph, Node
from attnc.ops.add import Add
from attnc.ops.attention import Attention
from attnc.ops.base import Operator
from attnc.ops.combine import Combine
from attnc.ops.concat_channels import ConcatChannels
from attnc.ops.concat_rows import ConcatRows
from attnc.ops.depthwise import Depthwise
from attnc.ops.dispatch import Dispatch
from attnc.ops.expert_order import ExpertOrder, ExpertQueue
from attnc.ops.expert_scores import ExpertScores
from attnc.ops.experts import Experts
from attnc.ops.gather_channels import GatherChannels
from attnc.ops.gather_rows import GatherRows
from attnc.ops.keep_groups import KeepGroups
from attnc.ops.layer_normalization import LayerNormalization
from attnc.ops.linear import Linear
from attnc.ops.mask_bias import MaskBias
from attnc.ops.max_rows import MaxRows
from attnc.ops.mean_rows import MeanRows
from attnc.ops.mul import Mul
from attnc.ops.normalize_rows import NormalizeRows
from attnc.ops.patches import Patches
from attnc.ops.requantize import Requantize
from attnc.ops.rms_normalization import RmsNormalization
from attnc.ops.rotary import Rotary
from attnc.ops.row_absmax import RowAbsmax
from attnc.ops.scale_rows import ScaleRows
from attnc.ops.softmax import Softmax
from attnc.ops.top_experts import TopExperts
from attnc.ops.transpose import Transpose
from attnc.ops.unary import Unary

OPERATORS: dict[str, Operator] = {
    op.name: op
    for op in (
        Add(),
        Attention(),
        Combine(),
        ConcatChannels(),
        ConcatRows(),
        Depthwise(),
        Dispatch(),
        ExpertOrder(),
        ExpertQueue(),
        ExpertScores(),
        Experts(),
        GatherChannels(),
        GatherRows(),
        KeepGroups(),
        LayerNormalization(),
        Linear(),
        MaskBias(),
        MaxRows(),
        MeanRows(),
        Mul(),
        NormalizeRows(),
        Patches(),
        Requantize(),
        RmsNormalization(),
        Rotary(),
        RowAbsmax(),
        ScaleRows(),
        Softmax(),
        TopExperts(),
        Transpose(),
        Unary(),
    )
}


def operator(node: Node) -> Operator:
    """The operator of a node."""
    return OPERATORS[node.op]


def verify(graph: Graph) -> None:
    """Structure and shapes of a graph."""
    graph.verify()
    for node in graph.nodes:
        shape = operator(node).shape(node, [graph.value(name).shape for name in node.inputs])
        if shape != graph.value(node.output).shape:
            from attnc.ir import GraphError

            raise GraphError(f"node {node.name!r}: output declared {graph.value(node.output).shape}, computed {shape}")
