"""Choice of the parallelism: the lowest estimated latency that fits the board."""

from __future__ import annotations

from dataclasses import astuple, replace
from itertools import product

from attnc.errors import FitError
from attnc.ir import Graph
from attnc.ops import operator
from attnc.ops.base import Design
from attnc.schedule.cost import estimate, limits, overrun
from attnc.schedule.devices import Board
from attnc.schedule.program import build_program

MAX_LANES = 16
ROW_CHOICES = (16, 32, 64, 128)
QUERY_CHOICES = (1, 2, 4, 8, 16)
PE_FACTORS = (1, 2, 4, 8, 16, 32)
DEPTH_CHOICES = (512, 2048)
"""Codes per channel that the look-up engine buffers: half a block RAM, and half a URAM for each of its two blocks."""


def choose_lanes(graph: Graph, board: Board) -> int:
    """Bytes per memory word: a port's width, less where heads are not a multiple of it."""
    lanes = min(MAX_LANES, board.axi_bits // 8)
    for node in graph.nodes:
        divisor = operator(node).lane_divisor(node, [graph.value(name).shape for name in node.inputs])
        while divisor and divisor % lanes:
            lanes //= 2
    return lanes


def table_sizes(lanes: int, factor: int) -> tuple[int, int]:
    """Columns and tables of the look-up engine that go with lanes * factor channels of multipliers: a copy of every table for each
    column costs LUTs, so columns stop at 4 times the lanes, and larger designs get twice the tables."""
    return lanes * min(factor, 4), lanes * (2 if factor >= 8 else 1)


def depth_choices(graph: Graph, lanes: int) -> tuple[int, ...]:
    """DEPTH_CHOICES where they make a difference: some node is served by tables."""
    programs = [build_program(graph, Design(lanes=lanes, pe=lanes, depth=depth), None) for depth in (1, DEPTH_CHOICES[-1])]
    return DEPTH_CHOICES[-1:] if programs[0].engines == programs[1].engines else DEPTH_CHOICES


def choose_design(graph: Graph, board: Board, clock_mhz: float) -> Design:
    """Try every combination; of equal latencies the one with fewer LUTs. Raises `FitError` when none fits."""
    lanes = choose_lanes(graph, board)
    tallest = max(value.shape[0] for value in graph.values.values())
    rows = [r for r in ROW_CHOICES if r < 2 * tallest or r == ROW_CHOICES[0]]
    best: tuple[float, float, tuple[int, ...], Design] | None = None
    smallest: tuple[float, str] | None = None
    start = Design(lanes=lanes, uram=board.uram > 0)
    for factor, queries, height, depth in product(PE_FACTORS, QUERY_CHOICES, rows, depth_choices(graph, lanes)):
        columns, tables = table_sizes(lanes, factor)
        design = replace(start, pe=lanes * factor, rows=height, queries=queries, depth=depth, columns=columns, tables=tables)
        cost = estimate(build_program(graph, design, None), board, clock_mhz)
        over = overrun(cost.resources, board)
        if over:
            used = dict(zip(limits(board), cost.resources.astuple(), strict=True))[over]
            ratio = used / max(limits(board)[over], 1e-9)
            if smallest is None or ratio < smallest[0]:
                smallest = (ratio, f"{over}: needs {used:.0f}, the limit is {limits(board)[over]:.0f} of {getattr(board, over)}")
            continue
        key = (float(cost.cycles), cost.resources.lut, astuple(design), design)
        if best is None or key[:3] < best[:3]:
            best = key
    if best is None:
        raise FitError(
            f"the model does not fit {board.name}, even with the smallest engines; {smallest[1] if smallest else ''} (estimates)"
        )
    return best[3]
