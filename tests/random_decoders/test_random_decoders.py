"""A few of the decoders that `make sweep-decoders` goes through by the hundred."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers as hf
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from attnc.arrays import Array
from attnc.ir import Held, Node
from attnc.ops.attention_sizes import Mask
from attnc.ops.mixed_caches import operands_seen
from random_decoders import sweep
from random_decoders.check import Case, check_golden, check_refusal, planned
from random_decoders.grow import BASE, FACTOR, MLPS, SCALINGS, Recipe, Writer, frequencies, long_and_short

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


@pytest.mark.parametrize("number", [23, 45, 55])
def test_tables_that_change_with_the_length_are_refused(number: int, tmp_path: Path) -> None:
    """Dynamic NTK, LongRoPE with one of two tables, and with one of two sets of frequencies: from the length on at which they change."""
    case = Case.drawn(number)
    assert case.recipe.lengthy
    onnx.save(Writer(case.recipe).write(), tmp_path / "decoder.onnx")
    check_refusal(case, tmp_path / "decoder.onnx")


def bytes_of_all(node: Node, queries: int, operands: Sequence[Array], low: Sequence[Array]) -> Iterator[tuple[slice, list[Array]]]:
    return operands_seen(node, queries, operands, operands if queries < CHUNKED.block + 1 else low)


def none_of_others(mask: Mask, queries: int, keys: int) -> Array | None:
    return allowed(replace(mask, branches=1), queries, keys)


def all_where_the_first_are(held: Held, position: int, rows: int) -> slice:
    return slice(0, rows)


allowed = Mask.allowed
CHUNKED, TOGETHER = Case.drawn(48), Case.drawn(7)


@pytest.mark.parametrize(
    ("case", "place", "wrong"),
    [
        (Case.drawn(GOLDEN[0]), "attnc.decoding.golden._rows", all_where_the_first_are),
        (CHUNKED, "attnc.ops.attention.operands_seen", bytes_of_all),
        (TOGETHER, "attnc.ops.attention_sizes.Mask.allowed", none_of_others),
    ],
    ids=["places", "chunks", "branches"],
)
def test_a_difference_is_seen(case: Case, place: str, wrong: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that all lie where the first ones do; bytes in place of 4 bits; keys of other branches."""
    state = planned(case, tmp_path)
    assert state.decoder is not None
    monkeypatch.setattr(place, wrong)
    with pytest.raises(AssertionError, match="golden"):
        check_golden(case, state.decoder)
