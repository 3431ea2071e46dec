"""Keys and values of 4 bits in the caches of a decoder, each channel in its own range.

A tensor in memory has one scale, so the layers around it take over what the channels of keys and values differ by, as calibration saw
them: keys are divided by it and queries multiplied, values divided and what the next layer makes of them multiplied (ZipCache scales keys
by channel). The two channels that a rotary embedding turns share a factor, which commutes with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnc.arrays import Array
from attnc.ir import Graph, Node
from attnc.ops.rotary import Sizes
from attnc.passes.attention import scale_channels, sole_maker
from attnc.quant.calibration import Statistics

NORMS = ("rms_normalization", "layer_normalization")
MAX_RATIO = 64.0


def narrow_caches(graph: Graph, statistics: Mapping[str, Statistics], bits: tuple[int, int]) -> None:
    """Ask for 4 `bits` of keys, of values, or of both, of every attention; where layers around it can take factors, they do. Requires a
    float graph; ensures the same float meaning."""
    for node in graph.nodes:
        if node.op != "attention":
            continue
        node.attrs["small_operands"] = tuple(operand for operand, wanted in zip((1, 2), bits, strict=True) if wanted == 4)
        q, k, v = node.inputs[:3]
        if bits[0] == 4:
            _even_keys(graph, node, q, k, statistics[k].peak)
        if bits[1] == 4:
            _even_values(graph, node, v, statistics[v].peak)


def _even_keys(graph: Graph, node: Node, q: str, k: str, peak: Array) -> None:
    (q_maker, q_pairs), (k_maker, k_pairs) = _made_by(graph, q), _made_by(graph, k)
    if q_maker is None or k_maker is None or q_pairs != k_pairs:
        return
    peaks = peak.reshape(node.attrs["num_kv_heads"], -1).copy()
    for pair in map(list, k_pairs):
        peaks[:, pair] = peaks[:, pair].max(axis=1, keepdims=True)
    factor = _factor(peaks)
    _scale(k_maker, 1 / factor.ravel())
    _scale(q_maker, factor.repeat(node.attrs["num_heads"] // node.attrs["num_kv_heads"], axis=0).ravel())


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


def _even_values(graph: Graph, node: Node, v: str, peak: Array) -> None:
    maker, readers = sole_maker(graph, v), graph.consumers(node.output)
    if maker is None or maker.op != "linear" or node.output in graph.outputs:
        return
    if not readers or any(reader.op != "linear" or "weight_q" in reader.params or reader.attrs.get("lossless") for reader in readers):
        return
    factor = _factor(peak.reshape(node.attrs["num_kv_heads"], -1))
    scale_channels(maker, 1 / factor.ravel())
    seen = factor.repeat(node.attrs["num_heads"] // node.attrs["num_kv_heads"], axis=0).ravel()
    for reader in readers:
        reader.params["weight"] = reader.params["weight"] * seen


def _factor(peaks: Array) -> Array:
    """What each channel is divided by: its peak, by the mean of all."""
    level = float(peaks.mean())
    return np.where(peaks > 0, peaks, level or 1.0).clip(level / MAX_RATIO, None) / (level or 1.0)
