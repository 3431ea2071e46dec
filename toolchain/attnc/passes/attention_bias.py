"""Constant biases of attention as channels of queries and keys (FlashBias) where that costs less than a table.

What is fitted   A bias that grows evenly with the distance of a key (ALiBi) is two channels of integers, exact but for the rounding of its
                 slope: softmax does not see what a query adds to all its keys, so keys are counted from the last one (the first, for a
                 falling bias) that the query may look at. Any other bias is the product of the fewest singular vectors, 16 bits each, that
                 reach the target; keys that the mask leaves out are free.
Error            measured, never derived: the largest distance of the integers that the kernel gives from the float bias, over the keys that
                 the mask allows, in natural units of scores. Beyond what 16 bits hold both are taken as saturated, as a table does.
                 The target is what the coarsest table may round, ln2 / 2**10 * 2**3 / 2 = 2.7e-3, unless an error target is given; 2**-17
                 of the bias comes on top, which the multiplier may round, as that of the scores does.
Cost             (cycles + words that pass the ports) * area of the engines in LUTs, of all attention of the model in a usual design, by the
                 estimates of the kernels: all biases become channels, or none, so that they share engines.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from attnc.arrays import Array
from attnc.errors import ConfigError
from attnc.fixedpoint import MULTIPLIER_BITS, matmul, quantize_multiplier, requantize
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.ops import operator
from attnc.ops.approximation import BRAM_IN_LUTS, DSP_IN_LUTS
from attnc.ops.attention_bias import BIAS_LIMIT, BIAS_UNIT, DEFAULT_BIAS_SHIFT, EXCLUDED_BELOW, LARGEST_BIAS, bias_shift, lowered
from attnc.ops.attention_channels import MAX_CHANNELS, MIN_LANES
from attnc.ops.attention_sizes import Mask

KIND = "attention_bias"
CHOICES = ("auto", "dense", "channels")
ERROR_TARGET = BIAS_UNIT * (1 << DEFAULT_BIAS_SHIFT) / 2
RELATIVE = 2.0**-MULTIPLIER_BITS
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_CHANNELS)
USUAL_LANES = 16
SWEEPS = 8
"""Rounds in which free entries are filled with what the factors give there."""
EXACT_SIDE = 256
"""Larger tables are decomposed by subspace iteration."""
POWERS = 2
SEED = 0


@dataclass(frozen=True)
class Fit:
    """A bias as channels: the params of the node, the unit of its biases, the measured error in natural units."""

    queries: Array
    keys: Array
    multiplier: Array
    product_shift: Array
    bias_shift: int
    error: float

    @property
    def channels(self) -> int:
        """Its rank."""
        return int(self.queries.shape[-1])

    def made(self, head: int) -> Array:
        """The biases of a head in natural units [T, Tk]."""
        acc = matmul(self.queries[head], self.keys[head].T, BIAS_LIMIT**2)
        q = requantize(acc, self.multiplier[head], self.product_shift[head], -BIAS_LIMIT, BIAS_LIMIT)
        return q * (BIAS_UNIT * (1 << self.bias_shift))


def choose_biases(graph: Graph, wanted: str = "auto", target: float | None = None) -> None:
    """Turn constant biases into channels: all of them where `wanted` says so, or costs less. Requires types on all values and float
    constants; the float meaning stays. Leaves attribute `bias_report` in the nodes whose bias could have been either."""
    if wanted not in CHOICES:
        raise ConfigError(f"implementation of {KIND}: needed one of {', '.join(CHOICES)}, found {wanted!r}")
    target = ERROR_TARGET if target is None else target
    nodes = list(constant_biases(graph))
    if not nodes:
        if wanted != "auto":
            raise ConfigError(f"implementation of {KIND}: needed attention with a constant bias of a row per query, the model has none")
        return
    # A table that only the host knows needs the other engine anyway.
    others = any(node.op == "attention" and len(node.inputs) > 3 and node not in nodes for node in graph.nodes)
    narrow = _usual_lanes(graph) < MIN_LANES
    if narrow and wanted == "channels":
        found = f"words of {_usual_lanes(graph)} bytes"
        raise ConfigError(f"implementation of {KIND}: channels: needed heads of a multiple of {MIN_LANES} channels, found {found}")
    tried = wanted == "channels" or (wanted == "auto" and not others and not narrow)
    # One BLAS thread: more only wait for each other on tables of this size.
    with threadpool_limits(limits=1, user_api="blas"):
        fits = _fits(graph, nodes, target, wanted == "channels") if tried else {}
    costs = {"dense": _cost(graph, {})}
    if len(fits) == len(nodes):
        costs["channels"] = _cost(graph, fits)
    taken = wanted if wanted != "auto" else min(costs, key=lambda name: (costs[name], name))
    for node in nodes:
        _, mask, bias = _bias_of(graph, node)
        node.attrs["bias_report"] = {
            "by": taken,
            "channels": fits[node.name].channels if node.name in fits else 0,
            "error": fits[node.name].error if node.name in fits else None,
            "table_error": _table_error(bias, mask, node.attrs["bias_shift"]),
            "cost": {name: round(cost) for name, cost in costs.items()},
        }
    if taken == "channels":
        for node in graph.nodes:
            if node.op == "attention":
                _rewrite(graph, node, fits.get(node.name))
        used = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs)
        for name in [name for name in graph.constants if name not in used]:
            del graph.constants[name], graph.values[name]


def are_lines(graph: Graph, target: float | None = None) -> bool:
    """Whether there are constant biases, and all of them grow evenly with the distance of a key, within `target`."""
    parts = [_bias_of(graph, node) for node in constant_biases(graph)]
    limit = ERROR_TARGET if target is None else target
    return bool(parts) and all(fit_line(bias, mask, allowed, limit) is not None for mask, allowed, bias in parts)


def constant_biases(graph: Graph) -> Iterator[Node]:
    """Attention whose bias is a constant table with a row per query."""
    for node in graph.nodes:
        tabled = node.op == "attention" and len(node.inputs) > 3 and node.inputs[3] in graph.constants
        if tabled and node.attrs.get("bias_rows", 1) > 1 and graph.value(node.inputs[3]).imposed is None:
            yield node


def _bias_of(graph: Graph, node: Node) -> tuple[Mask, Array, Array]:
    """The mask, the keys it allows [T, Tk], the bias [BH, T, Tk] as a table holds it."""
    name = node.inputs[3]
    heads, queries = node.attrs.get("bias_heads", 1), node.attrs["bias_rows"]
    bias = lowered(np.asarray(graph.constants[name], np.float64), LARGEST_BIAS).reshape(heads, queries, -1)
    mask = Mask.of(node, queries, bias.shape[-1])
    allowed = mask.allowed(queries, bias.shape[-1])
    return mask, np.ones(bias.shape[1:], bool) if allowed is None else allowed, bias


def _fits(graph: Graph, nodes: list[Node], target: float, needed: bool) -> dict[str, Fit]:
    """A fit by name of node, of those that have one; equal biases are fitted once."""
    known: dict[str, Fit | None] = {}
    found = {}
    for node in nodes:
        mask, allowed, bias = _bias_of(graph, node)
        key = hashlib.sha256(bias.tobytes() + repr((bias.shape, mask)).encode()).hexdigest()
        if key not in known:
            known[key] = fit(bias, mask, allowed, target)
        best = known[key]
        if best is None and not needed:
            return {}
        if best is not None:
            found[node.name] = best
        else:
            raise ConfigError(
                f"implementation of {KIND}: node {node.name!r}: needed at most {MAX_CHANNELS} channels within {target:.2g} of its table, "
                f"found none; dense keeps the table, a larger error target allows fewer channels"
            )
    return found


def fit(bias: Array, mask: Mask, allowed: Array, target: float) -> Fit | None:
    """The fewest channels for a bias [BH, T, Tk] with an error of at most `target`; None where too many would be needed, or where it
    leaves keys out, which channels cannot."""
    if not (bias[:, allowed] > EXCLUDED_BELOW).all():
        return None
    line = fit_line(bias, mask, allowed, target)
    if line is not None:
        return line
    ranks = [rank for rank in RANKS if rank < min(bias.shape[1:])]
    vectors = [_leading(head, ranks[-1]) for head in bias] if ranks and allowed.all() else None
    low, best = 0, None
    # The largest rank first: mostly it is not enough. Then halving.
    tried = len(ranks) - 1
    high = len(ranks)
    while low < high:
        found = fit_vectors(bias, allowed, ranks[tried], target, vectors)
        if found is None:
            low = tried + 1
        else:
            best, high = found, tried
        tried = (low + high) // 2
    return best


def fit_line(bias: Array, mask: Mask, allowed: Array, target: float) -> Fit | None:
    """slope * (j - j0(i)) per head, j0 the key from which query i sees the bias fall; None where that misses the target."""
    heads, queries, keys = bias.shape
    position, centre = mask.offset + np.arange(queries), keys // 2
    last, first = (np.clip(edge, 0, keys - 1) for edge in (position + mask.after, position - mask.before))
    if max(keys, int(np.abs(np.stack([last, first]) - centre).max())) > BIAS_LIMIT:
        return None
    x = _centred(np.broadcast_to(np.arange(keys), allowed.shape), allowed)
    slope = np.array([(x * _centred(head, allowed)).sum() for head in bias]) / max(float(np.square(x).sum()), 1e-30)
    sign = np.where(slope >= 0, 1, -1)
    origin = np.where(slope[:, None] >= 0, last, first)
    q = np.stack([np.broadcast_to(sign[:, None], origin.shape), -sign[:, None] * (origin - centre)], axis=-1)
    k = np.broadcast_to(np.stack([np.arange(keys) - centre, np.ones(keys)], axis=-1), (heads, keys, 2))
    distance = {sign: np.where(allowed, np.arange(keys) - side[:, None], 0) for sign, side in ((1, last), (-1, first))}
    shift = bias_shift(np.array([slope[h] * np.abs(distance[sign[h]]).max() for h in range(heads)]))
    multiplier, product_shift = quantize_multiplier(np.abs(slope) / (BIAS_UNIT * (1 << shift)))
    found = Fit(q.astype(np.int16), k.astype(np.int16), multiplier, product_shift, shift, 0.0)
    worst = 0.0
    for h, head in enumerate(bias):
        # What the query adds to all its keys is taken off before the two are compared.
        line = slope[h] * distance[sign[h]]
        off, excess = _error(found.made(h), line + _centred(head - line, allowed), allowed, shift)
        if excess > target:
            return None
        worst = max(worst, off)
    return replace(found, error=worst)


def _centred(table: Array, allowed: Array) -> Array:
    """What differs from the mean of a row's allowed keys; 0 elsewhere."""
    kept = np.where(allowed, table, 0.0)
    mean = kept.sum(axis=1, keepdims=True) / np.maximum(allowed.sum(axis=1, keepdims=True), 1)
    return np.where(allowed, kept - mean, 0.0)


def fit_vectors(bias: Array, allowed: Array, rank: int, target: float, vectors: list[tuple[Array, Array]] | None) -> Fit | None:
    """The product of `rank` singular vectors per head; None as soon as a head misses the target. `vectors` are those of the whole
    tables, where no key is free."""
    shift, parts = bias_shift(bias[:, allowed]), []
    for index, head in enumerate(bias):
        pair = _completed(head, allowed, rank) if vectors is None else vectors[index]
        left, right = (side[:, :rank] for side in pair)
        step = math.sqrt(max(float((np.abs(left).max(axis=0) * np.abs(right).max(axis=0)).max()), 1e-12)) / BIAS_LIMIT
        even = np.sqrt(np.maximum(np.abs(right).max(axis=0), 1e-30) / np.maximum(np.abs(left).max(axis=0), 1e-30))
        q, k = (np.rint(x / step).clip(-BIAS_LIMIT, BIAS_LIMIT).astype(np.int16)[None] for x in (left * even, right / even))
        multiplier, product_shift = quantize_multiplier(np.array([step**2 / (BIAS_UNIT * (1 << shift))]))
        part = Fit(q, k, multiplier, product_shift, shift, 0.0)
        off, excess = _error(part.made(0), head, allowed, shift)
        if excess > target:
            return None
        parts.append(replace(part, error=off))
    queries, keys, multiplier, product_shift = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("queries", "keys", "multiplier", "product_shift")
    )
    return Fit(queries, keys, multiplier, product_shift, shift, max(part.error for part in parts))


def _completed(head: Array, allowed: Array, rank: int) -> tuple[Array, Array]:
    """left [T, R] and right [Tk, R] whose product is near `head` where it is `allowed`."""
    table = np.where(allowed, head, 0.0)
    for _ in range(SWEEPS):
        left, right = _leading(table, rank)
        table = np.where(allowed, table, left @ right.T)
    return left, right


def _leading(table: Array, rank: int) -> tuple[Array, Array]:
    """The leading singular vectors, each times the root of its singular value."""
    if min(table.shape) <= EXACT_SIDE:
        u, s, vt = np.linalg.svd(table, full_matrices=False)
    else:
        basis = np.random.default_rng(SEED).normal(size=(table.shape[1], rank + 8))
        for _ in range(POWERS):
            basis, _ = np.linalg.qr(table.T @ np.linalg.qr(table @ basis)[0])
        u, s, vt = np.linalg.svd(table @ basis, full_matrices=False)
        vt = vt @ basis.T
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, vt[:rank].T * root


def _error(made: Array, real: Array, allowed: Array, shift: int) -> tuple[float, float]:
    """Largest distance over allowed keys, both saturated; and the largest beyond RELATIVE of the bias."""
    limit = BIAS_LIMIT * BIAS_UNIT * (1 << shift)
    exact = np.clip(real, -limit, limit)[..., allowed]
    off = np.abs(made[..., allowed] - exact)
    return float(off.max(initial=0.0)), float((off - RELATIVE * np.abs(exact)).max(initial=0.0))


def _table_error(bias: Array, allowed: Array, shift: int) -> float:
    """What a table in integers rounds."""
    unit = BIAS_UNIT * (1 << shift)
    return _error(np.rint(bias / unit).clip(-BIAS_LIMIT, BIAS_LIMIT) * unit, bias, allowed, shift)[0]


def _rewrite(graph: Graph, node: Node, found: Fit | None) -> None:
    """A node on the engine of channels: its table gone where it has a fit, as it is where it has no bias."""
    if found is not None or len(node.inputs) == 3:
        node.attrs["bias_by"] = "channels"
    if found is None:
        return
    arrays = {
        "bias_queries": found.queries,
        "bias_keys": found.keys,
        "bias_multiplier": found.multiplier,
        "bias_product_shift": found.product_shift,
    }
    digest = hashlib.sha256(b"".join(array.tobytes() + repr(array.shape).encode() for array in arrays.values())).hexdigest()[:16]
    node.params = {**arrays, "bias": graph.constants[node.inputs[3]]}
    node.inputs = node.inputs[:3]
    node.attrs.update(bias_shift=found.bias_shift, bias_digest=digest)
    for name in ("bias_heads", "bias_rows"):
        node.attrs.pop(name, None)


def _usual_lanes(graph: Graph) -> int:
    """Bytes per word that the heads allow."""
    nodes = (node for node in graph.nodes if node.op == "attention")
    return math.gcd(USUAL_LANES, *(operator(node).lane_divisor(node, [graph.value(name).shape for name in node.inputs]) for node in nodes))


def _cost(graph: Graph, fits: dict[str, Fit]) -> float:
    """(cycles + words) * LUTs of all attention, with the biases of `fits` as channels."""
    copies = [replace(node, attrs=dict(node.attrs), inputs=list(node.inputs)) for node in graph.nodes if node.op == "attention"]
    changed = Graph("cost", graph.inputs, graph.outputs, copies, graph.values, graph.constants)
    ctx = Lowering(changed, Design(lanes=_usual_lanes(graph)), dict.fromkeys(graph.values, 0), lambda key, make: 0)
    engines: dict[object, KernelCall] = {}
    time = 0
    for node in copies:
        if fits:
            _rewrite(graph, node, fits.get(node.name))
        operator(node).quantize(node, [graph.type(name) for name in node.inputs], graph.type(node.output))
        for call in operator(node).lower(node, ctx):
            key = call.kernel.key
            engines[key] = engines[key].merge(call.kernel) if key in engines else call.kernel
            words = [walk.vectors * walk.bytes for walk in call.walks]
            time += max(*call.cycles.values(), *words) + sum(words)
    area = 0.0
    for kernel in engines.values():
        lut, _, dsp, bram36, _ = operator(copies[0]).resources(kernel).astuple()
        area += lut + DSP_IN_LUTS * dsp + BRAM_IN_LUTS * bram36
    return time * area
