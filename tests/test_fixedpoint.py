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


WHOLE = st.one_of(*(st.integers(-(2**bits), 2**bits) for bits in (3, 20, 34, 36, 45)))
"""36 bits times a multiplier of 17 bits is where float64 is left for int64."""


@given(st.lists(WHOLE, min_size=1, max_size=4), st.one_of(st.integers(0, 2**17 - 1), st.just(2**16)), st.integers(0, 62), st.booleans())
def test_rescaling_rounds_half_up_in_either_type(acc: list[int], multiplier: int, shift: int, floats: bool) -> None:
    exact = [floor(Fraction(x * multiplier, 2**shift) + Fraction(1, 2)) for x in acc]
    carried = np.array(acc, np.float64 if floats else np.int64)
    found = fp.scale_round_half_up(carried, multiplier, shift)
    assert (found.dtype, found.tolist()) == (np.dtype(np.int64), exact)
    found = fp.requantize(carried, [-multiplier] * len(acc), [shift] * len(acc), -128, 127, np.int8)
    negative = [floor(Fraction(-x * multiplier, 2**shift) + Fraction(1, 2)) for x in acc]
    assert (found.dtype, found.tolist()) == (np.dtype(np.int8), [min(max(x, -128), 127) for x in negative])


@pytest.mark.parametrize("product_bits", [50, 51, 52, 53, 54])
@pytest.mark.parametrize("shift", [0, 1, 2, 30, 50, 51, 52, 53, 54, 55, 62])
def test_rescaling_at_the_limits_of_doubles(product_bits: int, shift: int) -> None:
    """Around the largest products that doubles carry, and around every tie that they can meet."""
    near = [sign * (2**product_bits + d) for sign in (-1, 1) for d in range(-3, 4)]
    near += [sign * 2 ** max(shift - 1, 0) + d for sign in (-1, 1) for d in range(-3, 4)]
    exact = [floor(Fraction(x, 2**shift) + Fraction(1, 2)) for x in near]
    assert [int(fp.scale_round_half_up(x, 1, shift)) for x in near] == exact
    assert fp.scale_round_half_up(near, 1, shift).tolist() == exact


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


def test_bit_length_around_powers_of_two() -> None:
    x = [max(2**k + d, 0) for k in range(62) for d in (-1, 0, 1)] + [2**63 - 1]
    assert fp.bit_length(x).tolist() == [v.bit_length() for v in x]


def test_quantize_ties_to_even_saturates_and_drops_nan() -> None:
    found = fp.quantize_half_even([0.5, 1.5, -0.5, 1e9, -np.inf, np.inf, np.nan], 1.0, -128, 127)
    np.testing.assert_array_equal(found, [0, 2, 0, 127, -128, 127, 0])


@pytest.mark.parametrize("terms", [3, 2000, 70_000])
def test_matmul_is_exact(terms: int) -> None:
    rng = np.random.default_rng(terms)
    a, b = rng.integers(-128, 128, (3, terms)), rng.integers(-128, 128, (terms, 2))
    a[0], b[:, 0] = -128, -128
    np.testing.assert_array_equal(fp.matmul(a, b, 1 << 14), a @ b)


@pytest.mark.parametrize("terms", [1, 2, 63, 384, fp.BYTE_PRODUCT_TERMS, fp.BYTE_PRODUCT_TERMS + 1])
def test_matmul_of_bytes_is_exact_at_the_corners(terms: int) -> None:
    """Rows and columns of the extremes, alternating ones too: what a kernel that saturates on its way gets wrong."""
    rng = np.random.default_rng(terms)
    a = rng.choice(np.array([-128, -127, 0, 127], np.int8), (37, terms))
    b = rng.choice(np.array([-128, -1, 127], np.int8), (terms, 19))
    a[0], a[1], a[2, ::2], a[2, 1::2] = -128, 127, -128, 127
    b[:, 0], b[:, 1], b[::2, 2], b[1::2, 2] = -128, 127, -128, 127
    exact = a.astype(np.int64) @ b.astype(np.int64)
    for columns in (b, np.asfortranarray(b)):
        for dtype in (np.int64, np.float64):
            found = fp.matmul(a[None], columns, 1 << 14, dtype)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, exact[None])


def test_matmul_refuses_what_doubles_cannot_hold() -> None:
    with pytest.raises(OverflowRiskError):
        fp.matmul(np.ones((1, 4), np.int64), np.ones((4, 1), np.int64), 1 << 52)


def test_check_bits() -> None:
    assert fp.check_bits(64, "here") == 64
    with pytest.raises(OverflowRiskError, match="here"):
        fp.check_bits(65, "here")
