"""attention: y = softmax(scale * q . k + bias) . v, head by head.

Shapes   q [G*T, NH*HD], k [G*Tk, KVH*HD], v [G*Tk, KVH*HDV], optional bias [BH*BT, Tk], y [G*T, NH*HDV]; G independent groups of
         rows, head h reads the keys and values of head h // (NH/KVH). BH is 1 or NH, BT is 1 or T; groups share the bias.
Types    q, k, v bytes with one scale each; y one scale; bias s16 in units of 2**bias_shift scores, that is
         ln2 / 2**10 * 2**bias_shift in natural units, and -32768 excludes a key.
Numbers  s = q . k exact; t = s * multiplier / 2**shift, the score in the log2 domain with 10 fractional bits, saturated to
         +-8192 log2 units; plus bias * 2**bias_shift; m = max t; p = exp2_negative(m - t) with 15 fractional bits;
         o = sum p * v exact; y = o / sum p * (v.scale / y.scale) with one reciprocal per row (exponential.py).
         A query without any allowed key gives zeros.
Rounding requantize (half up) to t and to y, saturation to the range of y.
Error    against the float operator on what the integers stand for, V the largest |v|, sum >= 1 the row's sum of p:
         |y - y_float| <= V * (2 * (E + Tk * 2**-16 / sum) + 2**-15) + y.scale / 2, where E bounds the relative error of one p:
         ln2 * 2**-10 * (1/2 + 2**-17 * |t|) from t, 7.5e-5 from the chord; E = 6e-4 for scores within +-32 log2 units.
         A float bias adds its rounding, ln2 * 2**-10 * 2**bias_shift / 2, to E: 2.7e-3 at a bias_shift of 3.
         Measured by the tests beside the rounding of y: 3.7e-4 * V (197 keys, scores of sd 2.5); a float bias of sd 3 rounded at a
         bias_shift of 3: 1.5e-3 * V.
Widths   s: HD * 2**14; o: Tk * 2**22; sum: Tk * 2**15, all in `widths`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attnc.fixedpoint import bits_for, check_bits, matmul
from attnc.ir import GraphError, Node, TensorType
from attnc.ops.attention_bias import BIAS_EXCLUDED, DEFAULT_BIAS_SHIFT, EXCLUDED_BELOW, bias_shift, bias_type, quantize_bias, shift_of
from attnc.ops.base import (
    Array,
    Call,
    Design,
    IntType,
    KernelCall,
    Lowering,
    Operator,
    Port,
    Resources,
    Shape,
    Walk,
    product_bits,
    scalar_scale,
)
from attnc.ops.exponential import (
    EXP2_ROM,
    PROBABILITY_BITS,
    SCORE_BITS,
    exp2_negative,
    normalise,
    output_multiplier,
    score_multiplier,
    scores,
    sum_bits,
)
from attnc.ops.softmax import DIVISION_LATENCY, divider_luts
from attnc.ops.storage import storage

SCORE_EXCLUDED = -(1 << (SCORE_BITS + 1))
CHUNK = 1 << 22
"""Scores that golden and reference hold at a time: bounds their memory, changes nothing else."""
PIPELINE = 12
"""Cycles to fill and drain a loop that is not merged with the one around it."""


@dataclass(frozen=True)
class Sizes:
    """Groups, queries and keys per group, heads, channels per head, and heads and rows of the bias (0 and 0 without one)."""

    groups: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head: int
    value: int
    bias_heads: int
    bias_rows: int

    @classmethod
    def of(cls, node: Node, shapes: Sequence[Shape]) -> Sizes:
        """From the attributes and the shapes of the operands."""
        attr = node.attrs
        groups, heads, kv_heads = attr.get("groups", 1), attr["num_heads"], attr["num_kv_heads"]
        (q_rows, q_channels), (k_rows, _), (_, v_channels) = shapes[:3]
        bias = (attr.get("bias_heads", 1), attr.get("bias_rows", 1)) if len(shapes) > 3 else (0, 0)
        return cls(groups, q_rows // groups, k_rows // groups, heads, kv_heads, q_channels // heads, v_channels // kv_heads, *bias)

    def expected(self) -> list[Shape]:
        """Shapes of the operands that fit these sizes."""
        k_rows = self.groups * self.keys
        q = (self.groups * self.queries, self.heads * self.head)
        shapes = [q, (k_rows, self.kv_heads * self.head), (k_rows, self.kv_heads * self.value)]
        return shapes + ([(self.bias_heads * self.bias_rows, self.keys)] if self.bias_heads else [])

    def valid(self) -> bool:
        """Whether head and bias counts fit together."""
        return (
            min(self.queries, self.keys, self.head, self.value) > 0
            and self.heads % self.kv_heads == 0
            and self.bias_heads in (0, 1, self.heads)
            and self.bias_rows in (0, 1, self.queries)
        )


class Attention(Operator):
    """Scaled dot-product attention of all heads."""

    name = "attention"

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[G*T, NH*HDV]."""
        sizes = Sizes.of(node, inputs)
        if not sizes.valid() or list(inputs) != sizes.expected():
            raise GraphError(f"node {node.name!r} (attention): operands {list(inputs)} do not fit {sizes}")
        return sizes.groups * sizes.queries, sizes.heads * sizes.value

    def operand_bits(self, node: Node, index: int) -> int:
        """The multipliers take bytes; the bias is added."""
        return 8 if index < 3 else 16

    def takes_zero_point(self, node: Node, index: int) -> bool:
        """The multipliers read bytes as memory holds them."""
        return False

    def prepare(self, node: Node, constants: Mapping[int, Array]) -> None:
        """A constant bias chooses the finest unit that holds it."""
        if 3 in constants:
            node.attrs["bias_shift"] = bias_shift(constants[3])

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """The bias: s16 in units of scores. Attribute `bias_shift`, where set (see `bias_shift`), chooses the range."""
        if index != 3:
            return None
        return bias_type(node.attrs.get("bias_shift", DEFAULT_BIAS_SHIFT))

    def quantize_operand(self, node: Node, index: int, real: Array, type_: TensorType) -> Array:
        """A constant operand in integers."""
        return quantize_bias(real, type_) if index == 3 else type_.quantize(real)

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """A tile belongs to one head, of q and k and of v."""
        sizes = Sizes.of(node, inputs)
        return math.gcd(sizes.head, sizes.value)

    def excludes(self, node: Node, index: int) -> bool:
        """The bias: keys left out."""
        return index == 3

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """In float; keys whose bias is at most -1e4 are excluded, and a query without any allowed key gives zeros."""
        sizes = Sizes.of(node, [x.shape[1:] for x in inputs])
        result = np.empty(output_shape(sizes, inputs), inputs[0].dtype)
        for out, q, k, v, bias in heads_of(sizes, inputs, result):
            s = node.attrs["scale"] * (q @ k.swapaxes(-1, -2))
            if bias is not None:
                s = np.where(bias <= EXCLUDED_BELOW, -np.inf, s + bias)
            peak = s.max(axis=-1, keepdims=True)
            p = np.exp(s - np.where(np.isfinite(peak), peak, 0))
            total = p.sum(axis=-1, keepdims=True)
            out[...] = p @ v / np.where(total > 0, total, 1)
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Multipliers to scores and to outputs."""
        where, attr = f"node {node.name!r} (attention)", node.attrs
        q, k, v = (scalar_scale(x, where) for x in inputs[:3])
        if any(x.bits > 8 or not x.signed or x.zero_point for x in inputs[:3]):
            found = f"{', '.join(x.short for x in inputs[:3])} with zero points {[x.zero_point for x in inputs[:3]]}"
            raise GraphError(f"{where}: needs q, k and v in s8, found {found}")
        attr["score_multiplier"], attr["score_shift"] = score_multiplier(q * k * attr["scale"])
        attr["output_multiplier"], attr["output_shift"] = output_multiplier(v / scalar_scale(output, where))
        if len(inputs) > 3:
            attr["bias_shift"] = shift_of(inputs[3], where)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Mirrors attnc/attention.hpp."""
        sizes, attr = Sizes.of(node, [x.shape[1:] for x in inputs]), node.attrs
        widths(node, sizes)
        result = np.empty(output_shape(sizes, inputs), output.dtype)
        for out, q, k, v, bias in heads_of(sizes, inputs, result):
            t = scores(matmul(q, k.swapaxes(-1, -2), 1 << 14), attr["score_multiplier"], attr["score_shift"])
            if bias is not None:
                t = np.where(bias == BIAS_EXCLUDED, SCORE_EXCLUDED, t + (bias.astype(np.int64) << attr["bias_shift"]))
            p = exp2_negative(t.max(axis=-1, keepdims=True) - t)
            p[t == SCORE_EXCLUDED] = 0
            total = p.sum(axis=-1, keepdims=True)
            acc = matmul(p, v, 1 << (PROBABILITY_BITS + 7))
            out[...] = normalise(acc, total, attr["output_multiplier"], attr["output_shift"], *output.range)
        return result

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of queries; each serves all heads and groups."""
        sizes = Sizes.of(node, [ctx.graph.value(name).shape for name in node.inputs])
        lanes = ctx.design.lanes
        if sizes.head % lanes or sizes.value % lanes:
            raise GraphError(f"node {node.name!r} (attention): {lanes} lanes must divide heads of {sizes.head} and {sizes.value} channels")
        blocks = query_blocks(sizes.queries, ctx.design)
        kernel = kernel_of(node, sizes, ctx.design, max(rows for _, rows in blocks))
        low, high = ctx.graph.type(node.output).range
        attr, calls = node.attrs, []
        for row, rows in blocks:
            bias_rows = min(sizes.bias_rows, rows)
            bias = (sizes.bias_heads, bias_rows, attr["bias_shift"] if sizes.bias_heads else 0)
            heads = (sizes.groups * sizes.kv_heads, sizes.heads // sizes.kv_heads)
            counts = (*heads, rows, sizes.keys, sizes.head // lanes, sizes.value // lanes)
            factors = (attr["score_multiplier"], attr["score_shift"]), (attr["output_multiplier"], attr["output_shift"])
            calls.append(
                Call(
                    node=node.name,
                    kernel=kernel,
                    walks=walks_of(node, sizes, ctx, row, rows),
                    scalars=(*counts, *factors[0], *bias, *factors[1], low, high),
                    cycles=cycles_of(sizes, ctx.design, rows),
                    macs=sizes.groups * sizes.heads * rows * sizes.keys * (sizes.head + sizes.value),
                )
            )
        return calls

    def resources(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        DSP: q . k two byte products that share a key per DSP48E2 (WP486), p . v one each (17 by 8 bits); a rescale per query and
        per lane, two where the accumulator is wider than the 27-bit port.
        LUT: 8 per packed product (correction and adder tree), the adders of p . v; per query the exponential (two ROM reads of 16 LUTs,
        chord 40, shifter 60), maximum, difference and bias (120) and the lane select of the bias (5 per lane); 80 per rescale (shifter
        and clamp); one per bit of a memory of up to 64 words; the divider; control.
        FF: operands, accumulators and pipeline of the above.
        BRAM: keys, values, outputs, a bank per query for queries and biases, the row of scores, probabilities.
        """
        names = ("L", "P", "HEAD_TILES_MAX", "VALUE_TILES_MAX", "KEYS_MAX", "ROWS_MAX", "BIAS_ROWS_MAX", "ScoreT", "SumT", "AccT")
        lanes, p, qk_tiles, v_tiles, keys, rows, bias_rows, score, total, acc = (kernel.arg(name) for name in names)
        blocks, divider = math.ceil(rows / p), divider_luts(total)
        rescale = p * (1 if score <= 27 else 2) + lanes * (1 if acc <= 27 else 2)
        memories = (
            storage(qk_tiles * keys, 8 * lanes, name="k_buffer"),
            storage(v_tiles * keys, 8 * lanes, name="v_buffer"),
            storage(v_tiles * rows, 16 * lanes, name="y_buffer"),
            storage(qk_tiles * blocks, 8 * lanes, banks=p, name="q_buffer"),
            storage(math.ceil(keys / lanes) * math.ceil(bias_rows / p), 16 * lanes, banks=p, name="bias_buffer"),
            storage(keys + 2, (SCORE_BITS + 2) * p),
            storage(keys, (PROBABILITY_BITS + 1) * p, name="p_buffer"),
            storage(2, p * lanes * acc),
        )
        logic = Resources(
            lut=8 * p * lanes + p * lanes * acc + p * (132 + 120 + 5 * lanes) + 80 * (p + lanes) + divider + 3000,
            ff=10 * p * lanes + 2 * p * lanes * acc + p * 12 * SCORE_BITS + 80 * lanes + 2 * divider + 4000,
            dsp=math.ceil(p * lanes / 2) + p * lanes + rescale,
        )
        return sum(memories, logic)


def output_shape(sizes: Sizes, inputs: Sequence[Array]) -> tuple[int, int, int]:
    """[samples, G*T, NH*HDV]."""
    return max(x.shape[0] for x in inputs), sizes.groups * sizes.queries, sizes.heads * sizes.value


Head = tuple[Array, Array, Array, Array, "Array | None"]


def heads_of(sizes: Sizes, inputs: Sequence[Array], result: Array) -> Iterator[Head]:
    """(out, q, k, v, bias) of each head, [samples, groups, rows, channels], some samples at a time; `out` is a view of `result`."""
    samples = result.shape[0]
    q, k, v, *biases = (np.broadcast_to(x, (samples, *x.shape[1:])) for x in inputs)
    q = q.reshape(samples, sizes.groups, sizes.queries, sizes.heads, sizes.head)
    k = k.reshape(samples, sizes.groups, sizes.keys, sizes.kv_heads, sizes.head)
    v = v.reshape(samples, sizes.groups, sizes.keys, sizes.kv_heads, sizes.value)
    out = result.reshape(samples, sizes.groups, sizes.queries, sizes.heads, sizes.value)
    bias = [b.reshape(samples, 1, sizes.bias_heads, sizes.bias_rows, sizes.keys) for b in biases]
    step = max(1, CHUNK // (sizes.groups * sizes.queries * sizes.keys))
    for at in range(0, samples, step):
        part = slice(at, at + step)
        for head in range(sizes.heads):
            kv = head // (sizes.heads // sizes.kv_heads)
            one = bias[0][part, :, head % sizes.bias_heads] if bias else None
            yield out[part, :, :, head], q[part, :, :, head], k[part, :, :, kv], v[part, :, :, kv], one


def widths(node: Node, sizes: Sizes) -> tuple[int, int, int]:
    """Bits of a score's accumulator, of a sum of probabilities (unsigned) and of a weighted sum, checked."""
    where = f"node {node.name!r} (attention)"
    score = check_bits(bits_for(sizes.head << 14), f"{where}: accumulator of scores", 44)
    acc = check_bits(bits_for(sizes.keys << (PROBABILITY_BITS + 7)), f"{where}: weighted sum", 44)
    product_bits(node, score)
    product_bits(node, acc)
    return score, sum_bits(sizes.keys, where), acc


def query_blocks(queries: int, design: Design) -> list[tuple[int, int]]:
    """(first, count) of blocks of at most `design.rows` queries, of about equal length and full in the engine's P queries."""
    count = math.ceil(queries / design.rows)
    step = min(design.rows, math.ceil(math.ceil(queries / count) / design.queries) * design.queries)
    return [(row, min(step, queries - row)) for row in range(0, queries, step)]


def kernel_of(node: Node, sizes: Sizes, design: Design, rows: int) -> KernelCall:
    """The engine that serves `rows` queries at a time."""
    score, total, acc = widths(node, sizes)
    return KernelCall(
        header="attnc/attention.hpp",
        function="attnc::attention",
        template_args=(
            ("XT", IntType(8)),
            ("BiasT", IntType(16)),
            ("ScoreT", IntType(score)),
            ("SumT", IntType(total, signed=False)),
            ("AccT", IntType(acc)),
            ("YT", IntType(16)),
            ("Exp2", EXP2_ROM),
            ("HEAD_TILES_MAX", sizes.head // design.lanes),
            ("VALUE_TILES_MAX", sizes.value // design.lanes),
            ("KEYS_MAX", sizes.keys),
            ("ROWS_MAX", rows),
            ("BIAS_ROWS_MAX", max(1, min(sizes.bias_rows, rows))),
            ("L", design.lanes),
            ("P", design.queries),
        ),
        ports=(
            Port("q", "load", IntType(8)),
            Port("k", "load", IntType(8)),
            Port("v", "load", IntType(8)),
            Port("bias", "load"),
            Port("y", "store"),
        ),
        scalars=(
            "kv_heads",
            "heads_per_kv",
            "rows",
            "keys",
            "qk_tiles",
            "v_tiles",
            "score_multiplier",
            "score_shift",
            "bias_heads",
            "bias_rows",
            "bias_shift",
            "output_multiplier",
            "output_shift",
            "low",
            "high",
        ),
    )


def walks_of(node: Node, sizes: Sizes, ctx: Lowering, row: int, rows: int) -> tuple[Walk, ...]:
    """q, k, v, bias, y for queries [row, row + rows) of every group: group, tile of channels (so head after head), row."""

    def grouped(name: str, per_group: int, first: int, count: int) -> Walk:
        height = ctx.graph.value(name).shape[0]
        size = ctx.bytes(name)
        counts = (1, sizes.groups, ctx.tiles(name), count)
        return Walk(ctx.offsets[name] + first * size, counts, (0, per_group, height), size, ctx.zero_point(name))

    q, k, v = node.inputs[:3]
    bias = Walk(0, (0, 0, 0, 0), (0, 0, 0))
    if sizes.bias_heads:
        name = node.inputs[3]
        # A bias of one head is loaded once; one per head is loaded for each head of each group.
        counts = (sizes.groups if sizes.bias_heads > 1 else 1, sizes.bias_heads, ctx.tiles(name), min(sizes.bias_rows, rows))
        first = row if sizes.bias_rows > 1 else 0
        height = ctx.graph.value(name).shape[0]
        bias = Walk(ctx.offsets[name] + first * ctx.bytes(name), counts, (0, sizes.bias_rows, height), ctx.bytes(name))
    return (
        grouped(q, sizes.queries, row, rows),
        grouped(k, sizes.keys, 0, sizes.keys),
        grouped(v, sizes.keys, 0, sizes.keys),
        bias,
        grouped(node.output, sizes.queries, row, rows),
    )


def cycles_of(sizes: Sizes, design: Design, rows: int) -> dict[str, int]:
    """Cycles from the start of a call until each process is done, were no other slower.

    Later processes wait for the first block of queries: its keys and queries, its scores, and its exponentials.
    """
    heads, kv_heads, keys = sizes.groups * sizes.heads, sizes.groups * sizes.kv_heads, sizes.keys
    qk_tiles, v_tiles = sizes.head // design.lanes, sizes.value // design.lanes
    blocks = math.ceil(rows / design.queries)
    load = max(keys, rows) * qk_tiles
    row_scores = heads * blocks * keys
    first = load + keys * qk_tiles + PIPELINE
    normalise_cycles = blocks * (design.queries * (1 + v_tiles) + PIPELINE) + v_tiles * rows
    bias_words = 2 * math.ceil(keys / design.lanes) * min(sizes.bias_rows, rows)
    return {
        "bias": bias_words * (heads if sizes.bias_heads > 1 else 1) + row_scores if sizes.bias_heads else 0,
        "scores": kv_heads * load + (heads - kv_heads) * rows * qk_tiles + row_scores * qk_tiles + heads * PIPELINE,
        "maximum": load + row_scores,
        "exponential": first + row_scores,
        "weighted": first + kv_heads * keys * v_tiles + heads * blocks * v_tiles * (keys + PIPELINE),
        "normalise": first + keys * v_tiles + DIVISION_LATENCY + heads * normalise_cycles,
    }
