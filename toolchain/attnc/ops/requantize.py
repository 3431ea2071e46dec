"""requantize: the same values as another integer type, y = requantize(x), with a factor per channel.

Shapes   x, y [rows, C].
Scales   x and y one per tensor or one per channel each; the factor of channel c is s_x[c] / s_y[c].
Rounding half up, saturation to the range of y.
Error    0.5 + |y| * 2**-17 steps of y before saturation; none where the scales are equal (the factor is then exactly 2**16 / 2**16).
Widths   16 bits times a multiplier of 17 bits: 35 bits with sign and rounding.

Its kernel, `attnc::rescale`, moves rows as well: operators that copy rows between tensors share it through `rescale_call`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import bits_for, quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call, Walk
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType
from attnc.kernels.rescale import RECORD_PLANES, RESCALE
from attnc.kernels.resources import Resources
from attnc.ops.approximation import times
from attnc.ops.base import Operator, scalar_scale

DSP_PORT = 27
"""Bits of the wider port of a DSP48E2."""
CHANNEL = 1 << 31
"""Bit of a record of rescale.hpp that padding lanes lack."""
RESCALE_LANE = Resources(lut=188, ff=64 + 110, dsp=1)
"""A lane of rescale.hpp: one DSP (16 x 18 bits), a shifter, adder and clamp of 35 bits (about 180 LUT), and half a LUT per bit that keeps
padding at 0; two records of 32 bits in registers."""
IN_LOGIC = 6
"""Bits beyond that are multiplied in logic, at most; as in fixedpoint.hpp."""


def activation(type_: TensorType, where: str) -> TensorType:
    """The type, whose integers must fit 16 bits with sign: what the streams of the kernels carry."""
    low, high = type_.range
    if not type_.signed or max(bits_for(-low - 1), bits_for(high)) > ACTIVATION_BITS:
        raise GraphError(f"{where}: needs integers of {ACTIVATION_BITS} bits, found {type_.short} with zero point {type_.zero_point}")
    return type_


def byte_planes(values: Array, size: int, lanes: int) -> Array:
    """Integers [C] as bytes [tiles, size, lanes]: plane k holds byte k (little endian, two's complement) of every lane; 0 beyond C."""
    tiles = -(-values.size // lanes)
    padded = np.zeros(tiles * lanes, np.int64)
    padded[: values.size] = values
    split = (padded[:, None] >> (8 * np.arange(size))) & 0xFF
    planes: Array = split.astype(np.uint8).reshape(tiles, lanes, size).transpose(0, 2, 1)
    return planes


def rescale_factors(x: TensorType, y: TensorType, where: str) -> tuple[Array, Array]:
    """Multiplier and shift, scalars or per channel, that bring `x` to the scale of `y`."""
    activation(x, where), activation(y, where)
    return quantize_multiplier(np.asarray(x.scale / y.scale))


def one_factor(node: Node, x: TensorType, y: TensorType) -> dict[str, Array]:
    """`rescale_factors` as parameters of `node`, whose kernel has one for the whole tensor: one scale each."""
    where = f"node {node.name!r} ({node.op})"
    scalar_scale(x, where), scalar_scale(y, where)
    multiplier, shift = rescale_factors(x, y, where)
    return {"multiplier": multiplier, "shift": shift}


def rescaled(node: Node, x: Array, output: TensorType) -> Array:
    """Integers of `node` before its factor, requantized to its output."""
    return requantize(x, node.params["multiplier"], node.params["shift"], *output.range, output.dtype)


def shift_clamp_lane(bits: int, result: int) -> Resources:
    """`shift_clamp` of one value from `bits` to `result` bits.

    Structure: a comparison of `bits` bits before the shift (2 bits per LUT), three stages of multiplexers of 4 (a LUT per bit)
    with result + 16, + 4 and + 1 bits, an adder, two comparisons and a selection of about `result` bits: bits / 2 + 6 * result + 23. Mapped
    by Yosys 0.70 (synth_xilinx -family xcup) as Verilog it is 0.60 and 0.78 of a shifter, an adder and a clamp of all 51 and 36 bits, to
    16, and 0.56 of 36 bits, to 8; with 12 LUT more so is this against 5.3 LUT per bit.
    """
    return Resources(lut=bits / 2 + 6 * result + 35, ff=bits / 2 + 5 * result)


def wide_products(bits: int, lanes: float, factor: int = 18) -> Resources:
    """`wide_product` of a value of `bits` bits and a factor of at most 18, in every lane.

    One DSP48E2 multiplies 27 by 18 bits and adds (UG579). LUT: up to 6 bits beyond are rows of a product in logic, 1.6 per bit of a row:
    Yosys 0.70 (synth_xilinx -family xcup -nodsp) maps 4, 5 and 6 by 18 bits to 117, 144 and 195, 6 by 16 to 176, with an AND gate in a LUT
    of its own; a LUT with two outputs (UG574) would hold it beside the adder. Beyond that a second DSP.
    """
    beyond = max(bits - DSP_PORT, 0)
    if beyond > IN_LOGIC:
        return Resources(dsp=2 * lanes)
    return Resources(lut=1.6 * factor * beyond * lanes, ff=2 * factor * lanes if beyond else 0, dsp=lanes)


def shift_clamps(bits: int, result: int, lanes: int) -> Resources:
    """`shift_clamp` in every lane, with a shift that all share: what is kept is found once, a LUT per bit."""
    lane = shift_clamp_lane(bits, result)
    return Resources(lut=lane.lut * lanes + bits, ff=lane.ff * lanes + bits)


def factor_scalars(node: Node) -> dict[str, int]:
    """The one factor of a node, as the scalars of a call."""
    return {"multiplier": int(node.params["multiplier"]), "shift": int(node.params["shift"])}


def rescale_kernel(lanes: int) -> KernelCall:
    """The kernel, the same for every operator that uses it."""
    return KernelCall(
        network=RESCALE,
        template_args=(("XT", IntType(16)), ("YT", IntType(16)), ("L", lanes)),
    )


def rescale_call(
    node: Node,
    ctx: Lowering,
    walks: tuple[Walk, Walk],
    rows: int,
    suffix: str = "",
    bounds: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Call:
    """One call that moves `rows` rows along `walks` (source, target) with the factors `multiplier<suffix>` and `shift<suffix>` of
    `node`, saturating to `bounds` (those of the type of its output unless given); `channels` are those of the output unless given."""
    channels = ctx.graph.value(node.output).shape[1] if channels is None else channels
    lanes, tiles = ctx.design.lanes, -(-channels // ctx.design.lanes)

    def pack() -> bytes:
        record = node.params["multiplier" + suffix] + (node.params["shift" + suffix] << 24) + CHANNEL
        return byte_planes(np.broadcast_to(record, channels), RECORD_PLANES, lanes).tobytes()

    words = ctx.packed(node.packed + suffix, pack, tiles * RECORD_PLANES)
    low, high = bounds or ctx.graph.type(node.output).range
    return Call(
        node=node.name,
        kernel=rescale_kernel(lanes),
        walks=(walks[0], words, walks[1]),
        scalars={"rows": rows, "tiles": tiles, "low": low, "high": high},
    )


def rescale_blocks(node: Node, ctx: Lowering, bounds: tuple[int, int] | None = None) -> list[Call]:
    """A call per block of rows that brings the operand of `node` to its output, saturating to `bounds`."""
    x, y = node.inputs[0], node.output
    return [rescale_call(node, ctx, (ctx.walk(x, *block), ctx.walk(y, *block)), block[1], bounds=bounds) for block in ctx.row_blocks(x)]


def rescale_resources(kernel: KernelCall) -> Resources:
    """Estimate, derived from the structure of the kernel and not from a synthesis run: its lanes (`RESCALE_LANE`) and control."""
    return times(RESCALE_LANE, kernel.arg("L")) + Resources(lut=300, ff=400)


class Requantize(Operator):
    """A change of type."""

    name = "requantize"
    per_channel_output = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of the input."""
        return inputs[0]

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """The input."""
        return inputs[0]

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Factors per channel or one for all."""
        multiplier, shift = rescale_factors(inputs[0], output, f"node {node.name!r} (requantize)")
        node.params = {"multiplier": multiplier, "shift": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize per channel."""
        return rescaled(node, inputs[0], output)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        return rescale_blocks(node, ctx)

    def logic(self, kernel: KernelCall) -> Resources:
        """Those of the shared kernel."""
        return rescale_resources(kernel)
