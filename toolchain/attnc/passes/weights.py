"""Which integers every linear layer multiplies with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, MutableMapping

import numpy as np

from attnc.arrays import Array
from attnc.blas import one_thread
from attnc.ir import Graph, Node
from attnc.ops.linear_weights import WEIGHTED, put_weight, weight_rows
from attnc.quant.weights import QUANTIZERS, quantize, recognise
from attnc.weights import QuantizedWeight, WeightFormat

PART_ELEMENTS = 1 << 23
"""Of a matrix that are quantized together: rows are independent, and what a quantizer makes on the way is in doubles."""
Chooser = Callable[[Node], tuple[WeightFormat, str]]
"""Format and name of the quantizer of a linear layer."""


def weighted(graph: Graph) -> list[Node]:
    """The nodes whose weights have a format: each one matrix, or the matrices of experts, one below the other."""
    return [node for node in graph.nodes if node.op in WEIGHTED]


def held_formats(graph: Graph) -> dict[str, WeightFormat]:
    """Of every node whose weight already lies on a grid, the narrowest format that holds it."""
    nodes = [node for node in weighted(graph) if "weight_q" not in node.params]
    found = ((node.name, recognise(weight_rows(node))) for node in nodes)
    return {name: held.format for name, held in found if held is not None}


def mark_lossless(graph: Graph, chooser: Chooser, held: Mapping[str, WeightFormat]) -> list[str]:
    """Give `lossless` to every node whose weight already lies on a grid that its format holds, and return their names; `held` are those of
    `held_formats`.

    Requires a float graph and comes before types are chosen: the inputs of these nodes are not smoothed, because a factor per
    channel would take the weights off their grid.
    """
    found = []
    for node in weighted(graph):
        if node.name in held and _holds(chooser(node)[0], held[node.name]):
            node.attrs["lossless"] = True
            found.append(node.name)
    return found


def assign_weights(
    graph: Graph, chooser: Chooser, grams: Mapping[str, Array], known: MutableMapping[bytes, QuantizedWeight] | None = None
) -> None:
    """Quantize the weight of every linear layer and of all experts: `put_weight` and attribute `quantizer`. `weight` stays the original
    float.

    Requires types on the inputs of these nodes. An input with a scale per channel is a smoothed one: its factors, scale / largest
    scale, belong to the weight, so the integers stand for weight * factor. `grams` holds X^T X / count of the real inputs by name of
    value. What was quantized stays in `known`: a layer that comes again with the same weight and gram is taken from there. A weight found
    by `mark_lossless` is carried over as it is, in its own format, and `quantizer` says so; one that arrived as integers has them already.
    What experts meet is taken together: a gram of its own for each would be of few rows.
    """
    for node in weighted(graph):
        if "weight_q" in node.params:
            continue
        format, quantizer = chooser(node)
        weight, gram = met(graph, node, grams.get(node.inputs[0]))
        found = _carried(node, weight, format)
        if found is None:
            found = _remembered(node, weight, format, quantizer, gram, {} if known is None else known)
        else:
            quantizer = "lossless"
        node.attrs["quantizer"] = quantizer
        put_weight(node, found)


def met(graph: Graph, node: Node, gram: Array | None) -> tuple[Array, Array | None]:
    """The weight [N, K] that the integers stand for, and the gram [K, K] of what they meet, from the gram of the layer's real input:
    X W^T = (X / factor) (W factor)^T, with the factor of a smoothed input."""
    factor = input_factor(graph, node)
    weight = weight_rows(node)
    whole = np.float32 if weight.dtype == np.float32 and (factor == 1).all() else np.float64
    return (weight if whole == np.float32 else weight * factor), None if gram is None else gram / np.outer(factor, factor)


def quantized(node: Node, weight: Array, format: WeightFormat, quantizer: str, gram: Array | None) -> QuantizedWeight:
    """The integers of a layer. A quantizer that can do without the gram never gets it: whether there is one depends on the formats of
    the layers that read the same input, and a layer's integers must not. Experts with one scale each are quantized one by one, other
    large matrices some rows at a time."""
    known = QUANTIZERS[quantizer]
    experts = math.prod(node.params["bias"].shape[:-1]) if known.per_tensor else 1
    parts = np.array_split(weight, experts if known.per_tensor else max(1, weight.size // PART_ELEMENTS))
    with one_thread():
        found = [quantize(quantizer, one, format, gram if known.needs_gram else None, node.name) for one in parts]
    if len(found) == 1:
        return found[0]
    return QuantizedWeight(format, *(np.concatenate([getattr(one, part) for one in found]) for part in ("q", "unit", "multiplier")))


def _remembered(
    node: Node, weight: Array, format: WeightFormat, quantizer: str, gram: Array | None, known: MutableMapping[bytes, QuantizedWeight]
) -> QuantizedWeight:
    """As `quantized`, once for the same arguments."""
    digest = hashlib.sha256(repr((format, quantizer, weight.shape, node.params["bias"].shape)).encode())
    for array in (weight, gram) if gram is not None else (weight,):
        digest.update(np.ascontiguousarray(array).data)
    key = digest.digest()
    if key not in known:
        known[key] = quantized(node, weight, format, quantizer, gram)
    return known[key]


def assigned(node: Node) -> QuantizedWeight:
    """What `assign_weights` stored on a node."""
    format = WeightFormat.parse(node.attrs["weights"], node.attrs["group_size"])
    return QuantizedWeight(format, node.params["weight_q"], node.params["weight_unit"], node.params["weight_multiplier"])


def input_factor(graph: Graph, node: Node) -> Array:
    """Factor [K] that a smoothed input leaves to the weight: its scale per channel over the largest; ones elsewhere."""
    k = node.params["weight"].shape[-1]
    type_ = graph.value(node.inputs[0]).type
    if type_ is None or type_.scale.ndim == 0:
        return np.ones(k)
    return np.broadcast_to(type_.scale / type_.scale.max(), (k,)).astype(np.float64)


def _carried(node: Node, weight: Array, format: WeightFormat) -> QuantizedWeight | None:
    if not node.attrs.get("lossless"):
        return None
    held = recognise(weight)
    return held if held is not None and _holds(format, held.format) else None


def _holds(wanted: WeightFormat, held: WeightFormat) -> bool:
    """A weight that lies on a grid replaces a format that is no narrower; planes were asked for on purpose."""
    return wanted.kind != "binary" and held.limit <= wanted.limit
