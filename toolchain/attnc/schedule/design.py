"""Choice of the parallelism: the lowest estimated latency that fits the board."""

from __future__ import annotations

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
    """Try every combination; of equal latencies the one with fewer LUTs. Raises `FitError` when none fits."""
    lanes = choose_lanes(graph, board)
    tallest = max(value.shape[0] for value in graph.values.values())
    rows = [r for r in ROW_CHOICES if r < 2 * tallest or r == ROW_CHOICES[0]]
    best: tuple[float, float, tuple[int, ...], Design] | None = None
    smallest: tuple[float, str] | None = None
    for factor, queries, height in product(PE_FACTORS, QUERY_CHOICES, rows):
        design = Design(lanes=lanes, pe=lanes * factor, rows=height, queries=queries)
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
