"""The registers of a program with caches."""

from __future__ import annotations

from attnc.ir import Graph
from attnc.kernels.call import POSITION, REGISTERS, Derived, filled_to, place_in


def registers_of(graph: Graph) -> tuple[dict[str, int], tuple[Derived, ...], dict[str, dict[str, int]]]:
    """Of each entry of a graph with caches the last position; what follows from it; and the registers that its calls are stated for: those
    of the last position, and the last row of each ring."""
    rows = {node.entry: graph.value(node.output).shape[0] for node in graph.nodes} if graph.length else {}
    rings = sorted({value.held.rows for value in graph.values.values() if value.held is not None and value.held.ring})
    places, block = [place_in(ring) for ring in rings], max(rows.values(), default=0)
    fills = [filled_to(ring - block) for ring in rings]
    last, stated = {entry: graph.length - count for entry, count in rows.items()}, {}
    for entry, count in rows.items():
        given = {**dict.fromkeys(REGISTERS, 0), POSITION: last[entry]}
        stated[entry] = given | {each.name: each.modulus - count for each in places} | {each.name: each.limit for each in fills}
    return last, (*places, *fills), stated
