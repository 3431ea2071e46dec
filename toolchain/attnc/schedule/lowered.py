"""The calls of a graph for many designs: a node is lowered once for all that agree in the numbers that it looks at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import fields, replace

from attnc.ir import Graph, Node
from attnc.kernels.call import ROWS
from attnc.kernels.design import Design
from attnc.kernels.lowering import Lowering
from attnc.kernels.recall import Recall
from attnc.ops import operator
from attnc.schedule.chains import Key, Link
from attnc.schedule.memory import WeightMemory, apart

ROW_COUNTS = ("rows", "fill_rows")
"""Scalars that are numbers of rows."""
NUMBERS = frozenset(field.name for field in fields(Design))


class _Watched(Design):
    """A design that takes note of the numbers which are read, each once."""

    reads: dict[str, Hashable]

    def __getattribute__(self, name: str) -> object:
        """Every attribute."""
        value = super().__getattribute__(name)
        if name in NUMBERS:
            super().__getattribute__("reads")[name] = value
        return value


def _watched(design: Design) -> _Watched:
    found = object.__new__(_Watched)
    found.__dict__.update(vars(design), reads={})
    return found


class Calls:
    """Those of the nodes of a graph, which must not change meanwhile, for an estimate: weights are not packed."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._nodes = [node for kept in graph.nodes for node in (kept, *kept.alike)]
        self._known: dict[int, tuple[dict[str, int], dict[str, int], WeightMemory, list[Recall[Link]]]] = {}

    def lower(self, design: Design) -> tuple[dict[str, int], dict[str, int], list[Link]]:
        """For each value its words and the first word of a region of its own; the calls of every node."""
        if design.lanes not in self._known:
            words, offsets = regions(self.graph, design)
            known: list[Recall[Link]] = [Recall() for _ in self._nodes]
            self._known[design.lanes] = words, offsets, WeightMemory(design.lanes, None), known
        words, offsets, weights, known = self._known[design.lanes]
        watched = _watched(design)
        ctx = Lowering(self.graph, watched, offsets, weights.place)
        lowered = []
        for node, recall in zip(self._nodes, known, strict=True):
            link = recall.find(design.__getattribute__)
            if link is None:
                watched.reads.clear()
                link = lower(node, ctx)
                recall.keep([*watched.reads.items()], link)
            lowered.append(link)
        return words, offsets, [*_with_others(self.graph.nodes, lowered)]


def _with_others(nodes: Sequence[Node], lowered: Sequence[Link]) -> Iterator[Link]:
    """The links of some nodes, each with the kernels of those that it stands for, whose links come behind its own."""
    found = iter(lowered)
    for node in nodes:
        link = next(found)
        others = tuple(kernel for _ in node.alike for kernel in next(found).kernels)
        yield replace(link, others=others) if others else link


def lower(node: Node, ctx: Lowering) -> Link:
    """The calls of a node. One that runs for each entry of a queue has one, with as many rows as an entry may have."""
    if not node.each:
        return Link(node, tuple(operator(node).lower(node, ctx)))
    block = min(entry_rows(ctx.design), ctx.graph.value(node.output).shape[0])
    (call,) = operator(node).lower(node, replace(ctx, block=block))
    slopes = {name: ((ROWS, 1),) for name in ROW_COUNTS if name in call.scalars}
    assert slopes and {call.scalars[name] for name in slopes} == {block}, (node.name, call.scalars)
    return Link(node, (replace(call, slopes=slopes, more_macs=((ROWS, call.macs // block),)),))


def entry_rows(design: Design) -> int:
    """Rows of an entry of a queue that run at a time, at most: as many as any engine takes."""
    return min(design.rows, *(numbers.rows or design.rows for numbers in design.engines.values()))


def regions(graph: Graph, design: Design) -> tuple[dict[str, int], dict[str, int]]:
    """For each value its words and the first word of a region of its own."""
    offsets: dict[str, int] = {}
    ctx = Lowering(graph, design, offsets, lambda key, make: 0)
    words = {name: ctx.words(name) for name in graph.values}
    offsets.update(apart(words))
    return words, offsets


def least_cycles(lowered: Sequence[Link], use: Mapping[str, tuple[Mapping[str, int], int]]) -> int:
    """No program of these nodes is estimated to take fewer cycles, where its entries run so often, with so much more in their registers.
    What multiplies is on one engine for each kernel, its runs follow each other, and each does all its multiply-adds and brings all its
    words, since kernels keep none for others."""
    found: Counter[Key] = Counter()
    for link in (link for link in lowered if link.heavy):
        rate, (more, times) = operator(link.node).macs_per_cycle(link.calls[0].kernel), use.get(link.node.entry, ({}, 1))
        for call in (call.at(more) for call in link.calls) if more else link.calls:
            words = [walk.vectors // port.beat for port, walk in zip(call.kernel.ports, call.walks, strict=True) if port.kind == "words"]
            found[link.key] += link.node.times * times * max(call.macs // rate if rate else 0, *words, 0)
    return max(found.values(), default=0)
