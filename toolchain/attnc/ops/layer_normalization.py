"""layer_normalization: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta over the channels of each row.

Shapes   x, y [R, C], gamma, beta [C]. With attribute `group` every `group` consecutive channels are normalised on their own; the lanes
         must then divide the group. With `counted` only so many channels of a group count; behind them x and gamma are 0, and y is.
         With attribute `rows_together` as many rows that follow each other are normalised as one. C is the
         number of elements that are normalised together in what follows.
Scales   x one per tensor; y one per tensor or per channel (a smoothed output): gamma and beta are divided by it.
Method   S = sum x, Q = sum x^2 exactly; V = C*Q - S^2 + max(1, rint(epsilon * C^2 / s_x^2));
         z = (C*x - S) * rsqrt(V) with 16 fraction bits: x times a factor of the row, plus an offset of the row;
         y = (z*gamma_q + beta_q) / 2**shift. gamma_q has 18 bits with sign, beta_q
         up to 40; the shift is shared, the largest for which all of them fit.
Rounding z and y half up, y saturated to its range.
Error    in steps of y of channel c, before saturation, with g = |gamma[c]| / s_y[c] and |z| <= sqrt(C - 1):
         0.5 + g * (|z| * 2**-16 + 2**-17) + |z| * 2**(15 - shift) + 2**-(shift + 1) against float arithmetic on the same integers x;
         epsilon as an integer moves z by at most |z| / (2 * (C*Q - S^2)) more, and a row that is not constant has C*Q - S^2 >= C - 1.
         With `centred` = False (rms_normalization.py) S = 0, |z| <= sqrt(C), and C*Q >= C in a row that is not zero.
Widths   V below 2**62, so that more than `MOST_WIDE` elements together are bytes; all others from C, the type of x, gamma_q and beta_q.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import ClassVar

import numpy as np

from attnc.arrays import Array, Shape
from attnc.errors import OverflowRiskError
from attnc.fixedpoint import bits_for, carrier, check_bits, requantize, scale_round_half_up
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.layer_normalization import GAIN_WORDS, LAYER_NORMALIZATION, RECORD_WORDS
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator, scalar_scale
from attnc.ops.requantize import activation, byte_planes, shift_clamps
from attnc.ops.rsqrt import MANTISSA_BITS, RSQRT_TABLE, rsqrt

Z_BITS = 16
GAMMA_BYTES, BETA_BYTES = GAIN_WORDS, RECORD_WORDS - GAIN_WORDS
MAX_SHIFT = 40
GAMMA_LIMIT = (1 << 17) - 1
BETA_LIMIT = (1 << 39) - 1
V_LIMIT = (1 << 62) - 1
MOST_WIDE = 46340
"""Elements of 16 bits whose variance V holds."""


class LayerNormalization(Operator):
    """Normalization over channels."""

    name = "layer_normalization"
    per_channel_output = True
    centred: ClassVar[bool] = True
    """Whether the mean is taken off."""

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of the input."""
        channels = inputs[0][1]
        for name in ("gamma", "beta") if self.centred else ("gamma",):
            if node.params[name].shape != (channels,):
                raise GraphError(f"node {node.name!r}: {name} {node.params[name].shape} on input {inputs[0]}")
        size = group(node, channels)
        if size < 1 or channels % size:
            raise GraphError(f"node {node.name!r}: needs groups that divide {channels} channels, found groups of {size}")
        if together(node) < 1 or inputs[0][0] % together(node):
            raise GraphError(f"node {node.name!r}: needs runs of rows that divide {inputs[0][0]} rows, found runs of {together(node)}")
        return inputs[0]

    def operand_bits(self, node: Node, index: int) -> int:
        """16, or 8 where the variance of so many elements would not fit."""
        return 16 if elements(node) <= MOST_WIDE else 8

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """A tile belongs to one group."""
        size = group(node, inputs[0][1])
        return size if size < inputs[0][1] else 0

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Population variance, or mean square, over the channels of a group."""
        whole = split(node, inputs[0])
        x = whole[..., : counted(node, inputs[0].shape[2])]
        centred = x - x.mean(axis=NORMALISED, keepdims=True) if self.centred else x
        variance = np.square(centred).mean(axis=NORMALISED, keepdims=True)
        result = centred / np.sqrt(variance + node.attrs["epsilon"])
        if x.shape != whole.shape:
            result = np.pad(result, [*[(0, 0)] * (x.ndim - 1), (0, whole.shape[-1] - x.shape[-1])])
        result = result.reshape(inputs[0].shape) * node.params["gamma"]
        return result + node.params["beta"] if self.centred else result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Integer epsilon, gamma, beta and their shift; all widths."""
        where = f"node {node.name!r} ({self.name})"
        x = activation(inputs[0], where)
        activation(output, where)
        gamma = np.asarray(node.params["gamma"], np.float64)
        channels, peak = elements(node), x.magnitude
        spread = (channels * peak) ** 2
        check_bits(bits_for(spread), f"{where}: {channels} elements: variance", 61)
        epsilon = node.attrs["epsilon"] * (channels / scalar_scale(x, where)) ** 2
        node.attrs["epsilon_int"] = int(min(max(1, round(min(epsilon, 2.0**62))), V_LIMIT - spread))
        gamma, beta, shift = affine(gamma, np.asarray(node.params.get("beta", np.zeros(gamma.size)), np.float64), output, where)
        # |C*x - S| <= sqrt(C-1) * sqrt(V), or sqrt(C) * sqrt(V) for S = 0; the mantissa of rsqrt is off by less than 2**-15.
        furthest = max(channels - 1, 1) if self.centred else channels
        z_peak = math.ceil(math.sqrt(furthest) * (1 + 2**-15) * (1 << Z_BITS)) + 1
        acc = z_peak * int(np.abs(gamma).max()) + int(np.abs(beta).max()) + (1 << shift)
        node.attrs["shift"] = shift
        node.attrs["widths"] = {
            "CountT": bits_for(channels),
            "SumT": bits_for(channels * peak),
            "SquareT": bits_for(channels * peak**2),
            "VT": check_bits(bits_for(spread + node.attrs["epsilon_int"]), f"{where}: variance", 62),
            "DT": check_bits(bits_for(2 * channels * peak), f"{where}: centred input", 43),
            "ZT": bits_for(z_peak),
            "AccT": check_bits(max(bits_for(acc), 42), f"{where}: affine sum"),
        }
        node.params = {"gamma": gamma, "beta": beta}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """As the kernel: exact sums, integer rsqrt, two roundings."""
        channels, widths, p = elements(node), node.attrs["widths"], node.params
        x = split(node, inputs[0].astype(carrier(widths["SquareT"])))
        squares = np.square(x).sum(axis=NORMALISED, keepdims=True).astype(np.int64)
        total = x.sum(axis=NORMALISED, keepdims=True).astype(np.int64) if self.centred else np.zeros_like(squares)
        mantissa, exponent = rsqrt(channels * squares - total * total + node.attrs["epsilon_int"])
        np.subtract(np.multiply(x, channels, out=x), total.astype(x.dtype), out=x)
        acc = scale_round_half_up(x, mantissa, MANTISSA_BITS - Z_BITS + exponent, carrier(widths["AccT"])).reshape(inputs[0].shape)
        np.add(np.multiply(acc, p["gamma"].astype(acc.dtype), out=acc), p["beta"].astype(acc.dtype), out=acc)
        return requantize(acc, 1, node.attrs["shift"], *output.range, output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows and group; of rows that are normalised together per run of them."""
        x, y = node.inputs[0], node.output
        lanes, widths = ctx.design.lanes, node.attrs["widths"]
        (height, every), run = ctx.graph.value(x).shape, together(node)
        channels = group(node, every)
        groups, tiles = every // channels, math.ceil(channels / lanes)
        if groups > 1 and channels % lanes:
            raise GraphError(f"node {node.name!r} ({self.name}): {lanes} lanes must divide groups of {channels} channels")
        # A run of rows passes as blocks that the buffer holds side by side, each tile by tile: they are tiles of fewer rows.
        rows_at_once = max(size for size in range(1, min(run, ctx.design.rows) + 1) if run % size == 0)
        pieces, size = run // rows_at_once, RECORD_WORDS if self.centred else GAIN_WORDS
        blocks = ctx.row_blocks(x) if run == 1 else [(row, run) for row in range(0, height, run)]

        def pack() -> bytes:
            p = node.params
            planes = [byte_planes(p["gamma"], GAMMA_BYTES, lanes), byte_planes(p["beta"], BETA_BYTES, lanes)]
            return np.repeat(np.concatenate(planes, axis=1)[:, :size], pieces, axis=0).tobytes()

        sizes = {**widths, "CountT": max(widths["CountT"], (tiles * lanes).bit_length() + 1)}
        kernel = KernelCall(
            network=LAYER_NORMALIZATION,
            template_args=(
                ("XT", IntType(16)),
                *((name, IntType(bits)) for name, bits in sizes.items()),
                ("YT", IntType(16)),
                ("Rom", RSQRT_TABLE),
                ("L", lanes),
                ("TILES_MAX", tiles * pieces),
                ("ROWS_MAX", ctx.design.rows),
            ),
        )
        epsilon = node.attrs["epsilon_int"]
        scalars = {"tiles": tiles * pieces, "channels": elements(node), "centred": int(self.centred), "together": int(run > 1)}
        scalars |= {"epsilon_low": epsilon & 0x7FFFFFFF, "epsilon_high": epsilon >> 31, "shift": node.attrs["shift"], **ctx.bounds(y)}
        calls = []
        for (row, rows), first in product(blocks, range(0, groups * tiles, tiles)):
            words = ctx.packed(node.packed, pack, tiles * pieces * size, first * pieces * size)
            calls.append(
                Call(
                    node=node.name,
                    kernel=kernel,
                    walks=(ctx.walk(x, row, rows, first, tiles), words, ctx.walk(y, row, rows, first, tiles)),
                    scalars={"rows": rows // pieces, **scalars},
                )
            )
        return calls

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        DSP: per lane a square, the product with the factor of the row (two where that is wider than 27 bits), which adds its offset, and
        with gamma, which adds beta; once C*Q and S*S (two each), factor and offset (one each), and the rsqrt (four).
        LUT: per lane the shifter to z, `shift_clamp` to y, the adder trees, and a multiplexer between two records of 64 bits. Once for each
        bit of the variance about ten: two additions, the priority encoder, two shifters of the rsqrt and their selection; and 900 for
        its ROM (100), its other additions (100), the delays of a pipeline of 40 stages and the control. Mapped by Yosys 0.70 (synth_xilinx
        -family xcup) as Verilog, without the multipliers, the statistics of 49 bits take 557, a shifter to 22 bits 118, the records of a
        lane 64.
        """
        lanes = kernel.arg("L")
        sums, squares, variance, centred, z, acc = (kernel.arg(name) for name in ("SumT", "SquareT", "VT", "DT", "ZT", "AccT"))
        record = 8 * RECORD_WORDS
        factor, offset = kernel.arg("CountT") + MANTISSA_BITS, max(centred + MANTISSA_BITS + 2, 33)
        logic = shift_clamps(acc, ACTIVATION_BITS, lanes) + Resources(
            lut=lanes * (5 * z + 8 + sums + squares + record) + 10 * variance + 900,
            ff=lanes * (2 * record + 3 * offset + 2 * acc) + 3500,
            dsp=lanes * (3 if factor <= 27 else 4) + (10 if sums <= 27 else 13),
        )
        return logic


def group(node: Node, channels: int) -> int:
    """Channels that are normalised together: attribute `group`, or all."""
    return int(node.attrs.get("group") or channels)


def counted(node: Node, channels: int) -> int:
    """Channels of a group that count: attribute `counted`, or all."""
    return int(node.attrs.get("counted") or group(node, channels))


def together(node: Node) -> int:
    """Rows that are normalised as one: attribute `rows_together`, or 1."""
    return int(node.attrs.get("rows_together", 1))


def elements(node: Node) -> int:
    """Elements that are normalised together."""
    return together(node) * counted(node, node.params["gamma"].size)


NORMALISED = (2, 4)
"""Axes of `split` that are normalised together."""


def split(node: Node, x: Array) -> Array:
    """[samples, R, C] as [samples, runs of rows, rows, groups, channels]."""
    samples, rows, channels = x.shape
    size = group(node, channels)
    return x.reshape(samples, rows // together(node), together(node), channels // size, size)


def affine(gamma: Array, beta: Array, output: TensorType, where: str) -> tuple[Array, Array, int]:
    """gamma and beta in steps of the output as integers, and the shift: gamma_q has shift - 16 fraction bits, beta_q `shift`."""
    gain, offset = gamma / output.scale, beta / output.scale
    if not (np.isfinite(gain).all() and np.isfinite(offset).all()):
        raise GraphError(f"{where}: gamma and beta must be finite and in range of the output's scale")
    shift = MAX_SHIFT
    while shift >= Z_BITS and (
        np.rint(np.abs(gain) * 2.0 ** (shift - Z_BITS)).max() > GAMMA_LIMIT or np.rint(np.abs(offset) * 2.0**shift).max() > BETA_LIMIT
    ):
        shift -= 1
    if shift < Z_BITS:
        found = f"gamma up to {np.abs(gain).max():g} and beta up to {np.abs(offset).max():g} output steps"
        raise OverflowRiskError(f"{where}: {found} are too large")
    return np.rint(gain * 2.0 ** (shift - Z_BITS)).astype(np.int64), np.rint(offset * 2.0**shift).astype(np.int64), shift
