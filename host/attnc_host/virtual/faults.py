"""What can be wrong with a virtual board."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "never done": "a run does not end",
    "done late": "a run ends `value` seconds later",
    "done twice": "done and its interrupt come when a run begins, and again when it ends",
    "lost interrupt": "the interrupt of a run never comes",
    "flip": "a bit of `where` (weights, program, constants, inputs, activations, outputs) flips in the middle of a run",
    "short store": "the last `value` bytes that a run stores to `where` (outputs, activations) never arrive",
    "reordered store": "two beats of what a run stores to `where` arrive in each other's place",
    "short load": "of what the host writes to memory at a time the last `value` bytes never arrive",
    "stale write": "a cache line that the host wrote stays in the cache",
    "stale read": "what the host reads comes from the cache",
    "power": "power goes in the middle of a run, and comes back `value` seconds later: registers and memory are lost",
    "other bitstream": "the hardware is that of another build, until a bitstream is loaded",
    "moved registers": "registers are where a bitstream with a pointer more (`value` 1) or less (-1) has them, until a bitstream is loaded",
}


@dataclass
class Fault:
    """A fault strikes `times` times, after it passed over the first `skip` chances. Chances of what happens to runs are runs of the
    program: the first is that of the golden vector, when a driver opens the board; those of transfers those of more than 64 bytes."""

    kind: str
    where: str = ""
    value: float = 0
    times: int = 1
    skip: int = 0
    struck: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"needed a fault of {', '.join(KINDS)}, found {self.kind!r}")

    def strikes(self) -> bool:
        """Whether it does at this chance."""
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.struck >= self.times:
            return False
        self.struck += 1
        return True
