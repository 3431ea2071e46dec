"""Dynamic activations: the inputs of linear layers get a scale per token while the device runs.

y = linear(x) becomes  peak = row_absmax(x); unit = normalize_rows(x, peak); z = linear(unit) without its bias;
y = scale_rows(z, peak) + bias. In float it computes the same. Layers that read one value share its first two nodes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attnc.ir import Graph, Node


def per_token(graph: Graph, wanted: Callable[[Node], bool]) -> None:
    """Rewrite every linear node that `wanted` names. Requires a float graph; ensures the same float meaning (a row of zeros has a
    peak of 0, gives zeros, and so gives the bias, as before).

    The linear node keeps its name, so that settings by name still find it.
    """
    shared: dict[str, tuple[str, str]] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != "linear" or not wanted(node):
            nodes.append(node)
            continue
        x = node.inputs[0]
        if x not in shared:
            shared[x] = _front(graph, x, node, nodes)
        unit, peak = shared[x]
        nodes += _back(graph, node, unit, peak)
    graph.nodes = nodes


def _front(graph: Graph, x: str, reader: Node, nodes: list[Node]) -> tuple[str, str]:
    """Add the nodes that normalize `x`; the names of the normalized value and of the peaks."""
    rows, channels = graph.value(x).shape
    peak, unit = graph.fresh(f"{x}.peak"), graph.fresh(f"{x}.unit")
    graph.add_value(peak, (rows, 1))
    graph.add_value(unit, (rows, channels))
    nodes.append(Node(peak, "row_absmax", [x], peak, source=reader.source))
    nodes.append(Node(unit, "normalize_rows", [x, peak], unit, source=reader.source))
    return unit, peak


def _back(graph: Graph, node: Node, unit: str, peak: str) -> list[Node]:
    """The linear node on normalized rows, and the node that scales its result."""
    y, bias = node.output, node.params["bias"]
    scaled = graph.fresh(f"{y}.unit")
    graph.add_value(scaled, graph.value(y).shape)
    node.inputs, node.output = [unit], scaled
    node.params["bias"] = np.zeros_like(bias)
    return [node, Node(f"{node.name}.scale", "scale_rows", [scaled, peak], y, params={"bias": bias}, source=node.source)]
