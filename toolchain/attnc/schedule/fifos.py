"""The FIFOs that the emitted accelerator declares, by name: a schedule may give other depths (`fifos`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.kernels.resources import Resources
from attnc.kernels.storage import SHALLOW, fifo
from attnc.schedule.engine import PASSING, Engine
from attnc.schedule.program import Program

DEEPEST = 1 << 16
"""That a schedule may ask for."""


@dataclass(frozen=True)
class Queue:
    """A FIFO of `depth` elements, each of so many bits."""

    depth: int
    bits: int

    @property
    def resources(self) -> Resources:
        """Estimate of what it takes."""
        return fifo(self.bits, self.depth)


def usual_fifos(engine: Engine, lanes: int) -> dict[str, Queue]:
    """Of one engine: its streams, those between its slots, and those inside a slot."""
    passed = 16 * lanes
    found = {f"{engine.name}.{stream.name}": Queue(stream.depth, stream.width(lanes)) for stream in engine.streams}
    for number, slot in enumerate(engine.slots):
        names = slot.kernel.names
        if slot.tap:
            found[f"{engine.name}.tapped_{number}"] = Queue(PASSING, passed)
        if number + 1 < len(engine.slots):
            found[f"{engine.name}.chain_{number + 1}"] = Queue(SHALLOW, passed)
        if engine.chained and engine.converts(number):
            found[f"{engine.slot_name(number)}.narrow"] = Queue(PASSING, slot.kernel.ports[slot.fed].type.bits * lanes)
        for inner in slot.kernel.network.fifos:
            found[f"{engine.slot_name(number)}.{inner.name}"] = Queue(inner.depth(names), inner.element(names).bits)
    return found


def fifos(program: Program) -> dict[str, Queue]:
    """Of all engines, with the depths that the program was given in place of the usual ones."""
    usual = {name: queue for engine in program.engines for name, queue in usual_fifos(engine, program.design.lanes).items()}
    return {name: replace(queue, depth=program.depths.get(name, queue.depth)) for name, queue in usual.items()}
