"""How large the elements are that the streams of engines move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attnc.kernels.call import Walk
from attnc.kernels.memory import parts_of
from attnc.schedule.engine import Engine, Instruction


def sized(engines: tuple[Engine, ...], instructions: Sequence[Instruction], widens: bool) -> tuple[Engine, ...]:
    """Storers through which only 16-bit vectors pass move one per cycle, where `widens`; which streams move elements of 4 bits, and which
    caches of two precisions."""
    sizes: dict[tuple[str, int, str], set[int]] = {}
    scales: dict[tuple[int, str], int] = {}
    for instruction in instructions:
        for stream, walk in instruction.walks:
            if stream.kind in ("load", "store") and walk.vectors:
                place = stream.kind, instruction.engine.index, stream.name
                if walk.before:
                    scales[place[1:]] = max(scales.get(place[1:], 0), _scales(walk, len(stream.pointers)))
                sizes.setdefault(place, set()).add(0 if walk.half else walk.bytes)
    wide = {(index, name) for (kind, index, name), found in sizes.items() if widens and kind == "store" and found == {2}}
    small = {(index, name) for (_, index, name), found in sizes.items() if 0 in found}
    own = [[frozenset(name for index, name in found if index == engine.index) for found in (wide, small)] for engine in engines]
    mixed = [tuple((name, most) for (index, name), most in scales.items() if index == engine.index) for engine in engines]
    return tuple(
        replace(engine, wide=wide, small=small, mixed=turns) for engine, (wide, small), turns in zip(engines, own, mixed, strict=True)
    )


def _scales(walk: Walk, pointers: int) -> int:
    """Of tokens, that each of so many pointers brings at most."""
    if walk.scales is None:
        return 0
    return max(part[1] for part in parts_of([each.counts[3] for each in (*walk.before, walk)], pointers))
