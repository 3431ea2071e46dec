"""The one place where integers are rounded, saturated and rescaled.

Mirrors `attnc/fixedpoint.hpp` name for name. Callers keep every product below 2**63, which `check_bits` proves from the widths of the
types and not from the data. Arrays are int64, or whole numbers in float64 (`carrier`): for those processors have vector instructions.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc.errors import OverflowRiskError

Int64 = npt.NDArray[np.int64]

MULTIPLIER_BITS = 17
"""Mantissa bits of a multiplier: with its sign it fills the 18-bit port of a DSP48."""
MAX_SHIFT = 62
DOUBLE_BITS = 52
"""Whole numbers below 2**52 and their halves are exact in float64."""
BYTE_PRODUCT_TERMS = 1 << 15
"""A sum of as many products of two bytes, with sign or without, fits int32."""
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


def carrier(bits: int) -> np.dtype[Any]:
    """The type in which whole numbers of `bits` bits with sign are computed fastest: float64 while it is exact, else int64."""
    return np.dtype(np.float64 if bits <= DOUBLE_BITS else np.int64)


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


def requantize(
    acc: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike, low: int, high: int, dtype: npt.DTypeLike = np.int64
) -> npt.NDArray[Any]:
    """clamp(acc * multiplier / 2**shift), rounded half up, as `dtype`; `acc` may be whole numbers in float64."""
    total = _scaled(acc, multiplier, shift)
    return np.clip(total, low, high, out=total).astype(dtype, copy=False)


def scale_round_half_up(
    x: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike, dtype: npt.DTypeLike = np.int64
) -> npt.NDArray[Any]:
    """x * multiplier / 2**shift, rounded to nearest, ties towards plus infinity, as `dtype`; as `requantize`, without its limits."""
    return _scaled(x, multiplier, shift).astype(dtype, copy=False)


def _scaled(x: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike) -> npt.NDArray[Any]:
    """x * multiplier / 2**shift, rounded half up: whole numbers, in float64 where that is exact, and otherwise in int64.

    Exact means |x * multiplier| < 2**52. Then x * (multiplier / 2**shift) has at most 52 bits. Adding 1/2 takes at most 53 of them while
    shift <= 53; beyond, the quotient is below 1/4, and whichever way the sum is rounded, its floor is 0 as it should be.
    """
    x, multiplier, shift = np.asarray(x), np.asarray(multiplier), np.asarray(shift, np.int64)
    if _bound(x) * _bound(multiplier) < 1 << DOUBLE_BITS:
        # One array for all steps, here and below: most of golden's time is memory traffic.
        total = np.asarray(x.astype(np.float64, copy=False) * np.ldexp(multiplier.astype(np.float64), -shift))
        np.add(total, 0.5, out=total)
        return np.floor(total, out=total)
    total = np.asarray(x.astype(np.int64) * multiplier.astype(np.int64) + _half(shift))
    return np.right_shift(total, shift, out=total)


def _bound(x: npt.NDArray[Any]) -> int:
    """A bound of |x|: that of its type where it has 32 bits or fewer, else that of its numbers."""
    if x.dtype.kind in "iu" and x.dtype.itemsize <= 4:
        return 1 << (8 * x.dtype.itemsize)
    return max(-int(x.min(initial=0)), int(x.max(initial=0)))


def bit_length(x: npt.ArrayLike) -> Int64:
    """Bits of each non-negative integer below 2**63 (0 has none)."""
    x = np.asarray(x, np.int64)
    # Without the bits next to a higher one: the highest stays, and rounding to a double cannot carry beyond it.
    return np.frexp((x & ~(x >> 1)).astype(np.float64))[1].astype(np.int64)


@cache
def _byte_product() -> Any:
    """Product of two matrices of unsigned bytes, 128 taken off each, in int32; a third of the time of floats.

    onnxruntime's kernels for two unsigned operands are exact on every processor; those for a mixed pair saturate on some (AVX2).
    """
    import onnxruntime
    from onnx import TensorProto, helper

    operands = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name, shape in (("a", "mk"), ("b", "kn"))]
    zero = helper.make_tensor("zero", TensorProto.UINT8, [], [128])
    node = helper.make_node("MatMulInteger", ["a", "b", "zero", "zero"], ["y"])
    graph = helper.make_graph([node], "bytes", operands, [helper.make_tensor_value_info("y", TensorProto.INT32, "mn")], [zero])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def matmul(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer], magnitude: int, dtype: npt.DTypeLike = np.int64) -> npt.NDArray[Any]:
    """Exact integer a @ b; `magnitude` bounds |a * b| of one product, `dtype` must hold the sums.

    Two matrices of bytes are multiplied as such. Others go through float BLAS: single precision carries integers up to 2**24 and double
    up to 2**53 exactly; NumPy's own integer matmul is slow. A long sum is cut into pieces that single precision carries, twice as fast
    as double, and one matrix `b` serves all of `a` in a single product.
    """
    terms = a.shape[-1]
    if magnitude * terms >= 1 << 53:
        raise OverflowRiskError(f"a product of {terms} terms up to {magnitude} needs {math.ceil(math.log2(magnitude * terms))} bits")
    if b.ndim == 2 and a.ndim > 2:
        return matmul(a.reshape(-1, terms), b, magnitude, dtype).reshape(*a.shape[:-1], b.shape[1])
    if b.ndim == 2 and a.dtype == b.dtype == np.int8 and terms <= BYTE_PRODUCT_TERMS:
        result: npt.NDArray[Any] = _byte_product().run(None, {"a": a.view(np.uint8) ^ 0x80, "b": b.view(np.uint8) ^ 0x80})[0]
        return result.astype(dtype, copy=False)
    step = (1 << 24) // max(magnitude, 1)
    if step < min(terms, SINGLE_PRECISION_TERMS):
        return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(dtype, copy=False)
    result = np.matmul(a[..., :step].astype(np.float32), b[..., :step, :].astype(np.float32)).astype(dtype)
    for at in range(step, terms, step):
        part = np.matmul(a[..., at : at + step].astype(np.float32), b[..., at : at + step, :].astype(np.float32))
        np.add(result, part, out=result, casting="unsafe")
    return result
