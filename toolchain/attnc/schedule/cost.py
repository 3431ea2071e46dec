"""Estimates of cycles and resources. None comes from a synthesis run, and everything that shows them says so.

Cycles are those of cycles.py; resources are what kernels, loaders, FIFOs and memory ports take, with buffers where `placement` puts them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attnc.errors import FitError
from attnc.kernels.memory import SCALE_BITS
from attnc.kernels.resources import Memory, Resources
from attnc.kernels.storage import fifo, memory_cost, storage, usual_kind
from attnc.schedule.cycles import CallCost, folded, program_costs, rewired, wired, works
from attnc.schedule.devices import CLASSES, Board
from attnc.schedule.engine import Engine, Slot
from attnc.schedule.fifos import usual_fifos
from attnc.schedule.placement import Buffer, collect, place, scaled
from attnc.schedule.program import Program
from attnc.schedule.registers import usual_use

DDR_EFFICIENCY = 0.85
"""Share of the peak rate that long bursts reach; 0.85 to 0.94 have been measured."""
LOADER = Resources(lut=450, ff=600)
SHARED_LOADER = Resources(lut=150, ff=200)
"""What starts the runs of a loader of several operands, and selects the addresses of its requests."""
RUN = Resources(lut=220, ff=300)
"""A run of words that follow each other: a counter, an address, and elements of 16 bits with their zero point (8 lanes)."""
STORER = Resources(lut=450, ff=600)
MORE_LANE = Resources(lut=12, ff=16)
"""Of a vector that a loader brings beside another one: its zero point, and the assembly of elements of 16 bits."""
SMALL_LANE = Resources(lut=8, ff=8)
"""Of a loader or storer that moves elements of 4 bits too: the choice of a half of a word, and of what a lane holds."""
MIXED_LOADER = Resources(lut=500, ff=450)
"""What a loader has that takes stretches in turn: where each is to be asked for and to be taken, four addresses each."""
MIXED_LANE = Resources(lut=14, ff=8)
"""A lane of it: as of 4 bits, and the choice of that or of a byte."""
SCALED_LANE = Resources(lut=46, ff=34)
"""A lane whose elements of 4 bits have a scale for each token: four rows of a product of 13 bits, of which a LUT adds a bit of two, and the
sum; what a byte makes of 9,362 once per token is a few adders."""
PORT = Resources(lut=1200, ff=1800, bram36=2)
"""An m_axi adapter of 128 bits with its buffers."""
CONTROL = Resources(lut=1800, ff=3000, bram36=2)
"""The registers that the host writes, and the adapter of 128 bits that reads the program: beside one of 32 bits about 300 LUT and 500 FF
for three times 96 bits of data on their way, and its buffer."""
PASSING = Resources(lut=60, ff=80)
"""What lets a slot be passed by, or stored on the way: a counter and a multiplexer's control; the multiplexer is a LUT per 2 bits."""
TRACK = Resources(lut=60, ff=100)
"""Starting the engine of a track beside others, or not; its instruction is kept in registers of its own."""


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a whole program on a board. `engines` are the resources of each engine before its buffers were placed, `places` is
    the kind of memory of each of `buffers`, `macs_per_cycle` the multiply-adds that all arrays of multipliers can do."""

    calls: tuple[CallCost, ...]
    resources: Resources
    clock_mhz: float
    engines: Mapping[str, Resources]
    buffers: tuple[Buffer, ...]
    places: Mapping[str, str]
    ports: Mapping[str, str]
    words_per_cycle: float
    macs_per_cycle: int
    entries: Mapping[str, int]
    """Cycles of each entry of the program."""
    served: int
    """Cycles of a sample; of a decoder those of a prompt of some blocks, and of decoding a block's tokens, each at the position that the
    program is stated for: what a search makes small, of a program `in_use`."""

    @property
    def cycles(self) -> int:
        """Of one sample."""
        return sum(self.entries.values())

    @property
    def latency_ms(self) -> float:
        """Of one sample at the target clock."""
        return self.cycles / self.clock_mhz / 1000

    @property
    def macs(self) -> int:
        """Multiply-adds of one sample."""
        return sum(call.times * call.macs for call in self.calls)

    @property
    def words(self) -> int:
        """Words between memory and accelerator for one sample."""
        return sum(call.times * call.words for call in self.calls)

    def by_node(self) -> dict[str, int]:
        """Cycles that the main node of each chain accounts for."""
        total: dict[str, int] = {}
        for call in self.calls:
            total[call.node] = total.get(call.node, 0) + call.counted
        return total

    def used(self) -> dict[str, float]:
        """Resources by class."""
        return by_class(self.resources)


def slot_resources(slot: Slot, lanes: int, chained: bool) -> Resources:
    """A kernel with its buffers where they usually lie, and what a chain adds."""
    total = slot.resources
    if chained:
        total = total + fifo(16 * lanes) + Resources(lut=16 * lanes / 2) + scaled(PASSING, slot.optional + slot.tap)
    return total


def engine_resources(engine: Engine, lanes: int) -> Resources:
    """Kernels, loaders, storers and streams of one engine, with its buffers where they usually lie."""
    total = sum((slot_resources(slot, lanes, engine.chained) for slot in engine.slots), Resources())
    for stream in engine.streams:
        total = total + scaled(STORER if stream.kind == "store" else RUN if stream.shared else LOADER, len(stream.pointers))
        total = total + scaled(MORE_LANE, lanes * (stream.vectors - 1))
        total = total + scaled(SMALL_LANE, lanes * stream.vectors if stream.name in engine.small else 0)
        if stream.mixed:
            total = total + scaled(MIXED_LOADER, len(stream.pointers)) + scaled(MIXED_LANE, lanes * stream.vectors)
        if stream.scales:
            each = stream.vectors // len(stream.pointers)  # vectors of a pointer at a time
            kept = storage(math.ceil(stream.scales / each), SCALE_BITS * each) + Resources(lut=60 * each, ff=60 * each)
            total = total + scaled(kept, len(stream.pointers)) + scaled(SCALED_LANE, lanes * stream.vectors)
        total = total + fifo(stream.width(lanes), stream.depth)
    total = total + scaled(SHARED_LOADER, bool(engine.shared))
    return total


def engine_total(engine: Engine, cost: Estimate) -> Resources:
    """One engine with its buffers where the plan puts them."""
    own = cost.engines[engine.name]
    kinds = ((memory, cost.places[f"{stem}.{memory.name}"]) for stem, memory in _memories(engine))
    return sum((memory_cost(memory, kind) for memory, kind in kinds), without_buffers(own))


def buffer_costs(engines: Sequence[Engine], cost: Estimate) -> dict[str, dict[str, Resources]]:
    """By buffer, what each engine that has it takes for it where the plan puts it."""
    found: dict[str, dict[str, Resources]] = {buffer.key: {} for buffer in cost.buffers}
    for engine in engines:
        for stem, memory in _memories(engine):
            own, key = found[f"{stem}.{memory.name}"], f"{stem}.{memory.name}"
            own[engine.name] = own.get(engine.name, Resources()) + memory_cost(memory, cost.places[key])
    return found


def _memories(engine: Engine) -> list[tuple[str, Memory]]:
    return [(slot.kernel.network.stem, memory) for slot in engine.slots for memory in slot.resources.memories]


def without_buffers(resources: Resources) -> Resources:
    """What is left when the buffers that can be placed are taken out."""
    return sum((scaled(memory_cost(memory, usual_kind(memory)), -1) for memory in resources.memories), resources)


def _other_depths(engine: Engine, program: Program) -> Resources:
    """What its FIFOs take with the depths that the program was given, less what they take with the usual ones."""
    usual = usual_fifos(engine, program.design.lanes) if program.depths else {}
    given = {name: replace(queue, depth=program.depths[name]) for name, queue in usual.items() if name in program.depths}
    return sum((queue.resources + scaled(usual[name].resources, -1) for name, queue in given.items()), Resources())


Taken = tuple[Resources, dict[str, Resources], list[Buffer], dict[str, str]]
"""What `program_resources` finds."""


def program_resources(program: Program, board: Board, fixed: Mapping[str, str] | None = None) -> Taken:
    """All engines, memory ports and control; then each engine, the buffers, and where they lie (`fixed` ones as given)."""
    engines = {e.name: engine_resources(e, program.design.lanes) + _other_depths(e, program) for e in program.engines}
    buffers = collect((slot.kernel.network.stem, slot.resources) for engine in program.engines for slot in engine.slots)
    logic = sum((without_buffers(r) for r in engines.values()), CONTROL) + scaled(PORT, len(set(program.bundles.values())))
    if program.design.parallel > 1:
        longest = max(engine.instruction_ints for engine in program.engines)
        logic = logic + scaled(TRACK, len(program.tracks)) + Resources(ff=32 * (program.instruction_ints - longest))
    total, places = place(logic, buffers, board.limits, fixed)
    return total, engines, buffers, places


def estimate(
    program: Program,
    board: Board,
    clock_mhz: float,
    places: Mapping[str, str] | None = None,
    ports: Mapping[str, str] | None = None,
    taken: Taken | None = None,
    settled: bool = False,
) -> Estimate:
    """Cost of `program` on `board` at a clock; `places` of buffers and memory `ports` of memory interfaces as given, else chosen. `taken`
    are its `program_resources`, where they are known; ports of a program that is `settled` are searched for longer."""
    words_per_cycle = board.ddr_gb_s * 1e3 * DDR_EFFICIENCY / clock_mhz / program.design.lanes
    steps = works(program)
    tags = {**wired(program, board, steps), **(ports or {})}
    if settled and not ports:
        tags = rewired(program, board, steps, tags, words_per_cycle)
    by_pointer = {pointer: tags[bundle] for pointer, bundle in program.bundles.items()}
    calls = program_costs(program, steps, by_pointer, words_per_cycle)
    total, engines, buffers, kinds = taken or program_resources(program, board, places)
    macs = sum(slot.macs_per_cycle for engine in program.engines for slot in engine.slots)
    calls = folded(program, calls)
    entries = _entry_cycles(program, calls)
    use = usual_use(program.last)
    served = sum(cycles * (use[entry][1] if entry in use else 1) for entry, cycles in entries.items())
    return Estimate(tuple(calls), total, clock_mhz, engines, tuple(buffers), kinds, tags, words_per_cycle, macs, entries, served)


def _entry_cycles(program: Program, calls: Sequence[CallCost]) -> dict[str, int]:
    left, found = iter(calls), dict[str, int]()
    for step in program.steps:
        found[step[0].entry] = found.get(step[0].entry, 0) + sum(next(left).counted for _ in step)
    return found


def check_memory(program: Program, board: Board, host_bytes: int = 0) -> None:
    """Raise `FitError` where activations and weights exceed the board's DDR, with `host_bytes` that processors of the board itself read for
    every token, or a word offset would not fit 31 bits."""
    words = program.memory.words + program.weight_words
    needed = math.ceil((words * program.design.lanes + (host_bytes if board.processors is not None else 0)) / (1 << 20))
    if needed > board.ddr_mib or max(program.memory.words, program.weight_words) >= 1 << 31:
        raise FitError(f"the model needs {needed:,} MiB of memory for weights and activations, {board.name} has {board.ddr_mib:,} MiB")


def by_class(resources: Resources) -> dict[str, float]:
    """Resources by the classes of a board."""
    return dict(zip(CLASSES, resources.astuple(), strict=True))


def overrun(resources: Resources, board: Board) -> str | None:
    """The class that exceeds its limit most, or None."""
    used, limits = by_class(resources), board.limits
    over = [name for name in CLASSES if used[name] > limits[name]]
    return max(over, key=lambda name: used[name] / max(limits[name], 1e-9)) if over else None
