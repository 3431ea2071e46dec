"""Where the noise at the outputs of a quantized graph comes from.

Noise of small parts adds up, so each part is put into the float graph alone: one value is rounded to its type, or one node is replaced by
what its integers give, and what arrives at the outputs is measured. Noise is relative: energy of the difference over energy of the float
output, one number per output of the graph; -10 log10 of it is an SQNR. Single precision is enough for that, down to -100 dB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from attnc.arrays import Array, samples_first, single
from attnc.blas import one_thread
from attnc.ir import Graph, Node
from attnc.ops import operator
from attnc.ops.linear_weights import whole_weight


class Probe:
    """A graph in float and in integers, and what the float one computes for some samples."""

    def __init__(self, float_graph: Graph, graph: Graph, values: Mapping[str, Array]) -> None:
        """`values` holds every value of `float_graph`, [samples, rows, channels]."""
        self.float_graph, self.graph = float_graph, graph
        known = {**{name: array[np.newaxis] for name, array in float_graph.constants.items()}, **values}
        self.values = {name: single(array) for name, array in known.items()}
        self.nodes = [replace(node, params={name: single(array) for name, array in node.params.items()}) for node in float_graph.nodes]
        self.quantized = {node.name: node for node in graph.nodes}
        self.signal = np.array([max(float(np.square(values[name], dtype=np.float64).sum()), 1e-300) for name in graph.outputs])

    def rounding(self, name: str) -> Array:
        """Noise from rounding one value to its type."""
        type_ = self.graph.type(name)
        readers = [(node, index) for node, index, used in self.graph.uses() if used == name]
        if not readers:
            return self._arriving({name: type_.dequantize(type_.quantize(self.values[name]))})
        node, index = readers[0]
        q = operator(node).quantize_operand(node, index, self.values[name], type_)
        return self._arriving({name: operator(node).dequantize_operand(node, index, q, type_)})

    def node(self, node: Node) -> Array:
        """Noise from what a node's integers do to inputs that lie on their grids: its weights, its arithmetic, its output's type."""
        own = self.quantized[node.name]
        types = [self.graph.type(name) for name in node.inputs]
        integers = [operator(own).quantize_operand(own, i, self.values[name], types[i]) for i, name in enumerate(node.inputs)]
        real = [operator(own).dequantize_operand(own, i, q, type_) for i, (q, type_) in enumerate(zip(integers, types, strict=True))]
        output = self.graph.type(node.output)
        with one_thread():
            found = output.dequantize(operator(own).golden(own, samples_first(integers), types, output))
            error = found - operator(node).reference(node, [x.astype(np.float32) for x in real])
        return self._arriving({node.output: self.values[node.output] + error})

    def weights(self, node: Node) -> Array:
        """Noise from the weights of a linear layer, or of experts, alone."""
        own, scale = self.quantized[node.name], self.graph.type(node.inputs[0]).scale
        weight = (whole_weight(own) * own.params["weight_scale"][..., None] / (scale / scale.max())).astype(np.float32)
        changed = Node(node.name, node.op, node.inputs, node.output, node.attrs, {**node.params, "weight": weight})
        return self._arriving({node.output: operator(node).reference(changed, [self.values[name] for name in node.inputs])})

    def cause(self, node: Node) -> str:
        """What makes most of the noise of a node."""
        total, output = self.node(node), self.graph.type(node.output)
        parts = {"weights": self.weights(node)} if "weight_scale" in self.quantized[node.name].params else {}
        if output.bits <= 8:
            parts["output"] = self.rounding(node.output)
        worst = int(np.argmax(total))
        rest = total[worst] - sum(part[worst] for part in parts.values())
        largest = max(parts, key=lambda name: float(parts[name][worst]), default="")
        if not largest or rest > parts[largest][worst]:
            return f"arithmetic of {node.attrs.get('implementation') or node.op}"
        if largest == "weights":
            return f"weights of {self.quantized[node.name].attrs.get('weights', 'int8')}"
        readers = ", ".join(sorted({reader.op for reader in self.graph.consumers(node.output)}))
        return f"output of {output.bits} bits, read by {readers}"

    def _arriving(self, changed: dict[str, Array]) -> Array:
        """Noise at the outputs where some values are others; nodes that see none of it are not computed again."""
        live = {name: single(array) for name, array in changed.items()}
        with one_thread():
            for node in self.nodes:
                if node.output not in changed and any(name in live for name in node.inputs):
                    live[node.output] = single(operator(node).reference(node, [live.get(name, self.values[name]) for name in node.inputs]))
        noise = [np.square(live[name] - self.values[name], dtype=np.float64).sum() if name in live else 0.0 for name in self.graph.outputs]
        return np.array(noise) / self.signal
