"""A few of the decoders that `make sweep-decoders` goes through by the hundred."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from random_decoders import sweep
from random_decoders.check import Case, check_golden, planned
from random_decoders.grow import MLPS, SCALINGS, Recipe

GOLDEN, EMITTED = range(1000, 1008), (17,)
"""The latter's entries have engines of their own."""


@pytest.mark.parametrize("number", GOLDEN)
def test_blocks_and_steps_give_the_whole(number: int) -> None:
    _, kind, why, _ = sweep.outcome(number, every=0)
    assert kind == "equal", why


@pytest.mark.parametrize("number", EMITTED)
def test_cpp_gives_the_whole_too(number: int) -> None:
    """In sessions that take turns, are forked and begin anew."""
    _, kind, why, _ = sweep.outcome(number, every=1)
    assert kind == "equal", why


def test_everything_comes_up() -> None:
    recipes = [Case.drawn(number).recipe for number in range(300)]
    assert {one.mlp for one in recipes} == set(MLPS) and {one.scaling for one in recipes if one.turn} == set(SCALINGS)
    for field in fields(Recipe):
        found = {getattr(one, field.name) for one in recipes}
        assert len(found) > 1, field.name
    assert {where for one in recipes for where in one.norms} == {"pre", "post", "sub", "heads"}
    cases = [Case.drawn(number) for number in range(100)]
    assert {one.cache for one in cases} == {"int8", "k4v8", "int4"} and {one.sessions for one in cases} == {1, 2, 3}
    assert {one.head for one in cases} == {"device", "host"}
    assert (
        {one.timed for one in cases} == {False, True}
        and {one.keys for one in cases} == {1, 2, 4}
        and {one.settings.activations for one in cases} == {"static", "dynamic"}
    )


def test_a_difference_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that all lie where the first ones do."""
    case = Case.drawn(GOLDEN[0])
    state = planned(case, tmp_path)
    assert state.decoder is not None
    monkeypatch.setattr("attnc.decoding.golden._rows", lambda held, position, rows: slice(0, rows))
    with pytest.raises(AssertionError, match="golden at"):
        check_golden(case, state.decoder)
