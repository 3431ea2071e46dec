"""Adjacent pairs for rotary embeddings: the rows of the weights before them are permuted, so that no stream waits for the other half.

A half-split rotary turns channels (i, i + RD/2); with the rows of the linear layer before it in the order 0, RD/2, 1, RD/2 + 1, ...
the pairs become adjacent. Its output is then permuted as well, which q . k does not see where queries and keys are permuted alike.
Requires a float graph. Ensures the same meaning of every value but the permuted ones: outputs of these linear and rotary nodes.
"""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.ir import Graph, Node
from attnc.ops.rotary import Sizes

_CHANNEL_AXES = {"weight": 0, "bias": 0, "weight_q": -2, "weight_unit": 0, "weight_multiplier": -2}
"""Where output channels lie in the parameters of a linear layer, those of one that arrived quantized among them."""


def pair_rotary(graph: Graph) -> int:
    """Permute wherever queries and keys of an attention both are half-split rotaries of linear layers; returns how many rotaries were."""
    count = 0
    for node in graph.nodes:
        if node.op != "attention":
            continue
        found = [_permutable(graph, name, node) for name in node.inputs[:2]]
        (q, k) = found
        if q is None or k is None or q is k or _layout(graph, q) != _layout(graph, k):
            continue
        for rotary in (q, k):
            linear = graph.producer(rotary.inputs[0])
            assert linear is not None
            order = channel_order(Sizes.of(rotary, graph.value(rotary.output).shape))
            linear.params |= {key: np.take(linear.params[key], order, axis) for key, axis in _CHANNEL_AXES.items() if key in linear.params}
            rotary.attrs["interleaved"] = True
            count += 1
    return count


def channel_order(sizes: Sizes) -> Array:
    """Old channel of every new one, for all heads: pairs become adjacent, channels that are not turned stay."""
    first, second = sizes.pairs()
    one = np.arange(sizes.head)
    one[0 : sizes.turned : 2], one[1 : sizes.turned : 2] = first, second
    return (np.arange(sizes.heads)[:, None] * sizes.head + one).ravel()


def _layout(graph: Graph, rotary: Node) -> tuple[int, int]:
    sizes = Sizes.of(rotary, graph.value(rotary.output).shape)
    return sizes.head, sizes.turned


def _permutable(graph: Graph, name: str, reader: Node) -> Node | None:
    """The half-split rotary that makes `name` for `reader` alone, from a linear layer that it alone reads."""
    rotary = graph.producer(name)
    if rotary is None or rotary.op != "rotary" or rotary.attrs.get("interleaved", False) or not _only_reader(graph, name, reader):
        return None
    linear = graph.producer(rotary.inputs[0])
    if linear is None or linear.op != "linear" or not _only_reader(graph, linear.output, rotary):
        return None
    return rotary


def _only_reader(graph: Graph, name: str, reader: Node) -> bool:
    uses = [node for node, _, used in graph.uses() if used == name]
    return uses == [reader] and name not in graph.outputs
