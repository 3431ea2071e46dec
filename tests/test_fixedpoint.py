"""Rounding, saturation and rescaling."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnc import fixedpoint as fp
from attnc.errors import OverflowRiskError


@given(st.integers(-(2**61), 2**61), st.integers(0, 62))
def test_shift_rounds_half_up(x: int, shift: int) -> None:
    assert int(fp.shift_round_half_up(x, shift)) == floor(Fraction(x, 2**shift) + Fraction(1, 2))


def test_ties_go_up() -> None:
    np.testing.assert_array_equal(fp.shift_round_half_up([-3, -1, 1, 3], 1), [-1, 0, 1, 2])


@given(st.floats(1e-12, 1e4))
def test_multiplier_is_near(real: float) -> None:
    multiplier, shift = fp.quantize_multiplier(real)
    assert abs(int(multiplier) * 2.0 ** -int(shift) - real) <= real * 2.0**-fp.MULTIPLIER_BITS
    assert 2 ** (fp.MULTIPLIER_BITS - 1) <= multiplier < 2**fp.MULTIPLIER_BITS


def test_multiplier_limits() -> None:
    assert [int(x) for x in fp.quantize_multiplier(0.0)] == [0, 0]
    assert [int(x) for x in fp.quantize_multiplier(1e-30)] == [0, 0]
    multiplier, shift = fp.quantize_multiplier(1.0)
    assert multiplier * 2.0**-shift == 1.0
    for bad in (-1.0, np.nan, np.inf, 2.0**20):
        with pytest.raises(OverflowRiskError):
            fp.quantize_multiplier(bad)


@given(st.integers(0, 2**63 - 1))
def test_bit_length(x: int) -> None:
    assert int(fp.bit_length(x)) == x.bit_length()


def test_quantize_ties_to_even_saturates_and_drops_nan() -> None:
    found = fp.quantize_half_even([0.5, 1.5, -0.5, 1e9, -np.inf, np.inf, np.nan], 1.0, -128, 127)
    np.testing.assert_array_equal(found, [0, 2, 0, 127, -128, 127, 0])


@pytest.mark.parametrize("terms", [3, 2000, 70_000])
def test_matmul_is_exact(terms: int) -> None:
    rng = np.random.default_rng(terms)
    a, b = rng.integers(-128, 128, (3, terms)), rng.integers(-128, 128, (terms, 2))
    a[0], b[:, 0] = -128, -128
    np.testing.assert_array_equal(fp.matmul(a, b, 1 << 14), a @ b)


def test_matmul_refuses_what_doubles_cannot_hold() -> None:
    with pytest.raises(OverflowRiskError):
        fp.matmul(np.ones((1, 4), np.int64), np.ones((4, 1), np.int64), 1 << 52)


def test_check_bits() -> None:
    assert fp.check_bits(64, "here") == 64
    with pytest.raises(OverflowRiskError, match="here"):
        fp.check_bits(65, "here")
