"""The operators: the one explicit list."""

from __future__ import annotations

from attnc.ir import Graph, Node
from attnc.ops.base import Operator
from attnc.ops.linear import Linear

OPERATORS: dict[str, Operator] = {
    op.name: op
    for op in (
        Linear(),
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
