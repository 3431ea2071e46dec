"""The last linear layer of a decoder, which may run on the host: found in a quantized graph, taken out of it, and as the host's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.errors import UnsupportedError
from attnc.ir import Graph, Node
from attnc.ops.linear_weights import weight_format, weight_shape
from attnc.weights import WeightFormat
from attnc_host.head import Digits, Head, Layer

FILE = "host/head.bin"
BATCH_WEIGHTS = 1 << 20
"""Weights that are packed at a time."""


@dataclass(frozen=True)
class LastLinear:
    """A `linear` layer that nothing follows but, where inputs have a scale per token, the `scale_rows` that puts it on again."""

    graph: Graph
    linear: Node
    scale: Node | None

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens, and channels of the input."""
        return weight_shape(self.linear)

    @property
    def format(self) -> WeightFormat:
        """Of its weights."""
        return weight_format(self.linear)

    @property
    def reads(self) -> list[str]:
        """The values that it follows from: a row of integers, and the scale of the token where there is one."""
        return [self.linear.inputs[0], *([] if self.scale is None else [self.scale.inputs[1]])]


def last_linear(graph: Graph) -> LastLinear:
    """That of a graph with one output. Raises `UnsupportedError` where the logits come from anything else."""
    (output,) = graph.outputs
    last = graph.producer(output)
    assert last is not None
    scale = last if last.op == "scale_rows" else None
    linear = last if scale is None else graph.producer(scale.inputs[0])
    if linear is None or linear.op != "linear":
        source = last.source[-1] if last.source else last.name
        raise UnsupportedError(
            source, last.op, "a head on the host is one linear layer with nothing behind it, and the logits come from this"
        )
    found = LastLinear(graph, linear, scale)
    others = [node for name in (output, linear.output) for node in graph.consumers(name) if node is not scale]
    if others or any(name in graph.inputs for name in found.reads):
        what = f"{others[0].name!r} reads it, too" if others else "it reads an input of the device itself"
        raise UnsupportedError(linear.name, "linear", f"{what}, so it cannot run on the host")
    return found


def without_head(head: LastLinear) -> Graph:
    """The graph up to what the layer reads, which is its output."""
    result = head.graph.copy()
    gone = {node.name for node in (head.linear, head.scale) if node is not None}
    outputs = {node.output for node in result.nodes if node.name in gone}
    result.nodes = [node for node in result.nodes if node.name not in gone]
    result.values = {name: value for name, value in result.values.items() if name not in outputs}
    result.outputs = head.reads
    return result


def host_layer(head: LastLinear, ms: float | None = None) -> Layer:
    """What the host is told; a token is estimated to take `ms` there."""
    graph, linear, scale = head.graph, head.linear, head.scale
    logits, factor = graph.type(graph.outputs[0]), {} if scale is None else scale.params
    rows, channels = head.shape
    return Layer(
        file=Path(FILE),
        rows=rows,
        channels=channels,
        format=head.format.name,
        group_size=head.format.group_size,
        factors="group_multiplier" in linear.params,
        input=linear.inputs[0],
        peak=None if scale is None else scale.inputs[1],
        between=graph.type(linear.output).range,
        multiplier=int(factor.get("multiplier", 0)),
        shift=int(factor.get("shift", 0)),
        low=logits.range[0],
        high=logits.range[1],
        scale=logits.scale,
        ms=ms,
    )


def layer_facts(layer: Layer) -> dict[str, Any]:
    """Of the manifest."""
    facts = vars(layer) | {"file": layer.file.as_posix(), "between": list(layer.between), "scale": layer.scale.tolist()}
    return facts


def host_head(head: LastLinear, layer: Layer) -> Head:
    """The layer as the host has it."""
    data = np.zeros(layer.bytes, np.uint8)
    found, p = Head(layer, data), head.linear.params
    for name in ("bias", "multiplier", "shift"):
        found.parts[name][...] = p[name]
    if head.scale is not None:
        found.parts["peak_bias"][...] = head.scale.params["bias"]
    if layer.factors:
        found.parts["factor"][...] = np.moveaxis(p["group_multiplier"], -1, -2).reshape(layer.planes, -1, layer.rows)
    if layer.plain:
        found.parts["weight"][...] = p["weight"]
    else:
        _share_bytes(layer, p["weight"].reshape(layer.planes, *head.shape), found.parts["weight"])
    return found


def _share_bytes(layer: Layer, q: Array, packed: Array) -> None:
    """Weights [planes, rows, channels] into `packed` [planes, groups, bytes, rows], some rows at a time."""
    digits, (groups, size) = Digits.of(layer.format), layer.groups
    group, base = layer.group_size or layer.channels, digits.base ** np.arange(digits.count)
    step = max(BATCH_WEIGHTS // layer.channels, 1)
    for plane, first in np.ndindex(layer.planes, -(-layer.rows // step)):
        rows = slice(first * step, (first + 1) * step)
        digit = (q[plane, rows].astype(np.int64) + digits.offset) // digits.step
        for at in range(groups):
            part = digit[:, at * group : (at + 1) * group]
            part = np.pad(part, ((0, 0), (0, size * digits.count - part.shape[1])))
            packed[plane, at, :, rows] = (part.reshape(len(part), size, digits.count) * base).sum(axis=-1).T
