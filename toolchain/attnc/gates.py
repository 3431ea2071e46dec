"""A quantized graph with other integers in the gates of its mixtures of experts: ones that send all tokens to the same experts, as few as
there can be, and ones that spread them over many."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnc.arrays import Array
from attnc.golden import run_golden
from attnc.ir import Graph, Node
from attnc.ops.linear import LOW_BYTE_OFFSET
from attnc.ops.linear_weights import magnitude_bound, weight_format
from attnc.weights import QuantizedWeight, WeightFormat

BEFORE_CHOICE = ("add", "expert_scores", "keep_groups", "mul", "requantize", "softmax", "unary")
"""Operators that may stand between a gate and the choice."""
SHARES = np.linspace(1, 0, 65)
"""Of the largest step between integers that are tried."""


def _gates(graph: Graph, chooser: Node) -> list[Node]:
    """The linear layers that a choice of experts follows from."""
    left, found = [chooser.inputs[0]], []
    while left:
        node = graph.producer(left.pop())
        if node is not None and node.op == "linear":
            found.append(node)
        elif node is not None and node.op in BEFORE_CHOICE:
            left += node.inputs
    return found


def _all_gates(graph: Graph) -> list[Node]:
    """Those of all choices."""
    return [gate for node in graph.nodes if node.op == "top_experts" for gate in _gates(graph, node)]


def other_gates(graph: Graph, feeds: Mapping[str, Array], spread: bool, tokens: int | None = None) -> Graph | None:
    """The quantized graph with other integers in its gates: zeros, or (`spread`) rows of their inputs in the first sample, of its first
    `tokens` or of all, less the mean. None where there are no gates, or some whose weights are sums of planes."""
    changed, inputs = graph.copy(), dict[str, Array]()
    gates = _all_gates(changed)
    if not gates or any(weight_format(gate).kind == "binary" for gate in gates):
        return None
    wanted = {gate.inputs[0] for gate in gates}
    if spread:
        run_golden(graph, feeds, lambda name, array: inputs.update({name: array[0, :tokens]} if name in wanted else {}))
    for gate in gates:
        format_, x = weight_format(gate), graph.type(gate.inputs[0])
        weight = np.zeros(gate.params["weight"].shape, np.int8)
        if spread:
            rows = inputs[gate.inputs[0]].astype(np.float64)
            chosen = rows[np.linspace(0, len(rows) - 1, len(weight)).astype(int)] - rows.mean(axis=0)
            weight = _integers(chosen, format_, _sums(format_, gate.params["weight"], gate.params.get("group_multiplier")).max())
        stored = ((LOW_BYTE_OFFSET if x.bits > 8 else 0) - x.zero_point) * weight.sum(axis=1, dtype=np.int64)
        gate.params |= {"weight": np.asfortranarray(weight), "bias": np.zeros_like(gate.params["bias"]), "stored_bias": stored}
        if "group_multiplier" in gate.params:
            gate.params["group_multiplier"] = np.ones_like(gate.params["group_multiplier"])
        gate.attrs["weight_magnitude"] = format_.limit
    return changed


def _integers(rows: Array, format_: WeightFormat, most: int) -> Array:
    """Rows as integers of a format, so small that none has larger `_sums` than `most`: accumulators hold no more."""
    peak = np.abs(rows).max(axis=1, keepdims=True)
    scaled, found = rows / np.where(peak > 0, peak, 1) * format_.limit, np.zeros(rows.shape, np.int8)
    done = np.zeros(len(rows), bool)
    for share in SHARES:
        tried = np.rint(scaled * share).astype(np.int8)
        fits = ~done & (_sums(format_, tried) <= most)
        found[fits], done = tried[fits], done | fits
    return found


def _sums(format_: WeightFormat, q: Array, multiplier: Array | None = None) -> Array:
    """What the products of each row with inputs of 1 may add up to on their way, [rows]."""
    ones = np.ones((len(q), 1), np.int64)
    return magnitude_bound(QuantizedWeight(format_, q, ones[:, 0], ones if multiplier is None else multiplier.astype(np.int64)), 1)


def with_gates_of(changed: Graph, graph: Graph) -> Graph:
    """A decoder's `graph` with the gates of `changed`, the graph over sequences that it was made from."""
    gates = {gate.name: gate for gate in _all_gates(changed)}
    result = graph.copy()
    for node in result.nodes:
        if node.packed in gates:
            node.params = gates[node.packed].params
            node.attrs["weight_magnitude"] = gates[node.packed].attrs["weight_magnitude"]
    return result
