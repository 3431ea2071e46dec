"""Random quantized graphs in which operators of all kinds follow each other, for tests of chains."""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.ir import Graph, Node
from attnc.ops import operator
from harness import quantized, tensor_type

WIDTHS = (32, 20)
"""Channels of the values; the second leaves padding in the last tile of 8 lanes."""
KINDS = ("add", "mul", "requantize", "unary", "linear", "linear", "layer_normalization", "attention", "rows", "constant")


class Grower:
    """Adds nodes to a graph; values have 8 or 16 bits, `bits` says which."""

    def __init__(self, seed: int, rows: int) -> None:
        self.rng, self.rows = np.random.default_rng(seed), rows
        self.graph = Graph("random")
        self.bits: dict[str, int] = {}
        for width in WIDTHS:
            self.graph.inputs.append(self.value(width, 8))

    def value(self, width: int, bits: int, rows: int | None = None) -> str:
        """A new value, named by its number."""
        name = f"v{len(self.graph.values)}"
        self.graph.add_value(name, (self.rows if rows is None else rows, width))
        self.bits[name] = bits
        return name

    def pick(self, width: int | None = None, bits: int | None = None) -> str:
        """A value of the full height, mostly a recent one."""
        fits = [
            name
            for name, found in self.bits.items()
            if self.graph.value(name).shape[0] == self.rows
            and self.graph.value(name).shape[1] in (WIDTHS if width is None else (width,))
            and bits in (None, found)
        ]
        return fits[-1 - min(int(self.rng.geometric(0.6)) - 1, len(fits) - 1)]

    def width(self, name: str) -> int:
        return self.graph.value(name).shape[1]

    def node(self, op: str, inputs: list[str], bits: int | None = None, attrs: dict[str, object] | None = None, **params: Array) -> str:
        """A node with a value of `bits`, else of any."""
        bits = int(self.rng.choice([8, 8, 16])) if bits is None else bits
        name = f"n{len(self.graph.nodes)}"
        node = Node(name, op, inputs, "", dict(attrs or {}), dict(params))
        rows, width = operator(node).shape(node, [self.graph.value(value).shape for value in inputs])
        node.output = self.value(width, bits, rows)
        self.graph.nodes.append(node)
        return node.output

    def grow(self, kind: str) -> None:
        """One step: a node, or a few that belong together."""
        rng = self.rng
        if kind in ("add", "mul"):
            a = self.pick()
            self.node(kind, [a, self.pick(self.width(a))])
        elif kind == "constant":
            a = self.pick()
            one = self.value(self.width(a), 8, rows=1)
            self.graph.constants[one] = rng.normal(size=(1, self.width(a)))
            self.node("add", [one, a])
        elif kind == "unary":
            self.node("unary", [self.pick()], attrs={"function": str(rng.choice(["gelu", "sigmoid", "relu"]))})
        elif kind == "linear":
            a, outputs = self.pick(bits=8), int(rng.choice(WIDTHS))
            weight = rng.normal(size=(outputs, self.width(a))) / np.sqrt(self.width(a))
            self.node("linear", [a], weight=weight, bias=rng.normal(size=outputs))
        elif kind == "layer_normalization":
            a = self.pick()
            gamma, beta = rng.normal(size=(2, self.width(a)))
            self.node(kind, [a], attrs={"epsilon": 1e-5}, gamma=gamma, beta=beta)
        elif kind == "attention":
            q, k, v = (self.pick(WIDTHS[0], 8) for _ in range(3))
            self.node(kind, [q, k, v], attrs={"num_heads": 2, "num_kv_heads": 2, "groups": 1, "scale": 0.25})
        elif kind == "rows":
            a = self.pick()
            peak = self.node("row_absmax", [a], self.bits[a])
            normal = self.node("normalize_rows", [a, peak], 8)
            outputs = int(rng.choice(WIDTHS))
            weight = rng.normal(size=(outputs, self.width(a))) / np.sqrt(self.width(a))
            product = self.node("linear", [normal], 16, weight=weight, bias=np.zeros(outputs))
            self.node("scale_rows", [product, peak], bias=rng.normal(size=outputs))
        else:
            self.node(kind, [self.pick()])


def random_graph(seed: int, steps: int = 12, rows: int = 12) -> Graph:
    """The last value and one from the middle are its outputs; so is whatever nobody reads."""
    grower = Grower(seed, rows)
    for kind in grower.rng.choice(KINDS, steps):
        grower.grow(str(kind))
    graph = grower.graph
    read = {name for node in graph.nodes for name in node.inputs}
    middle = graph.nodes[len(graph.nodes) // 2].output
    graph.outputs = [node.output for node in graph.nodes if node.output not in read or node.output == middle]
    types = {name: tensor_type(bits, 2.0**-5 if bits == 8 else 2.0**-10) for name, bits in grower.bits.items()}
    for node in graph.nodes:
        if node.op == "row_absmax":
            types[node.output] = tensor_type(16, float(types[node.inputs[0]].scale))
    return quantized(graph, types)
