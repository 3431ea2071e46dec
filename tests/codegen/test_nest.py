"""Index arrays as affine walks."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.codegen.nest import Nest, affine_nest


def replay(nest: Nest) -> np.ndarray:
    index = np.asarray(nest.offset)
    for count, stride in zip(nest.counts, nest.strides, strict=True):
        index = index[..., np.newaxis] + stride * np.arange(count)
    return index.ravel()


GRID = np.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


@pytest.mark.parametrize(
    "index",
    [
        GRID,
        GRID.transpose(0, 2, 3, 1),
        GRID.transpose(3, 1, 0, 2),
        GRID.reshape(2, 3, 4, 2, 4, 2).transpose(0, 2, 4, 1, 3, 5),
        GRID[:, 1:2, ::2, ::-1],
        GRID[0, 0, 0, :1],
        np.broadcast_to(GRID[:1], (5, 3, 8, 8)),
    ],
)
def test_views_are_nests(index: np.ndarray) -> None:
    nest = affine_nest(index)
    assert nest is not None
    np.testing.assert_array_equal(replay(nest), index.ravel())


def test_a_shuffle_is_no_nest() -> None:
    assert affine_nest(np.random.default_rng(0).permutation(64)) is None


def test_random_nests_are_replayed_or_refused() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        index = rng.integers(-9, 9) + sum(
            stride * np.arange(count).reshape([-1 if axis == i else 1 for axis in range(3)])
            for i, (count, stride) in enumerate(zip(rng.integers(1, 5, 3), rng.integers(-20, 20, 3), strict=True))
        )
        nest = affine_nest(index)
        if nest is not None:
            np.testing.assert_array_equal(replay(nest), index.ravel())
