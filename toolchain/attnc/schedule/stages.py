"""Where the cycles and the traffic of a program go: per stage (a chain of nodes) and in sum, beside the roofs of the board.

Multipliers: those in arrays, of all engines; they are busy in the cycles that their multiply-adds would take if all worked in every cycle,
and the others are lost. Where instructions run at the same time, the slowest accounts for the cycles, and what the multipliers of the
others do meanwhile is not lost; the others account for none, they are hidden. Multiply-adds without an array of multipliers (tables) keep
none busy. DSP roof: two byte multiply-adds per DSP and cycle (WP486), of all DSPs that the design takes. DDR roof: the rate that long
bursts reach.
Traffic floor: every operand, weight and result of a stage passes the memory port once. For attention that is the lower bound of the
literature, reached when all queries stay on chip (keys and values pass ceil(queries / resident queries) times else).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import Any

from attnc.ir import Graph
from attnc.schedule.chains import Chain
from attnc.schedule.cost import Estimate
from attnc.schedule.cycles import CallCost
from attnc.schedule.engine import Instruction
from attnc.schedule.memory import weight_walks
from attnc.schedule.program import Program

MACS_PER_DSP = 2
NO_MULTIPLIERS = "no multiply-adds"


@dataclass(frozen=True)
class Stage:
    """One chain: all its instructions, in one `entry` of the program. `node` is its main node, `nodes` are all of them and `ops` their
    operators; `busy` are cycles of processes and ports, `lost` those by cause; `array_macs` are the multiply-adds that arrays of
    multipliers do. Instructions that run beside slower ones are not in `cycles`: theirs are in `beside`, by the main node of the slower
    one."""

    node: str
    entry: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    op: str
    engine: str
    calls: int
    cycles: int
    start: int
    bound: str
    busy: dict[str, int]
    macs: int
    array_macs: int
    words: int
    floor_words: int
    lost: dict[str, float]
    beside: dict[str, int]

    @property
    def running(self) -> int:
        """Cycles in which it works, beside others or not."""
        return self.cycles + sum(self.beside.values())

    def facts(self, cost: Estimate, lanes: int) -> dict[str, Any]:
        """As plain values for the report."""
        return {
            "node": self.node,
            "entry": self.entry,
            "nodes": list(self.nodes),
            "op": self.op,
            "ops": list(self.ops),
            "engine": self.engine,
            "calls": self.calls,
            "cycles": self.cycles,
            "hidden_cycles": sum(self.beside.values()),
            "beside": self.beside,
            "start_cycles": self.start,
            "bound": self.bound,
            "busy": self.busy,
            **_roofs(cost, lanes, self.running, [self]),
            "lost": {cause: round(cycles) for cause, cycles in self.lost.items()},
        }


def _roofs(cost: Estimate, lanes: int, cycles: int, members: list[Stage]) -> dict[str, Any]:
    macs, arrays, words, floor = (sum(getattr(stage, key) for stage in members) for key in ("macs", "array_macs", "words", "floor_words"))
    return {
        "multiply_adds": macs,
        "multipliers_busy_percent": _percent(arrays, cycles * cost.macs_per_cycle),
        "ddr_bytes": words * lanes,
        "ddr_floor_bytes": floor * lanes,
        "dsp_roof_percent": _percent(macs, cycles * MACS_PER_DSP * cost.resources.dsp),
        "ddr_roof_percent": _percent(words, cycles * cost.words_per_cycle),
    }


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def stages(graph: Graph, program: Program, cost: Estimate) -> list[Stage]:
    """One per chain, in order."""
    groups: dict[int, tuple[Chain, list[Instruction], list[CallCost]]] = {}
    arrays = {engine.name: sum(slot.macs_per_cycle for slot in engine.slots) for engine in program.engines}
    meanwhile: Counter[int] = Counter()  # multiply-adds of what runs beside each chain
    for instruction, found in zip(program.instructions, cost.calls, strict=True):
        group = groups.setdefault(id(instruction.chain), (instruction.chain, [], []))
        group[1].append(instruction)
        group[2].append(found)
        if found.hidden is not None and arrays[found.engine]:
            meanwhile[id(program.instructions[found.hidden].chain)] += found.macs
    result = []
    for key, (chain, instructions, calls) in groups.items():
        weights = dict(pair for one in instructions for _, call in one.active for pair in weight_walks(call))
        floor = sum(program.memory.values[name].words for name in {*chain.reads, *chain.stores()}) + sum(weights.values())
        # An operator may also read no more than a part of its operand.
        floor = min(floor, sum(call.words for call in calls))
        result.append(_stage(chain, calls, floor, arrays[calls[0].engine], meanwhile[key], cost))
    return result


def _stage(chain: Chain, calls: list[CallCost], floor: int, own: int, meanwhile: int, cost: Estimate) -> Stage:
    busy: Counter[str] = Counter()
    bounds: Counter[str] = Counter()
    beside: Counter[str] = Counter()
    for call in calls:
        busy.update(call.busy)
        bounds[call.bound] += call.cycles
        if call.hidden is not None:
            beside[cost.calls[call.hidden].node] += call.cycles
    bound = bounds.most_common(1)[0][0]
    counted = [call for call in calls if call.hidden is None]
    cycles, start, macs = (sum(getattr(call, key) for call in counted) for key in ("cycles", "start", "macs"))
    lost = _lost(cycles, start, macs, bound, own, meanwhile, cost.macs_per_cycle)
    node = chain.main.node
    nodes, ops = (tuple(getattr(link.node, key) for link in chain.links) for key in ("name", "op"))
    macs, words = (sum(getattr(call, key) for call in calls) for key in ("macs", "words"))
    counts = cycles, start, bound, dict(busy), macs, macs if own else 0, words, floor
    return Stage(node.name, node.entry, nodes, ops, node.op, calls[0].engine, len(calls), *counts, lost, dict(beside))


def _lost(cycles: int, start: int, macs: int, bound: str, own: int, meanwhile: int, all_: int) -> dict[str, float]:
    """Lost cycles by cause: starting instructions, multipliers of other engines that stand still, and what the slowest process or port
    adds. Multiply-adds that others do `meanwhile` are not lost; they fill the second first."""
    if not macs or not own:
        cause = f"{NO_MULTIPLIERS if not macs else 'multipliers idle'}, bound by {bound}"
        return {"start": start, cause: cycles - start - (meanwhile / all_ if all_ else 0)} if cycles else {}
    alone, shared, others = macs / own, macs / all_, meanwhile / all_
    elsewhere = max(alone - shared - others, 0.0)
    return {
        "start": start,
        "multipliers of other engines idle": elsewhere,
        f"own multipliers idle, bound by {bound}": max(cycles - start - shared - others - elsewhere, 0.0),
    }


def by_operator(found: list[Stage], cost: Estimate, lanes: int) -> list[dict[str, Any]]:
    """Sums per operator, most cycles first; `bound` maps what binds stages to their cycles."""
    groups: dict[str, list[Stage]] = defaultdict(list)
    for stage in found:
        groups[stage.op].append(stage)
    rows = []
    for op, members in groups.items():
        cycles, running = (sum(getattr(stage, key) for stage in members) for key in ("cycles", "running"))
        bound: Counter[str] = Counter()
        for stage in members:
            bound[stage.bound] += stage.running
        rows.append(
            {
                "op": op,
                "stages": len(members),
                "calls": sum(stage.calls for stage in members),
                "cycles": cycles,
                "cycles_percent": _percent(cycles, cost.cycles),
                "hidden_cycles": running - cycles,
                "bound": dict(bound.most_common()),
                **_roofs(cost, lanes, running, members),
            }
        )
    return sorted(rows, key=lambda row: (-row["cycles"], row["op"]))


def losses(found: list[Stage], cost: Estimate) -> list[dict[str, Any]]:
    """Lost cycles by operator and cause, largest first, each with the stage that loses most."""
    total: Counter[tuple[str, str]] = Counter()
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    for stage in found:
        for cause, cycles in stage.lost.items():
            key = stage.op, cause
            total[key] += round(cycles)
            worst[key] = max(worst.get(key, (0.0, stage.node)), (cycles, stage.node), key=lambda entry: entry[0])
    return [
        {"op": op, "cause": cause, "cycles": cycles, "cycles_percent": _percent(cycles, cost.cycles), "worst_stage": worst[op, cause][1]}
        for (op, cause), cycles in sorted(total.items(), key=lambda item: (-item[1], item[0]))
        if cycles
    ]


def by_entry(found: list[Stage], cost: Estimate, lanes: int) -> dict[str, dict[str, Any]]:
    """Of a program of several entries the roofs, sums, and losses of each alone."""
    rows = {}
    for entry, cycles in sorted(cost.entries.items()) if len(cost.entries) > 1 else ():
        own, members = replace(cost, entries={entry: cycles}), [stage for stage in found if stage.entry == entry]
        sums = {"operators": by_operator(members, own, lanes), "lost": losses(members, own)}
        rows[entry] = {"cycles": cycles, "instructions": sum(stage.calls for stage in members), **summary(members, own, lanes), **sums}
    return rows


def summary(found: list[Stage], cost: Estimate, lanes: int) -> dict[str, Any]:
    """Roofs and sums of the whole program."""
    return _roofs(cost, lanes, cost.cycles, found)
