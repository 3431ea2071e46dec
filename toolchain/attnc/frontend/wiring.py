"""Who depends on whom in a graph of ONNX, once it is simplified."""

from __future__ import annotations

from onnx import NodeProto

from attnc.frontend.load import live_nodes
from attnc.frontend.simplify import Simplified

PRODUCTS = ("MatMul", "Gemm", "Einsum")


class Wiring:
    """Who makes and who reads a tensor, of the live nodes of a graph."""

    def __init__(self, simplified: Simplified) -> None:
        self.simplified = simplified
        self.nodes = live_nodes(simplified.model.graph, simplified.outputs)
        self.order = {id(node): number for number, node in enumerate(self.nodes)}
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(filter(None, node.input)):
                self.readers.setdefault(name, []).append(node)
        self.varies = {value.name for value in simplified.model.graph.input}
        for node in self.nodes:
            if any(name in self.varies for name in node.input):
                self.varies.update(filter(None, node.output))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Static shape, if inference knows it."""
        found = self.simplified.info.get(name)
        return None if found is None else found.shape

    def varying(self, node: NodeProto) -> list[str]:
        """Operands that depend on an input of the model."""
        return [name for name in dict.fromkeys(node.input) if name in self.varies]

    def cone(self, start: str) -> set[str]:
        """Tensors that depend on `start`, which is one of them."""
        found = {start}
        for node in self.nodes:
            if any(name in found for name in node.input):
                found.update(filter(None, node.output))
        return found

    def ancestors(self, name: str) -> set[str]:
        """What a tensor depends on."""
        found: set[str] = set()
        stack = [name]
        while stack:
            node = self.producer.get(stack.pop())
            new = [] if node is None else [operand for operand in node.input if operand and operand not in found]
            found.update(new)
            stack += new
        return found
