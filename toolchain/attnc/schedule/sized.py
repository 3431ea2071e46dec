"""How large the elements are that the streams of engines move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attnc.schedule.engine import Engine, Instruction


def sized(engines: tuple[Engine, ...], instructions: Sequence[Instruction], widens: bool) -> tuple[Engine, ...]:
    """Storers through which only 16-bit vectors pass move one per cycle, where `widens`; and which streams move elements of 4 bits."""
    sizes: dict[tuple[str, int, str], set[int]] = {}
    for instruction in instructions:
        for stream, walk in instruction.walks:
            if stream.kind in ("load", "store") and walk.vectors:
                place = stream.kind, instruction.engine.index, stream.name
                sizes.setdefault(place, set()).add(0 if walk.half else walk.bytes)
    wide = {(index, name) for (kind, index, name), found in sizes.items() if widens and kind == "store" and found == {2}}
    small = {(index, name) for (_, index, name), found in sizes.items() if 0 in found}
    own = [[frozenset(name for index, name in found if index == engine.index) for found in (wide, small)] for engine in engines]
    return tuple(replace(engine, wide=wide, small=small) for engine, (wide, small) in zip(engines, own, strict=True))
