"""linear: y = requantize(x . W^T + bias).

Shapes   x [rows, K], weight [N, K], bias [N], y [rows, N].
Scales   x one scale per channel k (a smoothed value) or per tensor; weight one per output channel n; acc_n = s_x * s_w[n];
         y one per channel or tensor. Per-channel scales of x are folded into the weight before it is quantized.
Rounding requantize (half up), saturation to the range of y.
Weights  float, quantized here; or imposed by a model that arrived quantized: params weight_q [N, K], weight_unit [N] and
         weight_multiplier [N, 1], real = unit * multiplier * q (`weights.QuantizedWeight`), carried over as they are.
Zero     the multipliers read x as memory holds it, zero point included; the packed bias takes zero_point * sum_k w[n,k] off again.
Widths   |acc| <= sum_k |w[n,k]| * |x|max + |bias[n]|, from the weights themselves; the engine's accumulator holds the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from attnc.fixedpoint import bits_for, check_bits, matmul, quantize_half_even, quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.ops.base import Array, Call, IntType, KernelCall, Lowering, Operator, Port, Resources, Shape, Walk, product_bits
from attnc.ops.storage import storage

WEIGHT_BITS = 8
RECORD_BYTES = 8


class Linear(Operator):
    """Matrix product with constant weights."""

    name = "linear"
    per_channel_output = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[rows, N]."""
        n, k = node.params["weight"].shape
        if inputs[0][1] != k or node.params["bias"].shape != (n,):
            raise GraphError(f"node {node.name!r}: weight {n}x{k} and bias {node.params['bias'].shape} on input {inputs[0]}")
        return inputs[0][0], n

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """x @ weight.T + bias."""
        result: Array = inputs[0] @ node.params["weight"].T.astype(inputs[0].dtype) + node.params["bias"].astype(inputs[0].dtype)
        return result

    def operand_bits(self, node: Node, index: int) -> int:
        """The multipliers take bytes."""
        return 8

    def channel_weights(self, node: Node, index: int) -> Array | None:
        """Largest weight per input channel; None for imposed weights, which take no scale in."""
        return None if "weight_q" in node.params else np.abs(node.params["weight"]).max(axis=0)

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Weights symmetric per output channel; bias in units of the accumulator."""
        x = inputs[0]
        x_scale = np.broadcast_to(x.scale, node.params["weight"].shape[1:])
        x_unit = float(x_scale.max())
        bias_real = np.asarray(node.params["bias"], np.float64)
        if "weight_q" in node.params:
            if x.scale.ndim:
                raise GraphError(f"node {node.name!r} (linear): imposed weights need an input of one scale")
            q = np.asarray(node.params["weight_q"], np.int64)
            w_scale = node.params["weight_unit"] * node.params["weight_multiplier"][:, 0]
        else:
            q, w_scale = quantize_weight(node.params["weight"] * (x_scale / x_unit), bias_real / x_unit)
        bias = np.rint(bias_real / (x_unit * w_scale)).astype(np.int64)
        stored = stored_bias(bias, q, x)
        multiplier, shift = quantize_multiplier(x_unit * w_scale / np.broadcast_to(output.scale, w_scale.shape))
        peak = max(x.magnitude, 1 << (x.bits - 1))
        bound = int((np.abs(q).sum(axis=1) * peak + np.maximum(np.abs(bias), np.abs(stored))).max())
        node.params = {"weight": q.astype(np.int8), "bias": bias.astype(np.int64), "multiplier": multiplier, "shift": shift}
        node.params["weight_scale"] = w_scale
        node.attrs["acc_bits"] = check_bits(max(bits_for(bound), 32), f"node {node.name!r}: accumulator", 39)
        node.attrs["zero_point"] = x.zero_point
        if max(np.abs(bias).max(initial=0), np.abs(stored).max(initial=0)) >= 1 << 31:
            raise GraphError(f"node {node.name!r}: a bias needs more than 32 bits")
        product_bits(node, node.attrs["acc_bits"])

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Exact integer product, then requantize per channel."""
        p = node.params
        acc = matmul(inputs[0], p["weight"].T, types[0].magnitude << (WEIGHT_BITS - 1)) + p["bias"]
        return requantize(acc, p["multiplier"], p["shift"], *output.range).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows; all of them read the same packed weights."""
        x, y = node.inputs[0], node.output
        lanes, pe = ctx.design.lanes, ctx.design.pe
        k_tiles, n_tiles = ctx.tiles(x), ctx.tiles(y)
        groups = math.ceil(n_tiles * lanes / pe)
        words = groups * (pe * RECORD_BYTES // lanes + pe * k_tiles)
        weights = Walk(ctx.payload(node.name, lambda: pack(node, lanes, pe)), (1, 1, 1, words), (0, 0, 0))
        low, high = ctx.graph.type(y).range
        kernel = KernelCall(
            header="attnc/linear.hpp",
            function="attnc::linear",
            template_args=(
                ("XT", IntType(8)),
                ("WT", IntType(8)),
                ("AccT", IntType(node.attrs["acc_bits"])),
                ("YT", IntType(16)),
                ("L", lanes),
                ("PE", pe),
                ("K_TILES_MAX", k_tiles),
                ("ROWS_MAX", ctx.design.rows),
            ),
            ports=(Port("x", "load", IntType(8)), Port("w", "words"), Port("y", "store")),
            scalars=("rows", "k_tiles", "n_tiles", "low", "high"),
        )
        calls = []
        for row, rows in ctx.row_blocks(x):
            steps, load = rows * k_tiles, pe * (RECORD_BYTES // 1) // lanes + pe * k_tiles
            calls.append(
                Call(
                    node=node.name,
                    kernel=kernel,
                    walks=(ctx.walk(x, row, rows, raw=True), weights, ctx.walk(y, row, rows)),
                    scalars=(rows, k_tiles, n_tiles, low, high),
                    cycles={
                        "accumulate": rows * k_tiles + load + (groups - 1) * max(steps, load) + steps,
                        "rescale": groups * (pe * RECORD_BYTES // lanes + 2 * rows * pe // lanes),
                    },
                    macs=rows * node.params["weight"].size,
                )
            )
        return calls

    def resources(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        DSP: two int8 multiply-adds that share an operand per DSP48E2 (WP486), one per rescaled lane and another where the
        accumulator is wider than the 27-bit port. Memories: x buffer, weight double buffer (a bank per PE), reordering buffer.
        LUT: about 8 per multiply-add for packing correction and adder tree, 40 per rescaled lane, records, control.
        """
        lanes, pe, rows, k_tiles, acc = (kernel.arg(name) for name in ("L", "PE", "ROWS_MAX", "K_TILES_MAX", "AccT"))
        macs = lanes * pe
        logic = Resources(
            lut=8 * macs + pe * acc + 80 * lanes + 56 * pe + 1500,
            ff=10 * macs + 2 * pe * acc + 80 * lanes + 56 * pe + 2000,
            dsp=math.ceil(macs / 2) + lanes * (1 if acc <= 27 else 2),
        )
        buffers = (storage(k_tiles * rows, 8 * lanes), storage(2 * k_tiles, 8 * lanes, banks=pe), storage(rows * pe // lanes, 16 * lanes))
        return sum(buffers, logic)


def quantize_weight(weight: Array, bias: Array) -> tuple[Array, Array]:
    """Integers [N, K] and scale [N], the largest magnitude at the end of the range. `bias` in units of x.

    A channel of zeros, or one so small that its bias would overflow, gets the finest scale that holds the bias.
    """
    limit = (1 << (WEIGHT_BITS - 1)) - 1
    peak = np.abs(weight).max(axis=1)
    floor = np.maximum(np.abs(bias) / (1 << 30), np.finfo(np.float64).tiny * 1e30)
    scale = np.maximum(np.where(peak > 0, peak / limit, 1.0), floor)
    return quantize_half_even(weight, scale[:, None], -limit, limit), scale


def stored_bias(bias: Array, q: Array, x: TensorType) -> Array:
    """The bias that makes up for the zero point of x as memory holds it."""
    return np.asarray(bias - x.zero_point * q.sum(axis=1))


def pack(node: Node, lanes: int, pe: int) -> bytes:
    """Weights in the order of the hardware: per group of `pe` channels their records, then their rows of bytes."""
    p = node.params
    n, k = p["weight"].shape
    groups, k_tiles = math.ceil(n / pe), math.ceil(k / lanes)
    weight = np.zeros((groups * pe, k_tiles * lanes), np.int8)
    weight[:n, :k] = p["weight"]
    record = np.zeros((groups * pe, RECORD_BYTES), np.uint8)
    bias = p["bias"] - node.attrs.get("zero_point", 0) * p["weight"].astype(np.int64).sum(axis=1)
    record[:n, 0:4] = bias.astype("<i4").view(np.uint8).reshape(n, 4)
    record[:n, 4:7] = p["multiplier"].astype("<u4").view(np.uint8).reshape(n, 4)[:, :3]
    record[:n, 7] = p["shift"]
    parts = [record.reshape(groups, -1), weight.view(np.uint8).reshape(groups, -1)]
    return np.concatenate(parts, axis=1).tobytes()
