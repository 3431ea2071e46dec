"""The registers of a program with caches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attnc.ir import Graph
from attnc.kernels.call import POSITION, PREFIX, SESSION, Call, Derived, filled_to, place_in
from attnc.kernels.chunks import Chunks

PROMPT = 4
"""Blocks of a prompt for which a search counts the tokens of one that are decoded: prompts are longer than answers, as a rule."""


def registers_of(graph: Graph, calls: Iterable[Call] = ()) -> tuple[dict[str, int], tuple[Derived, ...], dict[str, dict[str, int]]]:
    """Of each entry of a graph with caches the last position; what follows from it, and what some `calls` need besides; and the registers
    that its calls are stated for: those of the last position, and the last row of each ring. Branches are stated for their first token
    behind the longest prefix."""
    rows = {node.entry: graph.value(node.output).shape[0] for node in graph.nodes} if graph.length else {}
    rings = sorted({value.held.rows for value in graph.values.values() if value.held is not None and value.held.ring})
    places, block = [place_in(ring) for ring in rings], max(rows.values(), default=0)
    fills = [filled_to(ring - block) for ring in rings]
    others = {each.name: each for chunk in graph.chunks for each in Chunks(chunk).derived}
    others |= {each.name: each for call in calls for each in call.derived}
    branched = any(value.held is not None and value.held.branches > 1 for value in graph.values.values())
    given = (POSITION, SESSION, *((PREFIX,) if branched else ()))
    last, stated = {entry: graph.last(count) for entry, count in rows.items()}, {}
    for entry, count in rows.items():
        own = registers_at(last[entry], 0, ())
        stated[entry] = {name: own[name] for name in given} | {each.name: each.modulus - count for each in places}
        stated[entry] |= {each.name: each.limit for each in fills}
        stated[entry] |= {name: each.at(last[entry]) for name, each in others.items()}
    return last, (*places, *fills, *others.values()), stated


def registers_at(position: int, session: int, derived: Sequence[Derived]) -> dict[str, int]:
    """All registers of a run at a position in a session, which is the first one that branches do not share."""
    given = {POSITION: position, SESSION: session, PREFIX: position}
    return given | {each.name: each.at(position) for each in derived}


def usual_use(last: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Of entries with these last positions: the middle of the positions at which they run, and how often they do, where a prompt of PROMPT
    blocks, or of what leaves room for one, is read from the start and the tokens of a block are decoded behind it."""
    if not last:
        return {}
    length = max(last.values()) + 1  # the entry of one token goes furthest
    block = length - min(last.values())
    read = min(PROMPT, max(length // block - 1, 1)) * block
    found = {}
    for entry, at in last.items():
        tokens = length - at
        found[entry] = ((read - block) // 2, PROMPT) if tokens == block else (min(read + block // 2, at), block // tokens)
    return found


def more_in_use(graph: Graph) -> dict[str, tuple[dict[str, int], int]]:
    """Of the entries of a graph with caches: what registers hold more than calls are stated for where `usual_use` has them, and how often
    they run."""
    last, derived, stated = registers_of(graph)
    found = {}
    for entry, (position, times) in usual_use(last).items():
        own = registers_at(position, 0, derived)
        found[entry] = {name: own[name] - number for name, number in stated[entry].items()}, times
    return found
