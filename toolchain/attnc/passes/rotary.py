"""Adjacent pairs for rotary embeddings: the rows of the weights before them are permuted, so that no stream waits for the other half.

A half-split rotary turns channels (i, i + RD/2); with the rows of the linear layer before it in the order 0, RD/2, 1, RD/2 + 1, ...
the pairs become adjacent. A norm of heads in between is permuted with them, which its means do not see. The output is then permuted as
well, which q . k does not see where queries and keys are permuted alike.
Requires a float graph. Ensures the same meaning of every value but the permuted ones: outputs of these nodes.
"""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.errors import UnsupportedError
from attnc.ir import Graph, Node
from attnc.ops.layer_normalization import group
from attnc.ops.rotary import Sizes

NORMS = ("layer_normalization", "rms_normalization")
_CHANNEL_AXES = {"weight": 0, "bias": 0, "weight_q": -2, "weight_unit": 0, "weight_multiplier": -2, "gamma": 0, "beta": 0}
"""Where output channels lie in the parameters of a linear layer, those of one that arrived quantized among them, and of a norm."""


def pair_rotary(graph: Graph) -> int:
    """Permute wherever queries and keys of an attention both are half-split rotaries of linear layers; returns how many rotaries were."""
    count = 0
    for node in graph.nodes:
        if node.op != "attention":
            continue
        q, k = (_permutable(graph, name, node) for name in node.inputs[:2])
        if q is None or k is None or q[0] is k[0] or _layout(graph, q[0]) != _layout(graph, k[0]):
            continue
        for rotary, *before in (q, k):
            order = channel_order(Sizes.of(rotary, graph.value(rotary.output).shape))
            for maker in before:
                maker.params |= {key: np.take(maker.params[key], order, axis) for key, axis in _CHANNEL_AXES.items() if key in maker.params}
            rotary.attrs["interleaved"] = True
            count += 1
    return count


def check_halves(graph: Graph) -> None:
    """Refuse halves that no word of memory divides, where pairs could not be made adjacent."""
    for node in (node for node in graph.nodes if node.op == "rotary"):
        sizes = Sizes.of(node, graph.value(node.output).shape)
        if not sizes.interleaved and sizes.turned // 2 % 2:
            why = f"it turns halves of {sizes.turned // 2} channels, an odd number, and no linear layer or norm before it pairs them"
            raise UnsupportedError(node.source[-1] if node.source else node.name, "rotary", why)


def channel_order(sizes: Sizes) -> Array:
    """Old channel of every new one, for all heads: pairs become adjacent, channels that are not turned stay."""
    first, second = sizes.pairs()
    one = np.arange(sizes.head)
    one[0 : sizes.turned : 2], one[1 : sizes.turned : 2] = first, second
    return (np.arange(sizes.heads)[:, None] * sizes.head + one).ravel()


def _layout(graph: Graph, rotary: Node) -> tuple[int, int]:
    sizes = Sizes.of(rotary, graph.value(rotary.output).shape)
    return sizes.head, sizes.turned


def _permutable(graph: Graph, name: str, reader: Node) -> list[Node] | None:
    """The half-split rotary that makes `name` for `reader` alone, maybe a norm of whole heads that it alone reads, and the linear layer
    before, which only these read."""
    found: list[Node] = []
    for ops in (("rotary",), NORMS, ("linear",)):
        maker = graph.producer(name)
        if maker is None or (maker.op not in ops and ops is not NORMS) or not _only_reader(graph, name, reader):
            return None
        if maker.op in ops:
            found.append(maker)
            name, reader = maker.inputs[0], maker
    rotary, *norms, _ = found
    shape = graph.value(rotary.output).shape
    if rotary.attrs.get("interleaved", False) or any(group(norm, shape[1]) % Sizes.of(rotary, shape).head for norm in norms):
        return None
    return found


def _only_reader(graph: Graph, name: str, reader: Node) -> bool:
    uses = [node for node, _, used in graph.uses() if used == name]
    return uses == [reader] and name not in graph.outputs
