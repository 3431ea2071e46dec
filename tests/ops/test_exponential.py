"""The exponentials that softmax and attention share, over their whole domain; the C++ is compared inside softmax."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.kernels.numbers import PROBABILITY_BITS
from attnc.ops.exponential import EXP2, EXP2_ROM, FRACTION_BITS, exp2_negative, exp2_of, output_multiplier, softmax_scale


@pytest.mark.parametrize("segments", [4, 8, 16, 32])
def test_roms_are_the_float_function(segments: int) -> None:
    exact = 2.0 ** (PROBABILITY_BITS - np.arange(segments + 1) / segments)
    assert np.abs(np.array(EXP2[f"chord{segments}"].rom.values) - exact).max() <= 0.5


def test_table_is_the_float_function() -> None:
    assert np.abs(np.array(EXP2["table"].rom.values) - 2.0 ** (PROBABILITY_BITS - np.arange(1024) / 1024)).max() <= 0.5


@pytest.mark.parametrize("name", EXP2)
def test_exponential_over_its_whole_domain(name: str) -> None:
    d, rom = np.arange(1 << 16), EXP2[name].rom
    p = exp2_negative(d, rom) / 2**PROBABILITY_BITS
    error = np.abs(p - 2.0 ** (-d / 2**FRACTION_BITS))
    octave = error[: 1 << FRACTION_BITS]
    print(f"{name}: max {error.max():.2e}, rms of the first octave {np.sqrt(np.square(octave).mean()):.2e}")
    assert EXP2[name].error / 2 <= error.max() <= EXP2[name].error
    assert p[0] == 1.0
    assert (np.diff(p) <= 0).all()
    np.testing.assert_array_equal(exp2_negative(np.array([16 << FRACTION_BITS, 1 << 26]), rom), 0)


def test_errors_are_no_larger_than_what_others_reach() -> None:
    """2**f on [0, 1) by chords, twice what 2**-f is off, and I-BERT's quadratic."""
    published = {"chord4": 6.9e-3 / 2, "chord8": 1.85e-3 / 2, "chord16": 5e-4 / 2, "chord32": 1.6e-4 / 2, "polynomial": 2.1e-3}
    d = np.arange(1 << 14)
    for name, bound in published.items():
        error = np.abs(exp2_negative(d, EXP2[name].rom) / 2**PROBABILITY_BITS - 2.0 ** (-d / 2**FRACTION_BITS))
        assert error.max() <= bound, name


def test_a_rom_says_which_implementation_it_belongs_to() -> None:
    for choice in EXP2.values():
        assert exp2_of(choice.rom) is choice and exp2_of(choice.rom.name) is choice
    assert EXP2["chord32"].rom == EXP2_ROM
    assert len({len(choice.rom.values) for choice in EXP2.values()}) == len(EXP2)


def test_reciprocal_is_within_its_bound() -> None:
    rng = np.random.default_rng(0)
    edges = [2 ** np.arange(15, 32), 2 ** np.arange(16, 32) - 1]
    total = np.concatenate([2**15 + np.arange(1 << 17), rng.integers(2**15, 2**31, 100_000), *edges])
    for factor in (1.0, 2.0**15, 0.37, 7.3, 1.0000001):
        multiplier, shift = softmax_scale(total, *output_multiplier(factor))
        assert multiplier.max() < 1 << 17
        assert shift.max() <= 62
        found = multiplier / 2.0**shift
        assert (np.abs(found * total / factor - 1)).max() <= 3.1e-5 + 2**-17
    assert softmax_scale(np.array([0]), 1 << 16, 17)[0] == 0
