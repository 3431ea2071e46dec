"""A graph of fewer layers that a search for a design can look at in place of the whole, however many layers that has.

A cut is a place between two nodes of an entry behind which nothing is needed of what was made before, but for the output of the last node
(the stream) and values that are needed at all other cuts too. What lies between two cuts can be left out where the streams there have one
shape and type. Of such blocks some of each kind are kept, behind a kind that they follow in the whole graph, and stand for those left out
(`Node.times`): what an estimate adds up comes out nearly as for the whole, and engines serve the nodes left out as well.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from attnc.ir import Graph, Node
from attnc.kernels.call import Call
from attnc.schedule.chains import Link

Kind = Hashable
"""Equal for blocks that take the same cycles."""


@dataclass(eq=False)
class _Block:
    """Nodes [start, end) of an entry, and those of the blocks that it stands for; `stream` is what comes from the block before."""

    start: int
    end: int
    stream: str
    kind: Kind
    alike: list[_Block] = field(default_factory=list)


def shortened(graph: Graph, lowered: Sequence[Link]) -> Graph:
    """The graph without what is alike in it; the graph itself where nothing is. `lowered` are the calls of its nodes, in some design: nodes
    are alike where these take the same cycles. Values and constants are shared, those of nodes left out among them."""
    nodes: list[Node] = []
    by_entry = itertools.groupby(zip(graph.nodes, lowered, strict=True), key=lambda pair: pair[0].entry)
    for _, members in by_entry:
        pairs = [*members]
        nodes += _shortened(graph, [node for node, _ in pairs], [link for _, link in pairs])
    if len(nodes) == len(graph.nodes):
        return graph
    return Graph(graph.name, graph.inputs, graph.outputs, nodes, graph.values, graph.constants, graph.sessions, graph.length)


def _shortened(graph: Graph, nodes: Sequence[Node], lowered: Sequence[Link]) -> list[Node]:
    """Those of an entry that are kept, in order."""
    made = {node.output: number for number, node in enumerate(nodes)}
    cuts, outer = _cuts(graph, nodes, made)
    if len(cuts) < 3:
        return [*nodes]
    blocks = []
    for start, end in itertools.pairwise(cuts):
        stream = nodes[start - 1].output
        kind = tuple(_kind(graph, nodes[i], lowered[i], start, stream, made, outer) for i in range(start, end))
        blocks.append(_Block(start, end, stream, kind))
    kept = _fewest(blocks)
    _stand_in(blocks, kept)
    found, renamed = [*nodes[: cuts[0]]], dict[str, str]()
    for block in kept:
        renamed = {block.stream: found[-1].output}
        for place in range(block.end - block.start):
            own, *others = (one.start + place for one in (block, *block.alike))
            kernels = {lowered[number].kernels: nodes[number] for number in reversed(others)}
            kernels.pop(lowered[own].kernels, None)
            alike = tuple(kernels.values())
            found.append(replace(_fed(nodes[own], renamed), times=1 + len(others), alike=alike))
    renamed = {nodes[cuts[-1] - 1].output: found[-1].output}
    return found + [_fed(node, renamed) for node in nodes[cuts[-1] :]]


def _fed(node: Node, renamed: Mapping[str, str]) -> Node:
    """The same node with other operands."""
    return replace(node, inputs=[renamed.get(name, name) for name in node.inputs])


def _cuts(graph: Graph, nodes: Sequence[Node], made: Mapping[str, int]) -> tuple[list[int], frozenset[str]]:
    """The most cuts with the same values beside streams of one shape and type: the nodes before which they are; and these values."""
    last = {name: number for number, node in enumerate(nodes) for name in (*node.inputs, node.each) if name in made or name in graph.inputs}
    last |= dict.fromkeys((name for name in graph.outputs if name in made), len(nodes))
    live = {name for name in graph.inputs if name in last}
    found: defaultdict[tuple[Hashable, ...], list[int]] = defaultdict(list)
    for number, node in enumerate(nodes[:-1], 1):
        live = {name for name in (*live, node.output) if last.get(name, -1) >= number}
        if node.output in live and not node.each:
            value = graph.value(node.output)
            found[frozenset(live - {node.output}), value.shape, _type(graph, node.output)].append(number)
    if not found:
        return [], frozenset()
    (outer, *_), cuts = max(found.items(), key=lambda entry: len(entry[1]))
    assert isinstance(outer, frozenset)
    return cuts, outer


def _type(graph: Graph, name: str) -> Hashable:
    type_ = graph.type(name)
    return type_.bits, type_.signed, bool(type_.zero_point)


def _kind(graph: Graph, node: Node, link: Link, start: int, stream: str, made: Mapping[str, int], outer: frozenset[str]) -> Kind:
    """Equal for nodes of blocks that do the same with what the nodes of the same places of their blocks give."""

    def given(name: str) -> Hashable:
        if name == stream or made.get(name, -1) >= start:
            return max(made.get(name, -1) - start, -1)
        value = graph.value(name)
        return name if name in outer else (name in graph.constants, value.shape, _type(graph, name))

    def moved(call: Call) -> Hashable:
        return tuple((one.counts, one.bytes, one.half, one.grows) for walk in call.walks for one in walk.stretches)

    calls = tuple((call.kernel.key, call.timing, call.macs, moved(call)) for call in link.calls)
    held = graph.value(node.output).held
    cache = held and (held.rows, held.ring, held.chunk, held.branches)
    return node.op, calls, _type(graph, node.output), cache, node.each and given(node.each), tuple(map(given, node.inputs))


def _fewest(blocks: Sequence[_Block]) -> list[_Block]:
    """Blocks of each kind, each behind one of a kind that it follows in all of them: a way from one to the next, without its loops in which
    there is nothing new."""
    kept, seen, fresh = list[_Block](), set[Kind](), 0
    for block in blocks:
        kept.append(block)
        if block.kind not in seen:
            seen.add(block.kind)
            fresh = len(kept) - 1
            continue
        back = next((i for i in range(fresh, len(kept) - 1) if kept[i].kind == block.kind), None)
        if back is not None:
            del kept[back + 1 :]
    return kept


def _stand_in(blocks: Sequence[_Block], kept: Sequence[_Block]) -> None:
    """Each block left out goes to one of its kind that is kept, in turn."""
    places: defaultdict[Kind, list[_Block]] = defaultdict(list)
    for block in kept:
        places[block.kind].append(block)
    turns = {kind: itertools.cycle(members) for kind, members in places.items()}
    for block in blocks:
        if not any(block is one for one in kept):
            next(turns[block.kind]).alike.append(block)
