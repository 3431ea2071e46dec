"""What passes the ports of the board in a step, and how much later than if it were alone: the pointers of a port take turns, and all ports
share the DDR.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

TURN = 16
"""Beats that a port of the board serves for one before it serves another, as the simulation has it."""
Key = TypeVar("Key")
Channel = tuple[str, bool]
"""A pointer, bundle or port of the board, and whether it is written."""


class Passed(NamedTuple):
    """What passes a port: cycles, and turns that it takes there, TURN beats at most, each of one burst."""

    cycles: int = 0
    turns: int = 0

    def and_(self, other: Passed) -> Passed:
        """Both."""
        return Passed(self.cycles + other.cycles, self.turns + other.turns)

    def part(self, cycles: int) -> Passed:
        """So many cycles of them, and as many of the turns."""
        return Passed(cycles, math.ceil(self.turns * cycles / self.cycles) if cycles else 0)


class Moved(NamedTuple):
    """What a stream moves through a pointer; `ahead` are the cycles of it that its loader asks for as soon as it starts, about."""

    channel: Channel
    stream: str
    passed: Passed
    ahead: int

    def at(self, ports: Mapping[str, str]) -> Channel:
        """The port of its pointer, in its direction."""
        return ports[self.channel[0]], self.channel[1]


@dataclass(frozen=True)
class Beside:
    """What the other engines of a step move through each port and direction: the share of all cycles, cycles of what each of their
    pointers asks for at its start, all at once, and how many pointers they have there."""

    share: Mapping[Channel, float] = field(default_factory=dict)
    eager: Mapping[Channel, Sequence[int]] = field(default_factory=dict)
    pointers: Mapping[Channel, int] = field(default_factory=dict)

    def meanwhile(self, channel: Channel, cycles: int, turns: int) -> int:
        """Cycles of a port that they take in so many cycles, before something of one's own has passed in so many turns: of what a pointer
        asks for at the start, as many turns as one's own."""
        asked = sum(min(eager, turns * TURN) for eager in self.eager.get(channel, ()))
        wanted = max(round(cycles * self.share.get(channel, 0)), asked)
        return min(wanted, self.pointers.get(channel, 0) * turns * TURN)

    def elsewhere(self, cycles: int, own: Iterable[Channel]) -> dict[Channel, int]:
        """What they take in so many cycles through the channels that have nothing of one's own."""
        channels = {*self.eager, *self.share} - {*own}
        return {one: min(max(round(cycles * self.share.get(one, 0)), sum(self.eager.get(one, ()))), cycles) for one in channels}

    def later(self) -> Beside:
        """Behind the first part."""
        return Beside(self.share, {}, self.pointers)

    def asking(self, more: Iterable[tuple[Channel, int]]) -> Beside:
        """With what more pointers ask for at its start."""
        eager, pointers = dict(self.eager), dict(self.pointers)
        for channel, cycles in more:
            eager[channel] = [*eager.get(channel, ()), cycles]
            pointers[channel] = pointers.get(channel, 0) + 1
        return Beside(self.share, eager, pointers)


ALONE = Beside()


def by_port(found: Iterable[tuple[Key, Passed]]) -> dict[Key, Passed]:
    """What passes each port in all."""
    result: dict[Key, Passed] = {}
    for port, passed in found:
        result[port] = result.get(port, Passed()).and_(passed)
    return result


def direction(channel: Channel) -> str:
    """A port in words."""
    return f"{channel[0]} writes" if channel[1] else channel[0]


def most(found: Mapping[Key, Passed]) -> Passed:
    """The most cycles and the most turns of any port."""
    return Passed(max((one.cycles for one in found.values()), default=0), max((one.turns for one in found.values()), default=0))


def slowed(cycles: Mapping[Channel, int], served: float) -> dict[Channel, int]:
    """In how many cycles each passes so much, where the DDR serves as many channels at full rate: where more are busy, all have turns."""
    found, at, clock = dict[Channel, int](), 0, 0.0
    for number, (channel, own) in enumerate(sorted(cycles.items(), key=lambda item: item[1])):
        clock += (own - at) * max((len(cycles) - number) / served, 1.0)
        at = own
        found[channel] = round(clock)
    return found
