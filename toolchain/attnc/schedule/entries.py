"""Cycles of the entries of a decoder's program, by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnc.schedule.cost import Estimate, estimate
from attnc.schedule.devices import Board
from attnc.schedule.program import Program


def entry_cycles(program: Program, cost: Estimate) -> dict[str, int]:
    """Estimated cycles of each entry, where `cost` is that of the program as it is stated."""
    calls = iter(cost.calls)
    found: dict[str, int] = {}
    for step in program.steps:
        found[step[0].entry] = found.get(step[0].entry, 0) + sum(next(calls).counted for _ in step)
    return found


def by_position(program: Program, cost: Estimate, board: Board, positions: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    """Estimates of the entries at positions, on the memories and ports of `cost`."""
    rows = []
    for at in positions:
        placed = program.at(at)
        for entry, cycles in entry_cycles(placed, estimate(placed, board, cost.clock_mhz, cost.places, cost.ports)).items():
            rows.append({"entry": entry, "position": at[entry], "cycles": cycles, "ms": round(cycles / cost.clock_mhz / 1000, 6)})
    return sorted({(row["entry"], row["position"]): row for row in rows}.values(), key=lambda row: (row["entry"], row["position"]))
