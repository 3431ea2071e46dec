"""The integers of a linear operator's weight: given by a quantizer, or int8 per channel.

Meaning acc[n] = sum over groups g (and planes of a binary weight) of multiplier[n, g] * sum over k in g of q[n, k] * x[k], plus bias.
        Plane, group and channel all multiply integers, so the exact product with `effective_weight` is the same number.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from attnc.arrays import Array
from attnc.errors import ConfigError
from attnc.fixedpoint import quantize_half_even
from attnc.ir import GraphError, Node, TensorType
from attnc.weights import GROUP_MULTIPLIER_BITS, QuantizedWeight, WeightFormat

EXPERTS = "experts"
WEIGHTED = ("linear", EXPERTS)
"""Operators whose weights have a format."""
BIAS_LIMIT = 1 << 30
LONE_BIAS = 1 << 16
"""Steps of the bias of a channel without weights."""


def weight_format(node: Node) -> WeightFormat:
    """The format that the node's attributes ask for; int8 per channel by default."""
    return WeightFormat.parse(str(node.attrs.get("weights", "int8")), int(node.attrs.get("group_size", 0)))


def weight_shape(node: Node) -> tuple[int, int]:
    """(N, K), before and after quantization; of experts all of their output channels, one after the other."""
    n, k = node.params["weight" if "weight" in node.params else "weight_q"].shape[-2:]
    experts = math.prod(node.params["bias"].shape[:-1])
    return int(experts * n), int(k)


def weight_rows(node: Node) -> Array:
    """The float weight [N, K], where experts have [E, N, K] all of their channels, one after the other."""
    weight = node.params["weight"]
    return weight.reshape(-1, weight.shape[-1])


def put_weight(node: Node, found: QuantizedWeight) -> None:
    """Hand the integers of `weight_rows` over to `Operator.quantize`: attributes `weights` and `group_size`; params `weight_q`,
    `weight_unit` and `weight_multiplier`, in which the channels of experts [E, N] have two axes."""
    channels = node.params["bias"].shape
    node.attrs.update(weights=found.format.name, group_size=found.format.group_size)
    node.params["weight_q"] = found.q if len(channels) == 1 else found.q.reshape(*channels, -1)
    node.params["weight_unit"] = found.unit.reshape(channels)
    node.params["weight_multiplier"] = found.multiplier if len(channels) == 1 else found.multiplier.reshape(*channels, -1)


def input_unit(x: TensorType) -> float:
    """The one scale of the input that is left once its factors per channel are in the weight: the largest."""
    return float(x.scale.max())


def folded_weight(node: Node, x: TensorType) -> Array:
    """The float weight [N, K] that is to be quantized: column k times x.scale[k] / input_unit(x).

    x @ weight.T = input_unit * (q_x @ folded.T). A pass that hands over `weight_q` must have quantized this and not the bare weight.
    """
    folded: Array = node.params["weight"] * (np.broadcast_to(x.scale, node.params["weight"].shape[1:]) / input_unit(x))
    return folded


def finest_unit(bias: Array, unit: float) -> Array:
    """Smallest scale [N] of a weight at which the bias in units of the accumulator stays within 2**30."""
    return np.maximum(np.abs(bias) / (unit * BIAS_LIMIT), np.finfo(np.float64).tiny * 1e30)


def plain_weight(node: Node, x: TensorType, bias: Array) -> QuantizedWeight:
    """int8, symmetric, a scale per channel: largest magnitude / 127. A channel of zeros, or one so small that its bias would
    overflow, gets the finest scale that holds the bias."""
    format_ = WeightFormat("integer", 8)
    weight = folded_weight(node, x)
    peak = np.abs(weight).max(axis=1)
    unit = np.maximum(np.where(peak > 0, peak / format_.limit, 1.0), finest_unit(bias, input_unit(x)))
    q = quantize_half_even(weight, unit[:, None], -format_.limit, format_.limit).astype(np.int8)
    return QuantizedWeight(format_, q, unit, np.ones((len(unit), 1), np.int64))


def given_weight(node: Node, x: TensorType, bias: Array) -> QuantizedWeight:
    """What a pass left in weight_q, weight_unit and weight_multiplier, checked. A channel so small that its bias would overflow is
    rounded to the finest scale that holds the bias (its multipliers are, where it has planes)."""
    p, format_ = node.params, weight_format(node)
    q, unit, multiplier = p["weight_q"], np.asarray(p["weight_unit"], np.float64), np.asarray(p["weight_multiplier"], np.int64)
    _check(node, format_, q, unit, multiplier)
    finer = np.maximum(unit, finest_unit(bias, input_unit(x)))
    if (finer > unit).any():
        ratio = (unit / finer)[:, None]
        if format_.kind == "binary":
            multiplier = np.where(ratio < 1, np.rint(multiplier * ratio), multiplier).astype(np.int64)
        else:
            q = np.where(ratio < 1, np.rint(q * ratio), q).astype(np.int8)
    return QuantizedWeight(format_, q, finer, multiplier)


def _check(node: Node, format_: WeightFormat, q: Array, unit: Array, multiplier: Array) -> None:
    n, k = weight_shape(node)
    groups = math.ceil(k / format_.group_size) if format_.group_size else 1
    planes = (format_.bits,) if format_.kind == "binary" else ()
    for name, array, shape in (("q", q, (*planes, n, k)), ("unit", unit, (n,)), ("multiplier", multiplier, (*planes, n, groups))):
        if array.shape != shape:
            raise GraphError(f"node {node.name!r}: weight_{name} of {format_.name}: needed shape {shape}, found {array.shape}")
    if q.dtype != np.int8 or not np.isfinite(unit).all() or (unit <= 0).any():
        raise GraphError(f"node {node.name!r}: weight_q must be int8 and weight_unit finite and positive")
    if multiplier.min() < 0 or multiplier.max() >= 1 << GROUP_MULTIPLIER_BITS:
        raise GraphError(f"node {node.name!r}: group multipliers lie in {multiplier.min()} to {multiplier.max()}, needed 0 to 255")
    limit = 1 if planes else format_.limit
    lowest = -limit - (format_.kind == "integer")  # integers that arrived quantized have the lowest of their bits too
    if q.max() > limit or q.min() < lowest or (planes and not q.all()):
        raise GraphError(f"node {node.name!r}: weights in {q.min()} to {q.max()} are not {format_.name}")


def integer_weight(node: Node, x: TensorType, bias: Array) -> QuantizedWeight:
    """The weight of `node` in integers; real weight of x in units of `input_unit(x)`. A channel of zeros, whatever its unit was, gets one
    in which its bias is exact to 17 bits: that is all its output. Without a bias it gets the least of the others."""
    if "weight_q" in node.params:
        found = given_weight(node, x, bias)
    elif weight_format(node) != WeightFormat("integer", 8):
        raise ConfigError(f"node {node.name!r}: weights of {weight_format(node).name} need a quantizer before types become integers")
    else:
        found = plain_weight(node, x, bias)
    zeros = ~found.q.any(axis=-1).reshape(-1, len(found.unit)).any(axis=0)
    least = found.unit[~zeros].min(initial=found.unit.max())
    lone = np.where(bias == 0, least, np.abs(bias) / (input_unit(x) * LONE_BIAS))
    return replace(found, unit=np.where(zeros, lone, found.unit))


def spread(multiplier: Array, group_size: int, k: int) -> Array:
    """Multipliers [..., groups] for each of k weights."""
    return multiplier if multiplier.shape[-1] == 1 else np.repeat(multiplier, group_size, axis=-1)[..., :k]


def effective_weight(q: Array, multiplier: Array | None, group_size: int) -> Array:
    """The integer [N, K] that each activation is multiplied by in all: groups and planes applied. int8 where there are none."""
    if multiplier is None:
        return q
    product = spread(multiplier.astype(np.int32), group_size, q.shape[-1]) * q
    return product.sum(axis=0, dtype=np.int32) if q.ndim == 3 else product


def whole_weight(node: Node) -> Array:
    """`effective_weight` of a quantized layer, [N, K], or of all its experts, [E, N, K]."""
    p, size = node.params, weight_format(node).group_size
    if p["weight_scale"].ndim == 1:
        return effective_weight(p["weight"], p.get("group_multiplier"), size)
    factors = p.get("group_multiplier", [None] * len(p["weight"]))
    return np.stack([effective_weight(q, multiplier, size) for q, multiplier in zip(p["weight"], factors, strict=True)])


def magnitude_bound(weight: QuantizedWeight, x_magnitude: int) -> Array:
    """Largest |sum| [N] that an engine can meet on its way, for any input.

    Planes come highest first, so a sum of planes is that of the weights with low bits cleared: at most q where q is positive, and
    2**(bits - 1) where it is negative. The planes of a binary weight add up.
    """
    q = weight.q.astype(np.int32)
    if weight.format.kind == "integer":
        q = np.where(q < 0, 1 << (weight.format.bits - 1), q)
    size = np.abs(q) * spread(weight.multiplier, weight.format.group_size, q.shape[-1])
    total = size.sum(axis=-1, dtype=np.int64) * x_magnitude
    return total.sum(axis=0) if q.ndim == 3 else total
