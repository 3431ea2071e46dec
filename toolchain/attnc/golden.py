"""Walk a graph and call each operator: in integers (golden) or in float64 (reference)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from attnc.ir import Graph, Node
from attnc.ops import operator
from attnc.ops.base import Array, samples_first

Visit = Callable[[str, Array], None]


@cache
def _threads() -> ThreadpoolController:
    """The BLAS under NumPy. Its threads spin while they wait for each other, which for products of this size costs more than they
    gain even on an idle machine, and ten times as much on a busy one."""
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """For walks through a graph and for single operators."""
    return _threads().limit(limits=1, user_api="blas")


def _walk(
    graph: Graph, feeds: Mapping[str, Array], step: Callable[[Node, Sequence[Array]], Array], visit: Visit | None
) -> dict[str, Array]:
    """Run every node; a value is dropped after its last use, so memory follows the widest cut and not the depth."""
    uses = Counter(name for node in graph.nodes for name in set(node.inputs))
    uses.update(graph.outputs)
    live: dict[str, Array] = {name: feeds[name] for name in graph.inputs}
    samples = next(iter(live.values())).shape[0] if live else 1
    if visit:
        for name, array in live.items():
            visit(name, array)
    for node in graph.nodes:
        with one_thread():
            result = step(node, samples_first([live[name] if name in live else graph.constants[name] for name in node.inputs]))
        if result.shape[0] != samples:
            result = result.repeat(samples, axis=0)
        live[node.output] = result
        if visit:
            visit(node.output, result)
        for name in {*node.inputs, node.output}:
            uses[name] -= name in node.inputs
            if uses[name] <= 0:
                live.pop(name, None)
    return {name: live[name] for name in graph.outputs}


def run_reference(graph: Graph, feeds: Mapping[str, Array], visit: Visit | None = None) -> dict[str, Array]:
    """The float meaning of a graph that is not quantized: `[samples, rows, channels]` float64 in and out.

    `visit(name, array)` sees every value. Values of an imposed type saturate at its ends: models that arrive quantized may rely on it.
    """

    def saturated(name: str, array: Array) -> Array:
        type_ = graph.value(name).imposed
        if type_ is None:
            return array
        low, high = (bound * float(type_.scale) for bound in type_.range)
        return np.clip(array, low, high)

    def step(node: Node, inputs: Sequence[Array]) -> Array:
        return saturated(node.output, operator(node).reference(node, inputs))

    return _walk(graph, {name: saturated(name, array) for name, array in feeds.items()}, step, visit)


def run_golden(graph: Graph, feeds: Mapping[str, Array], visit: Visit | None = None) -> dict[str, Array]:
    """The integer meaning of a quantized graph, bit for bit what the hardware computes."""

    def step(node: Node, inputs: Sequence[Array]) -> Array:
        types = [graph.type(name) for name in node.inputs]
        return operator(node).golden(node, inputs, types, graph.type(node.output))

    return _walk(graph, feeds, step, visit)


def missing(feeds: Mapping[str, Array], needed: Collection[str]) -> list[str]:
    """Names that are needed and not fed."""
    return sorted(set(needed) - set(feeds))
