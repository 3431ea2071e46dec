"""Choice of the parallelism: the best design for an objective that fits the board."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, fields, replace
from itertools import product

from attnc.config import Objective
from attnc.errors import FitError
from attnc.ir import Graph
from attnc.ops import operator
from attnc.ops.base import Design
from attnc.schedule.cost import Estimate, estimate, overrun
from attnc.schedule.devices import BOARDS, CLASSES, Board
from attnc.schedule.energy import energy_mj
from attnc.schedule.program import build_program

MAX_LANES = 16
MIN_LANES = 4
ROW_CHOICES = (16, 32, 64, 128)
QUERY_CHOICES = (1, 2, 4, 8, 16)
PE_FACTORS = (1, 2, 4, 8, 16, 32)
DEPTH_CHOICES = (512, 2048)
"""Codes per channel that the look-up engine buffers: half a block RAM, and half a URAM for each of its two blocks."""


def _share(cost: Estimate, board: Board, lanes: int) -> float:
    return max(used / (getattr(board, name) or 1) for name, used in cost.used().items())


SCORES: dict[Objective, Callable[[Estimate, Board, int], float]] = {
    # The hardware runs one sample at a time, so samples per second are the inverse of the latency.
    "latency": lambda cost, board, lanes: cost.cycles,
    "throughput": lambda cost, board, lanes: cost.cycles,
    "area": _share,
    "energy": lambda cost, board, lanes: energy_mj(cost, lanes),
}
"""What each objective minimises: cycles per sample (both of the first), the largest share of any class of resources, millijoules per
sample (`energy.py`). Of equal ones the fewest cycles, then the fewest LUTs."""


def choose_lanes(graph: Graph, board: Board) -> int:
    """Bytes per memory word: a port's width, less where heads are not a multiple of it."""
    lanes = min(MAX_LANES, board.axi_bits // 8)
    for divisor in lane_divisors(graph):
        while divisor % lanes:
            lanes //= 2
    return lanes


def lane_divisors(graph: Graph) -> list[int]:
    """Numbers that the lanes must divide."""
    found = {operator(node).lane_divisor(node, [graph.value(name).shape for name in node.inputs]) for node in graph.nodes}
    return sorted(found - {0})


def table_sizes(lanes: int, factor: int) -> tuple[int, int]:
    """Columns and tables of the look-up engine that go with lanes * factor channels of multipliers: a copy of every table for each
    column costs LUTs, so columns stop at 4 times the lanes, and larger designs get twice the tables."""
    return lanes * min(factor, 4), lanes * (2 if factor >= 8 else 1)


def depth_choices(graph: Graph, lanes: int) -> tuple[int, ...]:
    """DEPTH_CHOICES where they make a difference: some node is served by tables."""
    programs = [build_program(graph, Design(lanes=lanes, pe=lanes, depth=depth), None) for depth in (1, DEPTH_CHOICES[-1])]
    return DEPTH_CHOICES[-1:] if programs[0].engines == programs[1].engines else DEPTH_CHOICES


def candidates(graph: Graph, lanes: int, board: Board) -> Iterator[Design]:
    """Every design of `lanes` lanes that the search tries; with a beat of two words where the ports are wide enough."""
    beat = 2 if 16 * lanes <= board.axi_bits else 1
    tallest = max(value.shape[0] for value in graph.values.values())
    rows = [r for r in ROW_CHOICES if r < 2 * tallest or r == ROW_CHOICES[0]]
    for factor, queries, height, depth in product(PE_FACTORS, QUERY_CHOICES, rows, depth_choices(graph, lanes)):
        columns, tables = table_sizes(lanes, factor)
        start = Design(lanes=lanes, pe=lanes * factor, rows=height, queries=queries, beat=beat)
        yield replace(start, depth=depth, columns=columns, tables=tables)


def choose_design(graph: Graph, board: Board, clock_mhz: float, objective: Objective = "latency") -> Design:
    """The best design that fits, with as many lanes as a port has bytes, or fewer where nothing fits. Raises `FitError`, with the
    binding resource and the smallest change that would fit, when none does."""
    nearest: tuple[float, Estimate, str] | None = None
    lanes = choose_lanes(graph, board)
    while nearest is None or lanes >= MIN_LANES:
        best, near = _search(graph, board, clock_mhz, objective, lanes)
        if best is not None:
            return best
        assert near is not None
        nearest = near if nearest is None or near[0] < nearest[0] else nearest
        lanes //= 2
    _, cost, over = nearest
    raise FitError(
        f"the model does not fit {board.name}, even with the smallest engines: {binding(cost, board, over)}; "
        f"the smallest change that fits: {' or '.join(changes(graph, board, clock_mhz, cost))}"
    )


def choose_engines(graph: Graph, board: Board, clock_mhz: float, objective: Objective = "latency") -> Design:
    """`choose_design`, once for each engine that layers without one of their own could share; the better of the two stays, in
    attribute `engine` of those nodes."""
    open_nodes = [node for node in graph.nodes if "engine" not in node.attrs and len(operator(node).engines(node)) > 1]
    kinds = sorted({engine for node in open_nodes for engine in operator(node).engines(node)})
    best: tuple[tuple[float, float], str, Design] | None = None
    misfit: FitError | None = None
    for kind in kinds or [""]:
        for node in open_nodes:
            node.attrs["engine"] = kind if kind in operator(node).engines(node) else operator(node).engines(node)[0]
        try:
            design = choose_design(graph, board, clock_mhz, objective)
        except FitError as error:
            misfit = error
            continue
        cost = estimate(build_program(graph, design, None), board, clock_mhz)
        score = SCORES[objective](cost, board, design.lanes), cost.resources.lut
        if best is None or score < best[0]:
            best = score, kind, design
    if best is None:
        assert misfit is not None
        raise misfit
    for node in open_nodes:
        node.attrs["engine"] = best[1] if best[1] in operator(node).engines(node) else operator(node).engines(node)[0]
    return best[2]


def _search(
    graph: Graph, board: Board, clock_mhz: float, objective: Objective, lanes: int
) -> tuple[Design | None, tuple[float, Estimate, str] | None]:
    """Try every combination: the best that fits, and how near the nearest comes of those that do not."""
    best: tuple[tuple[float, ...], Design] | None = None
    nearest: tuple[float, Estimate, str] | None = None
    for design in candidates(graph, lanes, board):
        cost = estimate(build_program(graph, design, None), board, clock_mhz)
        over = overrun(cost.resources, board)
        if over:
            ratio = cost.used()[over] / max(board.limits[over], 1e-9)
            if nearest is None or ratio < nearest[0]:
                nearest = ratio, cost, over
            continue
        key = (SCORES[objective](cost, board, design.lanes), float(cost.cycles), cost.resources.lut, *map(float, astuple(design)))
        if best is None or key < best[0]:
            best = key, design
    return (None if best is None else best[1]), nearest


def binding(cost: Estimate, board: Board, over: str) -> str:
    """What exceeds its limit most, in words."""
    return f"{over} needs {cost.used()[over]:.0f}, the limit is {board.limits[over]:.0f} of {getattr(board, over)} (estimates)"


def changes(graph: Graph, board: Board, clock_mhz: float, cost: Estimate) -> list[str]:
    """What would make a design of `cost` fit: higher limits where the device has enough, and the smallest board with room."""
    found = []
    if all(cost.used()[name] <= getattr(board, name) for name in CLASSES):
        shares = {name: cost.used()[name] / getattr(board, name) for name in CLASSES if cost.used()[name] > board.limits[name]}
        raised = ",".join(f"{name}={min(1.0, share + 0.005):.2f}" for name, share in shares.items())
        found.append(f"--utilisation {raised} (timing may not close)")
    larger = [b for b in sorted(BOARDS.values(), key=lambda b: (b.lut, b.name)) if b.name != board.name]
    for other in larger:
        if fits_somehow(graph, other, clock_mhz):
            found.append(f"--target {other.name}")
            break
    return found or ["none: no known board is large enough; use a smaller model or a shorter sequence"]


def fits_somehow(graph: Graph, board: Board, clock_mhz: float) -> bool:
    """Whether any design fits, the smallest ones first."""
    tried = (build_program(graph, design, None) for design in candidates(graph, choose_lanes(graph, board), board))
    return any(overrun(estimate(program, board, clock_mhz).resources, board) is None for program in tried)


def smaller_designs(design: Design) -> list[tuple[str, Design]]:
    """Designs with a few parameters halved, those with the fewest halvings first, and what changed in words."""
    found: list[tuple[int, str, Design]] = []
    for pe, rows, queries in product(range(6), range(6), range(5)):
        halved = replace(design, pe=design.pe >> pe, rows=design.rows >> rows, queries=design.queries >> queries)
        if pe + rows + queries and halved.pe >= halved.lanes and halved.rows and halved.queries:
            pairs = zip([f.name for f in fields(design)], astuple(design), astuple(halved), strict=True)
            found.append((pe + rows + queries, ", ".join(f"{n} {a} -> {b}" for n, a, b in pairs if a != b), halved))
    return [(text, halved) for _, text, halved in sorted(found, key=lambda entry: entry[:2])]


def check_fit(graph: Graph, design: Design, cost: Estimate, board: Board, clock_mhz: float) -> str | None:
    """None where a given design fits `board`; else what binds it and the smallest change that would fit."""
    over = overrun(cost.resources, board)
    if over is None:
        return None
    smaller = (
        text
        for text, other in smaller_designs(design)
        if overrun(estimate(build_program(graph, other, None), board, clock_mhz).resources, board) is None
    )
    first = next(smaller, None)
    options = ([f"design {first}"] if first else []) + changes(graph, board, clock_mhz, cost)
    return f"the schedule does not fit {board.name}: {binding(cost, board, over)}; the smallest change that fits: {' or '.join(options)}"
