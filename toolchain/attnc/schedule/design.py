"""Choice of the parallelism: the best design for an objective that fits the board."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import product

from attnc.config import Objective
from attnc.errors import FitError
from attnc.ir import Graph, Node
from attnc.kernels.design import COMMON, WEIGHT_PORTS, AttentionNumbers, Design, LinearNumbers, Numbers, flat
from attnc.kernels.resources import Resources
from attnc.ops import operator
from attnc.schedule.cost import Estimate, by_class, estimate, overrun, program_resources, without_buffers
from attnc.schedule.devices import BOARDS, CLASSES, Board
from attnc.schedule.energy import energy_mj
from attnc.schedule.lowered import Calls
from attnc.schedule.program import Programs
from attnc.schedule.refine import COPIES, LEAST_ROWS, MOST_QUERIES, Rank, refined
from attnc.schedule.shorter import shortened
from attnc.schedule.stages import MACS_PER_DSP

MAX_LANES = 16
MIN_LANES = 4
MOST_ROWS = 256
BLOCKS = (1, 2, 3, 4, 8)
"""Rows on chip that are tried: between these, and so that a value has as many blocks of them, or the least multiple that fits."""
QUERY_CHOICES = tuple(1 << bits for bits in range(MOST_QUERIES.bit_length()))
PE_FACTORS = (1, 2, 4, 8, 16, 32)
AT_ONCE_CHOICES = (1, 2, 3, 4, 5, 6, 8, 12, 16)
HALVED = ("pe", "rows", "queries", "rows_at_once", "parallel", "weight_ports", "keys")
"""Numbers that a smaller design has less of."""
MOST_HALVINGS = 6, 6, 5, 5, 2, 3, 3
"""Of each, and one: so many that are tried."""
DEPTH_CHOICES = (512, 2048)
"""Codes per channel that the look-up engine buffers: half a block RAM, and half a URAM for each of its two blocks."""


def _share(cost: Estimate, board: Board, lanes: int) -> float:
    return max(used / (getattr(board, name) or 1) for name, used in cost.used().items())


SCORES: dict[Objective, Callable[[Estimate, Board, int], float]] = {
    # The hardware runs one sample at a time, so samples per second are the inverse of the latency.
    "latency": lambda cost, board, lanes: cost.served,
    "throughput": lambda cost, board, lanes: cost.served,
    "area": _share,
    "energy": lambda cost, board, lanes: energy_mj(cost, lanes),
}
"""What each objective minimises: cycles (`Estimate.served`, both of the first), the largest share of any class of resources, millijoules
per sample (`energy.py`). Of equal ones the fewest cycles, then the fewest LUTs."""
Ranked = tuple[Rank, Design]
"""A design behind what it is ranked by."""
Near = tuple[float, Design, str]
"""What a design needs of the class that exceeds its limit most, in limits; the design, and the class."""
FEW = 4
"""Designs that are tried with more than the multipliers and queries that make them the fastest."""
BY_CYCLES = ("latency", "throughput")
"""Objectives that minimise cycles and nothing else."""


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


def least_lanes(graph: Graph) -> int:
    """How many lanes the operators need."""
    return max((operator(node).least_lanes(node) for node in graph.nodes), default=0)


def table_sizes(lanes: int, factor: int) -> tuple[int, int]:
    """Columns and tables of the look-up engine that go with lanes * factor channels of multipliers: a copy of every table for each
    column costs LUTs, so columns stop at 4 times the lanes, and larger designs get twice the tables."""
    return lanes * min(factor, 4), lanes * (2 if factor >= 8 else 1)


def matters(programs: Programs, lanes: int, low: Design, high: Design) -> bool:
    """Whether two designs give different engines."""
    one, other = (programs.build(design.having(lanes=lanes, pe=lanes)) for design in (low, high))
    return one.engines != other.engines


def depth_choices(programs: Programs, lanes: int) -> tuple[int, ...]:
    """DEPTH_CHOICES where they make a difference: some node is served by tables."""
    return DEPTH_CHOICES if matters(programs, lanes, Design.of(depth=1), Design.of(depth=DEPTH_CHOICES[-1])) else DEPTH_CHOICES[-1:]


def multiplier_choices(programs: Programs, lanes: int, most: float) -> list[tuple[int, int]]:
    """Pairs of (PE factor, rows at once) with at most `most` multiply-adds per cycle; of more than one row at once only where some node
    is served by multipliers."""
    if not matters(programs, lanes, Design.of(rows_at_once=1), Design.of(rows_at_once=2)):
        return [(factor, 1) for factor in PE_FACTORS]
    pairs = [pair for pair in product(PE_FACTORS, AT_ONCE_CHOICES) if lanes * lanes * math.prod(pair) <= most]
    return pairs or [(1, 1)]


def row_choices(graph: Graph) -> list[int]:
    """Rows on chip that cut the largest value into equal blocks, the fewest blocks first."""
    height = _height(graph)
    fewest = math.ceil(height / MOST_ROWS)
    return sorted({max(math.ceil(height / (fewest * count)), LEAST_ROWS) for count in BLOCKS}, reverse=True)


def _height(graph: Graph, nodes: Sequence[Node] | None = None) -> int:
    """Rows of the largest value that some nodes make, or all."""
    return max((graph.value(node.output).shape for node in nodes or graph.nodes), key=math.prod, default=(1, 1))[0]


def least_height(programs: Programs) -> int:
    """The same of the entry that has the fewest: a token, where one is decoded at a time; or of an expert."""
    entries: dict[str, list[Node]] = {}
    for node in programs.graph.nodes:
        entries.setdefault(node.entry, []).append(node)
    least = min((_height(programs.graph, nodes) for nodes in entries.values()), default=1)
    return min(least, programs.queued or least)


def port_choices(programs: Programs, lanes: int, beat: int, board: Board) -> tuple[int, ...]:
    """Memory ports for weights, where multipliers are used."""
    one = Design(beat=beat)
    usable = tuple(ports for ports in WEIGHT_PORTS if ports <= len(board.ports))
    return usable if matters(programs, lanes, one, one.having(weight_ports=usable[-1])) else (1,)


def useful(design: Design, height: int) -> bool:
    """Whether multipliers that work on `height` rows, or a block of them, could wait for weights of bytes that come through half as many
    ports: those of PE channels come in PE * k / words cycles, their products take rows / R * k."""
    linear = design.linear
    return linear.pe * linear.rows_at_once >= design.beat * (linear.weight_ports // 2) * min(height, design.rows)


def candidates(programs: Programs, lanes: int, board: Board, pairs: Sequence[tuple[int, int]]) -> Iterator[Design]:
    """Every design of `lanes` lanes and `pairs` of PE factor and rows at once that the search tries, with one query, beats of two words
    where the ports are wide enough, and two ports for weights where one may be too few."""
    beat, least = 2 if 16 * lanes <= board.axi_bits else 1, least_height(programs)
    choices = product(pairs, row_choices(programs.graph), depth_choices(programs, lanes), port_choices(programs, lanes, beat, board))
    for (factor, at_once), height, depth, ports in choices:
        columns, tables = table_sizes(lanes, factor)
        start = Design.of(lanes=lanes, pe=lanes * factor, rows=height, queries=QUERY_CHOICES[0], rows_at_once=at_once, beat=beat)
        if at_once <= height and useful(start.having(weight_ports=ports), least):
            yield start.having(depth=depth, columns=columns, tables=tables, weight_ports=ports)


def demands(cost: Estimate) -> tuple[float, ...]:
    """Cycles, and what a design takes of each class: its memories in blocks of either kind, since where they lie depends on the rest."""
    logic = sum(map(without_buffers, cost.engines.values()), Resources())
    blocks, ultra = (sum((buffer.cost(kind) for buffer in cost.buffers), Resources()) for kind in ("bram", "uram"))
    return cost.served, logic.lut, logic.ff, logic.dsp, logic.bram36 + blocks.bram36, ultra.uram


def worthwhile(tried: list[tuple[Design, Estimate]]) -> list[tuple[Design, Estimate]]:
    """Those that no other one matches or beats in everything, fewest cycles first."""
    kept: list[tuple[tuple[float, ...], tuple[Design, Estimate]]] = []
    ranked = [(demands(cost), design.order, (design, cost)) for design, cost in tried]
    for needs, _, entry in sorted(ranked, key=lambda row: row[:2]):
        if not any(all(a <= b for a, b in zip(better, needs, strict=True)) for better, _ in kept):
            kept.append((needs, entry))
    return [entry for _, entry in kept]


def choose_design(graph: Graph, board: Board, clock_mhz: float, objective: Objective = "latency") -> Design:
    """The best design that fits, with as many lanes as a port has bytes, or fewer while that is better; first among designs that are cut
    alike in all engines, then from the best of these on (refine.py). The search looks at as many layers as differ (shorter.py). Raises
    `FitError`, with the binding resource and the smallest change that would fit, when none fits."""
    lanes = choose_lanes(graph, board)
    short = shortened(graph, Calls(graph).lower(Design.of(lanes=lanes, pe=lanes))[2])
    best, nearest = _best(short, board, clock_mhz, objective)
    if best is not None and short is not graph and overrun(program_resources(Programs(graph).build(best), board)[0], board) is not None:
        best, nearest = _best(graph, board, clock_mhz, objective)
    if best is not None:
        return best
    assert nearest is not None
    _, smallest, over = nearest
    cost = estimate(Programs(graph).build(smallest), board, clock_mhz)
    raise FitError(
        f"the model does not fit {board.name}, even with the smallest engines: {binding(cost, board, over)}; "
        f"the smallest change that fits: {' or '.join(changes(graph, board, clock_mhz, cost))}"
    )


def _best(graph: Graph, board: Board, clock_mhz: float, objective: Objective) -> tuple[Design | None, Near | None]:
    """The best design that fits; and how near the nearest comes of those that do not."""
    nearest: Near | None = None
    best: Ranked | None = None
    programs, lanes = Programs(graph), choose_lanes(graph, board)
    fewest = max(MIN_LANES, least_lanes(graph))
    while lanes >= fewest or (nearest is None and best is None):
        if best is not None and objective in BY_CYCLES and 16 * lanes < board.axi_bits:
            break  # a beat of two words would not fill a port
        starts, near = _search(programs, board, clock_mhz, objective, lanes)
        found = _with_more(programs, board, clock_mhz, objective, starts)
        if best is not None and (found is None or best[0] <= found[0]):
            break
        best = found if found is not None else best
        nearest = near if near is not None and (nearest is None or near[0] < nearest[0]) else nearest
        lanes //= 2
    if best is None:
        return None, nearest
    kinds = {kind for node in graph.nodes if (kind := operator(node).numbers(node)) is not None}
    ranked = refined(best, partial(_tried, programs, board, clock_mhz, objective), kinds, _height(graph), graph.length > 0)
    return ranked[1], nearest


def _with_more(programs: Programs, board: Board, clock_mhz: float, objective: Objective, starts: Sequence[Ranked]) -> Ranked | None:
    """The best of some designs, each with copies of small kernels and engines that run at the same time where there is room for them and
    they help. What runs at the same time are different blocks of rows, so fewer rows on chip are tried too, then with more ports for
    weights."""
    if not starts:
        return None
    best = min(starts, key=lambda ranked: ranked[0])
    heights, least = row_choices(programs.graph), least_height(programs)  # the same for all starts
    most_ports = port_choices(programs, best[1].lanes, best[1].beat, board)
    tried = {design for _, design in starts}
    for start in (design for _, design in starts):
        fewer = [rows for rows in heights if start.linear.rows_at_once <= rows < start.rows]
        enough = most_ports if start.linear.weight_ports == 1 else (start.linear.weight_ports,)
        for copies, parallel, ports in product(COPIES, (1, 2), enough):
            for rows in [start.rows, *(fewer if parallel > 1 else [])]:
                design = start.having(rows=rows, copies=copies, parallel=parallel, weight_ports=ports)
                if not useful(design, least) or design in tried:
                    continue
                tried.add(design)
                rank = _tried(programs, board, clock_mhz, objective, design, best[0])
                if rank is not None and rank < best[0]:
                    best = rank, design
    return best


def _tried(programs: Programs, board: Board, clock_mhz: float, objective: Objective, design: Design, best: Rank) -> Rank | None:
    """What a design is ranked by; None where it does not fit, or cannot be as good as `best`."""
    if objective in BY_CYCLES and programs.least_cycles(design) > best[0]:
        return None
    program = programs.build(design)
    taken = program_resources(program, board)
    if overrun(taken[0], board) is not None:
        return None
    return _rank(objective, estimate(program.in_use, board, clock_mhz, taken=taken), board, design)


def _rank(objective: Objective, cost: Estimate, board: Board, design: Design) -> Rank:
    """Lower is better: what the objective minimises, then cycles, then LUTs; the last decide between equals, always alike."""
    return (SCORES[objective](cost, board, design.lanes), float(cost.cycles), cost.resources.lut, *map(float, design.order))


def _search(programs: Programs, board: Board, clock_mhz: float, objective: Objective, lanes: int) -> tuple[list[Ranked], Near | None]:
    """The best designs that fit, and how near the nearest comes of those that do not."""
    nearest: Near | None = None
    fitting: list[tuple[Design, Estimate]] = []
    fits: defaultdict[tuple[int, int, int], set[int]] = defaultdict(set)
    for design in candidates(programs, lanes, board, multiplier_choices(programs, lanes, MACS_PER_DSP * board.limits["dsp"])):
        size = design.linear.pe, design.linear.rows_at_once, design.lookup.depth
        if len(fits[size] - {design.rows}) > 1 and (objective in BY_CYCLES or design.linear.weight_ports > 1):
            continue  # half the rows may be faster, since one half is read while the other computes; fewer are not, whatever the ports
        program = programs.build(design)
        taken = program_resources(program, board)
        over = overrun(taken[0], board)
        if over is None:
            fitting.append((design, estimate(program.in_use, board, clock_mhz, taken=taken)))
            fits[size].add(design.rows)
            continue
        ratio = by_class(taken[0])[over] / max(board.limits[over], 1e-9)
        if nearest is None or ratio < nearest[0]:
            nearest = ratio, design, over
    return _with_queries(programs, board, clock_mhz, objective, worthwhile(fitting)), nearest


def _with_queries(
    programs: Programs, board: Board, clock_mhz: float, objective: Objective, starts: list[tuple[Design, Estimate]]
) -> list[Ranked]:
    """The best few of designs that fit with one query, each with as many queries as fit: more take more of everything. Cycles of the
    operators add up, so what queries save depends on the rows alone; a design that cannot become one of the fastest is not tried."""
    found: list[Ranked] = []
    saved: dict[tuple[int, int], int] = {}
    for start, first in starts:
        key = start.rows, start.lookup.depth
        if key not in saved:
            most = start.having(queries=QUERY_CHOICES[-1])
            saved[key] = first.served - estimate(programs.build(most).in_use, board, clock_mhz).served
        if len(found) == FEW and objective in BY_CYCLES and first.served - saved[key] > found[-1][0][0]:
            continue
        best: Ranked | None = None
        for queries in QUERY_CHOICES:
            design, cost = start.having(queries=queries), first
            if design != start:
                program = programs.build(design)
                taken = program_resources(program, board)
                if overrun(taken[0], board) is not None:
                    break
                cost = estimate(program.in_use, board, clock_mhz, taken=taken)
            rank = _rank(objective, cost, board, design)
            if best is None or rank < best[0]:
                best = rank, design
        found = sorted([*found, *([best] if best is not None else [])], key=lambda ranked: ranked[0])[:FEW]
    return found


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
    """Whether any design fits: one of the smallest."""
    programs, lanes = Programs(graph), choose_lanes(graph, board)
    tried = (programs.build(design) for design in candidates(programs, lanes, board, [(1, 1)]))
    return any(overrun(estimate(program, board, clock_mhz).resources, board) is None for program in tried)


def _halved(design: Design, times: Mapping[str, int]) -> Design:
    """With some numbers halved so many times, down to 1; those of a kernel in all its engines."""

    def smaller(record: Numbers) -> Numbers:
        own = {field.name for field in fields(record)} - {"rows"}
        return replace(record, **{name: max(getattr(record, name) >> by, 1) for name, by in times.items() if name in own})

    common = {name: max(getattr(design, name) >> by, 1) for name, by in times.items() if name in COMMON}
    return replace(design, **common).having_engines({name: smaller(numbers) for name, numbers in design.engines.items()})


def smaller_designs(design: Design) -> list[tuple[str, Design]]:
    """Designs with a few numbers halved, those with the fewest halvings first, and what changed in words."""
    found: list[tuple[int, str, Design]] = []
    old = flat(design.facts())
    for halvings in product(*map(range, MOST_HALVINGS)):
        times = {name: by for name, by in zip(HALVED, halvings, strict=True) if by}
        halved = _halved(design, times)
        linear = [numbers for numbers in halved.engines.values() if isinstance(numbers, LinearNumbers)]
        if any(one.pe < halved.lanes or one.rows_at_once > (one.rows or halved.rows) for one in linear):
            continue
        attention = [numbers for numbers in halved.engines.values() if isinstance(numbers, AttentionNumbers)]
        if any(one.keys > min(one.queries, one.rows or halved.rows) for one in attention):
            continue
        changed = {name: f"{name} {old[name]} -> {new}" for name, new in flat(halved.facts()).items() if new != old[name]}
        if times and {name.rpartition(".")[2] for name in changed} == times.keys():
            found.append((sum(halvings), ", ".join(changed.values()), halved))
    return [(text, halved) for _, text, halved in sorted(found, key=lambda entry: entry[:2])]


def check_fit(graph: Graph, design: Design, cost: Estimate, board: Board, clock_mhz: float) -> str | None:
    """None where a given design fits `board`; else what binds it and the smallest change that would fit."""
    over = overrun(cost.resources, board)
    if over is None:
        return None
    programs = Programs(graph)
    smaller = (
        text
        for text, other in smaller_designs(design)
        if overrun(estimate(programs.build(other), board, clock_mhz).resources, board) is None
    )
    first = next(smaller, None)
    options = ([f"design {first}"] if first else []) + changes(graph, board, clock_mhz, cost)
    return f"the schedule does not fit {board.name}: {binding(cost, board, over)}; the smallest change that fits: {' or '.join(options)}"
