"""Hulls, ladders and the descent, on damages that are made up."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from attnc.search.budget import Budget, Score
from attnc.search.ladder import Ladder, Option, Position, descend, hull

BUDGET = Budget("cosine", 0.9)


def layers(seed: int, count: int, formats: int) -> dict[str, list[Option]]:
    """Damages that about fall fourfold per bit, with exceptions."""
    rng = np.random.default_rng(seed)
    made = {}
    for i in range(count):
        size = int(rng.integers(1, 9)) * 100
        damages = rng.uniform(0.0001, 0.01) * 4.0 ** np.arange(formats) * rng.uniform(0.5, 2, formats)
        made[f"layer{i}"] = [Option(j, size * (formats - j), float(damage)) for j, damage in enumerate(damages)]
    return made


def damage(ladder: Ladder, position: Position) -> float:
    return sum(ladder.hulls[name][i].damage for name, i in position.items())


@pytest.mark.parametrize("seed", range(20))
def test_hull_is_the_lower_hull(seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = [Option(i, float(rng.integers(1, 30)), float(rng.integers(0, 30))) for i in range(12)]
    found = hull(options)
    assert [o.bytes for o in found] == sorted({o.bytes for o in found}, reverse=True)
    assert [o.damage for o in found] == sorted({o.damage for o in found})
    for weight in np.geomspace(1e-3, 1e3, 400):
        assert min(o.damage + weight * o.bytes for o in found) == pytest.approx(min(o.damage + weight * o.bytes for o in options))


def test_hull_of_options_without_damage_is_the_cheapest() -> None:
    assert hull([Option(i, 10 - i, 0.0) for i in range(4)]) == [Option(3, 7, 0.0)]


def test_a_ladder_begins_finest_and_ends_cheapest() -> None:
    ladder = Ladder({name: hull(options) for name, options in layers(1, 5, 4).items()})
    assert ladder.position(0) == dict.fromkeys(ladder.hulls, 0)
    assert ladder.position(len(ladder.steps)) == {name: len(found) - 1 for name, found in ladder.hulls.items()}
    points = [ladder.position(i) for i in range(len(ladder.steps) + 1)]
    sizes, damages = [ladder.bytes(p) for p in points], [damage(ladder, p) for p in points]
    slopes = -np.diff(damages) / np.diff(sizes)
    assert (np.diff(sizes) < 0).all() and (np.diff(slopes) >= -1e-12).all()
    assert ladder.spread(6)[0] == 0 and ladder.spread(6)[-1] == len(ladder.steps)


@pytest.mark.parametrize("seed", range(12))
def test_the_descent_is_near_the_best(seed: int) -> None:
    """Where damages are as estimated: within 4 % of the best of all assignments, in few measurements."""
    options = layers(seed, 6, 4)
    ladder = Ladder({name: hull(found) for name, found in options.items()})
    measured: list[Position] = []

    def measure(ladder: Ladder, position: Position) -> Score:
        if position not in measured:
            measured.append(position)
        return Score(1 - damage(ladder, position))

    found = descend(ladder, BUDGET, measure)
    assert found is not None and BUDGET.holds(measure(ladder, found))
    best = min(sum(o.bytes for o in choice) for choice in product(*options.values()) if 1 - sum(o.damage for o in choice) >= BUDGET.bound)
    assert best <= ladder.bytes(found) <= 1.04 * best
    assert len(measured) <= 7 + 5 + 8 + 1


@pytest.mark.parametrize("seed", range(12))
def test_only_what_was_measured_to_hold_is_taken(seed: int) -> None:
    """Estimates that are wrong by factors, and a metric that is noisy."""
    ladder = Ladder({name: hull(found) for name, found in layers(seed, 10, 5).items()})
    rng = np.random.default_rng(seed)
    wrong = {name: rng.uniform(0.1, 10) for name in ladder.hulls}
    known: dict[str, Score] = {}

    def measure(ladder: Ladder, position: Position) -> Score:
        real = sum(wrong[name] * ladder.hulls[name][i].damage for name, i in position.items())
        return known.setdefault(str(sorted(position.items())), Score(1 - real * rng.uniform(0.8, 1.2)))

    found = descend(ladder, BUDGET, measure)
    if found is None:
        assert not BUDGET.holds(measure(ladder, ladder.position(0)))
    else:
        assert BUDGET.holds(known[str(sorted(found.items()))])


def test_a_budget_out_of_reach_and_one_that_all_hold() -> None:
    ladder = Ladder({name: hull(found) for name, found in layers(0, 4, 4).items()})
    assert descend(ladder, BUDGET, lambda ladder, position: Score(0.5)) is None
    assert descend(ladder, BUDGET, lambda ladder, position: Score(0.95)) == ladder.position(len(ladder.steps))
    assert descend(Ladder({}), BUDGET, lambda ladder, position: Score(0.95)) == {}
