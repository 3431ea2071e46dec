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


def transformer_graph(layers: int, rows: int = 12, width: int = 32, heads: int = 2) -> Graph:
    """Layers of norm, attention and MLP, each with its residual sum: as deep as wanted, of few kernels."""
    rng = np.random.default_rng(5)
    graph, types = Graph("transformer", inputs=["x"]), {"x": tensor_type(16, 2.0**-10)}
    graph.add_value("x", (rows, width))

    def node(output: str, op: str, inputs: list[str], bits: int, channels: int = width, **attrs: object) -> str:
        params = {}
        if op == "linear":
            source = graph.value(inputs[0]).shape[1]
            params = {"weight": rng.normal(size=(channels, source)) / np.sqrt(source), "bias": rng.normal(size=channels)}
        elif op == "layer_normalization":
            params, attrs = {"gamma": np.ones(width), "beta": np.zeros(width)}, {"epsilon": 1e-5}
        graph.add_value(output, (rows, channels))
        graph.nodes.append(Node(output, op, inputs, output, dict(attrs), params))
        types[output] = tensor_type(bits, 2.0**-10 if bits == 16 else 2.0**-5)
        return output

    x = "x"
    for layer in map(str, range(layers)):
        normal = node("n" + layer, "layer_normalization", [x], 8)
        operands = [node(name + layer, "linear", [normal], 8) for name in "qkv"]
        heard = node("a" + layer, "attention", operands, 8, num_heads=heads, num_kv_heads=heads, groups=1, scale=0.25)
        middle = node("r" + layer, "add", [node("o" + layer, "linear", [heard], 16), x], 16)
        normal = node("m" + layer, "layer_normalization", [middle], 8)
        wide = node("g" + layer, "unary", [node("u" + layer, "linear", [normal], 16, 2 * width)], 8, 2 * width, function="gelu")
        x = node("x" + layer, "add", [node("d" + layer, "linear", [wide], 16), middle], 16)
    graph.outputs = [x]
    return quantized(graph, types)
