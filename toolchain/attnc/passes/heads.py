"""Heads whose channels no word of memory divides are padded with channels of zeros, which add nothing to q . k and make zeros of p . v; so
are groups of channels that are normalised together, each alone.

Linear layers make the zeros, by rows of zeros, and take them in, by columns of zeros; rotary embeddings and norms of heads let them pass.
Elsewhere a linear layer of zeros and ones stands in between. Requires a float graph. Ensures the same meaning of all values that stay; the
scale of the scores is that of the true heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from attnc.arrays import Array
from attnc.ir import Graph, Node
from attnc.ops.attention_channels import MIN_LANES
from attnc.ops.attention_sizes import Sizes
from attnc.ops.layer_normalization import group
from attnc.ops.rotary import Sizes as RotarySizes

MULTIPLE = 8
NORMS = ("layer_normalization", "rms_normalization")


def padded(channels: int) -> int:
    """Channels of a head in memory."""
    return channels if channels % MIN_LANES == 0 else math.ceil(channels / MULTIPLE) * MULTIPLE


@dataclass(frozen=True)
class Heads:
    """So many heads side by side, and the channels of each as the model has them."""

    count: int
    size: int

    @property
    def channels(self) -> int:
        """Channels of all heads in memory."""
        return self.count * padded(self.size)

    @property
    def spots(self) -> Array:
        """The channel in memory of every channel of the model."""
        return (np.arange(self.count)[:, None] * padded(self.size) + np.arange(self.size)).ravel()

    def spread(self, array: Array, axis: int) -> Array:
        """The array with zeros in the channels between, along one of its axes."""
        shape = list(array.shape)
        shape[axis] = self.channels
        wide = np.zeros(shape, array.dtype)
        np.moveaxis(wide, axis, 0)[self.spots] = np.moveaxis(array, axis, 0)
        return wide


def pad_heads(graph: Graph) -> int:
    """Pad the heads of every attention, and the groups of every norm, that need it; returns how many did."""
    count, done = 0, dict[tuple[str, Heads], str]()
    for node in [node for node in graph.nodes if node.op == "attention"]:
        sizes = Sizes.of(node, [graph.value(name).shape for name in node.inputs])
        operands = Heads(sizes.heads, sizes.head), Heads(sizes.kv_heads, sizes.head), Heads(sizes.kv_heads, sizes.value)
        if all(padded(heads.size) == heads.size for heads in operands):
            continue
        for index, heads in enumerate(operands):
            node.inputs[index] = _widened(graph, node.inputs[index], node, heads, done)
        _narrow(graph, node, Heads(sizes.heads, sizes.value))
        count += 1
    for node in [node for node in graph.nodes if node.op in NORMS and "counted" not in node.attrs]:
        channels = graph.value(node.output).shape[1]
        groups = Heads(channels // group(node, channels), group(node, channels))
        if groups.count > 1 and padded(groups.size) != groups.size:
            node.inputs = [_widened(graph, node.inputs[0], node, groups, done)]
            _pad_norm(node, groups)
            _narrow(graph, node, groups)
            count += 1
    used = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs)
    for name in [name for name in graph.constants if name not in used]:
        del graph.constants[name], graph.values[name]
    return count


def _widened(graph: Graph, name: str, reader: Node, heads: Heads, done: dict[tuple[str, Heads], str]) -> str:
    """The value `name` with padded heads, for `reader`; made where it is made, if nobody else reads it."""
    if padded(heads.size) == heads.size:
        return name
    if (name, heads) not in done:
        done[name, heads] = wide = _made_wide(graph, name, reader, heads, done)
        done[wide, heads] = wide
    return done[name, heads]


def _made_wide(graph: Graph, name: str, reader: Node, heads: Heads, done: dict[tuple[str, Heads], str]) -> str:
    maker, rows = graph.producer(name), graph.value(name).shape[0]
    alone = name not in graph.outputs and all(node is reader for node in graph.consumers(name))
    if name in graph.constants:
        wide = _declare(graph, name, f"{name}.padded", (rows, heads.channels))
        graph.constants[wide] = heads.spread(graph.constants[name], 1)
        return wide
    if maker is not None and alone and maker.op == "linear" and _plain(maker):
        _pad_rows(maker, heads)
    elif maker is not None and alone and maker.op == "rotary" and maker.attrs["num_heads"] == heads.count:
        maker.attrs["rotary_dims"] = RotarySizes.of(maker, graph.value(name).shape).turned
        maker.inputs = [_widened(graph, maker.inputs[0], maker, heads, done)]
    elif maker is not None and alone and maker.op in NORMS and group(maker, graph.value(name).shape[1]) == heads.size:
        maker.inputs = [_widened(graph, maker.inputs[0], maker, heads, done)]
        _pad_norm(maker, heads)
    else:
        wide = _declare(graph, name, f"{name}.padded", (rows, heads.channels))
        weight = heads.spread(np.eye(heads.count * heads.size), 0)
        _insert(graph, reader, Node(wide, "linear", [name], wide, {}, _without_bias(weight), reader.source))
        return wide
    graph.value(name).shape = (rows, heads.channels)
    return name


def _narrow(graph: Graph, node: Node, heads: Heads) -> None:
    """The output of an attention with padded heads, for all who read it."""
    if padded(heads.size) == heads.size:
        return
    name, rows = node.output, graph.value(node.output).shape[0]
    node.output = wide = _declare(graph, name, f"{name}.padded", (rows, heads.channels))
    others = [reader for reader in graph.consumers(name) if reader.op != "linear" or not _plain(reader)]
    for reader in graph.consumers(name):
        if reader not in others:
            reader.inputs = [wide]
            reader.params |= {key: heads.spread(reader.params[key], -1) for key in ("weight", "weight_q") if key in reader.params}
    if others or name in graph.outputs:
        weight = heads.spread(np.eye(heads.count * heads.size), 1)
        graph.nodes.insert(
            graph.nodes.index(node) + 1, Node(f"{node.name}.unpadded", "linear", [wide], name, {}, _without_bias(weight), node.source)
        )
    else:
        del graph.values[name]


def _plain(linear: Node) -> bool:
    """Whether rows and columns may come in between: there are no groups of columns that share a scale."""
    return "weight_multiplier" not in linear.params or linear.params["weight_multiplier"].shape[-1] == 1


def _pad_rows(linear: Node, heads: Heads) -> None:
    p = linear.params
    for key, axis in (("weight", 0), ("weight_q", -2), ("bias", 0)):
        if key in p:
            p[key] = heads.spread(p[key], axis)
    if "weight_unit" in p:  # a row of zeros takes any unit
        unit = heads.spread(p["weight_unit"], 0)
        p["weight_unit"] = np.where(unit > 0, unit, unit.max())
        p["weight_multiplier"] = np.maximum(heads.spread(p["weight_multiplier"], 0), 1)


def _pad_norm(norm: Node, heads: Heads) -> None:
    norm.attrs |= {"group": padded(heads.size), "counted": heads.size}
    norm.params |= {key: heads.spread(array, 0) for key, array in norm.params.items()}


def _without_bias(weight: Array) -> dict[str, Array]:
    return {"weight": weight, "bias": np.zeros(weight.shape[0])}


def _declare(graph: Graph, old: str, stem: str, shape: tuple[int, int]) -> str:
    """A new value that is like an old one but for its shape."""
    name = graph.fresh(stem)
    graph.add_value(name, shape).imposed = graph.value(old).imposed
    return name


def _insert(graph: Graph, reader: Node, node: Node) -> None:
    graph.nodes.insert(next(index for index, each in enumerate(graph.nodes) if each is reader), node)
