"""Constant biases of attention as channels of queries and keys (FlashBias) where that costs less than a table.

What is fitted   A bias that grows evenly with the distance of a key (ALiBi) is two channels of integers, exact but for the rounding of its
                 slope: softmax does not see what a query adds to all its keys, so keys are counted from the last one (the first, for a
                 falling bias) that the query may look at. Any other bias is the product of the fewest singular vectors, 16 bits each, that
                 reach the target; keys that the mask leaves out are free.
Error            measured, never derived: the largest distance of the integers that the kernel gives from the float bias, over the keys that
                 the mask allows, in natural units of scores. Beyond what 16 bits hold both are taken as saturated, as a table does.
                 The target is what the coarsest table may round, ln2 / 2**10 * 2**3 / 2 = 2.7e-3, unless an error target is given.
Cost             (cycles + words that pass the ports) * area of the engines in LUTs, of all attention of the model in a usual design, by the
                 estimates of the kernels: all biases become channels, or none, so that they share engines.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from attnc.errors import ConfigError
from attnc.fixedpoint import quantize_multiplier, requantize
from attnc.ir import Graph, Node
from attnc.ops import operator
from attnc.ops.approximation import BRAM_IN_LUTS, DSP_IN_LUTS
from attnc.ops.attention_bias import BIAS_UNIT, DEFAULT_BIAS_SHIFT, bias_shift
from attnc.ops.attention_channels import BIAS_LIMIT, MAX_CHANNELS
from attnc.ops.attention_sizes import Mask
from attnc.ops.base import Array, Design, KernelCall, Lowering

KIND = "attention_bias"
CHOICES = ("auto", "dense", "channels")
ERROR_TARGET = BIAS_UNIT * (1 << DEFAULT_BIAS_SHIFT) / 2
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MAX_CHANNELS)
USUAL_LANES = 16
SWEEPS = 12
"""Rounds in which free entries are filled with what the factors give there."""
EXACT_SIDE = 256
"""Larger tables are decomposed by subspace iteration."""
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

    def made(self) -> Array:
        """The biases in natural units [BH, T, Tk]."""
        acc = self.queries.astype(np.int64) @ self.keys.astype(np.int64).swapaxes(-1, -2)
        q = requantize(acc, self.multiplier[:, None, None], self.product_shift[:, None, None], -BIAS_LIMIT, BIAS_LIMIT)
        return q * (BIAS_UNIT * (1 << self.bias_shift))


def choose_biases(graph: Graph, wanted: str = "auto", target: float | None = None) -> None:
    """Turn constant biases into channels: all of them where `wanted` says so, or costs less. Requires types on all values and float
    constants; the float meaning stays. Leaves attribute `bias_report` in the nodes whose bias could have been either."""
    if wanted not in CHOICES:
        raise ConfigError(f"implementation of {KIND}: needed one of {', '.join(CHOICES)}, found {wanted!r}")
    target = ERROR_TARGET if target is None else target
    nodes = list(constant_biases(graph))
    if not nodes:
        return
    # A table that only the host knows needs the other engine anyway.
    others = any(node.op == "attention" and len(node.inputs) > 3 and node not in nodes for node in graph.nodes)
    tried = wanted == "channels" or (wanted == "auto" and not others)
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


def constant_biases(graph: Graph) -> Iterator[Node]:
    """Attention whose bias is a constant table with a row per query."""
    for node in graph.nodes:
        if node.op == "attention" and len(node.inputs) > 3 and node.inputs[3] in graph.constants and node.attrs.get("bias_rows", 1) > 1:
            yield node


def _bias_of(graph: Graph, node: Node) -> tuple[Mask, Array, Array]:
    """The mask, the keys it allows [T, Tk], the bias [BH, T, Tk]."""
    name = node.inputs[3]
    heads, queries = node.attrs.get("bias_heads", 1), node.attrs["bias_rows"]
    bias = np.asarray(graph.constants[name], np.float64).reshape(heads, queries, -1)
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
    """The fewest channels for a bias [BH, T, Tk] with an error of at most `target`; None where too many would be needed."""
    if not np.isfinite(bias[:, allowed]).all():
        return None
    line = fit_line(bias, mask, allowed)
    if line.error <= target:
        return line
    ranks = [rank for rank in RANKS if rank < min(bias.shape[1:])]
    low, best = 0, None
    # The largest rank first: mostly it is not enough. Then halving.
    tried = len(ranks) - 1
    high = len(ranks)
    while low < high:
        found = fit_vectors(bias, allowed, ranks[tried], target)
        if found is None:
            low = tried + 1
        else:
            best, high = found, tried
        tried = (low + high) // 2
    return best


def fit_line(bias: Array, mask: Mask, allowed: Array) -> Fit:
    """slope * (j - j0(i)) per head, j0 the key from which query i sees the bias fall."""
    heads, queries, keys = bias.shape
    position, centre = mask.offset + np.arange(queries), keys // 2
    last, first = (np.clip(edge, 0, keys - 1) for edge in (position + mask.after, position - mask.before))
    count = np.maximum(allowed.sum(axis=1), 1)
    x = np.where(allowed, np.arange(keys), 0.0)
    x = np.where(allowed, x - (x.sum(axis=1) / count)[:, None], 0.0)
    b = np.where(allowed, bias, 0.0)
    b = np.where(allowed, b - (b.sum(axis=-1) / count)[..., None], 0.0)
    slope = (x * b).sum(axis=(1, 2)) / max(float(np.square(x).sum()), 1e-30)
    origin = np.where(slope[:, None] >= 0, last, first)
    sign = np.where(slope >= 0, 1, -1)
    q = np.stack([np.broadcast_to(sign[:, None], origin.shape), -sign[:, None] * (origin - centre)], axis=-1)
    k = np.broadcast_to(np.stack([np.arange(keys) - centre, np.ones(keys)], axis=-1), (heads, keys, 2))
    real = np.where(allowed, slope[:, None, None] * (np.arange(keys) - origin[..., None]), 0.0)
    shift = bias_shift(real)
    multiplier, product_shift = quantize_multiplier(np.abs(slope) / (BIAS_UNIT * (1 << shift)))
    found = Fit(q.astype(np.int16), k.astype(np.int16), multiplier, product_shift, shift, 0.0)
    # What the query adds to all its keys is taken off before the two are compared.
    around = bias - np.where(allowed, bias - real, 0.0).sum(axis=-1, keepdims=True) / count[:, None]
    fits_types = max(abs(keys), int(np.abs(origin - centre).max())) <= BIAS_LIMIT
    return replace(found, error=_error(found.made(), around, allowed, shift) if fits_types else math.inf)


def fit_vectors(bias: Array, allowed: Array, rank: int, target: float) -> Fit | None:
    """The product of `rank` singular vectors per head; None as soon as a head is off by more than `target`."""
    shift, parts = bias_shift(bias[:, allowed]), []
    for head in bias:
        left, right = _factors(np.where(allowed, head, 0.0), allowed, rank)
        step = math.sqrt(max(float((np.abs(left).max(axis=0) * np.abs(right).max(axis=0)).max()), 1e-12)) / BIAS_LIMIT
        even = np.sqrt(np.maximum(np.abs(right).max(axis=0), 1e-30) / np.maximum(np.abs(left).max(axis=0), 1e-30))
        q, k = (np.rint(x / step).clip(-BIAS_LIMIT, BIAS_LIMIT).astype(np.int16)[None] for x in (left * even, right / even))
        multiplier, product_shift = quantize_multiplier(np.array([step**2 / (BIAS_UNIT * (1 << shift))]))
        part = Fit(q, k, multiplier, product_shift, shift, 0.0)
        part = replace(part, error=_error(part.made()[0], head, allowed, shift))
        if part.error > target:
            return None
        parts.append(part)
    queries, keys, multiplier, product_shift = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("queries", "keys", "multiplier", "product_shift")
    )
    return Fit(queries, keys, multiplier, product_shift, shift, max(part.error for part in parts))


def _factors(table: Array, allowed: Array, rank: int) -> tuple[Array, Array]:
    """left [T, R] and right [Tk, R] whose product is near `table` where it is `allowed`."""
    for _ in range(1 if allowed.all() else SWEEPS):
        left, right = _leading(table, rank)
        table = np.where(allowed, table, left @ right.T)
    return left, right


def _leading(table: Array, rank: int) -> tuple[Array, Array]:
    """The leading singular vectors, each times the root of its singular value."""
    if min(table.shape) <= EXACT_SIDE:
        u, s, vt = np.linalg.svd(table, full_matrices=False)
    else:
        basis = np.random.default_rng(SEED).normal(size=(table.shape[1], rank + 8))
        for _ in range(4):
            basis, _ = np.linalg.qr(table.T @ np.linalg.qr(table @ basis)[0])
        u, s, vt = np.linalg.svd(table @ basis, full_matrices=False)
        vt = vt @ basis.T
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, vt[:rank].T * root


def _error(made: Array, real: Array, allowed: Array, shift: int) -> float:
    """Largest distance over allowed keys, both saturated."""
    limit = BIAS_LIMIT * BIAS_UNIT * (1 << shift)
    return float(np.abs(made - np.clip(real, -limit, limit))[..., allowed].max(initial=0.0))


def _table_error(bias: Array, allowed: Array, shift: int) -> float:
    """What a table in integers rounds."""
    unit = BIAS_UNIT * (1 << shift)
    return _error(np.rint(bias / unit).clip(-BIAS_LIMIT, BIAS_LIMIT) * unit, bias, allowed, shift)


def _rewrite(graph: Graph, node: Node, found: Fit | None) -> None:
    """A node on the engine of channels, its table gone where it has a fit."""
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


def _cost(graph: Graph, fits: dict[str, Fit]) -> float:
    """(cycles + words) * LUTs of all attention, with the biases of `fits` as channels."""
    copies = [replace(node, attrs=dict(node.attrs), inputs=list(node.inputs)) for node in graph.nodes if node.op == "attention"]
    changed = Graph("cost", graph.inputs, graph.outputs, copies, graph.values, graph.constants)
    lanes = math.gcd(USUAL_LANES, *(operator(node).lane_divisor(node, [graph.value(n).shape for n in node.inputs]) for node in copies))
    ctx = Lowering(changed, Design(lanes=lanes), dict.fromkeys(graph.values, 0), lambda key, make: 0)
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
