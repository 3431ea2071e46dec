"""The one place where integers are rounded, saturated and rescaled.

Mirrors `attnc/fixedpoint.hpp` name for name. Arrays are int64 inside: callers keep every product below 2**63, which
`check_bits` proves from the widths of the types and not from the data.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from attnc.errors import OverflowRiskError

Int64 = npt.NDArray[np.int64]

MULTIPLIER_BITS = 17
"""Mantissa bits of a multiplier: with its sign it fills the 18-bit port of a DSP48."""
MAX_SHIFT = 62
SINGLE_PRECISION_TERMS = 256
"""A sum is cut into pieces of at least this many terms; shorter ones are not worth it."""


def int_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of `bits` bits."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def bits_for(magnitude: int) -> int:
    """Bits of the narrowest signed type that holds every integer in [-magnitude, magnitude]."""
    return int(magnitude).bit_length() + 1


def check_bits(bits: int, where: str, limit: int = 63) -> int:
    """Return `bits`, or raise when a value that wide would not fit `limit` bits and a sign."""
    if bits > limit + 1:
        raise OverflowRiskError(f"{where}: needs {bits} bits, {limit + 1} are available")
    return bits


def int_dtype(bits: int, signed: bool) -> np.dtype[np.signedinteger] | np.dtype[np.unsignedinteger]:
    """Narrowest NumPy integer type for `bits` bits."""
    for width in (8, 16, 32, 64):
        if bits <= width:
            return np.dtype(f"{'i' if signed else 'u'}{width // 8}")
    raise OverflowRiskError(f"a tensor type of {bits} bits: at most 64 are available")


def clamp(x: npt.ArrayLike, low: int, high: int) -> Int64:
    """Saturate to [low, high]."""
    return np.clip(np.asarray(x, np.int64), low, high)


def shift_round_half_up(x: npt.ArrayLike, shift: npt.ArrayLike) -> Int64:
    """x / 2**shift, rounded to nearest, ties towards plus infinity; shift in [0, 62], |x| < 2**62."""
    shift = np.asarray(shift, np.int64)
    total = np.asarray(np.asarray(x, np.int64) + _half(shift))
    return np.right_shift(total, shift, out=total)


def _half(shift: Int64) -> Int64:
    """What is added before a shift, so that it rounds half up."""
    return np.where(shift > 0, np.left_shift(np.int64(1), np.maximum(shift - 1, 0)), 0)


def quantize_half_even(real: npt.ArrayLike, scale: npt.ArrayLike, low: int, high: int) -> Int64:
    """Float to integer: real / scale, rounded to nearest, ties to even, saturated; NaN becomes 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.asarray(real, np.float64) / np.asarray(scale, np.float64)
    q = np.rint(np.nan_to_num(ratio, nan=0.0, posinf=high, neginf=low))
    return np.clip(q, low, high).astype(np.int64)


def quantize_multiplier(real: npt.ArrayLike, bits: int = MULTIPLIER_BITS) -> tuple[Int64, Int64]:
    """Write each non-negative real factor as multiplier / 2**shift with a mantissa of `bits` bits.

    Relative error at most 2**-bits. A factor of 0, or one below 2**-MAX_SHIFT, becomes (0, 0); one of 2**bits or more raises.
    """
    real = np.asarray(real, np.float64)
    if not np.all(np.isfinite(real)) or np.any(real < 0):
        raise OverflowRiskError(f"a rescaling factor must be finite and not negative, found {real.min()} to {real.max()}")
    mantissa, exponent = np.frexp(real)
    multiplier = np.rint(mantissa * (1 << bits)).astype(np.int64)
    shift = bits - exponent.astype(np.int64)
    carry = multiplier == (1 << bits)
    multiplier, shift = np.where(carry, multiplier >> 1, multiplier), np.where(carry, shift - 1, shift)
    if np.any(shift < 0):
        raise OverflowRiskError(f"a rescaling factor of {real.max():g} exceeds 2**{bits}")
    multiplier = np.where(shift > MAX_SHIFT, 0, multiplier)
    return multiplier, np.where(multiplier == 0, 0, shift)


def requantize(acc: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike, low: int, high: int) -> Int64:
    """clamp(acc * multiplier / 2**shift), rounded half up."""
    shift = np.asarray(shift, np.int64)
    # One array for all steps: most of golden's time is memory traffic.
    total = np.asarray(np.asarray(acc, np.int64) * np.asarray(multiplier, np.int64) + _half(shift))
    np.right_shift(total, shift, out=total)
    return np.clip(total, low, high, out=total)


def bit_length(x: npt.ArrayLike) -> Int64:
    """Bits of each non-negative integer below 2**63 (0 has none)."""
    x = np.asarray(x, np.int64).copy()
    length = np.zeros(x.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        big = x >= (np.int64(1) << step)
        length += np.where(big, step, 0)
        x = np.where(big, x >> step, x)
    return length + (x > 0)


def matmul(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer], magnitude: int) -> Int64:
    """Exact integer a @ b through float BLAS; `magnitude` bounds |a * b| of one product.

    Single precision carries integers up to 2**24 and double up to 2**53 exactly; NumPy's own integer matmul is slow. A long sum is
    cut into pieces that single precision carries, twice as fast as double, and one matrix `b` serves all of `a` in a single product.
    """
    terms = a.shape[-1]
    if magnitude * terms >= 1 << 53:
        raise OverflowRiskError(f"a product of {terms} terms up to {magnitude} needs {math.ceil(math.log2(magnitude * terms))} bits")
    if b.ndim == 2 and a.ndim > 2:
        return matmul(a.reshape(-1, terms), b, magnitude).reshape(*a.shape[:-1], b.shape[1])
    step = (1 << 24) // max(magnitude, 1)
    if step < min(terms, SINGLE_PRECISION_TERMS):
        return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
    result = np.matmul(a[..., :step].astype(np.float32), b[..., :step, :].astype(np.float32)).astype(np.int64)
    for at in range(step, terms, step):
        part = np.matmul(a[..., at : at + step].astype(np.float32), b[..., at : at + step, :].astype(np.float32))
        np.add(result, part, out=result, casting="unsafe")
    return result
