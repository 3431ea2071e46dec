"""softmax: probabilities over the channels of every row.

Shapes   x [rows, C], y [rows, C].
Types    x one scale (a zero point cancels); y s16 with scale 2**-15, dictated, so that 1.0 saturates to 32767.
Numbers  t = x rescaled to the log2 domain with 10 fractional bits, saturated to 24 bits (inputs beyond +-5678 tie);
         p = exp2_negative(max t - t), y = p / sum p: see exponential.py.
Method   attribute `implementation`: an exponential of `EXP2`, or "auto"; attribute `reciprocal`: a division of `DIVISIONS`, "divide" by
         default. The target of "auto" is 2**-13, a third of what rounding t may do.
Rounding requantize (half up) to t and to y, saturation to the range of y.
Error    against float, of a probability P in a row of sum >= 1 (relative to its largest p):
         P * (6.8e-4 + 2**-17 * |t| / 2**10) from rounding t and its multiplier, 1.1e-4 * P from chord32 and reciprocal,
         (1 + C * P) * 2**-16 / sum from rounding every p, and 2**-16 from rounding y (2**-15 where 1.0 saturates).
         With another exponential of relative error e, 2e * P more; `EXP2[name].error` is absolute.
         Measured by the tests (uniform inputs, 197 channels): see test_softmax.py, at most 6e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import bits_for, check_bits, clamp, shift_round_half_up
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.numbers import PROBABILITY_BITS, SCORE_BITS
from attnc.kernels.ports import IntType, Table
from attnc.kernels.resources import Resources
from attnc.kernels.softmax import SOFTMAX
from attnc.ops.approximation import Approximated, Implementation, times
from attnc.ops.base import product_bits
from attnc.ops.exponential import ERROR_TARGET, EXP2, exp2_negative, exp2_of, output_multiplier, score_multiplier, scores, sum_bits
from attnc.ops.reciprocal import DIVISIONS, Division

CHUNK = 1 << 22
"""Elements that golden works on at a time: bounds its memory, changes nothing else."""
DIVISION_LATENCY = 40


class Softmax(Approximated):
    """Softmax over channels."""

    name = "softmax"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """As the input."""
        return inputs[0]

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """exp(x - max) / sum."""
        p = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
        result: Array = p / p.sum(axis=-1, keepdims=True)
        return result

    def fixed_output_type(self, node: Node, inputs: Sequence[TensorType]) -> TensorType:
        """s16 of 2**-15."""
        return TensorType(16, True, np.asarray(2.0**-PROBABILITY_BITS))

    def kind(self, node: Node) -> str:
        """One for all."""
        return self.name

    def candidates(self, node: Node, x: TensorType | None) -> list[Implementation]:
        """The exponentials."""
        return list(EXP2.values())

    def default_target(self, node: Node, output: TensorType) -> float:
        """Of an exponential of at most 1."""
        return ERROR_TARGET

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Multipliers to the log2 domain and to the output."""
        x = inputs[0]
        if x.scale.ndim or output.scale.ndim:
            raise GraphError(f"node {node.name!r} (softmax): needs one scale per tensor")
        self.select(node, x, output)
        division(node)
        multiplier, shift = score_multiplier(float(x.scale))
        node.attrs["score_multiplier"], node.attrs["score_shift"] = multiplier, shift
        node.attrs["output_multiplier"], node.attrs["output_shift"] = output_multiplier(1 / float(output.scale))
        product_bits(node, check_bits(bits_for(x.magnitude), f"node {node.name!r}: input", 31))

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Mirrors attnc/softmax.hpp."""
        x, a, rom = inputs[0], node.attrs, EXP2[node.attrs["implementation"]].rom
        sum_bits(x.shape[-1], f"node {node.name!r}")
        result = np.empty(x.shape, output.dtype)
        step = max(1, CHUNK // (x.shape[1] * x.shape[2]))
        for at in range(0, x.shape[0], step):
            t = scores(x[at : at + step], a["score_multiplier"], a["score_shift"])
            p = exp2_negative(t.max(axis=-1, keepdims=True) - t, rom)
            factors = division(node).scale(p.sum(axis=-1, keepdims=True), a["output_multiplier"], a["output_shift"])
            result[at : at + step] = clamp(shift_round_half_up(p * factors[0], factors[1]), *output.range)
        return result

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        x, y, a = node.inputs[0], node.output, node.attrs
        channels, tiles = ctx.graph.value(x).shape[1], ctx.tiles(x)
        blocks = ctx.row_blocks(x)
        kernel = KernelCall(
            network=SOFTMAX,
            template_args=(
                ("XT", IntType(16)),
                ("SumT", IntType(sum_bits(channels, f"node {node.name!r}"), signed=False)),
                ("YT", IntType(16)),
                ("Exp2", EXP2[a["implementation"]].rom),
                ("Division", division(node).rom),
                ("TILES_MAX", tiles),
                ("ROWS_MAX", max(rows for _, rows in blocks)),
                ("L", ctx.design.lanes),
            ),
        )
        scalars = {"channels": channels, "tiles": tiles, **ctx.bounds(y)}
        scalars |= {name: a[name] for name in ("score_multiplier", "score_shift", "output_multiplier", "output_shift")}
        return [
            Call(
                node=node.name,
                kernel=kernel,
                walks=(ctx.walk(x, row, rows), ctx.walk(y, row, rows)),
                scalars={"rows": rows, **scalars},
            )
            for row, rows in blocks
        ]

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        DSP: per lane one multiplier to scores and one to outputs. LUT per lane: comparator and difference (50), rescale shifter and clamp
        (80 twice), and the exponential; the divider, with a priority encoder and a normalising shifter for the sum.
        """
        lanes, total = kernel.arg("L"), kernel.arg("SumT")
        arguments = dict(kernel.template_args)
        roms = [rom.name for rom in (arguments["Exp2"], arguments["Division"]) if isinstance(rom, Table)]
        divider = next(choice for choice in DIVISIONS.values() if choice.rom.name == roms[1])
        fixed = Resources(
            lut=lanes * (50 + 160) + lanes * total + normaliser_luts(total) + 1200,
            ff=lanes * (16 + 4 * SCORE_BITS + 4 * PROBABILITY_BITS) + 2 * normaliser_luts(total) + 1500,
            dsp=2 * lanes,
        )
        return times(exp2_of(roms[0]).lane, lanes) + divider.lane + fixed


def division(node: Node) -> Division:
    """How a node divides: attribute `reciprocal`."""
    name = node.attrs.get("reciprocal", "divide")
    if name not in DIVISIONS:
        raise GraphError(f"node {node.name!r} (softmax): needs one of the divisions {', '.join(DIVISIONS)}, found {name!r}")
    return DIVISIONS[name]


def normaliser_luts(total_bits: int) -> float:
    """The priority encoder and the normalising shifter of a sum of `total_bits` bits."""
    return total_bits * (2 + math.ceil(math.log2(max(total_bits, 2))))


def divider_luts(total_bits: int) -> float:
    """LUTs of `softmax_scale`: the divider, and what normalises a sum of `total_bits` bits."""
    return DIVISIONS["divide"].lane.lut + normaliser_luts(total_bits)
