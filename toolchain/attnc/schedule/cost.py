"""Estimates of cycles and resources. None comes from a synthesis run, and everything that shows them says so.

Cycles: the processes of a call overlap, so a call takes its slowest process or memory port, and the time to fill and drain.
A port moves a word per cycle within a burst; short bursts are bound by the requests in flight, and all ports together by the
rate of the DDR. Instructions run one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from attnc.ops import OPERATORS
from attnc.ops.base import Call, Resources
from attnc.schedule.devices import Board
from attnc.schedule.program import Engine, Program

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

UTILISATION = {"lut": 0.70, "ff": 0.50, "dsp": 0.80, "bram36": 0.80, "uram": 0.80}
"""Shares of a device at which timing closes comfortably (as FINN recommends)."""


@dataclass(frozen=True)
class CallCost:
    """Estimated cycles of one call, what binds it, and the words that it moves."""

    node: str
    engine: str
    cycles: int
    bound: str
    words: int
    macs: int


def call_cost(engine: Engine, call: Call, lanes: int, words_per_cycle: float, instruction_ints: int) -> CallCost:
    """Cycles of a call: the slowest of its processes, ports and the DDR, plus start-up."""
    busy = dict(call.cycles)
    words = 0
    for port, walk in zip(engine.kernel.ports, call.walks, strict=True):
        moved = walk.vectors * walk.bytes
        bursts = math.prod(walk.counts[:3]) * math.ceil(walk.counts[3] * walk.bytes / 64)
        busy[f"port {port.name}"] = max(moved, bursts * math.ceil(MEMORY_LATENCY / REQUESTS_IN_FLIGHT))
        words += moved
    busy["ddr"] = math.ceil(words / words_per_cycle)
    bound = max(busy, key=lambda name: busy[name])
    cycles = busy[bound] + 2 * MEMORY_LATENCY + CALL_OVERHEAD + instruction_ints
    return CallCost(call.node, engine.op, cycles, bound, words, call.macs)


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a whole program on a board."""

    calls: tuple[CallCost, ...]
    resources: Resources
    clock_mhz: float

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

    def by_node(self) -> dict[str, int]:
        """Cycles per node."""
        total: dict[str, int] = {}
        for call in self.calls:
            total[call.node] = total.get(call.node, 0) + call.cycles
        return total


def engine_resources(engine: Engine, lanes: int) -> Resources:
    """Kernel, loaders, storer and streams of one engine."""
    total = OPERATORS[engine.op].resources(engine.kernel)
    for port in engine.kernel.ports:
        total = total + (STORER if port.kind == "store" else LOADER)
        # A stream of 32 vectors is shift registers: a LUT per bit.
        bits = lanes * (8 if port.kind == "words" else port.type.bits)
        total = total + Resources(lut=bits * STREAM_DEPTH / 32, ff=bits)
    return total


def program_resources(program: Program) -> Resources:
    """All engines, memory ports and control."""
    total = CONTROL
    for engine in program.engines:
        total = total + engine_resources(engine, program.design.lanes)
    loads = max((sum(port.kind == "load" for port in engine.kernel.ports) for engine in program.engines), default=0)
    for _ in range(loads + 3):  # program, weights, result
        total = total + PORT
    return total


def estimate(program: Program, board: Board, clock_mhz: float) -> Estimate:
    """Cost of `program` on `board` at a clock."""
    lanes = program.design.lanes
    words_per_cycle = board.ddr_gb_s * 1e3 * DDR_EFFICIENCY / clock_mhz / lanes
    calls = tuple(call_cost(engine, call, lanes, words_per_cycle, program.instruction_ints) for engine, call in program.calls)
    return Estimate(calls, program_resources(program), clock_mhz)


def limits(board: Board) -> dict[str, float]:
    """What a design may use of the board."""
    return {name: getattr(board, name) * share for name, share in UTILISATION.items()}


def overrun(resources: Resources, board: Board) -> str | None:
    """The resource that exceeds its limit most, or None."""
    used = dict(zip(UTILISATION, resources.astuple(), strict=True))
    worst = max(UTILISATION, key=lambda name: used[name] / max(limits(board)[name], 1e-9) if used[name] else 0.0)
    return worst if used[worst] > limits(board)[worst] else None
