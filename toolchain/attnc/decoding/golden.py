"""A graph with caches, run by run, in integers: bit for bit what the hardware computes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnc.arrays import Array
from attnc.blas import one_thread
from attnc.ir import Graph, GraphError, Held, Node
from attnc.ops import operator


class GoldenDecoder:
    """One sequence. `caches` are the keys and values [length, channels] by the names of the matrices that they lie in, zero where no run
    has written yet."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.caches: dict[str, Array] = {}
        for name, value in graph.values.items():
            if value.held is not None and name not in graph.constants:
                self.caches[value.held.name] = np.zeros((value.held.rows, value.shape[1]), graph.type(name).dtype)

    def copy(self) -> GoldenDecoder:
        """Another sequence with the same beginning."""
        other = GoldenDecoder(self.graph)
        other.caches = {name: array.copy() for name, array in self.caches.items()}
        return other

    def run(self, entry: str, position: int, feeds: Mapping[str, Array], prefix: int = 0) -> dict[str, Array]:
        """Run an entry on tokens from `position` on, or of branches behind a `prefix`: inputs of the device by name, integers
        [rows, channels]; the outputs of the graph that it makes, likewise."""
        live: dict[str, Array] = dict(feeds)
        with one_thread():
            for node in self.graph.nodes:
                if node.entry == entry:
                    live[node.output] = self._step(node, position, prefix, live)
        return {name: live[name] for name in self.graph.outputs if name in live}

    def _step(self, node: Node, position: int, prefix: int, live: Mapping[str, Array]) -> Array:
        output, rows = self.graph.value(node.output), self.graph.value(node.output).shape[0]
        cached = operator(node).cached(node)
        inputs = [self._operand(name, index in cached, (position, prefix), live)[np.newaxis] for index, name in enumerate(node.inputs)]
        types = [self.graph.type(name) for name in node.inputs]
        placed = operator(node).placed(node, position, rows, prefix)
        result: Array = operator(node).golden(placed, inputs, types, self.graph.type(node.output))[0]
        if output.held is not None:
            self.caches[output.held.name][_rows(output.held, output.held.first(position, prefix), rows)] = result
        return result

    def _operand(self, name: str, cached: bool, place: tuple[int, int], live: Mapping[str, Array]) -> Array:
        value, (position, _) = self.graph.value(name), place
        if name in self.graph.constants:
            array = self.graph.constants[name]
            return array if value.held is None else array[position : position + value.shape[0]]
        if value.held is not None and cached:
            stop = value.held.first(*place) + value.shape[0]
            rows = np.arange(max(stop - value.held.rows, 0), stop)
            return self.caches[value.held.name][rows % value.held.rows]
        return live[name]


def _rows(held: Held, position: int, rows: int) -> slice:
    """Where a block of tokens lies. Hardware writes it in one go."""
    if held.chunk and position % held.chunk + rows > held.chunk:
        raise GraphError(f"{rows} tokens from {position} on go over the end of a chunk of {held.name!r}, of {held.chunk} rows")
    first = position % held.rows
    if first + rows > held.rows:
        raise GraphError(f"{rows} tokens from {position} on go over the end of {held.name!r}, a ring of {held.rows} rows")
    return slice(first, first + rows)
