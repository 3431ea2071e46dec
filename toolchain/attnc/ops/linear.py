"""linear: y = requantize(x . W^T + bias).

Shapes   x [rows, K], weight [N, K], bias [N], y [rows, N].
Scales   x one scale per channel k (a smoothed value) or per tensor; weight one per output channel n, times an integer of 8 bits for
         each group of attrs["group_size"] weights (and plane of a binary weight); acc_n = s_x * s_w[n]; y one per channel or tensor.
         Per-channel scales of x are folded into the weight before it is quantized (`linear_weights.folded_weight`).
Weights  attrs["weights"], a name of `weights.WeightFormat`. A pass that quantizes hands over params weight_q, weight_unit and
         weight_multiplier (`weights.QuantizedWeight`) beside the bias; without them the weight becomes int8 per channel here.
Engines  attrs["engine"]: "dsp" multiplies (linear.hpp), "lookup" tabulates (lookup_linear.hpp). Same integers.
Inputs   8 bits, or 16 where attrs["activation_bits"] asks for them: these take twice the steps, and only "dsp" takes them.
Rounding requantize (half up), saturation to the range of y.
Zero     the multipliers read x as memory holds it, zero point included; param stored_bias takes zero_point * sum_k w[n,k] off again,
         and adds the 128 * sum_k w[n,k] that reading low bytes as signed ones leaves out.
Widths   |acc| <= sum_k |w[n,k]| * |x|max + |bias[n]|, from the weights themselves; the engine's accumulator holds the largest.
         x of 16 bits: its high bytes alone give up to 2**15 per weight, its low ones 2**7 more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.errors import ConfigError
from attnc.fixedpoint import bits_for, check_bits, matmul, quantize_multiplier, requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call, Walk, WeightGroups
from attnc.kernels.design import EngineDesign, LinearNumbers, LookupNumbers, Numbers
from attnc.kernels.kernel import KernelCall
from attnc.kernels.linear import LINEAR, TERNARY_TILES
from attnc.kernels.lowering import Lowering
from attnc.kernels.ports import NEXT, SIDES, IntType
from attnc.kernels.resources import Resources
from attnc.ops import lookup
from attnc.ops.base import Operator, Widening, product_bits
from attnc.ops.linear_weights import effective_weight, input_unit, integer_weight, magnitude_bound, weight_format, weight_shape
from attnc.ops.packing import Coding, Layout, payload
from attnc.ops.requantize import DSP_PORT, wide_products
from attnc.weights import WeightFormat

LOW_BYTE_OFFSET = 128
"""What a low byte of 16-bit inputs is more than the signed byte that is multiplied."""
LEAST_ACC = 18
"""Bits of a sum of packed products (dsp_pair.hpp), which the accumulator holds whatever the weights are."""
ACC_LIMIT = 44
"""Bits of the largest accumulator besides its sign: with a multiplier of 17 bits it stays below 2**61, and so does what rounds it."""


class Linear(Operator):
    """Matrix product with constant weights."""

    name = "linear"
    per_channel_output = True

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[rows, N]."""
        n, k = weight_shape(node)
        if inputs[0][1] != k or node.params["bias"].shape != (n,):
            raise GraphError(f"node {node.name!r}: weight {n}x{k} and bias {node.params['bias'].shape} on input {inputs[0]}")
        return inputs[0][0], n

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """x @ weight.T + bias."""
        weight, bias = (node.params[name].astype(inputs[0].dtype, copy=False) for name in ("weight", "bias"))
        result: Array = inputs[0] @ weight.T + bias
        return result

    def operand_bits(self, node: Node, index: int) -> int:
        """The multipliers take bytes, or two of them one after the other."""
        return int(node.attrs.get("activation_bits", 8))

    def widenings(self, node: Node, inputs: Sequence[Shape]) -> list[Widening]:
        """Bytes after bytes: every multiply-add takes another step."""
        return [Widening("input", (0,), inputs[0][0] * math.prod(weight_shape(node)))]

    def channel_weights(self, node: Node, index: int) -> Array | None:
        """Largest weight per input channel; None for imposed weights, which take no scale in."""
        return None if "weight_q" in node.params else np.abs(node.params["weight"]).max(axis=0)

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Weights on their grid; bias in units of the accumulator."""
        x = inputs[0]
        bias_real = np.asarray(node.params["bias"], np.float64)
        weight = integer_weight(node, x, bias_real)
        unit = input_unit(x) * weight.unit
        scaled = weight.format.kind == "binary" or weight.multiplier.shape[-1] > 1
        factors = weight.multiplier.astype(np.uint8) if scaled else None
        whole = effective_weight(weight.q, factors, weight.format.group_size)
        bias = np.rint(bias_real / unit).astype(np.int64)
        offset = LOW_BYTE_OFFSET if x.bits > 8 else 0
        stored = bias + (offset - x.zero_point) * whole.sum(axis=1, dtype=np.int64)
        multiplier, shift = quantize_multiplier(unit / np.broadcast_to(output.scale, unit.shape))
        peak = max(x.magnitude, 1 << (x.bits - 1)) + offset
        bound = int((magnitude_bound(weight, peak) + np.maximum(np.abs(bias), np.abs(stored))).max())
        # Golden multiplies bytes fastest where the weights of an input channel lie together.
        q = weight.q if scaled else np.asfortranarray(weight.q)
        node.params = {"weight": q, "bias": bias, "multiplier": multiplier, "shift": shift, "weight_scale": weight.unit}
        node.params["stored_bias"] = stored
        if factors is not None:
            node.params["group_multiplier"] = factors
        node.attrs["acc_bits"] = check_bits(max(bits_for(bound), LEAST_ACC), f"node {node.name!r}: accumulator", ACC_LIMIT)
        node.attrs["input_bytes"] = 2 if x.bits > 8 else 1
        node.attrs["largest_weight"] = max(weight.format.limit, -int(weight.q.min(initial=0)))
        node.attrs["weight_magnitude"] = int(np.abs(whole.astype(np.int32)).max(initial=1))
        if max(np.abs(bias).max(initial=0), np.abs(stored).max(initial=0)) >= 1 << 31:
            raise GraphError(f"node {node.name!r}: a bias needs more than 32 bits")
        product_bits(node, node.attrs["acc_bits"])

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Exact integer product, then requantize per channel."""
        p = node.params
        weight = effective_weight(p["weight"], p.get("group_multiplier"), weight_format(node).group_size)
        acc = matmul(inputs[0], weight.T, types[0].magnitude * node.attrs["weight_magnitude"], np.float64)
        return requantize(np.add(acc, p["bias"].astype(acc.dtype), out=acc), p["multiplier"], p["shift"], *output.range, output.dtype)

    def engines(self, node: Node) -> tuple[str, ...]:
        """Multipliers take weights of at most 8 bits, so not a sum of planes with scales of their own; tables take them all, but are
        built from inputs of 8 bits."""
        wide, planes = node.attrs.get("input_bytes", 1) > 1, weight_format(node).kind == "binary"
        return () if wide and planes else ("dsp",) if wide else ("lookup",) if planes else ("dsp", "lookup")

    def engine(self, node: Node) -> str:
        """The engine of a node: the one it names, else multipliers for bytes and tables for less."""
        served = self.engines(node)
        named = node.attrs.get("engine", "dsp" if weight_format(node).name == "int8" or "lookup" not in served else "lookup")
        if named not in served:
            needed, bits = " or ".join(served) or "none", 8 * node.attrs.get("input_bytes", 1)
            found = f"weights of {weight_format(node).name} on inputs of {bits} bits"
            raise ConfigError(f"node {node.name!r}: {found} run on the engine {needed}, found {named!r}")
        return str(named)

    def numbers(self, node: Node) -> type[Numbers]:
        """Of multipliers, or of tables."""
        return LinearNumbers if self.engine(node) == "dsp" else LookupNumbers

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows; all of them read the same packed weights."""
        check_groups(node, ctx)
        if self.engine(node) != "dsp":
            return lookup.calls(node, ctx)
        layout = dsp_layout(node, ctx)
        return dsp_calls(node, ctx, layout, ctx.packed(layout.key(node), lambda: payload(node, layout), dsp_words(node, ctx, layout)))

    def macs_per_cycle(self, kernel: KernelCall) -> int:
        """R * PE * L of the multipliers; tables have none."""
        return kernel.arg("L") * kernel.arg("PE") * kernel.arg("R") if kernel.network is LINEAR else 0

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        DSP: two int8 multiply-adds that share an operand per DSP48E2 (WP486), `wide_product` per rescaled lane; with scales per group
        one for each sum, two where the accumulator is wider than the 27-bit port. LUT: of each pair of sums the adders that take the packed
        sum of a chain of DSPs apart (18 bits) and that add up those of several chains (19 bits, two each), and the accumulators; a quarter
        per bit of all sums for choosing the vector that leaves (a LUT chooses from 4), 40 per rescaled lane, control; inputs of 16 bits: a
        choice of two per bit of a sum, half a LUT; packed weights: 4 per weight of a tile of all channels (6 functions of the 5 bits of a
        ternary code, two to a LUT; or the sign of a number of any width), whose codes are held; where elements of the buffer hold several
        tiles, one for each bit that is chosen among them and half a one for each other bit of a weight (its own, or the sign of the chosen
        one).
        FF: each sum twice (growing, and waiting to leave), a third time with scales.
        """
        if kernel.network is not LINEAR:
            return lookup.logic(kernel)
        lanes, pe, acc = (kernel.arg(name) for name in ("L", "PE", "AccT"))
        at_once, scales = kernel.arg("R"), kernel.arg("SCALES_MAX")
        chains = lanes // pair_chain(lanes, kernel.arg("LARGEST"))
        macs, sums, per_sum = lanes * pe * at_once, pe * at_once, 1 if acc <= DSP_PORT else 2
        logic = Resources(
            lut=sums / 2 * (18 * chains + 38 * (chains - 1) + 2 * acc) + sums * acc / 4 + 80 * lanes + 1500,
            ff=10 * macs + 2 * sums * acc + 80 * lanes + 2000,
            dsp=math.ceil(macs / 2),
        )
        logic = logic + wide_products(acc, lanes)
        if kernel.arg("X_BYTES") > 1:
            logic = logic + Resources(lut=sums * acc // 2 + 8 * lanes + 100, ff=100)
        if scales:
            logic = logic + Resources(lut=2 * sums * acc, ff=sums * acc, dsp=sums * per_sum)
        if kernel.arg("PACKED"):
            logic = logic + Resources(lut=4 * pe * lanes, ff=kernel.arg("PACKED") * pe * lanes)
        chosen = 4 if kernel.arg("HALVES") else 2 if kernel.arg("QUARTERS") else 0
        if chosen:
            logic = logic + Resources(lut=pe * lanes * (chosen + (kernel.arg("WT") - chosen) / 2), ff=pe * lanes * kernel.arg("WT"))
        return logic


def check_groups(node: Node, ctx: Lowering) -> None:
    """Raise `GraphError` where a vector holds weights of two groups."""
    group_size = weight_format(node).group_size
    if group_size % ctx.design.lanes:
        raise GraphError(f"node {node.name!r}: {ctx.design.lanes} lanes do not divide groups of {group_size} weights")


def dsp_layout(node: Node, ctx: Lowering) -> Layout:
    """Memory of linear.hpp: a block is the channels that are computed at once."""
    engine, format_ = ctx.engine(node, LinearNumbers), weight_format(node)
    lanes, pe = engine.lanes, engine.numbers.pe
    scales = node.params["group_multiplier"].shape[-1] if "group_multiplier" in node.params else 0
    words = weight_words(engine)
    coding: Coding = "ternary" if format_.kind == "ternary" else "bytes" if format_.bits == 8 else "bits"
    bits, group = (5, TERNARY_TILES) if coding == "ternary" else (format_.bits, tiles_together(node, ctx, engine))
    ports = words // engine.design.beat
    return Layout(lanes, pe, 1, coding, bits, group, scales, turns=words, ports=ports, records_last=True, whole=True)


def pair_chain(products: int, largest: int) -> int:
    """Packed products that the adders of DSPs add up before the sum is taken apart, as in dsp_pair.hpp."""
    return products if products == 1 or products * largest * 128 < 1 << 17 else pair_chain(products // 2, largest)


def stored_bits(format_: WeightFormat) -> int:
    """Bits of an element of the engine's buffer that holds weights of a format: 2 for each tile of a ternary unit."""
    return 2 * TERNARY_TILES if format_.kind == "ternary" else format_.bits


def tiles_together(node: Node, ctx: Lowering, engine: EngineDesign[LinearNumbers]) -> int:
    """Tiles of integers of less than 8 bits that make a unit. The buffer is as wide as the widest elements of the engine: where these have
    fewer tiles, two of up to 4 bits or four of 2 bits share an element of 8, or two of 2 bits one of 4 to 6."""
    bits, most = weight_format(node).bits, _most_tiles(ctx, engine.name)
    widest = max(most, default=bits)
    if bits > 4 or most.get(bits, 0) <= most.get(widest, 0) or (bits > 2 and widest < 8):
        return 1
    return 4 if bits == 2 and widest == 8 else 2 if widest >= 4 else 1


def _most_tiles(ctx: Lowering, engine: str) -> dict[int, int]:
    """Along the reduction axis of the layers that an engine serves, by the bits of an element of its buffer."""
    if engine not in ctx.memo:
        found = ctx.memo[engine] = {}
        for node in (node for node in ctx.graph.nodes if "stored_bias" in node.params and Linear().engine(node) == "dsp"):
            if ctx.engine(node, LinearNumbers).name == engine:
                bits = stored_bits(weight_format(node))
                found[bits] = max(found.get(bits, 0), ctx.tiles(node.inputs[0]))
    return ctx.memo[engine]


def weight_words(engine: EngineDesign[LinearNumbers]) -> int:
    """Words of weights per cycle: a beat through each of the engine's ports for weights, or of one port where that is of as many channels
    as are computed at a time."""
    words = engine.design.beat * engine.numbers.weight_ports
    return words if engine.numbers.pe % words == 0 else engine.design.beat


def dsp_words(node: Node, ctx: Lowering, layout: Layout) -> int:
    """Words of the packed weights of a layer."""
    return math.ceil(ctx.tiles(node.output) * layout.lanes / layout.channels) * layout.words(ctx.tiles(node.inputs[0]))


def dsp_calls(node: Node, ctx: Lowering, layout: Layout, weights: Walk) -> list[Call]:
    """A call of linear.hpp per block of rows, with weights that lie packed in the `layout` that `dsp_layout` gives."""
    x, y = node.inputs[0], node.output
    engine, format_ = ctx.engine(node, LinearNumbers), weight_format(node)
    lanes, pe = engine.lanes, engine.numbers.pe
    k_tiles, n_tiles = ctx.tiles(x), ctx.tiles(y)
    groups = math.ceil(n_tiles * lanes / pe)
    following = (k_tiles, layout.bits, layout.group, layout.scales)
    x_bytes, halves = ctx.bytes(x), layout.group == 2 and layout.bits > 2
    kernel = KernelCall(
        network=LINEAR,
        template_args=(
            ("XT", IntType(8)),
            ("WT", IntType(2 if layout.coding == "ternary" else layout.bits)),
            ("AccT", IntType(node.attrs["acc_bits"])),
            ("YT", IntType(16)),
            ("L", lanes),
            ("PE", pe),
            ("R", engine.numbers.rows_at_once),
            ("UNITS_MAX", math.ceil(k_tiles / layout.group)),
            ("STORED", 8 if halves else stored_bits(format_) * (layout.group if layout.coding == "bits" else 1)),
            ("HALVES", int(halves)),
            ("QUARTERS", layout.group if layout.group > 1 and not halves else 0),
            ("LARGEST", node.attrs["largest_weight"]),
            ("X_TILES_MAX", k_tiles * x_bytes),
            ("X_BYTES", x_bytes),
            (SIDES, 1),
            ("ROWS_MAX", engine.rows),
            ("SCALES_MAX", layout.scales),
            ("PACKED", layout.unit_words),
            ("W_WORDS", layout.turns),
        ),
        engine=engine.name,
    )
    group_tiles = format_.group_size // lanes if layout.scales else k_tiles
    scalars = {"k_tiles": k_tiles, "n_tiles": n_tiles, "bits": layout.bits, "unit_tiles": layout.group, "group_tiles": group_tiles}
    scalars |= {"scales": layout.scales, "x_bytes": x_bytes, **ctx.bounds(y)}
    scalars |= {"side": 0, "fill_tiles": k_tiles, "fill_bytes": x_bytes, "fill_side": 0, "fill_first": 1}
    # As among others of its kind: its first weights come ahead, and it brings those of the next one.
    scalars |= {"w_side": 0, "w_ready": 1, **dict(zip(NEXT, following, strict=True))}
    calls = []
    for row, rows in ctx.row_blocks(x, engine.rows):
        calls.append(
            Call(
                node=node.name,
                kernel=kernel,
                walks=(ctx.walk(x, row, rows, raw=True), weights, ctx.walk(y, row, rows)),
                scalars={"rows": rows, "fill_rows": rows, **scalars},
                weights=WeightGroups(groups, layout.first_words(k_tiles), following, weights.vectors // layout.ports),
                macs=rows * math.prod(weight_shape(node)),
            )
        )
    return calls
