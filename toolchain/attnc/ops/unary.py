"""unary: y = f(x) elementwise, f one of `attnc.ops.functions.FUNCTIONS`.

Shapes   x, y [R, C].
Scales   x s16 with a power of two for scale, 2**-11 (range [-16, 16)) unless attribute `fraction_bits` says otherwise (5 to 15), which
         calibration lowers where a function that does not settle sees more: one ROM serves every layer all the same. y one per
         tensor. relu and identity commute with scaling: any type, no ROM.
Method   segments of 1/32 over [-8, 8), or [-16, 16) for functions that settle slowly, values rounded to 2**-16; linear tails of
         slope 0 or 1 that continue the ends. The interpolation is exact; it is rounded once, by requantize.
Rounding half up, saturation to the range of y.
Error    |f(x) - ROM| over all 65,536 inputs, before the rounding to y: `ERROR_BOUNDS`, gelu 1.0e-4. Then 0.5 + |y| * 2**-17 steps of y.
         relu and identity as requantize.
Padding  the kernel writes 0 beyond the channels, whatever f(0) is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from attnc.fixedpoint import Int64, bits_for, check_bits, clamp, quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.ops.base import (
    Array,
    Call,
    IntType,
    KernelCall,
    Lowering,
    Operator,
    Port,
    Resources,
    Shape,
    Table,
    product_bits,
    scalar_scale,
)
from attnc.ops.functions import FUNCTIONS, Function
from attnc.ops.requantize import activation, rescale_call, rescale_factors, rescale_resources
from attnc.ops.storage import storage

STEP_BITS = 5
VALUE_BITS = 16
DELTA_BITS = 14
ENTRY_BITS = 36
"""A block RAM is 36 bits wide."""
FRACTION_BITS = 11
MIN_FRACTION_BITS = 5
RANGE_HEADROOM = 1.25
"""The range reaches this far beyond what calibration saw, as that of other 16-bit types."""
BEND_MIN = 1e-6
"""Below this much of a unit, a difference is noise of the float evaluation."""

ERROR_BOUNDS = {
    "gelu": 1.0e-4,
    "gelu_sigmoid": 1.1e-4,
    "gelu_tanh": 1.0e-4,
    "hard_sigmoid": 6.0e-6,
    "hard_swish": 4.0e-5,
    "sigmoid": 1.6e-5,
    "silu": 6.0e-5,
    "softplus": 3.1e-5,
    "tanh": 1.0e-4,
}
"""Largest absolute error of the interpolation per function."""


@cache
def nodes(name: str) -> tuple[int, ...]:
    """f at the ends of the segments, from -limit to limit, in units of 2**-16.

    A chord lies above a convex function and below a concave one, so values are rounded the other way: down where f is convex,
    up where it is concave. The two errors then do not add up, and tails end on their asymptotes.
    """
    function = FUNCTIONS[name]
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
    return Table(f"unary_{name}", IntType(ENTRY_BITS), tuple(int(v) for v in (base << DELTA_BITS) + delta + half))


def interpolate(x: Int64, function: Function, step: int) -> Int64:
    """f of x (step + 5 fraction bits) in units of 2**-(16 + step), exactly as the kernel."""
    entries = np.array(rom(function.name).values, np.int64)
    half = entries.size // 2
    segment = (x >> step) + half
    below, above = segment < 0, segment >= entries.size
    entry = entries[np.clip(segment, 0, entries.size - 1)]
    base, delta = entry >> DELTA_BITS, (entry & ((1 << DELTA_BITS) - 1)) - (1 << (DELTA_BITS - 1))
    along = np.where(below, 0, np.where(above, 1 << step, x & ((1 << step) - 1)))
    past = np.where(below, function.left * (x + (half << step)), np.where(above, function.right * (x - (half << step)), 0))
    result: Int64 = (base << step) + delta * along + (past << (VALUE_BITS - STEP_BITS))
    return result


class Unary(Operator):
    """An elementwise function."""

    name = "unary"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of the input."""
        if node.attrs["function"] not in FUNCTIONS:
            raise GraphError(f"node {node.name!r} (unary): needs one of {', '.join(FUNCTIONS)}, found {node.attrs['function']!r}")
        return inputs[0]

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """f(x)."""
        return FUNCTIONS[node.attrs["function"]](inputs[0])

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """s16 with `fraction_bits` fraction bits; any type where no ROM is needed."""
        if FUNCTIONS[node.attrs["function"]].homogeneous:
            return None
        return TensorType(16, True, np.asarray(2.0 ** -node.attrs.get("fraction_bits", FRACTION_BITS)))

    def adapt(self, node: Node, peaks: Sequence[float]) -> None:
        """As many fraction bits as the range allows; a function that is constant beyond its ROM needs no more range."""
        function, bits = FUNCTIONS[node.attrs["function"]], node.attrs.get("fraction_bits", FRACTION_BITS)
        if function.left or function.right:
            while bits > MIN_FRACTION_BITS and peaks[0] * RANGE_HEADROOM > 2.0 ** (15 - bits):
                bits -= 1
        node.attrs["fraction_bits"] = bits

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Position of the segments in x, factor to the output, width of the interpolation."""
        where = f"node {node.name!r} (unary {node.attrs['function']})"
        function = FUNCTIONS[node.attrs["function"]]
        if function.homogeneous:
            multiplier, shift = rescale_factors(inputs[0], output, where)
            node.params = {"multiplier": multiplier, "shift": shift}
            return
        x = activation(inputs[0], where)
        activation(output, where)
        mantissa, exponent = math.frexp(scalar_scale(x, where))
        step = 1 - exponent - STEP_BITS
        if mantissa != 0.5 or not 0 <= step <= 10:
            raise GraphError(f"{where}: needs a scale of 2**-5 to 2**-15, found {float(x.scale):g}")
        low, high = x.range
        bound = int(np.abs(interpolate(np.arange(low, high + 1), function, step)).max())
        # The end of the last segment that x reaches is a partial result too.
        bits = check_bits(max(bits_for(bound + (1 << (DELTA_BITS + step))), 32), f"{where}: interpolation", 43)
        multiplier, shift = quantize_multiplier(2.0 ** -(VALUE_BITS + step) / scalar_scale(output, where))
        product_bits(node, bits)
        node.params = {"multiplier": multiplier, "shift": shift}
        node.attrs["step"], node.attrs["acc_bits"] = step, bits

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Interpolation, then requantize."""
        function, (low, high) = FUNCTIONS[node.attrs["function"]], output.range
        x = inputs[0].astype(np.int64)
        if not function.homogeneous:
            x = interpolate(x, function, node.attrs["step"])
        result = requantize(x, node.params["multiplier"], node.params["shift"], low, high)
        return clamp(result, max(low, _floor(function, low)), high).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """One call: the kernel buffers no rows."""
        x, y = node.inputs[0], node.output
        function, (rows, channels) = FUNCTIONS[node.attrs["function"]], ctx.graph.value(x).shape
        low, high = ctx.graph.type(y).range
        if function.homogeneous:
            return [rescale_call(node, ctx, (ctx.walk(x), ctx.walk(y)), rows, low=max(low, _floor(function, low)))]
        kernel = KernelCall(
            header="attnc/unary.hpp",
            function="attnc::unary",
            template_args=(
                ("XT", IntType(16)),
                ("AccT", IntType(node.attrs["acc_bits"])),
                ("YT", IntType(16)),
                ("Rom", rom(function.name)),
                ("L", ctx.design.lanes),
            ),
            ports=(Port("x", "load"), Port("y", "store")),
            scalars=("rows", "tiles", "channels", "step", "left", "right", "multiplier", "shift", "low", "high"),
        )
        factors = (int(node.params["multiplier"]), int(node.params["shift"]))
        scalars = (rows, ctx.tiles(x), channels, node.attrs["step"], function.left, function.right, *factors, low, high)
        return [Call(node.name, kernel, (ctx.walk(x), ctx.walk(y)), scalars, {"unary": rows * ctx.tiles(x)})]

    def resources(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        Per lane a ROM of its own, one DSP for the interpolation and two for the factor (18 by more than 27 bits), and shifters,
        adders and a clamp of the widths of interpolation and product.
        """
        if kernel.function == "attnc::rescale":
            return rescale_resources(kernel)
        lanes, acc = kernel.arg("L"), kernel.arg("AccT")
        table = dict(kernel.template_args)["Rom"]
        entries = len(table.values) if isinstance(table, Table) else 0
        logic = Resources(
            lut=lanes * (4 * acc + 5 * (acc + 19)) + 300,
            ff=lanes * (3 * acc + 3 * (acc + 19)) + 400,
            dsp=lanes * (2 if acc <= 27 else 3),
        )
        return logic + storage(entries, ENTRY_BITS, banks=lanes)


def _floor(function: Function, low: int) -> int:
    """The smallest integer that a homogeneous function gives: 0 for relu, none (`low`) else."""
    return 0 if function.low == 0 else low
