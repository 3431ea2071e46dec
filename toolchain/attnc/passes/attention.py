"""Operands of attention made easier to quantize, by changes to the weights around it that leave the float result as it is.

Keys     a constant added to every key moves all scores of a query alike, and softmax does not see it: the mean of each channel is
         subtracted in the bias of the layer that makes the keys.
Values   probabilities add up to 1, so a constant added to every value passes through: the mean of each channel is subtracted too, and
         what the next layer makes of it is added to that layer's bias. A query without any key, which gets zeros, could tell: where
         there may be one, values stay.
Queries  channel c of the queries is multiplied, and of the keys divided, by sqrt(peak of keys / peak of queries), so that both share
         the range of their products evenly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnc.arrays import Array
from attnc.errors import ConfigError
from attnc.ir import Graph, Node
from attnc.quant.calibration import Statistics

MAX_RATIO = 16.0
KIND = "attention"
PASSES: dict[str, str | int] = {"auto": "auto", "one_pass": 1, "two_pass": 2}
"""Names of the kernels, and attribute `passes`."""


def force_passes(graph: Graph, wanted: str) -> None:
    """Every attention on the kernel called `wanted`."""
    nodes = [node for node in graph.nodes if node.op == "attention"]
    if wanted not in PASSES or not nodes:
        found = repr(wanted) if nodes else "a model without attention"
        raise ConfigError(f"implementation of {KIND}: needed one of {', '.join(PASSES)}, found {found}")
    for node in nodes:
        node.attrs["passes"] = PASSES[wanted]


def ease_attention(graph: Graph, statistics: Mapping[str, Statistics]) -> None:
    """Rewrite the layers around every attention node; `statistics` are those of its `operands`. Requires a float graph; ensures the
    same float meaning."""
    samples = {name: np.asarray(statistics[name].sample(), np.float64) for name in operands(graph)}
    for node in graph.nodes:
        if node.op != "attention":
            continue
        q, k, v = (_maker(graph, name) for name in node.inputs[:3])
        if k is not None:
            _center_keys(k, samples[node.inputs[1]])
        if k is not None and q is not None:
            _balance(node, q, k, samples)
        readers = graph.consumers(node.output)
        if (
            v is not None
            and not _keyless(graph, node)
            and node.output not in graph.outputs
            and all(reader.op == "linear" for reader in readers)
        ):
            _center_values(node, v, readers, samples[node.inputs[2]])


def _keyless(graph: Graph, node: Node) -> bool:
    """Whether a query may have no key: all of its biases minus infinity, and zeros in place of the NaN that this makes. What the host sends
    is not known here."""
    if len(node.inputs) < 4 or not node.attrs.get("guarded", False):
        return False
    bias = graph.constants.get(node.inputs[3])
    return bias is None or bool(np.any(np.isneginf(bias).all(axis=-1)))


def operands(graph: Graph) -> set[str]:
    """Values that `ease_attention` wants to see."""
    return {name for node in graph.nodes if node.op == "attention" for name in node.inputs[:3]}


def sole_maker(graph: Graph, name: str) -> Node | None:
    """What makes `name` for one reader alone."""
    alone = len([used for _, _, used in graph.uses() if used == name]) == 1 and name not in graph.outputs
    return graph.producer(name) if alone else None


def _maker(graph: Graph, name: str) -> Node | None:
    """The same if it is a linear layer."""
    maker = sole_maker(graph, name)
    return maker if maker is not None and maker.op == "linear" else None


def _center_keys(k: Node, rows: Array) -> None:
    k.params["bias"] = k.params["bias"] - rows.mean(axis=0)


def _center_values(node: Node, v: Node, readers: list[Node], rows: Array) -> None:
    mean = rows.mean(axis=0)
    v.params["bias"] = v.params["bias"] - mean
    heads, kv_heads = node.attrs["num_heads"], node.attrs["num_kv_heads"]
    seen = mean.reshape(kv_heads, -1).repeat(heads // kv_heads, axis=0).ravel()
    for reader in readers:
        reader.params["bias"] = reader.params["bias"] + reader.params["weight"] @ seen


def _balance(node: Node, q: Node, k: Node, samples: Mapping[str, Array]) -> None:
    heads, kv_heads = node.attrs["num_heads"], node.attrs["num_kv_heads"]
    keys = samples[node.inputs[1]]
    k_peak = np.abs(keys - keys.mean(axis=0)).max(axis=0).reshape(kv_heads, 1, -1)
    q_peak = np.abs(samples[node.inputs[0]]).max(axis=0).reshape(kv_heads, heads // kv_heads, -1).max(axis=1, keepdims=True)
    usable = (q_peak > 0) & (k_peak > 0)
    factor = np.sqrt(np.where(usable, k_peak, 1) / np.where(usable, q_peak, 1)).clip(1 / MAX_RATIO, MAX_RATIO)
    scale_channels(k, 1 / factor.ravel())
    scale_channels(q, factor.repeat(heads // kv_heads, axis=1).ravel())


def scale_channels(node: Node, factor: Array) -> None:
    """Multiply the outputs of a linear layer by factors [channels]."""
    weight = node.params["weight"]
    node.params["weight"] = weight * factor[:, None].astype(weight.dtype)
    node.params["bias"] = node.params["bias"] * factor
    if "weight_unit" in node.params:  # a weight that arrived quantized keeps its integers
        node.params["weight_unit"] = node.params["weight_unit"] * factor
