"""attention: y = softmax(scale * q . k + bias) . v, head by head.

Shapes   q [G*T, NH*HD], k [G*Tk, KVH*HD], v [G*Tk, KVH*HDV], optional bias [BH*BT, Tk], y [G*T, NH*HDV]; G independent groups of
         rows, head h reads the keys and values of head h // (NH/KVH). BH is 1 or NH, BT is 1 or T; groups share the bias.
         In place of the bias, params with its factors (attention_channels.py).
Masks    attributes `causal`, `window` (left, right; -1: no limit), `offset` (key at which query 0 stands; by default Tk - T, so that the
         last query stands at the last key): see attention_sizes.Mask. Masked work is not done. They combine with a bias.
         `branches` B, a power of two: query i looks at the first `prefix` keys and, of those behind, at every B-th from the i-th on.
Cap      attribute `softcap` c > 0: scores become c * tanh(score / c) before the bias is added (softcap.py).
Caches   attributes `low_operands` (1, 2), which a query sees in 4 bits but for those near it and the first, and `cache_chunk`, the tokens
         of a chunk (mixed_caches.py); where it looks at a window, `cache_window`, the chunks before its own that this reaches into.
Passes   attribute `passes`: 2 keeps a row of scores (attention.hpp), 1 rescales as it goes (attention_one_pass.hpp), "auto" (the default)
         takes 2 while the row, keys and values fit `TWO_PASS_BITS`. `kv_lanes` splits the keys of one pass over as many lanes; `key_step`
         forces how far its blocks of keys are apart.
Method   attribute `implementation`: the exponential, one of `EXP2`, or "auto"; its target is that of softmax.
Types    q, k, v bytes, or 16 bits where attrs["wide_operands"] names them (0, 1, 2), with one scale each; y one scale; bias s16 in units of
         2**bias_shift scores, that is ln2 / 2**10 * 2**bias_shift in natural units; -32768 excludes a key, and -32767 takes 0 in place of
         the score (attention_bias.py).
Numbers  s = q . k exact; t = s * multiplier / 2**shift, the score in the log2 domain with 10 fractional bits, saturated to
         +-8192 log2 units; plus bias * 2**bias_shift; m = max t; p = exp2_negative(m - t) with 15 fractional bits;
         o = sum p * v exact; y = o / sum p * (v.scale / y.scale) with one reciprocal per row (exponential.py).
         In one pass m is a whole number of log2 units that grows block by block (attention_one_pass.py).
         A query without any allowed key gives zeros; one whose keys are all masked by finite numbers what softmax in float32 gives,
         the mean of the values where the masks are so large that scores vanish beside them.
Rounding requantize (half up) to t and to y, saturation to the range of y; in one pass, half up where l and o are rescaled.
Error    against the float operator on what the integers stand for, V the largest |v|, sum >= 1 the row's sum of p:
         |y - y_float| <= V * (2 * (E + Tk * 2**-16 / sum) + 2**-15) + y.scale / 2, where E bounds the relative error of one p:
         ln2 * 2**-10 * (1/2 + 2**-17 * |t|) from t, 7.5e-5 from chord32 (2 * `EXP2[name].error` from another exponential); E = 6e-4 for
         chord32 and scores within +-32 log2 units.
         A float bias adds its rounding, ln2 * 2**-10 * 2**bias_shift / 2, to E: 2.7e-3 at a bias_shift of 3. A softcap c adds 3.6e-5 * c.
         One pass: sum >= 1/2, and V * 2**-14 * (2 + kv_lanes) for the rescaled sums.
         Measured by the tests beside the rounding of y: 3.7e-4 * V (197 keys, scores of sd 2.5); a float bias of sd 3 rounded at a
         bias_shift of 3: 1.5e-3 * V. One pass, scores of sd 2.5: 1.8e-4 * V at 197 keys (two passes 1.9e-4 there), 8.5e-4 * V at 2000
         keys (two passes 4.0e-4).
Widths   s: HD * 2**14; o: Tk * 2**22; sum: Tk * 2**15, all in `widths`; of 16 bits s: HD * 2**30, o: Tk * 2**30. A rescaled l or o is no
         wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import Int64, bits_for, matmul
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.design import AttentionNumbers, Numbers
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.resources import Resources
from attnc.ops.approximation import Approximated, Implementation
from attnc.ops.attention_bias import (
    BIAS_EXCLUDED,
    BIAS_UNIFORM,
    DEFAULT_BIAS_SHIFT,
    EXCLUDED_BELOW,
    LARGEST_BIAS,
    bias_shift,
    bias_type,
    dequantize_bias,
    lowered,
    quantize_bias,
    shift_of,
)
from attnc.ops.attention_channels import MIN_LANES, channel_table, check_factors, counts_distance, distance_table
from attnc.ops.attention_one_pass import ONE_PASS, SPARE, lower_one_pass, one_pass, one_pass_logic
from attnc.ops.attention_sizes import (
    ACC_BITS,
    SCORE_EXCLUDED,
    Mask,
    Sizes,
    check_attributes,
    heads_of,
    output_shape,
    passes_of,
    weighted_bound,
    widths,
    widths_of,
)
from attnc.ops.attention_two_pass import lower_two_pass, two_pass, two_pass_logic
from attnc.ops.base import Widening, scalar_scale
from attnc.ops.exponential import ERROR_TARGET, EXP2, normalise, output_multiplier, score_multiplier, scores
from attnc.ops.mixed_caches import LOW_BITS, by_token, in_4_bits, operands_seen
from attnc.ops.softcap import argument_multiplier, cap_multiplier, softcap, softcap_argument

Lower = Callable[[int, Array], Array]
"""What 4 bits leave of an operand."""
LOWER = {1: in_4_bits, 2: by_token}
CACHE_STEPS = {1: "key_steps", 2: "value_steps"}


class Attention(Approximated):
    """Scaled dot-product attention of all heads."""

    name = "attention"

    def kind(self, node: Node) -> str:
        """The exponential is that of a softmax."""
        return "softmax"

    def candidates(self, node: Node, x: TensorType | None) -> list[Implementation]:
        """The exponentials."""
        return list(EXP2.values())

    def default_target(self, node: Node, output: TensorType) -> float:
        """Of an exponential of at most 1."""
        return ERROR_TARGET

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """[G*T, NH*HDV]."""
        check_attributes(node)
        sizes = Sizes.of(node, inputs)
        passes_of(node, sizes)
        if sizes.channels or node.attrs.get("bias_by") == "channels":
            check_factors(node, sizes)
        if not sizes.valid() or list(inputs) != sizes.expected():
            raise GraphError(f"node {node.name!r} (attention): operands {list(inputs)} do not fit {sizes}")
        return sizes.groups * sizes.queries, sizes.heads * sizes.value

    def operand_bits(self, node: Node, index: int) -> int:
        """The multipliers take bytes, or 16 bits for what attrs["wide_operands"] names, and 4 for `small_operands`; the bias is added."""
        if index in node.attrs.get("small_operands", ()):
            return LOW_BITS
        return 8 if index < 3 and index not in node.attrs.get("wide_operands", ()) else 16

    def widenings(self, node: Node, inputs: Sequence[Shape]) -> list[Widening]:
        """Two products of bytes share a multiplier, of queries and keys of 16 bits each has its own. Values of 16 bits take no more of
        them (17 by 16 bits), but memory and accumulators: set at an eighth of a multiplier. There must be room for the sum."""
        sizes = Sizes.of(node, inputs)
        pairs = sizes.groups * sizes.heads * sum(stop - start for _, start, stop in sizes.mask.blocks(0, sizes.queries, sizes.keys, 1))
        small = {*node.attrs.get("small_operands", ()), *node.attrs.get("low_operands", ())}
        found = [Widening("queries", (0,), pairs * sizes.head) if 1 in small else Widening("queries and keys", (0, 1), pairs * sizes.head)]
        roomy = bits_for(weighted_bound(sizes.keys, 16)) <= ACC_BITS + 1
        found += [Widening("values", (2,), pairs * sizes.value // 8)] if roomy else []
        return [each for each in found if not {*each.operands} & small]

    def takes_zero_point(self, node: Node, index: int) -> bool:
        """The multipliers read bytes as memory holds them."""
        return False

    def prepare(self, node: Node, constants: Mapping[int, Array]) -> None:
        """A constant bias chooses the finest unit that holds it."""
        if 3 in constants:
            node.attrs["bias_shift"] = bias_shift(lowered(constants[3], LARGEST_BIAS))

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """The bias: s16 in units of scores. Attribute `bias_shift`, where set (see `bias_shift`), chooses the range."""
        if index != 3:
            return None
        return bias_type(node.attrs.get("bias_shift", DEFAULT_BIAS_SHIFT))

    def quantize_operand(self, node: Node, index: int, real: Array, type_: TensorType) -> Array:
        """A constant operand in integers."""
        return quantize_bias(real, type_) if index == 3 else type_.quantize(real)

    def dequantize_operand(self, node: Node, index: int, q: Array, type_: TensorType) -> Array:
        """What the integers stand for."""
        return dequantize_bias(q, type_) if index == 3 else type_.dequantize(q)

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """A tile belongs to one head, of q and k and of v."""
        sizes = Sizes.of(node, inputs)
        return math.gcd(sizes.head, sizes.value)

    def excludes(self, node: Node, index: int) -> bool:
        """The bias: keys left out."""
        return index == 3

    def allows_nothing(self, node: Node, index: int) -> bool:
        """Zeros where the model guards against the NaN that a softmax over no key is."""
        return bool(node.attrs.get("guarded", False))

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """In float; a query without any allowed key gives zeros. Where a query's keys are all masked, sums are rounded to float32, which is
        what loses the scores beside a large mask. With params `key_steps` and `value_steps` [channels], what a step of a byte stands for,
        keys and values are rounded to what a cache of two precisions holds in 4 bits, where a query sees those."""
        sizes, cap = Sizes.of(node, [x.shape[1:] for x in inputs]), node.attrs.get("softcap", 0.0)
        if sizes.channels:
            sizes, inputs = with_table(node, sizes, inputs, node.params["bias"])
        result = np.empty(output_shape(sizes, inputs), inputs[0].dtype)
        steps = {index: node.params[name] for index, name in CACHE_STEPS.items() if name in node.params}
        lower = (lambda index, real: LOWER[index](np.rint(real / steps[index])) * steps[index]) if steps else None
        for out, q, k, v, bias, allowed in _seen(node, sizes, inputs, result, lower):
            s = node.attrs["scale"] * (q @ k.swapaxes(-1, -2))
            if cap:
                s = cap * np.tanh(s / cap)
            if bias is not None:
                s = s + bias
                most = bias.max(axis=-1)
                if np.any((most <= EXCLUDED_BELOW) & np.isfinite(most)):
                    s = s.astype(np.float32).astype(s.dtype)
            if allowed is not None:
                s = np.where(allowed, s, -np.inf)
            peak = s.max(axis=-1, keepdims=True)
            p = np.exp(s - np.where(np.isfinite(peak), peak, 0))
            total = p.sum(axis=-1, keepdims=True)
            out[...] = p @ v / np.where(total > 0, total, 1)
        return result

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Multipliers to scores, to the cap and to outputs."""
        where, attr = f"node {node.name!r} (attention)", node.attrs
        check_attributes(node)
        q, k, v = (scalar_scale(x, where) for x in inputs[:3])
        most = [self.operand_bits(node, index) for index in range(3)]
        if any(x.bits > bits or not x.signed or x.zero_point for x, bits in zip(inputs[:3], most, strict=True)):
            found = f"{', '.join(x.short for x in inputs[:3])} with zero points {[x.zero_point for x in inputs[:3]]}"
            raise GraphError(f"{where}: needs q, k and v in {', '.join(f's{bits}' for bits in most)}, found {found}")
        self.select(node, inputs[0], output)
        factor, cap = q * k * attr["scale"], attr.get("softcap", 0.0)
        attr["score_multiplier"], attr["score_shift"] = argument_multiplier(factor, cap) if cap else score_multiplier(factor)
        if cap:
            attr["cap_multiplier"], attr["cap_shift"] = cap_multiplier(cap)
        attr["output_multiplier"], attr["output_shift"] = output_multiplier(v / scalar_scale(output, where))
        node.params = {name: array for name, array in node.params.items() if name != "bias"}
        if len(inputs) > 3:
            attr["bias_shift"] = shift_of(inputs[3], where)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """Mirrors attnc/attention.hpp and attnc/attention_one_pass.hpp."""
        sizes, attr = Sizes.of(node, [x.shape[1:] for x in inputs]), node.attrs
        widths(node, sizes)
        qk_bits, v_bits = widths_of(node)
        passes = passes_of(node, sizes)
        exp2 = EXP2[attr["implementation"]].rom
        if sizes.channels:
            sizes, inputs = with_table(node, sizes, inputs, channel_table(node))
        elif sizes.by_distance:
            sizes, inputs = with_table(node, sizes, inputs, distance_table(node, sizes))
        result = np.empty(output_shape(sizes, inputs), output.dtype)
        for out, q, k, v, bias, allowed in _seen(node, sizes, inputs, result, lambda index, q: LOWER[index](q)):
            t = log2_scores(node, matmul(q, k.swapaxes(-1, -2), 1 << 2 * (qk_bits - 1), np.float64))
            if bias is not None:
                # What is added to an excluded key takes any score below SCORE_EXCLUDED, which no other sum comes near.
                far = np.where(bias == BIAS_EXCLUDED, 2 * SCORE_EXCLUDED, bias.astype(np.int64) << attr["bias_shift"])
                np.maximum(np.add(t, far, out=t), SCORE_EXCLUDED, out=t)
                t[np.broadcast_to(bias == BIAS_UNIFORM, t.shape)] = 0
            if allowed is not None:
                t = np.where(allowed, t, SCORE_EXCLUDED)
            multiplier, shift = attr["output_multiplier"], attr["output_shift"]
            if passes == 1:
                acc, total = one_pass(t, v, v_bits, attr.get("kv_lanes", 1), attr.get("key_step", 0), exp2)
                # normalise() wants sums of at least 2**15: total and acc are both doubled.
                acc, total = acc << SPARE, total << SPARE
            else:
                acc, total = two_pass(t, v, v_bits, exp2)
            out[...] = normalise(acc, total, multiplier, shift, *output.range)
        return result

    def numbers(self, node: Node) -> type[Numbers]:
        """Of either kernel."""
        return AttentionNumbers

    def mixes(self, node: Node, length: int) -> str | None:
        """Tokens look at those before them alone."""
        mask = Mask.of(node, length, length)
        if mask.after or mask.offset:
            return "a token attends to later ones"
        if len(node.inputs) > 3 or ("bias_queries" in node.params and not counts_distance(node, mask)):
            return "attention has a bias that is not the distance of a key times a falling slope for each head (ALiBi)"
        return None

    def cached(self, node: Node) -> tuple[int, ...]:
        """Keys and values."""
        return 1, 2

    def least_lanes(self, node: Node) -> int:
        """Those that a bias in channels, or by distance, needs."""
        return MIN_LANES if "bias_queries" in node.params or node.attrs.get("by_distance") else 0

    def cache_rows(self, node: Node, length: int, block: int) -> int:
        """All tokens; or those that the queries of a block look at, in whole blocks, two at least: that of the queries and what is there
        before, which a register counts up to, even where nobody looks further than at its own token. All in two precisions, too."""
        if "cache_chunk" in node.attrs:
            return length
        before = Mask.of(node, length, length).before
        return min(length, block * max(2, math.ceil((before + block) / block)))

    def parts(self, node: Node, length: int) -> str | None:
        """Where they look at all tokens alike: keys of branches lie between each other."""
        if "cache_chunk" in node.attrs:
            return "keys or values have two precisions"
        if Mask.of(node, length, length).before < length - 1:
            return "it attends to a window of tokens"
        return "scores fall with the distance of a key" if "bias_queries" in node.params else None

    def over_cache(self, node: Node, length: int, rows: int, block: int, branches: int = 1) -> dict[str, Any]:
        """Queries stand where the run does; one pass over keys would round them by where its blocks begin."""
        unlimited = Mask.of(node, length, length).before >= length - 1
        kept = {key: value for key, value in node.attrs.items() if key != "offset" and not (key == "window" and unlimited)}
        bias = {"by_distance": True} if "bias_queries" in node.params else {}
        together = {"branches": branches} if branches > 1 else {}
        return {**kept, **bias, **together, "cached": rows, "ring": block if rows < length else 0, "passes": 2}

    def placed(self, node: Node, position: int, rows: int, prefix: int = 0) -> Node:
        """Its operands are all keys and values up to the last query, or as many as the cache holds."""
        kept = {key: value for key, value in node.attrs.items() if key not in ("cached", "ring")}
        return replace(node, attrs={**kept, "prefix": prefix} if "branches" in kept else kept)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """Calls of the kernel of one or of two passes."""
        sizes = Sizes.of(node, [ctx.graph.value(name).shape for name in node.inputs])
        lanes = ctx.design.lanes
        if sizes.head % lanes or sizes.value % lanes:
            raise GraphError(f"node {node.name!r} (attention): {lanes} lanes must divide heads of {sizes.head} and {sizes.value} channels")
        if (sizes.channels or sizes.by_distance) and lanes < MIN_LANES:
            raise GraphError(f"node {node.name!r} (attention): a bias in channels needs at least {MIN_LANES} lanes, found {lanes}")
        return lower_one_pass(node, sizes, ctx) if passes_of(node, sizes) == 1 else lower_two_pass(node, sizes, ctx)

    def macs_per_cycle(self, kernel: KernelCall) -> int:
        """P queries (and lanes of keys) times L channels, in q . k and in p . v."""
        return 2 * kernel.arg("L") * kernel.arg("P") * (kernel.arg("S") if kernel.network in ONE_PASS else 1)

    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate, derived from the structure of the kernel and not from a synthesis run.

        DSP: q . k two byte products that share a key per DSP48E2 (WP486; one each where there is no second query, or of 16 bits), p . v one
        each (17 by 8 or 16 bits), which in two passes also accumulates (48 bits, UG579); `wide_product` per query (and lane of keys) whose
        softmax goes on at a time and per lane; three more per query for a cap.
        LUT: 8 per packed product (correction and adder tree), of 16 bits an adder for 4 products that DSPs have added up, in one pass the
        adders of p . v; per query whose softmax goes on at a time the exponential (`EXP2`), maximum, difference and bias (120); the lane
        select of the bias; 80 per rescale (shifter and clamp); one per bit of a memory of up to 64 words; the divider, or a subtracter
        where a bit per cycle is fast enough; control, and the ranges of keys where an engine has masks.
        FF: operands, accumulators and pipeline of the above.
        """
        return one_pass_logic(kernel) if kernel.network in ONE_PASS else two_pass_logic(kernel)


def _seen(node: Node, sizes: Sizes, inputs: Sequence[Array], result: Array, lower: Lower | None = None) -> Iterator[tuple[Any, ...]]:
    """(out, q, k, v, bias, allowed) of `heads_of`, where caches have two precisions for each lot of queries that see the same: `lower` is
    what 4 bits make of integers."""
    allowed = sizes.mask.allowed(sizes.queries, sizes.keys)
    low = node.attrs.get("low_operands", ())
    if lower is None or not low:
        yield from ((*found, allowed) for found in heads_of(sizes, inputs, result))
        return
    k, v = (lower(index, inputs[index]) if index in low else inputs[index] for index in (1, 2))
    both = zip(heads_of(sizes, inputs, result), heads_of(sizes, [inputs[0], k, v], result), strict=True)
    for (out, q, *operands, bias), (_, _, *less, _) in both:
        for rows, (k, v) in operands_seen(node, sizes.queries, operands, less):
            own = bias if bias is None or bias.shape[-2] == 1 else bias[..., rows, :]
            yield out[..., rows, :], q[..., rows, :], k, v, own, None if allowed is None else allowed[rows]


def with_table(node: Node, sizes: Sizes, inputs: Sequence[Array], table: Array) -> tuple[Sizes, list[Array]]:
    """Sizes and operands as if the bias that channels make were a table [BH*T, Tk] given to the node."""
    heads = table.shape[0] // sizes.queries
    return replace(sizes, bias_heads=heads, bias_rows=sizes.queries), [*inputs, table[np.newaxis]]


def log2_scores(node: Node, acc: Int64) -> Int64:
    """t of accumulated integers, capped where the node says so."""
    attr = node.attrs
    if not attr.get("softcap"):
        return scores(acc, attr["score_multiplier"], attr["score_shift"])
    return softcap(softcap_argument(acc, attr["score_multiplier"], attr["score_shift"]), attr["cap_multiplier"], attr["cap_shift"])
