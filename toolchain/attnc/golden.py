"""Walk a graph and call each operator: in integers (golden) or in float64 (reference)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np

from attnc.arrays import Array, samples_first, single
from attnc.blas import one_thread
from attnc.ir import Graph, Node
from attnc.ops import operator

Visit = Callable[[str, Array], None]
Step = Callable[[Node, Sequence[Array]], Array]
Change = Callable[[str, Array], Array]

BLOCK_ELEMENTS = 1 << 18
"""Elements of the largest tensor in a block of samples: in doubles about what a core's cache holds."""
LARGE_WEIGHTS = 1 << 26
"""Weights from which on a float graph is computed in single precision, good for 100 dB, and by as many threads as there are cores."""


def _values(graph: Graph, feeds: Mapping[str, Array], step: Step) -> Iterator[tuple[str, Array]]:
    """Every value by name, inputs first, as `step` makes it; each is dropped after its last use, so memory follows the widest cut and not
    the depth."""
    uses = Counter(name for node in graph.nodes for name in set(node.inputs))
    live: dict[str, Array] = {name: feeds[name] for name in graph.inputs}
    samples = next(iter(live.values())).shape[0] if live else 1
    yield from list(live.items())
    for node in graph.nodes:
        result = step(node, samples_first([live[name] if name in live else graph.constants[name] for name in node.inputs]))
        if result.shape[0] != samples:
            result = result.repeat(samples, axis=0)
        live[node.output] = result
        yield node.output, result
        for name in {*node.inputs, node.output}:
            uses[name] -= name in node.inputs
            if uses[name] <= 0:
                live.pop(name, None)


def _walk(graph: Graph, feeds: Mapping[str, Array], step: Step, visit: Visit | None) -> dict[str, Array]:
    """Run every node; `visit` sees every value."""
    outputs = {}
    for name, array in _values(graph, feeds, step):
        if visit:
            visit(name, array)
        if name in graph.outputs:
            outputs[name] = array
    return {name: outputs[name] for name in graph.outputs}


def run_reference(graph: Graph, feeds: Mapping[str, Array], visit: Visit | None = None, change: Change | None = None) -> dict[str, Array]:
    """The float meaning of a graph that is not quantized: `[samples, rows, channels]` in and out, float64, or float32 of a graph with
    `LARGE_WEIGHTS`.

    `visit(name, array)` sees every value, and what a node makes passes `change(name, array)`. Values of an imposed type saturate at its
    ends: models that arrive quantized may rely on it.
    """
    feeds, step = _in_float(graph, feeds, change)
    return _walk(graph, feeds, step, visit)


def reference_values(graph: Graph, feeds: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Every value of `run_reference` by name, as it is made."""
    return _values(graph, *_in_float(graph, feeds, None))


def _in_float(graph: Graph, feeds: Mapping[str, Array], change: Change | None) -> tuple[dict[str, Array], Step]:
    large = sum(node.params["weight"].size for node in graph.nodes if "weight" in node.params) >= LARGE_WEIGHTS
    precise = single if large else lambda array: array

    def saturated(name: str, array: Array) -> Array:
        type_ = graph.value(name).imposed
        if type_ is None:
            return array
        low, high = (bound * float(type_.scale) for bound in type_.range)
        return np.clip(array, low, high)

    def step(node: Node, inputs: Sequence[Array]) -> Array:
        with nullcontext() if large else one_thread():
            result = precise(saturated(node.output, operator(node).reference(node, [precise(x) for x in inputs])))
        return result if change is None else precise(change(node.output, result))

    return {name: precise(saturated(name, array)) for name, array in feeds.items()}, step


def run_golden(graph: Graph, feeds: Mapping[str, Array], visit: Visit | None = None) -> dict[str, Array]:
    """The integer meaning of a quantized graph, bit for bit what the hardware computes.

    Samples do not meet. Unless there is a visitor, who wants whole values, they go through the graph in blocks, one on each core.
    """

    def step(node: Node, inputs: Sequence[Array]) -> Array:
        types = [graph.type(name) for name in node.inputs]
        return operator(node).golden(node, inputs, types, graph.type(node.output))

    samples = min((feeds[name].shape[0] for name in graph.inputs), default=1)
    size = max(1, BLOCK_ELEMENTS // max(rows * channels for rows, channels in (value.shape for value in graph.values.values())))
    with one_thread():
        if visit or samples <= size:
            return _walk(graph, feeds, step, visit)
        blocks = [{name: feeds[name][at : at + size] for name in graph.inputs} for at in range(0, samples, size)]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = list(pool.map(lambda block: _walk(graph, block, step, None), blocks))
    return {name: np.concatenate([block[name] for block in found]) for name in graph.outputs}


def missing(feeds: Mapping[str, Array], needed: Collection[str]) -> list[str]:
    """Names that are needed and not fed."""
    return sorted(set(needed) - set(feeds))
