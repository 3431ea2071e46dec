"""unary, implementation "polynomial": a quadratic in |x| per sign, times x where the function grows; no table.

Functions those of `COEFFICIENTS`; leaky_relu, relu_squared, hard_sigmoid and hard_swish are such polynomials, the others close to one.
Scales   x s16 or s8 with a power of two for scale, 2**-5 to 2**-15; of any scale for leaky_relu and relu_squared. y one per tensor.
Method   u = min(|x|, limit); h = (q*u + r)*u + p below `limit`, `end` from there on, with p, q, r, end and 16 fraction bits chosen by
         the sign of x; f = h or f = h * x. The forms for gelu, sigmoid and their like are 1 - a*(limit - u)**2 and its mirror image, as
         in I-BERT, with constants that make the largest error smallest.
Rounding both steps of h and y half up, saturation to the range of y. leaky_relu and relu_squared round y alone.
Error    over all 65,536 inputs, before the rounding to y: `ERROR_BOUNDS`; gelu 1.5e-2 (1.8e-2 with the constants of I-BERT). For
         functions of any scale relative to the largest |f| of the inputs. Then 0.5 + |y| * 2**-17 steps of y.
Source   I-BERT (arXiv 2101.01321) for the forms of gelu.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnc.arrays import Array
from attnc.fixedpoint import Int64, bits_for, check_bits, quantize_multiplier, requantize, shift_round_half_up
from attnc.ir import Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.resources import Resources
from attnc.kernels.unary_polynomial import UNARY_POLYNOMIAL
from attnc.ops.approximation import Implementation, times
from attnc.ops.base import product_bits, scalar_scale
from attnc.ops.functions import PARAMETRIC, Function
from attnc.ops.requantize import activation
from attnc.ops.unary_method import VALUE_BITS, Method, fraction_bits, input_fraction, rescaling_lane, unary_calls

LEAST_FRACTION = 5
ANY_SCALE = 15
"""Functions that commute with scaling take x as a number in [-1, 1)."""
COEFFICIENT_BITS = 18
ACC_BITS = 36


@dataclass(frozen=True)
class Side:
    """h(u) = p + r*u + q*u*u for u < limit, `end` from there on."""

    p: float = 0.0
    r: float = 0.0
    q: float = 0.0
    end: float = 0.0

    def integers(self) -> tuple[int, int, int, int]:
        """Coefficients in units of 2**-16, in the order of the kernel's scalars."""
        p, r, q, end = (round(value * (1 << VALUE_BITS)) for value in (self.p, self.r, self.q, self.end))
        return p, r, q, end


@dataclass(frozen=True)
class Quadratic:
    """f(x) = h(|x|), times x if `linear`; one side for x < 0, one for x >= 0."""

    linear: bool
    limit: float
    negative: Side
    positive: Side


def _rising(limit: float, a: float, linear: bool, low: float = 0.0) -> Quadratic:
    """1 - a*(limit - |x|)**2 for x >= 0, and its mirror image in (1 + low)/2 for x < 0."""
    p, r = 1 - a * limit**2, 2 * a * limit
    return Quadratic(linear, limit, Side(1 + low - p, -r, a, low), Side(p, r, -a, 1.0))


def _ramp(alpha: float, linear: bool) -> Quadratic:
    """clip(alpha*x + 1/2, 0, 1)."""
    return Quadratic(linear, 0.5 / alpha, Side(p=0.5, r=-alpha), Side(p=0.5, r=alpha, end=1.0))


COEFFICIENTS: dict[str, Quadratic] = {
    "gelu": _rising(2.58, 0.065557, True),
    "gelu_sigmoid": _rising(2.90, 0.044637, True),
    "gelu_sigmoid_bf16": _rising(2.90, 0.044637, True),
    "gelu_tanh": _rising(2.58, 0.065459, True),
    "gelu_tanh_bf16": _rising(2.58, 0.065459, True),
    "hard_sigmoid": _ramp(1 / 6, False),
    "hard_sigmoid_0.2": _ramp(0.2, False),
    "hard_swish": _ramp(1 / 6, True),
    "leaky_relu": Quadratic(True, 2.0, Side(p=0.01), Side(p=1.0)),
    "relu_squared": Quadratic(True, 2.0, Side(), Side(r=1.0)),
    "sigmoid": _rising(4.10, 0.5 / 4.10**2, False),
    "silu": _rising(4.92, 0.015603, True),
    "tanh": _rising(2.04, 1 / 2.04**2, False, -1.0),
}

ERROR_BOUNDS = {
    "gelu": 1.5e-2,
    "gelu_sigmoid": 2.3e-2,
    "gelu_sigmoid_bf16": 2.4e-2,
    "gelu_tanh": 1.5e-2,
    "gelu_tanh_bf16": 1.5e-2,
    "hard_sigmoid": 2.2e-5,
    "hard_sigmoid_0.2": 1.5e-5,
    "hard_swish": 6.5e-5,
    "leaky_relu": 2.0**-17,
    "relu_squared": 0.0,
    "sigmoid": 2.0e-2,
    "silu": 3.9e-2,
    "tanh": 4.0e-2,
}
"""Largest absolute error per function; relative to the largest |f| where x has any scale."""
PARAMETRIC_BOUNDS = {"hard_sigmoid": 6.0e-5, "leaky_relu": 2.0**-17}
"""For every alpha."""


def quadratic(function: Function) -> Quadratic | None:
    """The polynomial of a function; those with a parameter in their names are made here."""
    stem, _, text = function.name.rpartition("_")
    if function.name in COEFFICIENTS:
        return COEFFICIENTS[function.name]
    if stem == "leaky_relu" and stem in PARAMETRIC:
        return Quadratic(True, 2.0, Side(p=float(text)), Side(p=1.0))
    return _ramp(float(text), False) if stem == "hard_sigmoid" else None


def polynomial(x: Int64, form: Quadratic, fraction: int) -> Int64:
    """f of x (`fraction` fraction bits) in units of 2**-16, or of 2**-(16 + fraction) where it is linear, exactly as the kernel."""
    u = np.minimum(np.abs(x), limit(form, fraction))
    sides = zip(form.negative.integers(), form.positive.integers(), strict=True)
    p, r, q, end = (np.where(x < 0, below, above) for below, above in sides)
    h = shift_round_half_up(q * u, fraction) + r
    h = shift_round_half_up(h * u, fraction) + p
    h = np.where(u < limit(form, fraction), h, end)
    result: Int64 = h * x if form.linear else h
    return result


def limit(form: Quadratic, fraction: int) -> int:
    """First |x| that takes `end`; one that no input reaches where there is no end."""
    return min(round(form.limit * (1 << fraction)), 1 << 16)


class Polynomial(Method):
    """A quadratic."""

    name = "polynomial"
    network = UNARY_POLYNOMIAL

    def implementation(self, function: Function) -> Implementation | None:
        """For functions that are close to a quadratic."""
        if quadratic(function) is None:
            return None
        error = ERROR_BOUNDS.get(function.name, PARAMETRIC_BOUNDS.get(function.name.rpartition("_")[0]))
        assert error is not None
        return Implementation(self.name, error, 0, _lane(ACC_BITS))

    def accepts(self, function: Function, x: TensorType) -> bool:
        """A power of two, unless the function commutes with scaling."""
        found = fraction_bits(x)
        return bool(function.degree) or (found is not None and LEAST_FRACTION <= found <= 15)

    def quantize(self, node: Node, function: Function, x: TensorType, output: TensorType) -> None:
        """Factor to the output, width of the products."""
        where, form = self.where(node), quadratic(function)
        assert form is not None
        activation(x, where)
        fraction = ANY_SCALE if function.degree else input_fraction(self, node, x, LEAST_FRACTION)
        bits = check_bits(_product_bits(form, fraction, min(x.magnitude, limit(form, fraction)), x.magnitude), f"{where}: products", 43)
        unit = scalar_scale(x, where) * 2.0**fraction
        real = 2.0 ** -(VALUE_BITS + (fraction if form.linear else 0)) * unit**function.degree
        multiplier, shift = quantize_multiplier(real / scalar_scale(output, where))
        product_bits(node, bits)
        node.params = {"multiplier": multiplier, "shift": shift}
        node.attrs["fraction"], node.attrs["acc_bits"] = fraction, bits

    def golden(self, node: Node, function: Function, x: Int64, output: TensorType) -> Int64:
        """The polynomial, then requantize."""
        form = quadratic(function)
        assert form is not None
        return requantize(polynomial(x, form, node.attrs["fraction"]), node.params["multiplier"], node.params["shift"], *output.range)

    def evaluate(self, function: Function, x: Int64, fraction_bits: int) -> Array:
        """The polynomial."""
        form = quadratic(function)
        assert form is not None
        fraction = ANY_SCALE if function.degree else fraction_bits
        unit = 2.0 ** (fraction - fraction_bits)
        result: Array = polynomial(x, form, fraction) * 2.0 ** -(VALUE_BITS + (fraction if form.linear else 0)) * unit**function.degree
        return result

    def lower(self, node: Node, function: Function, ctx: Lowering) -> list[Call]:
        """A call per block of rows: coefficients are scalars, so one engine serves every function."""
        form = quadratic(function)
        assert form is not None
        fraction = node.attrs["fraction"]
        scalars = {"fraction": fraction, "limit": limit(form, fraction), "linear": int(form.linear)}
        for sign, side in (("n", form.negative), ("p", form.positive)):
            scalars |= {f"{sign}{degree}": value for degree, value in zip(("0", "1", "2", "_end"), side.integers(), strict=True)}
        return unary_calls(self, node, ctx, {"AccT": node.attrs["acc_bits"]}, None, scalars)

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run."""
        return times(_lane(kernel.arg("AccT")), kernel.arg("L")) + Resources(lut=350, ff=500)


def _product_bits(form: Quadratic, fraction: int, inner: int, magnitude: int) -> int:
    """Width of every product, rounding and sum, from the coefficients, the largest u and the largest |x|."""
    widest = 0
    for side in (form.negative, form.positive):
        p, r, q, end = (abs(value) for value in side.integers())
        first = q * inner
        second = ((first >> fraction) + 1 + r) * inner
        h = max((second >> fraction) + 1 + p, end)
        widest = max(widest, first, second, h * magnitude if form.linear else h)
    return max(bits_for(2 * widest), 34)


def _lane(acc: int) -> Resources:
    """Per lane a magnitude, the products q*u (one DSP), h*u and h*x (one each up to 27 bits of h, else two), two roundings, and the
    factor."""
    wide = 1 if acc - 17 <= 27 else 2
    return Resources(lut=17 + 6 * acc + 60, ff=17 + 6 * acc + 60, dsp=1 + 2 * wide) + rescaling_lane(acc)
