"""Cycles of the entries of a decoder's program, by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnc.schedule.cost import Estimate, estimate
from attnc.schedule.devices import Board
from attnc.schedule.program import Program


def by_position(program: Program, cost: Estimate, board: Board, positions: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    """Estimates of the entries at positions, on the memories and ports of `cost`."""
    rows = []
    for at in positions:
        placed = program.at(at)
        for entry, cycles in estimate(placed, board, cost.clock_mhz, cost.places, cost.ports).entries.items():
            rows.append({"entry": entry, "position": at[entry], "cycles": cycles, "ms": round(cycles / cost.clock_mhz / 1000, 6)})
    return sorted({(row["entry"], row["position"]): row for row in rows}.values(), key=lambda row: (row["entry"], row["position"]))
