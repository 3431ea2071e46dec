"""rsqrt: integers against float; the C++ is compared inside layer_normalization."""

from __future__ import annotations

import numpy as np

from attnc.ops.rsqrt import RSQRT_TABLE, SEGMENTS, rsqrt


def test_relative_error_stays_below_its_bound() -> None:
    rng = np.random.default_rng(0)
    powers = np.int64(1) << np.arange(62, dtype=np.int64)
    wide = (2.0 ** rng.uniform(20, 62, 1_000_000)).astype(np.int64)
    v = np.concatenate([np.arange(1, 1 << 20), powers, powers[1:] - 1, powers + 1, wide])
    mantissa, exponent = rsqrt(v)
    assert mantissa.min() >= 1 << 16 and mantissa.max() < 1 << 17
    relative = mantissa * 2.0 ** -(17.0 + exponent) * np.sqrt(v.astype(np.float64)) - 1
    assert np.abs(relative).max() < 2**-16


def test_table_follows_the_float_function() -> None:
    middle = 1 + (np.arange(SEGMENTS) + 0.5) / 128
    error = np.array(RSQRT_TABLE.values) / 4096 * np.sqrt(middle) - 1
    assert len(RSQRT_TABLE.values) == 384 and np.abs(error).max() < 3e-4
