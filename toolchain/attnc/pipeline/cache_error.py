"""What a format of caches costs: logits of the float model whose keys and values pass through it, and nothing else, against those of the
float model, on samples that did not calibrate where there are such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.config import CACHE_BITS, block_of
from attnc.fixedpoint import int_range
from attnc.golden import run_reference
from attnc.ir import Graph
from attnc.kernels.chunks import Chunks
from attnc.ops import operator
from attnc.ops.attention import CACHE_STEPS
from attnc.passes.caches import even_factor, kept_in
from attnc.pipeline.state import State
from attnc.quant.calibration import symmetric_scale
from attnc.quant.samples import Edge

SAMPLES = 4
Rounding = Callable[[Array], Array]
KEPT = ("small_operands", "low_operands", "cache_chunk", "cache_window")
"""Attributes that say how caches keep keys and values."""


def measure_caches(state: State) -> list[dict[str, Any]]:
    """For each format the SQNR of the logits in dB (None where nothing differs), the share of tokens whose likeliest successor is the same,
    the divergence (Kullback-Leibler) of the distributions in nats, and bytes of all caches of a sequence, without the scales of tokens, and
    how many of these there are."""
    graph = state.float_graph
    assert graph is not None
    formats = {each: _format(state, graph, bits) for each, bits in CACHE_BITS.items()}
    found = {each: np.zeros(4) for each in CACHE_BITS}
    tokens = 0
    for feeds in islice(_feeds(state), SAMPLES):
        (exact,) = run_reference(graph, feeds).values()
        tokens += exact.shape[0] * exact.shape[1]
        for each in CACHE_BITS:
            rounded, rounds = formats[each]
            (logits,) = run_reference(rounded, feeds, change=partial(_changed, rounds)).values()
            found[each] += _difference(exact, logits)
    return [
        {
            "format": each,
            "sqnr_db": round(10 * math.log10(signal / noise), 2) if noise > 0 else None,
            "same_choice": round(float(same) / tokens, 4),
            "divergence": round(float(divergence) / tokens, 6),
            "tokens": tokens,
            **_size(state, formats[each][0]),
        }
        for each, (signal, noise, same, divergence) in found.items()
    ]


def _feeds(state: State) -> Iterator[dict[str, Array]]:
    yield from Edge(state.model).feeds(state.measured)


def _format(state: State, graph: Graph, bits: tuple[int, int]) -> tuple[Graph, dict[str, Rounding]]:
    """The graph with attention that sees keys and values of so many bits as it does in integers, and how these themselves are rounded."""
    options, rounds, result = state.options, dict[str, Rounding](), graph.copy()
    length, block = options.mixed_length, block_of(options.block, options.max_length or 0)
    for node in result.nodes:
        cached = operator(node).cached(node)
        if not cached:
            continue
        node.attrs = {key: value for key, value in node.attrs.items() if key not in KEPT}
        node.attrs |= kept_in(node, bits, length, block)
        for index, wanted in zip(cached, bits, strict=True):
            small = index in node.attrs.get("small_operands", ())
            stats, even = state.statistics[node.inputs[index]], state.even_channels.get((node.name, index))
            factor = even_factor(stats.peak, even) if wanted == 4 and even is not None else np.ones(stats.peak.size)
            step = symmetric_scale(stats, 4 if small else 8, options.calibration, factor) * factor
            rounds[node.inputs[index]] = partial(_rounded, step, int_range(4 if small else 8, True))
            if index in node.attrs.get("low_operands", ()):
                node.params = {**node.params, CACHE_STEPS[index]: step}
    return result, rounds


def _size(state: State, graph: Graph) -> dict[str, int]:
    """Bytes of the caches of a sequence without scales, and how many of these there are."""
    length, total, scales = state.options.max_length or 0, 0, 0
    for node in graph.nodes:
        for index in operator(node).cached(node):
            rows = operator(node).cache_rows(node, length, block_of(state.options.block, length))
            channels, halves = graph.value(node.inputs[index]).shape[1], 2 * rows
            if index in node.attrs.get("low_operands", ()):
                halves = rows + 2 * Chunks(node.attrs["cache_chunk"]).rows
                scales += rows if index == 2 else 0
            elif index in node.attrs.get("small_operands", ()):
                halves = rows
            total += halves * channels // 2
    return {"bytes": total, "scales": scales}


def _rounded(step: Array, limits: tuple[int, int], array: Array) -> Array:
    rounded: Array = np.clip(np.rint(array / step), *limits) * step
    return rounded


def _changed(rounds: Mapping[str, Rounding], name: str, array: Array) -> Array:
    return rounds[name](array) if name in rounds else array


def _difference(exact: Array, logits: Array) -> Array:
    """Energies of the logits and of their error, tokens with the same choice, divergence: sums over tokens."""
    p, q = (_log_softmax(x) for x in (exact, logits))
    same = (exact.argmax(axis=-1) == logits.argmax(axis=-1)).sum()
    return np.array([np.square(exact).sum(), np.square(exact - logits).sum(), same, (np.exp(p) * (p - q)).sum()])


def _log_softmax(x: Array) -> Array:
    x = x - x.max(axis=-1, keepdims=True)
    result: Array = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return result
