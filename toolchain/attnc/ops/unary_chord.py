"""unary, implementation "chord": f piecewise linear between the entries of a ROM.

Functions every one whose tails are straight lines of slope 0 or 1.
Scales   x s16 with a power of two for scale, 2**-5 to 2**-15; y one per tensor.
Method   segments of 1/32 over [-8, 8), or [-16, 16) for functions that settle slowly, values rounded to 2**-16; linear tails of
         slope 0 or 1 that continue the ends. The interpolation is exact; it is rounded once, by requantize.
Rounding half up, saturation to the range of y.
Error    |f(x) - ROM| over all 65,536 inputs, before the rounding to y: `ERROR_BOUNDS`, gelu 1.0e-4. Then 0.5 + |y| * 2**-17 steps of y.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from attnc.arrays import Array
from attnc.fixedpoint import Int64, bits_for, check_bits, quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import IntType, Table
from attnc.kernels.resources import Resources
from attnc.kernels.unary_chord import UNARY_CHORD
from attnc.ops.approximation import Implementation, times
from attnc.ops.base import product_bits, scalar_scale
from attnc.ops.functions import Function, find
from attnc.ops.unary_method import (
    VALUE_BITS,
    Method,
    every,
    fraction_bits,
    input_fraction,
    rescaling_lane,
    rom_lane,
    unary_calls,
)

STEP_BITS = 5
DELTA_BITS = 14
ENTRY_BITS = 36
"""A block RAM is 36 bits wide."""
BEND_MIN = 1e-6
"""Below this much of a unit, a difference is noise of the float evaluation."""

ERROR_BOUNDS = {
    "elu": 1.2e-4,
    "erf": 1.2e-4,
    "gelu": 1.0e-4,
    "gelu_sigmoid": 1.1e-4,
    "gelu_sigmoid_bf16": 1.1e-4,
    "gelu_tanh": 1.0e-4,
    "gelu_tanh_bf16": 1.0e-4,
    "hard_sigmoid": 6.0e-6,
    "hard_sigmoid_0.2": 6.5e-6,
    "hard_swish": 4.0e-5,
    "mish": 7.7e-5,
    "sigmoid": 1.6e-5,
    "silu": 6.0e-5,
    "softplus": 3.1e-5,
    "tanh": 1.0e-4,
}
"""Largest absolute error of the interpolation per function."""


def identifier(name: str) -> str:
    """The name of a function as part of a C++ identifier."""
    return name.replace(".", "_").replace("-", "m").replace("+", "p")


@cache
def nodes(name: str) -> tuple[int, ...]:
    """f at the ends of the segments, from -limit to limit, in units of 2**-16.

    A chord lies above a convex function and below a concave one, so values are rounded the other way: down where f is convex,
    up where it is concave. The two errors then do not add up, and tails end on their asymptotes.
    """
    function = find(name)
    assert function is not None
    edge, step = function.limit << STEP_BITS, 1 / (1 << STEP_BITS)
    value = function(np.arange(-edge - 1, edge + 2) * step) * (1 << VALUE_BITS)
    bend = value[2:] - 2 * value[1:-1] + value[:-2]
    value = value[1:-1]
    nearest = np.rint(value)
    straight = (np.abs(bend) < BEND_MIN) | (np.abs(value - nearest) < BEND_MIN)
    rounded = np.where(straight, nearest, np.where(bend > 0, np.floor(value), np.ceil(value)))
    return tuple(int(v) for v in rounded)


@cache
def rom(name: str) -> Table:
    """Per segment its value at the start and its growth, in one word."""
    values = np.array(nodes(name), np.int64)
    base, delta = values[:-1], np.diff(values)
    half = 1 << (DELTA_BITS - 1)
    if np.abs(delta).max() >= half or bits_for(int(np.abs(values).max())) > ENTRY_BITS - DELTA_BITS:
        raise GraphError(f"function {name!r} does not fit a ROM entry of {ENTRY_BITS} bits")
    return Table(f"unary_{identifier(name)}", IntType(ENTRY_BITS), tuple(int(v) for v in (base << DELTA_BITS) + delta + half))


def interpolate(x: Int64, function: Function, step: int) -> Int64:
    """f of x (step + 5 fraction bits) in units of 2**-(16 + step), exactly as the kernel."""
    entries = np.array(rom(function.name).values, np.int64)
    half = entries.size // 2
    segment = (x >> step) + half
    below, above = segment < 0, segment >= entries.size
    entry = entries[np.clip(segment, 0, entries.size - 1)]
    base, delta = entry >> DELTA_BITS, (entry & ((1 << DELTA_BITS) - 1)) - (1 << (DELTA_BITS - 1))
    along = np.where(below, 0, np.where(above, 1 << step, x & ((1 << step) - 1)))
    past = np.where(below, (function.left or 0) * (x + (half << step)), np.where(above, function.right * (x - (half << step)), 0))
    result: Int64 = (base << step) + delta * along + (past << (VALUE_BITS - STEP_BITS))
    return result


class Chord(Method):
    """A table of 512 or 1024 segments."""

    name = "chord"
    network = UNARY_CHORD

    def implementation(self, function: Function) -> Implementation | None:
        """For functions with straight tails."""
        if function.left is None or function.degree:
            return None
        entries, acc = function.limit << (STEP_BITS + 1), 36
        return Implementation(self.name, _bound(function), entries * ENTRY_BITS, _lane(entries, acc))

    def accepts(self, function: Function, x: TensorType) -> bool:
        """A power of two."""
        found = fraction_bits(x)
        return found is not None and STEP_BITS <= found <= 15

    def quantize(self, node: Node, function: Function, x: TensorType, output: TensorType) -> None:
        """Position of the segments in x, factor to the output, width of the interpolation."""
        where = self.where(node)
        step = input_fraction(self, node, x, STEP_BITS) - STEP_BITS
        bound = int(np.abs(interpolate(every(x), function, step)).max())
        # The end of the last segment that x reaches is a partial result too.
        bits = check_bits(max(bits_for(bound + (1 << (DELTA_BITS + step))), 32), f"{where}: interpolation", 43)
        multiplier, shift = quantize_multiplier(2.0 ** -(VALUE_BITS + step) / scalar_scale(output, where))
        product_bits(node, bits)
        node.params = {"multiplier": multiplier, "shift": shift}
        node.attrs["step"], node.attrs["acc_bits"] = step, bits

    def golden(self, node: Node, function: Function, x: Int64, output: TensorType) -> Int64:
        """Interpolation, then requantize."""
        return requantize(interpolate(x, function, node.attrs["step"]), node.params["multiplier"], node.params["shift"], *output.range)

    def evaluate(self, function: Function, x: Int64, fraction_bits: int) -> Array:
        """The interpolation."""
        step = fraction_bits - STEP_BITS
        return interpolate(x, function, step) * 2.0 ** -(VALUE_BITS + step)

    def lower(self, node: Node, function: Function, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        scalars = {"step": node.attrs["step"], "left": function.left or 0, "right": function.right}
        return unary_calls(self, node, ctx, {"AccT": node.attrs["acc_bits"]}, rom(function.name), scalars)

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run."""
        table = dict(kernel.template_args)["Rom"]
        entries = len(table.values) if isinstance(table, Table) else 0
        return times(_lane(entries, kernel.arg("AccT")), kernel.arg("L")) + Resources(lut=300, ff=400)


def _lane(entries: int, acc: int) -> Resources:
    """Per lane a ROM of its own, one DSP for the interpolation, `wide_product` for the factor, and shifters, adders
    and a clamp of the widths of interpolation and product."""
    return rom_lane(entries, ENTRY_BITS) + Resources(lut=4 * acc, ff=3 * acc, dsp=1) + rescaling_lane(acc)


@cache
def _measured(name: str) -> float:
    function = find(name)
    assert function is not None
    x = np.arange(-32768, 32768)
    return float(max(np.abs(interpolate(x, function, n - STEP_BITS) * 2.0 ** -(11 + n) - function(x * 2.0**-n)).max() for n in (8, 11, 15)))


def _bound(function: Function) -> float:
    """As stated; for a function with a parameter in its name, as measured over all inputs of three positions of the point."""
    return ERROR_BOUNDS.get(function.name) or 1.01 * _measured(function.name)
