"""Estimates of cycles and resources. None comes from a synthesis run, and everything that shows them says so.

Cycles: the processes of a call overlap, so a call takes its slowest process or memory port, and the time to fill and drain.
A stream moves a word per cycle within a burst; short bursts are bound by the requests in flight, streams that read through the
same port of the board add up, and all together are bound by the rate of the DDR. Instructions run one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from attnc.errors import FitError
from attnc.ops import OPERATORS
from attnc.ops.base import Call, Resources
from attnc.ops.storage import memory_cost, usual_kind
from attnc.schedule.devices import CLASSES, Board
from attnc.schedule.placement import Buffer, collect, place, scaled
from attnc.schedule.program import Engine, Program, bundles

MEMORY_LATENCY = 60
"""Cycles from a read request to its first word (about 200 ns through an HP port at 250 MHz)."""
REQUESTS_IN_FLIGHT = 16
DDR_EFFICIENCY = 0.85
"""Share of the peak rate that long bursts reach; 0.85 to 0.94 have been measured."""
CALL_OVERHEAD = 40
"""Starting and ending a dataflow region."""
LOADER = Resources(lut=450, ff=600)
STORER = Resources(lut=450, ff=600)
PORT = Resources(lut=1200, ff=1800, bram36=2)
"""An m_axi adapter of 128 bits with its buffers."""
CONTROL = Resources(lut=1500, ff=2500)
STREAM_DEPTH = 32


@dataclass(frozen=True)
class CallCost:
    """Estimated cycles of one call. `busy` are those of each process, stream ("port ...") and shared port of the board, and of the
    DDR; `bound` is the largest of them, `start` comes on top. `words` are those that it moves."""

    node: str
    engine: str
    cycles: int
    bound: str
    start: int
    busy: Mapping[str, int]
    words: int
    macs: int


def assign_ports(names: list[str], board: Board) -> dict[str, str]:
    """A memory port of the board for each bundle: weights on the first, the operands on the next ones, results on the last.

    A port reads and writes at the same time, so results share it with an operand at no loss.
    """
    tags = board.ports
    fixed = {"program": tags[0], "weights": tags[0], "result": tags[-1]}
    return {name: fixed[name] if name in fixed else tags[(1 + int(name.removeprefix("load_"))) % len(tags)] for name in names}


def call_cost(engine: Engine, call: Call, ports: Mapping[str, str], words_per_cycle: float, instruction_ints: int) -> CallCost:
    """Cycles of a call: the slowest of its processes, streams, ports and the DDR, plus start-up."""
    busy = dict(call.cycles)
    words = 0
    shared: dict[str, list[tuple[str, int]]] = {}
    for port, walk, bundle in zip(engine.kernel.ports, call.walks, bundles(engine.kernel), strict=True):
        moved = walk.vectors * walk.bytes
        bursts = math.prod(walk.counts[:3]) * math.ceil(walk.counts[3] * walk.bytes / 64)
        busy[f"port {port.name}"] = max(moved, bursts * math.ceil(MEMORY_LATENCY / REQUESTS_IN_FLIGHT))
        words += moved
        if port.kind != "store":
            shared.setdefault(ports[bundle], []).append((port.name, moved))
    for tag, streams in shared.items():
        if len(streams) > 1:
            busy[f"{tag} ({'+'.join(name for name, _ in streams)})"] = sum(moved for _, moved in streams)
    busy["ddr"] = math.ceil(words / words_per_cycle)
    bound = max(busy, key=lambda name: busy[name])
    start = 2 * MEMORY_LATENCY + CALL_OVERHEAD + instruction_ints
    return CallCost(call.node, engine.name, busy[bound] + start, bound, start, busy, words, call.macs)


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a whole program on a board. `engines` are the resources of each engine before its buffers were placed, `places` is
    the kind of memory of each of `buffers`."""

    calls: tuple[CallCost, ...]
    resources: Resources
    clock_mhz: float
    engines: Mapping[str, Resources]
    buffers: tuple[Buffer, ...]
    places: Mapping[str, str]
    ports: Mapping[str, str]
    words_per_cycle: float

    @property
    def cycles(self) -> int:
        """Of one sample."""
        return sum(call.cycles for call in self.calls)

    @property
    def latency_ms(self) -> float:
        """Of one sample at the target clock."""
        return self.cycles / self.clock_mhz / 1000

    @property
    def macs(self) -> int:
        """Multiply-adds of one sample."""
        return sum(call.macs for call in self.calls)

    @property
    def words(self) -> int:
        """Words between memory and accelerator for one sample."""
        return sum(call.words for call in self.calls)

    def by_node(self) -> dict[str, int]:
        """Cycles per node."""
        total: dict[str, int] = {}
        for call in self.calls:
            total[call.node] = total.get(call.node, 0) + call.cycles
        return total

    def used(self) -> dict[str, float]:
        """Resources by class."""
        return dict(zip(CLASSES, self.resources.astuple(), strict=True))


def header_stem(engine: Engine) -> str:
    """The kernel's header without folder and suffix: what buffers are named after."""
    return PurePosixPath(engine.kernel.header).stem


def function_name(engine: Engine) -> str:
    """Its kernel function, without namespace."""
    return engine.kernel.function.rpartition("::")[2]


def engine_resources(engine: Engine, lanes: int) -> Resources:
    """Kernel, loaders, storer and streams of one engine, with its buffers where they usually lie."""
    total = OPERATORS[engine.op].resources(engine.kernel)
    for port in engine.kernel.ports:
        total = total + (STORER if port.kind == "store" else LOADER)
        # A stream of 32 vectors is shift registers: a LUT per bit.
        bits = lanes * (8 if port.kind == "words" else port.type.bits)
        total = total + Resources(lut=bits * STREAM_DEPTH / 32, ff=bits)
    return total


def engine_total(engine: Engine, cost: Estimate) -> Resources:
    """One engine with its buffers where the plan puts them."""
    own = cost.engines[engine.name]
    kinds = ((memory, cost.places[f"{header_stem(engine)}.{memory.name}"]) for memory in own.memories)
    return sum((memory_cost(memory, kind) for memory, kind in kinds), without_buffers(own))


def without_buffers(resources: Resources) -> Resources:
    """What is left when the buffers that can be placed are taken out."""
    return sum((scaled(memory_cost(memory, usual_kind(memory)), -1) for memory in resources.memories), resources)


def program_resources(
    program: Program, board: Board, fixed: Mapping[str, str] | None = None
) -> tuple[Resources, dict[str, Resources], list[Buffer], dict[str, str]]:
    """All engines, memory ports and control; then each engine, the buffers, and where they lie (`fixed` ones as given)."""
    engines = {engine.name: engine_resources(engine, program.design.lanes) for engine in program.engines}
    buffers = collect((header_stem(engine), engines[engine.name]) for engine in program.engines)
    logic = sum((without_buffers(r) for r in engines.values()), CONTROL) + scaled(PORT, len(program.bundles))
    total, places = place(logic, buffers, board.limits, fixed)
    return total, engines, buffers, places


def estimate(
    program: Program, board: Board, clock_mhz: float, places: Mapping[str, str] | None = None, ports: Mapping[str, str] | None = None
) -> Estimate:
    """Cost of `program` on `board` at a clock; `places` of buffers and memory `ports` of bundles as given, else chosen."""
    words_per_cycle = board.ddr_gb_s * 1e3 * DDR_EFFICIENCY / clock_mhz / program.design.lanes
    wired = {**assign_ports(program.bundles, board), **(ports or {})}
    ints = program.instruction_ints
    calls = tuple(call_cost(engine, call, wired, words_per_cycle, ints) for engine, call in program.calls)
    total, engines, buffers, kinds = program_resources(program, board, places)
    return Estimate(calls, total, clock_mhz, engines, tuple(buffers), kinds, wired, words_per_cycle)


def check_memory(program: Program, board: Board) -> None:
    """Raise `FitError` where activations and weights exceed the board's DDR, or a word offset would not fit 31 bits."""
    words = program.memory.words + program.weight_words
    needed = math.ceil(words * program.design.lanes / (1 << 20))
    if needed > board.ddr_mib or max(program.memory.words, program.weight_words) >= 1 << 31:
        raise FitError(f"the model needs {needed:,} MiB of memory for weights and activations, {board.name} has {board.ddr_mib:,} MiB")


def overrun(resources: Resources, board: Board) -> str | None:
    """The class that exceeds its limit most, or None."""
    used, limits = dict(zip(CLASSES, resources.astuple(), strict=True)), board.limits
    over = [name for name in CLASSES if used[name] > limits[name]]
    return max(over, key=lambda name: used[name] / max(limits[name], 1e-9)) if over else None
