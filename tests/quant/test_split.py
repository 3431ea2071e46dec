"""Which samples calibrate, which are held out, and what is said of those that can support no figure."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.arrays import Array
from attnc.model import TensorSpec
from attnc.quant.split import FEW, doubts, split_samples

SPECS = [TensorSpec("x", np.dtype("float32"), (1, 4), False)]


def draw(count: int, seed: int = 0) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(size=(count, 1, 4)).astype(np.float32)}


@pytest.mark.parametrize(
    ("count", "held_out"),
    [(1, []), (2, [1]), (3, [2]), (4, [3]), (7, [3]), (8, [3, 7]), (16, [3, 7, 11, 15]), (64, list(range(7, 64, 8))), (600, None)],
)
def test_how_many_are_held_out(count: int, held_out: list[int] | None) -> None:
    found = split_samples(draw(count), None)
    assert sorted([*found.calibrating, *found.held_out]) == list(range(count)) and found.distinct == count
    assert len(found.held_out) == 8 if held_out is None else found.held_out.tolist() == held_out


def test_as_asked_for() -> None:
    assert split_samples(draw(9), 4).held_out.tolist() == [3, 7]
    assert split_samples(draw(9), 0).held_out.tolist() == []


def test_equal_samples_are_on_one_side() -> None:
    x = draw(8)["x"].repeat(3, axis=0)
    found = split_samples({"x": x}, None)
    assert found.distinct == 8 and found.held_out.tolist() == [9, 21]
    seen = {row.tobytes() for row in x[found.calibrating]}
    assert len(seen) == 6 and not any(row.tobytes() in seen for row in x[found.held_out])
    assert split_samples({"x": x[:3]}, None).held_out.tolist() == []


@pytest.mark.parametrize(
    ("x", "every", "messages"),
    [
        (draw(FEW)["x"], None, []),
        (draw(1)["x"], None, ["there is 1 sample", "no sample is held out"]),
        (draw(3)["x"], None, ["3 different samples"]),
        (draw(12)["x"], 0, ["no sample is held out"]),
        (np.zeros((12, 1, 4), np.float32), None, ["all 12 samples are equal", "no sample is held out", "input 'x' is 0 in all places"]),
    ],
)
def test_what_is_doubtful(x: Array, every: int | None, messages: list[str]) -> None:
    arrays = {"x": x}
    found = doubts(arrays, SPECS, split_samples(arrays, every), False)
    assert len(found) == len(messages) and all(message in text for message, text in zip(messages, found, strict=True))


def test_samples_from_elsewhere_are_held_out() -> None:
    assert doubts(draw(9), SPECS, split_samples(draw(9), 0), True) == []
