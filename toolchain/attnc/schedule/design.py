"""Choice of the parallelism: the lowest estimated latency that fits the board."""

from __future__ import annotations

import math
from dataclasses import astuple
from itertools import product

from attnc.errors import FitError
from attnc.ir import Graph
from attnc.ops import operator
from attnc.ops.base import Design
from attnc.schedule.cost import estimate, limits, overrun
from attnc.schedule.devices import Board
from attnc.schedule.program import build_program

MAX_LANES = 16
MIN_LANES = 4
ROW_CHOICES = (16, 32, 64, 128)
QUERY_CHOICES = (1, 2, 4, 8, 16)
PE_FACTORS = (1, 2, 4, 8, 16, 32)


def choose_lanes(graph: Graph, board: Board) -> int:
    """Bytes per memory word: a port's width, less where heads are not a multiple of it."""
    lanes = min(MAX_LANES, board.axi_bits // 8)
    for node in graph.nodes:
        divisor = operator(node).lane_divisor(node, [graph.value(name).shape for name in node.inputs])
        while divisor and divisor % lanes:
            lanes //= 2
    return lanes


def choose_design(graph: Graph, board: Board, clock_mhz: float) -> Design:
    """The fastest design that fits, with as many lanes as a port has bytes, or fewer where nothing fits. Raises `FitError`."""
    lanes, smallest = choose_lanes(graph, board), (math.inf, "")
    while lanes >= MIN_LANES or smallest[0] == math.inf:
        best, nearest = _search(graph, board, clock_mhz, lanes)
        if best is not None:
            return best
        smallest, lanes = min(smallest, nearest), lanes // 2
    raise FitError(f"the model does not fit {board.name}, even with the smallest engines; {smallest[1]} (estimates)")


def _search(graph: Graph, board: Board, clock_mhz: float, lanes: int) -> tuple[Design | None, tuple[float, str]]:
    """Try every combination; of equal latencies the one with fewer LUTs. Without any that fits, how near the nearest comes."""
    tallest = max(value.shape[0] for value in graph.values.values())
    rows = [r for r in ROW_CHOICES if r < 2 * tallest or r == ROW_CHOICES[0]]
    best: tuple[float, float, tuple[int, ...], Design] | None = None
    smallest = (math.inf, "")
    for factor, queries, height in product(PE_FACTORS, QUERY_CHOICES, rows):
        design = Design(lanes=lanes, pe=lanes * factor, rows=height, queries=queries)
        cost = estimate(build_program(graph, design, None), board, clock_mhz)
        over = overrun(cost.resources, board)
        if over:
            used = dict(zip(limits(board), cost.resources.astuple(), strict=True))[over]
            needed = f"{over}: needs {used:.0f}, the limit is {limits(board)[over]:.0f} of {getattr(board, over)}"
            smallest = min(smallest, (used / max(limits(board)[over], 1e-9), needed))
            continue
        key = (float(cost.cycles), cost.resources.lut, astuple(design), design)
        if best is None or key[:3] < best[:3]:
            best = key
    return (None if best is None else best[3]), smallest
