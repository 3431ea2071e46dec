"""Dynamic activations: the inputs of linear layers get a scale per token while the device runs.

y = linear(x) becomes  peak = row_absmax(x); unit = normalize_rows(x, peak); z = linear(unit) without its bias;
y = scale_rows(z, peak) + bias. In float it computes the same. Layers that read one value share its first two nodes.

A row has one scale for all its channels, so channels that are always large are divided by a factor first, which their weights take
over (SmoothQuant, arXiv 2211.10438): within the normalisation that makes x where only such layers read it, else by a `mul` with a
constant, and only where it pays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from attnc.arrays import Array
from attnc.ir import Graph, Node
from attnc.quant.calibration import Statistics, smoothing

WORTHWHILE = 2.0
"""A `mul` node must lower the noise power that rounding x leaves in y by this factor."""
NORM = "layer_normalization"


def operands(graph: Graph, wanted: Callable[[Node], bool]) -> set[str]:
    """Values that `per_token` wants to see."""
    return {node.inputs[0] for node in graph.nodes if node.op == "linear" and wanted(node)}


def per_token(graph: Graph, wanted: Callable[[Node], bool], statistics: Mapping[str, Statistics] | None = None) -> None:
    """Rewrite every linear node that `wanted` names; with `statistics` of their `operands`, smooth. Requires a float graph; ensures the
    same float meaning (a row of zeros has a peak of 0, gives zeros, and so gives the bias, as before).

    The linear node keeps its name, so that settings by name still find it.
    """
    chosen = {id(node) for node in graph.nodes if node.op == "linear" and wanted(node)}
    shared: dict[str, tuple[str, str]] = {}
    for node in list(graph.nodes):
        if id(node) not in chosen:
            continue
        x, position = node.inputs[0], graph.nodes.index(node)
        if x not in shared:
            readers = [reader for reader in graph.consumers(x) if id(reader) in chosen]
            arrived = any("weight_q" in reader.params for reader in readers)  # integers take no factor in
            smooth = _smooth(graph, x, readers, statistics[x]) if statistics is not None and not arrived else []
            source = smooth[-1].output if smooth else x
            front = _front(graph, x, source, node)
            graph.nodes[position:position] = [*smooth, *front]
            shared[x] = (front[1].output, front[0].output)
        graph.nodes.insert(graph.nodes.index(node) + 1, _back(graph, node, *shared[x]))


def has_scale_per_token(graph: Graph, node: Node) -> bool:
    """Whether the input of a linear node is what `per_token` puts in front of it."""
    maker = graph.producer(node.inputs[0])
    return maker is not None and maker.op == "normalize_rows"


def _smooth(graph: Graph, x: str, readers: list[Node], stats: Statistics) -> list[Node]:
    """Move a factor per channel of `x` into the weights of its readers; the nodes that divide `x` by it, if any are needed."""
    weights = np.concatenate([reader.params["weight"] for reader in readers])
    factor = smoothing(stats, np.abs(weights).max(axis=0))
    maker = graph.producer(x)
    folds = maker is not None and maker.op == NORM and len(readers) == len(graph.consumers(x)) and x not in graph.outputs
    if not folds and _noise(stats, weights, np.ones_like(factor)) < WORTHWHILE * _noise(stats, weights, factor):
        return []
    for reader in readers:
        weight = reader.params["weight"]
        reader.params["weight"] = weight * factor.astype(weight.dtype)
    if folds and maker is not None:
        maker.params["gamma"], maker.params["beta"] = maker.params["gamma"] / factor, maker.params["beta"] / factor
        return []
    inverse, smoothed = graph.fresh(f"{x}.factor"), graph.fresh(f"{x}.smooth")
    graph.add_value(inverse, (1, factor.size))
    graph.constants[inverse] = 1 / factor[np.newaxis]
    graph.add_value(smoothed, graph.value(x).shape)
    return [Node(smoothed, "mul", [x, inverse], smoothed, source=readers[0].source)]


def _noise(stats: Statistics, weights: Array, factor: Array) -> float:
    """Power of the rounding error of x / factor, with a step per row in proportion to its peak, as it arrives in y."""
    peaks = np.abs(stats.sample() / factor).max(axis=1)
    return float(np.square(peaks).mean() * np.square(weights * factor).sum())


def _front(graph: Graph, x: str, source: str, reader: Node) -> list[Node]:
    """The nodes that normalize `source`, which is `x` or `x` smoothed: peaks, then rows."""
    rows, channels = graph.value(x).shape
    peak, unit = graph.fresh(f"{x}.peak"), graph.fresh(f"{x}.unit")
    graph.add_value(peak, (rows, 1))
    graph.add_value(unit, (rows, channels))
    return [
        Node(peak, "row_absmax", [source], peak, source=reader.source),
        Node(unit, "normalize_rows", [source, peak], unit, source=reader.source),
    ]


def _back(graph: Graph, node: Node, unit: str, peak: str) -> Node:
    """Put the linear node on normalized rows; the node that scales its result."""
    y, bias = node.output, node.params["bias"]
    scaled = graph.fresh(f"{y}.unit")
    graph.add_value(scaled, graph.value(y).shape)
    node.inputs, node.output = [unit], scaled
    node.params["bias"] = np.zeros_like(bias)
    return Node(f"{node.name}.scale", "scale_rows", [scaled, peak], y, params={"bias": bias}, source=node.source)
