"""Depths of the FIFOs that the emitted accelerator declares, by name: a schedule may give others (`fifos`)."""

from __future__ import annotations

from collections.abc import Mapping

from attnc.kernels.storage import SHALLOW
from attnc.schedule.engine import PASSING, Engine
from attnc.schedule.program import Program

DEEPEST = 1 << 16
"""That a schedule may ask for."""


def engine_fifos(engine: Engine) -> dict[str, int]:
    """Of one engine: its streams, those between its slots, and those inside a slot."""
    found = {f"{engine.name}.{stream.name}": stream.depth for stream in engine.streams}
    for number, slot in enumerate(engine.slots):
        if slot.tap:
            found[f"{engine.name}.tapped_{number}"] = PASSING
        if number + 1 < len(engine.slots):
            found[f"{engine.name}.chain_{number + 1}"] = SHALLOW
        if engine.chained and engine.converts(number):
            found[f"{engine.slot_name(number)}.narrow"] = PASSING
        for fifo in slot.kernel.network.fifos:
            found[f"{engine.slot_name(number)}.{fifo.name}"] = fifo.depth(slot.kernel.names)
    return found


def fifos(program: Program) -> Mapping[str, int]:
    """Of all engines, with the depths that the program was given in place of the usual ones."""
    usual = {name: depth for engine in program.engines for name, depth in engine_fifos(engine).items()}
    return {name: program.depths.get(name, depth) for name, depth in usual.items()}
