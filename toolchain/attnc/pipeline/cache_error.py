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
from attnc.config import CACHE_BITS
from attnc.fixedpoint import int_range
from attnc.golden import run_reference
from attnc.ops import operator
from attnc.pipeline.state import State
from attnc.quant.calibration import symmetric_scale
from attnc.quant.samples import Edge

SAMPLES = 4


def measure_caches(state: State) -> list[dict[str, Any]]:
    """For each format the SQNR of the logits in dB (None where nothing differs), the share of tokens whose likeliest successor is the same,
    and the divergence (Kullback-Leibler) of the distributions in nats."""
    graph = state.float_graph
    assert graph is not None
    cached = [(node.inputs[index], place) for node in graph.nodes for place, index in enumerate(operator(node).cached(node))]
    rounds = {each: {name: _rounding(state, name, bits[place]) for name, place in cached} for each, bits in CACHE_BITS.items()}
    found = {each: np.zeros(4) for each in CACHE_BITS}
    tokens = 0
    for feeds in islice(_feeds(state), SAMPLES):
        (exact,) = run_reference(graph, feeds).values()
        tokens += exact.shape[0] * exact.shape[1]
        for each in CACHE_BITS:
            (logits,) = run_reference(graph, feeds, change=partial(_changed, rounds[each])).values()
            found[each] += _difference(exact, logits)
    return [
        {
            "format": each,
            "sqnr_db": round(10 * math.log10(signal / noise), 2) if noise > 0 else None,
            "same_choice": round(float(same) / tokens, 4),
            "divergence": round(float(divergence) / tokens, 6),
            "tokens": tokens,
        }
        for each, (signal, noise, same, divergence) in found.items()
    ]


def _feeds(state: State) -> Iterator[dict[str, Array]]:
    yield from Edge(state.model).feeds(state.measured)


def _rounding(state: State, name: str, bits: int) -> Callable[[Array], Array]:
    """As a cache keeps keys or values: of 8 bits with one scale, of 4 with one for each channel, which the layers around take over."""
    stats, (low, high) = state.statistics[name], int_range(bits, True)
    factor = np.maximum(stats.peak, max(float(stats.peak.max(initial=0.0)), 1e-30) * 1e-6) if bits == 4 else None
    scale = symmetric_scale(stats, bits, state.options.calibration, factor) * (1.0 if factor is None else factor)
    return lambda array: np.clip(np.rint(array / scale), low, high) * scale


def _changed(rounds: Mapping[str, Callable[[Array], Array]], name: str, array: Array) -> Array:
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
