"""linear: y = requantize(x . W^T + bias).

Shapes   x [rows, K], weight [N, K], bias [N], y [rows, N].
Scales   x one scale per channel k (a smoothed value) or per tensor; weight one per output channel n; acc_n = s_x * s_w[n];
         y one per channel or tensor. Per-channel scales of x are folded into the weight before it is quantized.
Rounding requantize (half up), saturation to the range of y.
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

    def channel_weights(self, node: Node, index: int) -> Array:
        """Largest weight per input channel."""
        return np.abs(node.params["weight"]).max(axis=0)

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Weights symmetric per output channel; bias in units of the accumulator."""
        x = inputs[0]
        x_scale = np.broadcast_to(x.scale, node.params["weight"].shape[1:])
        x_unit = float(x_scale.max())
        weight = node.params["weight"] * (x_scale / x_unit)
        limit = (1 << (WEIGHT_BITS - 1)) - 1
        peak = np.abs(weight).max(axis=1)
        bias_real = np.asarray(node.params["bias"], np.float64)
        # A channel of zeros, or one so small that its bias would overflow, gets the finest scale that holds the bias.
        floor = np.maximum(np.abs(bias_real) / (x_unit * (1 << 30)), np.finfo(np.float64).tiny * 1e30)
        w_scale = np.maximum(np.where(peak > 0, peak / limit, 1.0), floor)
        q = quantize_half_even(weight, w_scale[:, None], -limit, limit)
        bias = np.rint(bias_real / (x_unit * w_scale)).astype(np.int64)
        bias -= q.sum(axis=1) * x.zero_point
        multiplier, shift = quantize_multiplier(x_unit * w_scale / np.broadcast_to(output.scale, w_scale.shape))
        bound = int((np.abs(q).sum(axis=1) * x.magnitude + np.abs(bias)).max())
        node.params = {"weight": q.astype(np.int8), "bias": bias.astype(np.int64), "multiplier": multiplier, "shift": shift}
        node.params["weight_scale"] = w_scale
        node.attrs["acc_bits"] = check_bits(max(bits_for(bound), 32), f"node {node.name!r}: accumulator", 39)
        if np.abs(bias).max(initial=0) >= 1 << 31:
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
                    walks=(ctx.walk(x, row, rows), weights, ctx.walk(y, row, rows)),
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
        buffers = (
            storage(k_tiles * rows, 8 * lanes, name="x_buffer"),
            storage(2 * k_tiles, 8 * lanes, banks=pe, name="w_buffer"),
            storage(rows * pe // lanes, 16 * lanes, name="y_buffer"),
        )
        return sum(buffers, logic)


def pack(node: Node, lanes: int, pe: int) -> bytes:
    """Weights in the order of the hardware: per group of `pe` channels their records, then their rows of bytes."""
    p = node.params
    n, k = p["weight"].shape
    groups, k_tiles = math.ceil(n / pe), math.ceil(k / lanes)
    weight = np.zeros((groups * pe, k_tiles * lanes), np.int8)
    weight[:n, :k] = p["weight"]
    record = np.zeros((groups * pe, RECORD_BYTES), np.uint8)
    record[:n, 0:4] = p["bias"].astype("<i4").view(np.uint8).reshape(n, 4)
    record[:n, 4:7] = p["multiplier"].astype("<u4").view(np.uint8).reshape(n, 4)[:, :3]
    record[:n, 7] = p["shift"]
    parts = [record.reshape(groups, -1), weight.view(np.uint8).reshape(groups, -1)]
    return np.concatenate(parts, axis=1).tobytes()
