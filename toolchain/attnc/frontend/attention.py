"""Attention in any spelling: a product of two activations, scaled, biased, normalised, and multiplied with the values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from attnc.errors import ModelError
from attnc.frontend.builder import LayoutError, scalar
from attnc.frontend.context import MASKED, Context
from attnc.frontend.layout import identity
from attnc.frontend.values import Array, Const, Index, ScoreRows, Scores, Shape, Test, Unary, Value, View, merge, on_host, reindex

LOWEST = float(np.finfo(np.float32).min)
IN_PLACE = -(2.0**40)
"""A bias that leaves nothing of a score in float32, as if it stood in the place of the score."""


def make_scores(ctx: Context, node: NodeProto, a: Value, b: Value) -> Scores:
    """The product a @ b of two activations [..., T, D] and [..., D, Tk]."""
    (q, gain_q), (k, gain_k) = _scaled(ctx, node, a), _scaled(ctx, node, b)
    if len(q.shape) < 2 or len(k.shape) < 2 or q.shape[-1] != k.shape[-2]:
        raise ModelError(f"node {node.name!r} ({node.op_type}): shapes {list(q.shape)} and {list(k.shape)} do not fit")
    lead = tuple(np.broadcast_shapes(q.shape[:-2], k.shape[:-2]))
    src = merge(q.src, k.src, (node.name,))
    return Scores(
        View(q.base, spread(q.idx, lead), q.src), View(k.base, spread(k.idx.swapaxes(-1, -2), lead), k.src),
        identity(lead), gain_q * gain_k, src, node.name, node.op_type,
    )  # fmt: skip


def spread(idx: Index, lead: Shape) -> Index:
    """[..., R, C] with leading axes broadcast to `lead` and flattened: [L, R, C]."""
    return np.broadcast_to(idx, (*lead, *idx.shape[-2:])).reshape(-1, *idx.shape[-2:])


def _scaled(ctx: Context, node: NodeProto, value: Value) -> tuple[View, float]:
    """A view and the factor in front of it."""
    if isinstance(value, Unary):
        found = ctx.affine(value)
        if found is not None and found[2] == 0:
            return found[0], found[1]
    return ctx.view(value), 1.0


def softmax(ctx: Context, node: NodeProto, scores: Scores | ScoreRows) -> Scores | ScoreRows:
    """Scores become probabilities."""
    shown, scores = scores, scores.scores if isinstance(scores, ScoreRows) else scores
    axis = int(ctx.attributes(node).get("axis", -1))
    if axis not in (-1, len(shown.shape) - 1):
        ctx.fail(node, f"softmax of attention scores over axis {axis}; only the last axis, that of the keys, is supported")
    if scores.normalized:
        ctx.fail(node, "a second softmax of attention probabilities is not supported")
    made = replace(scores, normalized=True, host=None, src=merge(scores.src, (node.name,)))
    return ScoreRows(made, shown.shape, made.src) if isinstance(shown, ScoreRows) else made


def canonical(scores: Scores) -> Scores:
    """The same scores with one item for every leading position, in the order of the ONNX tensor."""
    flat = scores.lead.ravel()
    if np.array_equal(flat, np.arange(scores.q.shape[0])):
        return scores
    bias, computed = scores.bias, scores.computed
    if bias is not None and bias.shape[0] > 1:
        bias = reindex(bias, lambda x: x[flat])
    if computed is not None and computed.shape[0] > 1:
        computed = View(computed.base, computed.idx[flat], computed.src)
    q, k = reindex(scores.q, lambda x: x[flat]), reindex(scores.k, lambda x: x[flat])
    assert isinstance(q, View) and isinstance(k, View)
    return replace(scores, q=q, k=k, bias=bias, computed=computed, lead=identity(scores.lead.shape))


# ---- scale, bias, mask ----


def pointwise_scores(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> Value | None:
    """A pointwise operator on scores, probabilities, or tests of them; None if it is none of those around an attention."""
    op = node.op_type
    first, second = ([*args, None, None])[:2]
    if op == "Where":
        return _where(ctx, node, args)
    if op in ("IsNaN", "IsInf", "Equal", "Not", "And", "Or", "Greater", "Less", "LessOrEqual", "GreaterOrEqual"):
        return make_test(node, args)
    scores, other = (first, second) if isinstance(first, Scores) else (second, first)
    if not isinstance(scores, Scores) or scores.normalized or isinstance(other, (Scores, Test)) or (other is None and op != "Tanh"):
        return None
    number = scalar(other)
    if op == "Tanh" and scores.bias is None and scores.cap is None:
        return replace(scores, cap=1.0, src=merge(scores.src, (node.name,)), host=None, fallback=None)
    if op == "Mul" and number is not None:
        return _multiplied(ctx, node, scores, number)
    if op == "Div" and number and scores is first:
        return _multiplied(ctx, node, scores, 1 / number)
    if op == "Mul" and isinstance(other, Const) and scores.bias is None and scores.cap is None:
        return _multiplied_by_head(ctx, node, scores, other.array)
    if op == "Max" and number is not None and number <= MASKED and len(args) == 2:
        return _bounded(ctx, node, scores, number)
    if op == "Add" or (op == "Sub" and scores is first):
        assert other is not None
        bias = other if isinstance(other, Const) else ctx.concrete(other)
        if isinstance(bias, View) and bias.base.device:
            return _add_computed(ctx, node, scores, bias, -1.0 if op == "Sub" else 1.0)
        if op == "Sub":
            bias = Const(-bias.array) if isinstance(bias, Const) else _on_host(ctx, node, "Neg", [bias], bias.shape)
        return add_bias(ctx, node, scores, bias)
    return None


def make_test(node: NodeProto, args: Sequence[Value | None]) -> Value | None:
    """IsNaN(p), p == -inf and what is made of them: their only use is to repair rows that are all masked."""
    found = next((value for value in args if isinstance(value, (Scores, Test))), None)
    if found is None:
        return None
    of = found if isinstance(found, Scores) else found.of
    if isinstance(found, Scores) and node.op_type in ("Not", "And", "Or"):
        return None
    return Test(of, found.shape, False, merge(found.src, (node.name,)))


def _bounded(ctx: Context, node: NodeProto, scores: Scores, number: float) -> Scores:
    """Scores no lower than `number`, which only masks are: minus infinity becomes a number again."""
    bias = scores.bias
    if isinstance(bias, Const):
        bias = Const(np.maximum(bias.array, number), bias.src)
    elif bias is not None:
        bias = _on_host(ctx, node, "Max", [bias, Const(np.array(number, np.float32))], bias.shape)
    return replace(scores, bias=bias, src=merge(scores.src, (node.name,)))


def _multiplied(ctx: Context, node: NodeProto, scores: Scores, factor: float) -> Scores:
    bias = scores.bias
    if isinstance(bias, Const):
        bias = Const(_float32(bias.array * factor))
    elif bias is not None:
        bias = _on_host(ctx, node, "Mul", [bias, Const(np.array(factor, np.float32))], bias.shape)
    scale, cap = (scores.scale, scores.cap * factor) if scores.cap is not None else (scores.scale * factor, None)
    return replace(
        scores, scale=scale, cap=cap, bias=bias, gain=scores.gain * factor, src=merge(scores.src, (node.name,)), host=None, fallback=None
    )


def _multiplied_by_head(ctx: Context, node: NodeProto, scores: Scores, factors: Array) -> Scores | None:
    """A constant per head, as cosine attention learns it, goes into the queries; None for factors that differ among scores of a head."""
    scores = canonical(scores)
    wide: Array = factors.reshape((1,) * (len(scores.shape) - factors.ndim) + factors.shape)
    if wide.shape[-2:] != (1, 1) or np.broadcast_shapes(wide.shape[:-2], scores.lead.shape) != scores.lead.shape:
        return None
    per_head = Const(np.broadcast_to(wide[..., 0, 0], scores.lead.shape).reshape(-1, 1, 1))
    try:
        q = ctx.elementwise.apply("mul", scores.q, per_head, f"{node.output[0]}_queries", (node.name,))
    except LayoutError as error:
        ctx.fail(node, str(error))
    return replace(scores, q=q, src=merge(scores.src, (node.name,)), host=None, fallback=None)


def add_bias(ctx: Context, node: NodeProto, scores: Scores, bias: View | Const) -> Scores:
    """`bias` broadcasts to the scores; it is constant or on the host."""
    scores, item = _aligned(ctx, node, scores, bias)
    if isinstance(item, Const):
        item = Const(_float32(item.array.astype(np.float64)), item.src)
    total = item if scores.bias is None else _sum(ctx, node, scores.bias, item)
    return _biased(node, scores, total)


def _add_computed(ctx: Context, node: NodeProto, scores: Scores, bias: View, sign: float) -> Scores:
    """A bias that the device computes; one that is the same for all keys changes no probability."""
    scores, item = _aligned(ctx, node, scores, bias)
    assert isinstance(item, View)
    src = merge(scores.src, bias.src, (node.name,))
    scores = replace(scores, src=src, host=None, fallback=None)
    if item.shape[-1] == 1 < scores.shape[-1]:
        return scores
    if scores.computed is None:
        return replace(scores, computed=item, gain=sign)
    try:
        if sign != scores.gain:
            item = ctx.elementwise.apply("mul", item, Const(np.array(sign / scores.gain)), f"{node.output[0]}_scaled", src)
        total = ctx.elementwise.apply("add", scores.computed, item, node.output[0], src)
    except LayoutError as error:
        ctx.fail(node, str(error))
    return replace(scores, computed=total)


def _aligned(ctx: Context, node: NodeProto, scores: Scores, operand: View | Const) -> tuple[Scores, View | Const]:
    """What broadcasts to the scores, as [L or 1, T or 1, Tk or 1], and the scores with all the leading positions that this brings."""
    shape = tuple(np.broadcast_shapes(scores.shape, operand.shape))
    if shape[-2:] != scores.shape[-2:]:
        ctx.fail(node, f"a bias of shape {list(operand.shape)} makes attention scores of shape {list(scores.shape)} larger")
    scores = canonical(replace(scores, lead=np.broadcast_to(scores.lead, shape[:-2])))
    padded = reindex(operand, lambda x: x.reshape((1,) * (len(shape) - x.ndim) + x.shape))
    lead = shape[:-2] if any(size != 1 for size in padded.shape[:-2]) else ()
    return scores, reindex(padded, lambda x: spread(x if lead else x.reshape(x.shape[-2:]), lead))


def _biased(node: NodeProto, scores: Scores, bias: View | Const) -> Scores:
    return replace(scores, bias=bias, src=merge(scores.src, bias.src, (node.name,)), host=None, fallback=None)


def _float32(array: Array) -> Array:
    """Numbers beyond those of float32 are infinite in the model."""
    return np.where(array < LOWEST, -np.inf, array)


def _sum(ctx: Context, node: NodeProto, a: View | Const, b: View | Const) -> View | Const:
    if isinstance(a, Const) and isinstance(b, Const):
        return Const(_float32(a.array + b.array))
    return _on_host(ctx, node, "Add", [a, b], np.broadcast_shapes(a.shape, b.shape))


def _where(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> Value | None:
    """Where(mask, scores, -inf), either way round; Where(isnan(p), 0, p)."""
    condition, chosen, other = args
    if isinstance(condition, Test):
        return _guarded(node, condition, chosen, other)
    scores, value, keeps = (chosen, other, True) if isinstance(chosen, Scores) else (other, chosen, False)
    number = scalar(value)
    if isinstance(scores, Scores) and scores.normalized and number == 0 and isinstance(condition, Const):
        return _cleared(node, scores, ~condition.array if keeps else condition.array)
    if not isinstance(scores, Scores) or scores.normalized or number is None or condition is None or not on_host(condition):
        return None
    if number > MASKED:
        ctx.fail(node, f"masked attention scores are set to {number:g}; {MASKED:g} or less is needed to leave a key out")
    low = min(number, IN_PLACE)
    if scores.bias is None:
        return add_bias(ctx, node, scores, mask_bias(ctx, node, condition, low, keeps))
    scores, mask = _aligned(ctx, node, scores, ctx.concrete(condition))
    bias, lowest = scores.bias, Const(np.array(low, np.float32))
    assert bias is not None
    kept, masked = (bias, lowest) if keeps else (lowest, bias)
    if isinstance(mask, Const) and isinstance(kept, Const) and isinstance(masked, Const):
        return _biased(node, scores, Const(np.where(mask.array.astype(bool), kept.array, masked.array)))
    shape = np.broadcast_shapes(mask.shape, bias.shape)
    return _biased(node, scores, _on_host(ctx, node, "Where", [mask, kept, masked], shape))


def _guarded(node: NodeProto, condition: Test, chosen: Value | None, other: Value | None) -> Scores | None:
    """Zeros where a softmax has given NaN: a query without any key."""
    scores, value = (chosen, other) if isinstance(chosen, Scores) else (other, chosen)
    if not isinstance(scores, Scores) or not scores.normalized or scalar(value) != 0:
        return None
    return replace(scores, guarded=True, src=merge(scores.src, condition.src, (node.name,)))


def _cleared(node: NodeProto, scores: Scores, cleared: Array) -> Scores | None:
    """Probabilities set to 0 where `cleared`. Masked keys beside others have 0 already; of a query whose keys are all masked, all must be
    cleared or none."""
    cleared = np.broadcast_to(cleared, scores.shape)
    if not np.any(cleared):
        return replace(scores, src=merge(scores.src, (node.name,)))
    if not isinstance(scores.bias, Const):
        return None
    scores = canonical(scores)
    assert isinstance(scores.bias, Const)
    cleared, bias = cleared.reshape(-1, *scores.shape[-2:]), np.broadcast_to(scores.bias.array, (scores.q.shape[0], *scores.shape[-2:]))
    masked, keyless = bias <= MASKED, (bias <= MASKED).all(axis=-1, keepdims=True)
    if np.any(cleared & ~masked) or np.any(keyless & (cleared != cleared[..., :1])):
        return None
    bias = Const(np.where(cleared & keyless, -np.inf, bias), scores.bias.src)
    return replace(scores, bias=bias, guarded=True, src=merge(scores.src, (node.name,)))


def mask_bias(ctx: Context, node: NodeProto, condition: Value, low: float, keeps: bool) -> View | Const:
    """A boolean mask as something to add: 0 where a key is kept, `low` where it is not."""
    kept, masked = (0.0, low) if keeps else (low, 0.0)
    concrete = ctx.concrete(condition)
    if isinstance(concrete, Const):
        return Const(np.where(concrete.array.astype(bool), kept, masked))
    operands: list[View | Const] = [concrete, Const(np.array(kept, np.float32)), Const(np.array(masked, np.float32))]
    return _on_host(ctx, node, "Where", operands, concrete.shape)


def _on_host(ctx: Context, node: NodeProto, op: str, operands: Sequence[View | Const], shape: Sequence[int]) -> View:
    """A pointwise node added on the host."""
    made = ctx.host_node(op, operands, shape, (node.name,))
    return ctx.host_pointwise(made.base.name, operands, shape, made.src)
