"""The floor plan of memories: a cell for each block RAM and UltraRAM of the board, by the engine and buffer that takes it (estimates)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from attnc.page.markup import count, percent, tag

NAMES = {"bram36": "Block RAM of 36 Kbit", "uram": "UltraRAM of 288 Kbit"}
CELLS = 600
"""Beyond, a cell stands for several blocks."""


@dataclass(frozen=True)
class Part:
    """What takes so many blocks; colour 0 is of no engine."""

    name: str
    blocks: float
    colour: int


def parts(facts: Mapping[str, Any], kind: str) -> list[Part]:
    """Who takes memory of a kind: buffers of engines, what else engines take (FIFOs and tables), ports and control."""
    cost, found, in_engines = facts["estimate"], [], 0.0
    for number, engine in enumerate(facts["engines"], 1):
        buffers = [(b["name"], b.get("engines", {}).get(engine["name"], {}).get(kind, 0)) for b in cost["buffers"]]
        taken = engine["resources"][kind]
        in_engines += taken
        found += [Part(f"{engine['name']}: {name}", blocks, number) for name, blocks in buffers if blocks]
        others = taken - sum(blocks for _, blocks in buffers)
        if others > 0:
            found.append(Part(f"{engine['name']}: FIFOs and tables", others, number))
    rest = cost["resources"][kind]["used"] - in_engines
    return found + ([Part("memory ports and control", rest, 0)] if rest > 0 else [])


def floor_plan(facts: Mapping[str, Any], kind: str) -> Markup:
    """Cells in rows, then what they are."""
    row, taken = facts["estimate"]["resources"][kind], parts(facts, kind)
    share = f"{percent(row['used'], row['available'])}, limit {count(row['limit'])}"
    title = f"{NAMES[kind]}: {count(row['used'])} of {count(row['available'])} ({share})"
    size = max(1, math.ceil(max(row["available"], sum(part.blocks for part in taken)) / CELLS))
    cells = [
        tag("i", title=f"{part.name}: {part.blocks:g}", class_=f"c{part.colour}")
        for part in taken
        for _ in range(round(part.blocks / size))
    ]
    cells += [tag("i") for _ in range(max(0, row["available"] // size - len(cells)))]
    rows = [
        tag("li", tag("i", class_=f"c{part.colour}"), tag("span", part.name), tag("b", f"{part.blocks:g}"))
        for part in sorted(taken, key=lambda part: -part.blocks)
    ]
    note = tag("p", f"A cell stands for {size} blocks.", class_="note") if size > 1 else ""
    plan = tag("div", *cells, class_="cells", role="img", aria_label=title)
    return tag("div", tag("h3", title), plan, note, tag("ul", *rows, class_="keys"), class_="plan")
