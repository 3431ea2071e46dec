"""Softmax in any spelling: exp(x) divided by its sum, with or without the maximum of x taken off before."""

from __future__ import annotations

from onnx import NodeProto, TensorProto, helper

from attnc.frontend.simplify import Simplified

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def find_softmax(simplified: Simplified) -> None:
    """Put a Softmax in place of every division that is one. What it was made of stays as far as others read it."""
    search = _Search(simplified)
    for node in simplified.model.graph.node:
        found = search.division(node)
        if found is None:
            continue
        source, axis = found
        replacement = helper.make_node("Softmax", [source], list(node.output), name=node.name, axis=axis)
        node.CopyFrom(replacement)


class _Search:
    """The producers of all tensors, seen through what does not change values."""

    def __init__(self, simplified: Simplified) -> None:
        self.simplified = simplified
        self.producer = {name: node for node in simplified.model.graph.node for name in node.output}

    def made_by(self, name: str) -> NodeProto | None:
        """The node behind a tensor."""
        node = self.producer.get(name)
        while node is not None and (node.op_type == "Identity" or (node.op_type == "Cast" and node.attribute[0].i in FLOATS)):
            node = self.producer.get(node.input[0])
        return node

    def same(self, a: str, b: str) -> bool:
        """Whether two tensors are one."""
        first, second = self.made_by(a), self.made_by(b)
        return a == b or (first is not None and second is not None and first.output[0] == second.output[0])

    def division(self, node: NodeProto) -> tuple[str, int] | None:
        """(x, axis) if the node is exp(x) / sum(exp(x)), or times the reciprocal of the sum."""
        if node.op_type == "Div":
            return self._shares(node.input[0], node.input[1])
        if node.op_type == "Mul":
            for part, other in (tuple(node.input), tuple(node.input)[::-1]):
                inverse = self.made_by(other)
                if inverse is not None and inverse.op_type == "Reciprocal":
                    return self._shares(part, inverse.input[0])
        return None

    def _shares(self, part: str, total: str) -> tuple[str, int] | None:
        exponential, axis = self.made_by(part), self._reduction(total, "ReduceSum", part)
        if exponential is None or exponential.op_type != "Exp" or axis is None:
            return None
        shifted = self.made_by(exponential.input[0])
        if shifted is not None and shifted.op_type == "Sub" and self._reduction(shifted.input[1], "ReduceMax", shifted.input[0]) == axis:
            return shifted.input[0], axis
        return exponential.input[0], axis

    def _reduction(self, name: str, operator: str, of: str) -> int | None:
        """The one axis (counted from the front) over which a tensor is a reduction of another, with the axis kept."""
        node = self.made_by(name)
        if node is None or node.op_type != operator or not self.same(node.input[0], of):
            return None
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        axes = attributes.get("axes")
        if len(node.input) > 1 and node.input[1] in self.simplified.constants:
            axes = self.simplified.constants[node.input[1]].ravel().tolist()
        info = self.simplified.info.get(of)
        if axes is None or len(axes) != 1 or not attributes.get("keepdims", 1) or info is None or info.shape is None:
            return None
        return int(axes[0]) % len(info.shape)
