"""Keys and values of 4 bits in the caches of a decoder, each channel in its own range.

A tensor in memory has one scale, so the layers around it take over what the channels of keys and values differ by, as calibration saw
them: keys are divided by it and queries multiplied, values divided and what the next layer makes of them multiplied (ZipCache scales keys
by channel). The two channels that a rotary embedding turns share a factor, which commutes with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.ir import Graph, Node
from attnc.kernels.chunks import Chunks
from attnc.ops import operator
from attnc.ops.attention_sizes import Mask
from attnc.ops.rotary import Sizes
from attnc.passes.attention import scale_channels, sole_maker
from attnc.quant.calibration import Statistics

NORMS = ("rms_normalization", "layer_normalization")
MAX_RATIO = 64.0
NEWEST = 32
"""As many tokens at least are seen in bytes by a query, those before it, and as many first ones."""


def narrow_caches(
    graph: Graph, statistics: Mapping[str, Statistics], bits: tuple[int, int], length: int = 0, block: int = 1
) -> dict[tuple[str, int], Array]:
    """Ask for 4 `bits` of keys, of values, or of both, of every attention over `length` tokens, whose prompts are read `block` at a time:
    beside bytes of the first and the newest ones, if there are others. Where layers around it can take factors, they do. Requires a float
    graph; ensures the same float meaning. Returns, of each operand (by node and index) for whose channels layers can take factors, whatever
    its bits, a number for each channel: channels of one number share a factor."""
    found: dict[tuple[str, int], Array] = {}
    for node in graph.nodes:
        if node.op != "attention":
            continue
        node.attrs |= kept_in(node, bits, length, block)
        for even, name, wanted in zip((_keys(graph, node), _values(graph, node)), node.inputs[1:3], bits, strict=True):
            if even is not None:
                found[node.name, even.operand] = number = even.numbers(node, statistics[name].peak.size)
            if even is not None and wanted == 4:
                even.out(node, even_factor(statistics[name].peak, number))
    return found


def kept_in(node: Node, bits: tuple[int, int], length: int, block: int) -> dict[str, Any]:
    """The attributes of an attention whose keys and values lie in caches in so many bits. A cache for hardly more tokens than would lie in
    bytes has one precision, and a window that reaches no further back than the chunk before a query's own is seen in bytes."""
    small, chunk = tuple(operand for operand, wanted in zip((1, 2), bits, strict=True) if wanted == 4), chunk_of(block)
    if not small:
        return {}
    if length <= Chunks(chunk).rows:
        return {"small_operands": small}
    kept: dict[str, Any] = {"low_operands": small, "cache_chunk": chunk}
    if operator(node).cache_rows(node, length, block) == length:
        return kept
    reached = math.ceil(Mask.of(node, length, length).before / chunk)
    return {**kept, "cache_window": reached} if reached > 1 else {}


def chunk_of(block: int) -> int:
    """Tokens of a chunk: whole blocks."""
    return block * math.ceil(NEWEST / block)


@dataclass(frozen=True)
class _Even:
    """How the channels of an operand can get even ranges: those of a head that share a factor, and who takes a factor over."""

    operand: int
    groups: list[list[int]]
    divide: Callable[[Array], None]
    multiply: Callable[[Array], None]

    def numbers(self, node: Node, size: int) -> Array:
        """A number for each channel, the same for those that share a factor."""
        number = np.arange(size).reshape(node.attrs["num_kv_heads"], -1)
        for group in self.groups:
            number[:, group] = number[:, group[:1]]
        return number.ravel()

    def out(self, node: Node, factor: Array) -> None:
        """Divide the operand by a factor for each channel."""
        heads = node.attrs["num_kv_heads"]
        self.divide(1 / factor)
        self.multiply(factor.reshape(heads, -1).repeat(node.attrs["num_heads"] // heads, axis=0).ravel())


def _keys(graph: Graph, node: Node) -> _Even | None:
    q, k = node.inputs[:2]
    (q_maker, q_pairs), (k_maker, k_pairs) = _made_by(graph, q), _made_by(graph, k)
    if q_maker is None or k_maker is None or q_pairs != k_pairs:
        return None
    return _Even(1, [[*pair] for pair in k_pairs], partial(_scale, k_maker), partial(_scale, q_maker))


def _made_by(graph: Graph, name: str) -> tuple[Node | None, list[tuple[int, int]]]:
    """The layer with a factor for each channel that makes queries or keys for their attention alone, and the channels of a head that a
    rotary embedding turns together on the way."""
    maker, pairs = sole_maker(graph, name), list[tuple[int, int]]()
    if maker is not None and maker.op == "rotary":
        first, second = Sizes.of(maker, graph.value(name).shape).pairs()
        pairs = [*zip(first.tolist(), second.tolist(), strict=True)]
        maker = sole_maker(graph, maker.inputs[0])
    return (maker if maker is not None and maker.op in ("linear", *NORMS) else None), pairs


def _scale(maker: Node, factor: Array) -> None:
    if maker.op == "linear":
        scale_channels(maker, factor)
    else:
        maker.params |= {name: maker.params[name] * factor for name in ("gamma", "beta") if name in maker.params}


def _values(graph: Graph, node: Node) -> _Even | None:
    maker, readers = sole_maker(graph, node.inputs[2]), graph.consumers(node.output)
    if maker is None or maker.op != "linear" or node.output in graph.outputs:
        return None
    if not readers or any(reader.op != "linear" or "weight_q" in reader.params or reader.attrs.get("lossless") for reader in readers):
        return None

    def multiply(factor: Array) -> None:
        for reader in readers:
            weight = reader.params["weight"]
            reader.params["weight"] = weight * factor.astype(weight.dtype)

    return _Even(2, [], partial(scale_channels, maker), multiply)


def even_factor(peak: Array, number: Array) -> Array:
    """What each channel is divided by: the peak of those with its number, by the mean of all."""
    peaks = np.zeros(peak.size)
    np.maximum.at(peaks, number, peak)
    shared, level = peaks[number], float(peaks[number].mean())
    return np.where(shared > 0, shared, level or 1.0).clip(level / MAX_RATIO, None) / (level or 1.0)
