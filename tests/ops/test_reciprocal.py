"""reciprocal: integers against float; the C++ is compared inside softmax."""

from __future__ import annotations

import numpy as np

from attnc.ops.exponential import output_multiplier
from attnc.ops.reciprocal import DIVISIONS, RECIPROCAL_TABLE, SEGMENTS, reciprocal, softmax_scale_newton


def test_relative_error_stays_below_its_bound() -> None:
    rng = np.random.default_rng(0)
    powers = np.int64(1) << np.arange(62, dtype=np.int64)
    wide = (2.0 ** rng.uniform(20, 62, 1_000_000)).astype(np.int64)
    v = np.concatenate([np.arange(1, 1 << 20), powers, powers[1:] - 1, powers + 1, wide])
    mantissa, exponent = reciprocal(v)
    assert mantissa.min() >= 1 << 16 and mantissa.max() < 1 << 17
    relative = mantissa * 2.0 ** -(17.0 + exponent) * v.astype(np.float64) - 1
    print(f"max {np.abs(relative).max():.2e}, rms {np.sqrt(np.square(relative).mean()):.2e}")
    # Chords of 64 segments, which take as many words, leave 6.0e-5.
    assert 1.5e-5 < np.abs(relative).max() < 2.1e-5


def test_table_follows_the_float_function() -> None:
    middle = 1 + (np.arange(SEGMENTS) + 0.5) / SEGMENTS
    assert np.abs(np.array(RECIPROCAL_TABLE.values) / 4096 * middle - 1).max() < 3e-4 and len(RECIPROCAL_TABLE.values) == 128


def test_factor_of_a_softmax() -> None:
    rng = np.random.default_rng(0)
    edges = [2 ** np.arange(15, 32), 2 ** np.arange(16, 32) - 1]
    total = np.concatenate([2**15 + np.arange(1 << 17), rng.integers(2**15, 2**31, 100_000), *edges])
    for factor in (1.0, 2.0**15, 0.37, 7.3, 1.0000001):
        for choice in DIVISIONS.values():
            multiplier, shift = choice.scale(total, *output_multiplier(factor))
            assert multiplier.min() >= 1 << 14 and multiplier.max() < 1 << 17 and shift.max() <= 62
            found = multiplier / 2.0**shift
            assert (np.abs(found * total / factor - 1)).max() <= choice.error + 2**-17
    assert softmax_scale_newton(np.array([0]), 1 << 16, 17)[0] == 0
