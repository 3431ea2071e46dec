"""From estimates to a choice that was measured.

Of each layer, only formats on the lower convex hull of damage over bytes count. Steps down these hulls, ordered by damage per byte saved,
form a path from the finest formats everywhere to the cheapest: every point on it is the least estimated damage for its bytes (the
Lagrangian relaxation of the knapsack). Then golden decides: points spread over the path, bisection between the last that holds the
budget and the first that does not, and further single steps beyond it while some hold. Gains are then measured again around the
choice, where they are what matters, and the path is searched once more; the cheapest choice that holds wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from attnc.search.budget import Budget, Score

SPREAD = 6
"""Parts into which the first points cut the path, by bytes."""
TRIES = 8
"""Single steps that are measured beyond the path, each time."""


@dataclass(frozen=True)
class Option:
    """A format of a layer (its index among the candidates), what it takes and what it is estimated to cost."""

    index: int
    bytes: float
    damage: float


def hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull of damage over bytes, from the least damage to the fewest bytes."""
    found: list[Option] = []
    for option in sorted(options, key=lambda o: (o.damage, o.bytes)):
        if found and option.bytes >= found[-1].bytes:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) >= _slope(found[-2], option):
            found.pop()
        found.append(option)
    return found


def _slope(a: Option, b: Option) -> float:
    """Damage per byte saved from a to b."""
    return (b.damage - a.damage) / (a.bytes - b.bytes)


Position = dict[str, int]
"""Per layer, how many steps down its hull."""


@dataclass
class Ladder:
    """Hulls by layer, and the order of the steps down them."""

    hulls: Mapping[str, list[Option]]
    steps: list[str] = field(init=False)

    def __post_init__(self) -> None:
        slopes = [(_slope(found[i], found[i + 1]), name, i) for name, found in sorted(self.hulls.items()) for i in range(len(found) - 1)]
        self.steps = [name for _, name, _ in sorted(slopes)]

    def position(self, steps: int) -> Position:
        """After so many steps."""
        position = dict.fromkeys(self.hulls, 0)
        for name in self.steps[:steps]:
            position[name] += 1
        return position

    def bytes(self, position: Position) -> float:
        """Of the layers."""
        return sum(self.hulls[name][i].bytes for name, i in position.items())

    def spread(self, parts: int) -> list[int]:
        """Numbers of steps that cut the bytes of the path into equal parts, both ends included."""
        sizes = [self.bytes(self.position(count)) for count in range(len(self.steps) + 1)]
        goals = [sizes[0] + (sizes[-1] - sizes[0]) * part / parts for part in range(parts + 1)]
        return sorted({min(range(len(sizes)), key=lambda count: abs(sizes[count] - goal)) for goal in goals})


Measure = Callable[[Ladder, Position], Score]


def descend(ladder: Ladder, budget: Budget, measure: Measure, spread: int = SPREAD) -> Position | None:
    """The cheapest position found that holds the budget; None where not even the finest does."""
    if not budget.holds(measure(ladder, ladder.position(0))):
        return None
    holding, failing = 0, None
    for count in ladder.spread(spread):
        if budget.holds(measure(ladder, ladder.position(count))):
            holding, failing = count, None
        elif failing is None:
            failing = count
    if failing is None:
        return ladder.position(holding)
    while failing - holding > 1:
        middle = (holding + failing) // 2
        if budget.holds(measure(ladder, ladder.position(middle))):
            holding = middle
        else:
            failing = middle
    return _squeeze(ladder, budget, measure, ladder.position(holding), ladder.position(failing))


def _squeeze(ladder: Ladder, budget: Budget, measure: Measure, position: Position, failed: Position) -> Position:
    """Single steps from `position` whose estimated damage is less than that of `failed`, the one that saves most first."""
    refused: set[str] = set()
    left = sum(ladder.hulls[name][failed[name]].damage - ladder.hulls[name][position[name]].damage for name in position)
    for _ in range(TRIES):
        steps = []
        for name, i in position.items():
            found = ladder.hulls[name]
            if name not in refused and i + 1 < len(found) and found[i + 1].damage - found[i].damage < left:
                steps.append((found[i].bytes - found[i + 1].bytes, name))
        if not steps:
            break
        _, name = max(steps)
        trial = {**position, name: position[name] + 1}
        if budget.holds(measure(ladder, trial)):
            left -= ladder.hulls[name][trial[name]].damage - ladder.hulls[name][position[name]].damage
            position = trial
        else:
            refused.add(name)
    return position
