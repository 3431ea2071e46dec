"""A small quantized transformer layer, for tests of schedule and cost."""

from __future__ import annotations

import numpy as np

from attnc.ir import Graph, Node
from harness import quantized, tensor_type


def layer_graph(rows: int = 32, width: int = 64, heads: int = 2, mlp: int = 128) -> Graph:
    """Norm, q, k and v, attention, a projection, and an MLP of two products with a GELU between them."""
    rng = np.random.default_rng(3)
    graph = Graph("layer", inputs=["x"], outputs=["y"])
    graph.add_value("x", (rows, width))

    def linear(name: str, source: str, inputs: int, outputs: int) -> None:
        graph.add_value(name, (rows, outputs))
        params = {"weight": rng.normal(size=(outputs, inputs)) / np.sqrt(inputs), "bias": rng.normal(size=outputs)}
        graph.nodes.append(Node(f"{name}_layer", "linear", [source], name, params=params))

    graph.add_value("n", (rows, width))
    norm = {"gamma": np.ones(width), "beta": np.zeros(width)}
    graph.nodes.append(Node("norm", "layer_normalization", ["x"], "n", {"epsilon": 1e-5}, norm))
    for name in "qkv":
        linear(name, "n", width, width)
    graph.add_value("a", (rows, width))
    attributes = {"num_heads": heads, "num_kv_heads": heads, "groups": 1, "scale": 0.25}
    graph.nodes.append(Node("attention", "attention", ["q", "k", "v"], "a", attributes))
    linear("up", "a", width, mlp)
    graph.add_value("g", (rows, mlp))
    graph.nodes.append(Node("gelu", "unary", ["up"], "g", {"function": "gelu"}))
    linear("y", "g", mlp, width)
    types = {name: tensor_type(16 if name in ("x", "up") else 8, 2.0**-10 if name in ("x", "up") else 2.0**-5) for name in graph.values}
    return quantized(graph, types)
