"""program.json: what the sources mean, for whoever watches them run: stages (chains of nodes) and their instructions, ports, FIFOs."""

from __future__ import annotations

from typing import Any

from attnc.schedule.cost import Estimate
from attnc.schedule.fifos import fifos
from attnc.schedule.program import Program

LISTING = "hls/program.json"
SCHEMA = 2


def listing(program: Program, cost: Estimate) -> dict[str, Any]:
    """As plain values. A step is a list of instructions that run at the same time, each with its stage, the block of rows, and the
    cycles that it is estimated to account for (none where a slower one runs beside it). A FIFO has a depth, and bits per element."""
    numbers: dict[int, int] = {}
    stages: list[dict[str, Any]] = []
    calls = iter(cost.calls)
    steps = []
    for step in program.steps:
        row = []
        for one in step:
            number = numbers.setdefault(id(one.chain), len(stages))
            if number == len(stages):
                nodes = [link.node.name for link in one.chain.links]
                blocks = len(one.chain.links[0].calls)
                stages.append({"node": one.chain.main.node.name, "nodes": nodes, "engine": one.engine.name, "blocks": blocks})
            row.append([number, one.block, next(calls).counted])
        steps.append(row)
    return {
        "schema": SCHEMA,
        "clock_mhz": cost.clock_mhz,
        "bytes_per_cycle": cost.words_per_cycle * program.design.lanes,
        "interfaces": {pointer: cost.ports[bundle] for pointer, bundle in program.bundles.items()},
        "engines": {engine.name: [slot.op for slot in engine.slots] for engine in program.engines},
        "fifos": {name: [queue.depth, queue.bits] for name, queue in fifos(program).items()},
        "stages": stages,
        "steps": steps,
        "entries": {entry: [steps.start, steps.stop] for entry, steps in program.entries.items() if entry},
    }
