"""Fold constants into the parameters of their neighbours and drop what nobody reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from attnc.frontend.values import Array, merge
from attnc.ir import Graph, Node
from attnc.quant.weights import recognise

WEIGHTED = ("linear", "depthwise")
"""Operators with a row of weights and a bias per output channel."""
NORMALIZATIONS = ("layer_normalization", "rms_normalization")


def fold_constants(graph: Graph) -> None:
    """add and mul of one row of constants go into a linear or layer normalization before, or a linear after."""
    _spread_normalizations(graph)
    _fold_backward(graph)
    _fold_forward(graph)


def _row(graph: Graph, node: Node) -> tuple[str, Array] | None:
    """(activation, constants per channel) of an add or mul with a constant row."""
    if node.op not in ("add", "mul") or len(node.inputs) != 2:
        return None
    for activation, constant in (node.inputs, node.inputs[::-1]):
        array = graph.constants.get(constant)
        if array is not None and array.shape[0] == 1 and activation not in graph.constants:
            return activation, array[0]
    return None


def _spread_normalizations(graph: Graph) -> None:
    """A normalization whose readers have gains of their own becomes one for each of those whose gain a linear would have to take into
    weights that lie on a grid: behind such a factor per column they lie on none."""
    readers = _readers(graph)
    kept = []
    for node in graph.nodes:
        after = readers.get(node.output, []) if node.op in NORMALIZATIONS and node.output not in graph.outputs else []
        if len(after) > 1:
            for gain in (one for one in after if _row(graph, one) and _gridded(readers.get(one.output, []))):
                output = graph.fresh(f"{node.output}_of_{gain.output}")
                graph.values[output] = replace(graph.value(node.output), name=output)
                kept.append(replace(node, output=output))
                gain.inputs = [output if name == node.output else name for name in gain.inputs]
        kept.append(node)
    graph.nodes = kept


def _gridded(after: Sequence[Node]) -> bool:
    """Whether these are linears, and weights of one of them lie on a grid."""
    return bool(after) and all(node.op == "linear" for node in after) and any(recognise(node.params["weight"]) for node in after)


def _readers(graph: Graph) -> dict[str, list[Node]]:
    """Nodes by the values that they read."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            found.setdefault(name, []).append(node)
    return found


def _fold_backward(graph: Graph) -> None:
    """Into the node before, if it has no other reader."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses.update(graph.outputs)
    by_output: dict[str, Node] = {}
    kept: list[Node] = []
    position: dict[str, int] = {}
    for node in graph.nodes:
        found = _row(graph, node)
        before = by_output.get(found[0]) if found else None
        if found and before and uses[found[0]] == 1 and _takes(before, node):
            node = _into(before, node, found[1])
            kept[position[found[0]]] = node
            position[node.output] = position.pop(found[0])
        else:
            position[node.output] = len(kept)
            kept.append(node)
        by_output[node.output] = node
    graph.nodes = kept


def _takes(before: Node, node: Node) -> bool:
    """Whether the parameters of `before` have room for the constants of `node`."""
    return before.op in (*WEIGHTED, "layer_normalization") or (before.op == "rms_normalization" and node.op == "mul")


def _into(before: Node, node: Node, amount: Array) -> Node:
    """`before` with the constants in its parameters, under the name of the value that `node` made."""
    params = dict(before.params)
    factor, offset = ("weight", "bias") if before.op in WEIGHTED else ("gamma", "beta")
    if node.op == "mul":
        params[factor] = params[factor] * (amount[:, None] if before.op in WEIGHTED else amount)
        if offset in params:
            params[offset] = params[offset] * amount
    else:
        params[offset] = params[offset] + amount
    return replace(before, params=params, output=node.output, source=merge(before.source, node.source))


def _fold_forward(graph: Graph) -> None:
    """Into all readers, if they are linears."""
    readers = _readers(graph)
    kept = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node.inputs = [renamed.get(name, name) for name in node.inputs]
        found = _row(graph, node)
        after = readers.get(node.output, [])
        if found is None or not after or node.output in graph.outputs or any(reader.op != "linear" for reader in after):
            kept.append(node)
            continue
        for reader in after:
            weight = reader.params["weight"]
            if node.op == "mul":
                reader.params["weight"] = weight * found[1][None, :]
            else:
                reader.params["bias"] = reader.params["bias"] + weight @ found[1]
            reader.source = merge(node.source, reader.source)
        renamed[node.output] = found[0]
    graph.nodes = kept


def drop_unused(graph: Graph) -> None:
    """Keep what the outputs need; values, constants and inputs too."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.inputs)
    graph.nodes = kept[::-1]
    graph.inputs = [name for name in graph.inputs if name in needed]
    graph.constants = {name: array for name, array in graph.constants.items() if name in needed}
    graph.values = {name: value for name, value in graph.values.items() if name in needed}


def unique_names(graph: Graph) -> None:
    """Names of nodes after the last ONNX node that they stand for."""
    taken: set[str] = set()
    for node in graph.nodes:
        stem = node.source[-1] if node.source else node.op
        name, n = stem, 1
        while name in taken:
            name, n = f"{stem}_{n}", n + 1
        taken.add(name)
        node.name = name
