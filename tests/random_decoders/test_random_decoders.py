"""A few of the decoders that `make sweep-decoders` goes through by the hundred."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from random_decoders import sweep
from random_decoders.check import Case, check_golden, planned
from random_decoders.grow import BASE, FACTOR, MLPS, SCALINGS, Recipe, frequencies, long_and_short

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
    assert {one.branches for one in cases} == {0, 2, 4, 8}
    chunked = [one for one in cases if one.cache != "int8" and not one.branches and one.length > 3 * one.chunk]
    assert {(one.length - 1) % one.chunk for one in chunked if one.chunk > 2} >= {0, 1} and any(
        one.length % one.chunk == 0 for one in chunked
    )
    assert {one.cache for one in cases} == {"int8", "k4v8", "int4"} and {one.sessions for one in cases} == {1, 2, 3}
    assert {one.head for one in cases} == {"device", "host"}
    assert (
        {one.timed for one in cases} == {False, True}
        and {one.keys for one in cases} == {1, 2, 4}
        and {one.settings.activations for one in cases} == {"static", "dynamic"}
    )


@pytest.mark.parametrize("scaling", [name for name in dict.fromkeys(SCALINGS) if name != "ntk"])
def test_angles_are_those_of_transformers(scaling: str) -> None:
    """Of sequences up to the length that a model was trained for, and beyond."""
    long, short = (array.tolist() for array in long_and_short(8))
    given = {"factor": FACTOR, "original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "beta_fast": 2.0, "beta_slow": 0.5, "long_factor": long, "short_factor": short}  # fmt: skip
    config = hf.LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=16)
    config.rope_parameters = {"rope_type": scaling, "rope_theta": BASE, **given}
    for tokens in (9, 16, 17, 50):
        if scaling == "default":
            expected = BASE ** -(np.arange(8) / 8), 1.0
        else:
            expected = ROPE_INIT_FUNCTIONS[scaling](config, torch.device("cpu"), seq_len=tokens)
        found = frequencies(scaling, 16, 16, tokens)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
        assert found[1] == pytest.approx(expected[1])


def test_a_difference_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that all lie where the first ones do."""
    case = Case.drawn(GOLDEN[0])
    state = planned(case, tmp_path)
    assert state.decoder is not None
    monkeypatch.setattr("attnc.decoding.golden._rows", lambda held, position, rows: slice(0, rows))
    with pytest.raises(AssertionError, match="golden at"):
        check_golden(case, state.decoder)
