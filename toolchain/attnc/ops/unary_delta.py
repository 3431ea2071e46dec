"""unary, implementations "delta8", "delta16" and "delta32": an asymptote minus a table over |x|.

Functions ReLU minus an even function that vanishes (gelu, silu, softplus ...), or a step minus an odd one (sigmoid, tanh ...).
Scales   x s16 with a power of two for scale, from 2**-3, 2**-4 or 2**-5 (for segments of 1/8, 1/16 or 1/32) to 2**-15; y one per tensor.
Method   delta(|x|) linear between entries 1/8, 1/16 or 1/32 apart, up to where it stays below 2**-17 (5.5 for gelu) and 0 beyond, so that
         tails are exact. Entries are moved by half of what the chords beside them are off, which spreads the error to both sides of
         the function; the entry at 0 stays, so that f(0) is exact. The interpolation is exact; it is rounded once, by requantize.
Rounding half up, saturation to the range of y.
Error    |f(x) - ROM| over all 65,536 inputs, before the rounding to y: `ERROR_BOUNDS`; gelu 1.2e-3, 3.0e-4 and 7.4e-5. Then
         0.5 + |y| * 2**-17 steps of y.
Source   Edge-MoE (ReLU minus delta), where the entries lie on the function: 1.6e-3, 3.9e-4 and 9.7e-5 with as many of them.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from attnc.arrays import Array
from attnc.fixedpoint import MULTIPLIER_BITS, Int64, bits_for, check_bits, quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType, Table
from attnc.kernels.resources import Resources
from attnc.kernels.unary_delta import UNARY_DELTA
from attnc.ops.approximation import Implementation, times
from attnc.ops.base import product_bits, scalar_scale
from attnc.ops.functions import Function, find
from attnc.ops.requantize import shift_clamp_lane, wide_products
from attnc.ops.unary_chord import identifier
from attnc.ops.unary_method import VALUE_BITS, Method, fraction_bits, input_fraction, rom_lane, unary_calls

GROWTH_BITS = 16
ENTRY_BITS = 36
VANISHED = 2.0 ** -(VALUE_BITS + 1)
FARTHEST = 16
PROBES = 33
"""Points of a segment at which its chord is compared with the function."""

ERROR_BOUNDS = {
    "erf": (9.9e-4, 2.5e-4, 6.7e-5),
    "gelu": (1.2e-3, 3.0e-4, 7.4e-5),
    "gelu_sigmoid": (1.3e-3, 3.2e-4, 8.2e-5),
    "gelu_sigmoid_bf16": (1.3e-3, 3.2e-4, 8.2e-5),
    "gelu_tanh": (1.2e-3, 3.0e-4, 7.4e-5),
    "gelu_tanh_bf16": (1.2e-3, 3.0e-4, 7.4e-5),
    "hard_sigmoid": (6.5e-6, 6.5e-6, 6.5e-6),
    "hard_sigmoid_0.2": (6.5e-6, 6.5e-6, 6.5e-6),
    "hard_swish": (5.1e-4, 1.3e-4, 3.0e-5),
    "sigmoid": (1.0e-4, 3.2e-5, 1.4e-5),
    "silu": (7.6e-4, 1.9e-4, 4.8e-5),
    "softplus": (3.8e-4, 9.4e-5, 2.3e-5),
    "tanh": (7.8e-4, 2.0e-4, 5.3e-5),
}
"""Largest absolute error per function, for segments of 1/8, 1/16 and 1/32."""


def difference(function: Function, u: Array) -> Array:
    """delta(u) = asymptote(u) - f(u) for u >= 0."""
    return (u if function.delta == "relu" else function.ends[1]) - function(u)


@cache
def nodes(name: str, segment_bits: int) -> tuple[int, ...]:
    """delta at 0, 1/2**segment_bits, ... in units of 2**-16, the last one 0."""
    function = find(name)
    assert function is not None and function.delta
    far = difference(function, np.arange(0, FARTHEST, 0.5) + 1e-9)
    limit = 0.5 * (int(np.nonzero(np.abs(far) >= VANISHED)[0].max()) + 1)
    segments = math.ceil(limit * (1 << segment_bits))
    along = np.linspace(0, 1, PROBES)
    u = (np.arange(segments)[:, None] + along) / (1 << segment_bits)
    value = difference(function, u)
    chord = value[:, :1] + (value[:, -1:] - value[:, :1]) * along
    gap = np.take_along_axis(chord - value, np.abs(chord - value).argmax(axis=1)[:, None], 1)[:, 0]
    inner = value[1:, 0] - (gap[:-1] + gap[1:]) / 4
    return tuple(int(v) for v in np.rint(np.array([value[0, 0], *inner, 0.0]) * (1 << VALUE_BITS)))


@cache
def rom(name: str, segment_bits: int) -> Table:
    """Per segment its value at the start and its growth, in one word."""
    values = np.array(nodes(name, segment_bits), np.int64)
    base, growth, half = values[:-1], np.diff(values), 1 << (GROWTH_BITS - 1)
    if np.abs(growth).max() >= half or bits_for(int(np.abs(values).max())) > ENTRY_BITS - GROWTH_BITS:
        raise GraphError(f"function {name!r} does not fit a ROM entry of {ENTRY_BITS} bits")
    entries = tuple(int(v) for v in (base << GROWTH_BITS) + growth + half)
    return Table(f"unary_delta{1 << segment_bits}_{identifier(name)}", IntType(ENTRY_BITS), entries)


def subtract(x: Int64, function: Function, segment_bits: int, step: int) -> Int64:
    """f of x (step + segment_bits fraction bits) in units of 2**-(16 + step), exactly as the kernel."""
    entries = np.array(rom(function.name, segment_bits).values, np.int64)
    magnitude = np.abs(x)
    segment = magnitude >> step
    entry = entries[np.minimum(segment, entries.size - 1)]
    growth = (entry & ((1 << GROWTH_BITS) - 1)) - (1 << (GROWTH_BITS - 1))
    delta = ((entry >> GROWTH_BITS) << step) + growth * (magnitude & ((1 << step) - 1))
    delta = np.where(segment < entries.size, delta, 0)
    if function.delta == "relu":
        result: Int64 = (np.maximum(x, 0) << (VALUE_BITS - segment_bits)) - delta
        return result
    low, high = ends(function)
    result = np.where(x < 0, (low << step) + delta, (high << step) - delta)
    return result


def ends(function: Function) -> tuple[int, int]:
    """Values of a step in units of 2**-16."""
    low, high = (round(value * (1 << VALUE_BITS)) for value in function.ends)
    return low, high


class Delta(Method):
    """A table over |x| in segments of 2**-segment_bits."""

    network = UNARY_DELTA

    def __init__(self, segment_bits: int) -> None:
        self.segment_bits = segment_bits
        self.name = f"delta{1 << segment_bits}"  # type: ignore[misc]

    def implementation(self, function: Function) -> Implementation | None:
        """For functions with such a symmetry."""
        if not function.delta:
            return None
        entries = len(nodes(function.name, self.segment_bits)) - 1
        bound = ERROR_BOUNDS.get(function.name)
        error = bound[self.segment_bits - 3] if bound else 1.01 * _measured(function.name, self)
        return Implementation(self.name, error, entries * ENTRY_BITS, _lane(entries, 32, 32 - self.segment_bits))

    def accepts(self, function: Function, x: TensorType) -> bool:
        """A power of two."""
        found = fraction_bits(x)
        return found is not None and self.segment_bits <= found <= 15

    def quantize(self, node: Node, function: Function, x: TensorType, output: TensorType) -> None:
        """Position of the segments in x, factor to the output, width of the interpolation."""
        where = self.where(node)
        step = input_fraction(self, node, x, self.segment_bits) - self.segment_bits
        bound = _largest(function.name, self.segment_bits, step, *x.range)
        # The asymptote and delta are partial results too, and so are the terms of delta.
        parts = [abs(v) << step for v in (*nodes(function.name, self.segment_bits), *ends(function))]
        parts.append(x.magnitude << (VALUE_BITS - self.segment_bits))
        bits = check_bits(max(bits_for(max(bound, 2 * max(parts))), 32), f"{where}: interpolation", 43)
        multiplier, shift = quantize_multiplier(2.0 ** -(VALUE_BITS + step) / scalar_scale(output, where))
        product_bits(node, bits)
        node.params = {"multiplier": multiplier, "shift": shift}
        node.attrs["step"], node.attrs["acc_bits"] = step, bits

    def golden(self, node: Node, function: Function, x: Int64, output: TensorType) -> Int64:
        """Interpolation, then requantize."""
        acc = subtract(x, function, self.segment_bits, node.attrs["step"])
        return requantize(acc, node.params["multiplier"], node.params["shift"], *output.range)

    def evaluate(self, function: Function, x: Int64, fraction_bits: int) -> Array:
        """The interpolation."""
        step = fraction_bits - self.segment_bits
        return subtract(x, function, self.segment_bits, step) * 2.0 ** -(VALUE_BITS + step)

    def lower(self, node: Node, function: Function, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        low, high = ends(function)
        relu, step = VALUE_BITS - self.segment_bits if function.delta == "relu" else -1, node.attrs["step"]
        largest = _largest(function.name, self.segment_bits, step, *ctx.graph.type(node.inputs[0]).range)
        widths = {"AccT": node.attrs["acc_bits"], "ValueT": bits_for(largest)}
        scalars = {"step": step, "below": low, "above": high}
        return unary_calls(self, node, ctx, widths, rom(function.name, self.segment_bits), scalars, {"RELU": relu})

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run."""
        table = dict(kernel.template_args)["Rom"]
        entries = len(table.values) if isinstance(table, Table) else 0
        acc, value = kernel.arg("AccT"), kernel.arg("ValueT")
        product = value + MULTIPLIER_BITS + 2
        return times(_lane(entries, acc, value), kernel.arg("L")) + Resources(lut=300 + product, ff=400 + product)


def _lane(entries: int, acc: int, value: int) -> Resources:
    """Per lane a ROM of its own, a magnitude, one DSP for the interpolation, which adds its product to the start of the segment, shifters
    for segment and start (2 LUT per bit of the start's), and a subtraction; then `wide_product` of the value and the factor, and
    `shift_clamp`."""
    lane = rom_lane(entries, ENTRY_BITS) + shift_clamp_lane(value + MULTIPLIER_BITS + 2, ACTIVATION_BITS)
    return lane + Resources(lut=17 + 4 * acc, ff=17 + 3 * acc, dsp=1) + wide_products(value, 1)


@cache
def _largest(name: str, segment_bits: int, step: int, low: int, high: int) -> int:
    """Largest magnitude of what the kernel computes for inputs in [low, high], all of them tried."""
    function = find(name)
    assert function is not None
    return int(np.abs(subtract(np.arange(low, high + 1), function, segment_bits, step)).max())


@cache
def _measured(name: str, method: Delta) -> float:
    function = find(name)
    assert function is not None
    x = np.arange(-32768, 32768)
    return float(max(np.abs(method.evaluate(function, x, n) - function(x * 2.0**-n)).max() for n in (8, 11, 15)))
