"""What a search gains where engines differ from each other."""

from __future__ import annotations

import math
from dataclasses import replace

from attnc.kernels.design import AttentionNumbers, Design, LinearNumbers, LookupNumbers
from attnc.schedule.cost import estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.program import build_program
from attnc.schedule.refine import Rank, neighbours, refined
from schedule.graphs import transformer_graph

BOTH = {LinearNumbers, AttentionNumbers}


def test_an_engine_that_does_not_bind_gives_back_what_one_that_does_needs() -> None:
    """A model of 24 units of hardware: neither number alone can grow."""

    def rank(design: Design, best: Rank = ()) -> Rank | None:
        linear, queries = sizes(design)
        return None if linear + queries > 24 else (3200 / linear + 100 / queries, linear + queries)

    def sizes(design: Design) -> tuple[int, int]:
        return design.linear.pe * design.linear.rows_at_once // 16, design.attention.queries

    start = Design.of(16, 16, 64, 16, rows_at_once=8)
    first = rank(start)
    assert first is not None
    better = {sizes(design) for design in neighbours(start, BOTH, 64) if (rank(design) or (math.inf,)) < first}
    assert better == {(10, 8), (16, 8)}  # more channels or more rows at once, each for half the queries
    found, design = refined((first, start), rank, BOTH, 64)
    assert found == rank(design) and sizes(design) == (20, 4)


def test_neighbours_differ_in_what_the_engines_have() -> None:
    start = Design.of(8, 16, 34, 16, rows_at_once=3)
    found = list(neighbours(start, {LookupNumbers}, 100))
    assert {design.rows for design in found} == {34, 50, 25}
    assert {design.lookup.rows for design in found} == {None, 17, 25, 13}
    assert all(design.linear == start.linear and design.attention == start.attention for design in found)
    half = replace(start, attention=AttentionNumbers(rows=17, queries=16))
    assert {design.attention.rows for design in neighbours(half, BOTH, 100) if design.rows == 50} == {None, 25}
    few = Design.of(8, 8, 4, rows_at_once=4)
    assert all(d.linear.rows_at_once <= (d.linear.rows or d.rows) and d.linear.pe >= 8 for d in neighbours(few, BOTH, 12))


def test_an_engine_takes_half_a_block_where_that_is_faster() -> None:
    """Others start on its first half while it works on the second."""
    graph, board = transformer_graph(1, rows=96, width=96, heads=4), BOARDS["kv260"]

    def rank(design: Design) -> Rank:
        return (estimate(build_program(graph, design, None), board, 250).cycles,)

    start = Design.of(8, 16, 24, 2, rows_at_once=8, parallel=2)
    half = [design for design in neighbours(start, {AttentionNumbers}, 96) if design.rows == 24 and design.attention.rows]
    assert [design.attention for design in half] == [AttentionNumbers(rows=12, queries=2)] and rank(half[0]) < rank(start)
