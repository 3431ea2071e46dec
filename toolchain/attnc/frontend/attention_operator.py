"""The ONNX operator Attention, of opset 23 and later."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from attnc.errors import ModelError
from attnc.frontend.attention import LOWEST, add_bias, make_scores, mask_bias
from attnc.frontend.attention_node import attend
from attnc.frontend.context import Context
from attnc.frontend.values import Array, Const, Scores, Value, View, on_host, reindex

CACHES = ((4, "a past key"), (5, "a past value"), (6, "a number of keys that are not padding"))


def attention_operator(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Y, and the keys and values by heads, which are what a cache would hold after it."""
    attributes = ctx.attributes(node)
    given = [*args, *[None] * 7][:7]
    for index, what in CACHES:
        value = given[index]
        if value is not None and not (isinstance(value, Const) and value.array.size == 0):  # a past of no tokens is none
            ctx.fail(node, f"it has {what}; caches are not supported")
    q, k, v = (_heads(ctx, node, value, attributes, index) for index, value in enumerate(given[:3]))
    if q.shape[1] % k.shape[1]:
        raise ModelError(f"node {node.name!r} (Attention): {q.shape[1]} heads of queries cannot share {k.shape[1]} heads of keys")
    repeats = q.shape[1] // k.shape[1]
    scores = make_scores(ctx, node, q, reindex(k, lambda x: np.repeat(x, repeats, 1).swapaxes(-1, -2)))
    scores.scale *= float(attributes.get("scale") or 1 / math.sqrt(q.shape[-1]))
    cap = float(attributes.get("softcap", 0.0))
    if cap:
        scores = replace(scores, scale=scores.scale / cap, cap=cap)
    if given[3] is not None:
        scores = add_bias(ctx, node, scores, _mask(ctx, node, given[3], scores))
    seen = _seen(attributes, *scores.shape[-2:])
    if not seen.all():
        scores = add_bias(ctx, node, scores, Const(np.where(seen, 0.0, -np.inf)))
    out = attend(ctx, node, replace(scores, normalized=True, guarded=True), reindex(v, lambda x: np.repeat(x, repeats, 1)))
    b, h, t, d = out.shape
    flat = given[0] is not None and _rank(given[0]) == 3
    return [reindex(out, lambda x: x.transpose(0, 2, 1, 3).reshape(b, t, h * d)) if flat else out, k, v]


def _seen(attributes: dict[str, Any], t: int, tk: int) -> Array:
    """Which keys a query sees by position [T, Tk]: up to itself if causal, and within the windows; -1 is no window."""
    ahead = np.arange(tk) - np.arange(t)[:, None]
    left, right = int(attributes.get("left_window_size", -1)), int(attributes.get("right_window_size", -1))
    seen = ahead <= 0 if attributes.get("is_causal", 0) else np.ones((t, tk), bool)
    seen = seen & (ahead >= -left) if left >= 0 else seen
    return seen & (ahead <= right) if right >= 0 else seen


def _rank(value: Value) -> int:
    return len(getattr(value, "shape", ()))


def _heads(ctx: Context, node: NodeProto, value: Value | None, attributes: dict[str, int], index: int) -> View:
    """An operand as [B, heads, T, D]."""
    if value is None:
        raise ModelError(f"node {node.name!r} (Attention): query, key and value are needed")
    view = ctx.view(value)
    if len(view.shape) == 4:
        return view
    heads = int(attributes.get("q_num_heads" if index == 0 else "kv_num_heads", 0))
    if len(view.shape) != 3 or not heads or view.shape[2] % heads:
        raise ModelError(f"node {node.name!r} (Attention): operand {index} of shape {list(view.shape)} does not split into {heads} heads")
    b, t, c = view.shape
    split = reindex(view, lambda x: x.reshape(b, t, heads, c // heads).transpose(0, 2, 1, 3))
    assert isinstance(split, View)
    return split


def _mask(ctx: Context, node: NodeProto, mask: Value, scores: Scores) -> View | Const:
    """attn_mask, boolean (true keeps) or added; the lowest number of float32 leaves a key out, as minus infinity does."""
    if not on_host(mask):
        ctx.fail(node, "its mask is computed on the device; it must be constant or come from the host")
    concrete = ctx.concrete(mask)
    if concrete.shape and concrete.shape[-1] not in (1, scores.shape[-1]):
        ctx.fail(node, f"its mask covers {concrete.shape[-1]} of {scores.shape[-1]} keys")
    elem = ctx.info.get(node.input[3])
    boolean = concrete.array.dtype == bool if isinstance(concrete, Const) else elem is not None and elem.elem_type == TensorProto.BOOL
    if boolean:
        return mask_bias(ctx, node, concrete, -np.inf, True)
    if isinstance(concrete, Const):
        return Const(np.where(concrete.array <= LOWEST, -np.inf, concrete.array), concrete.src)
    outside = ctx.host_node("LessOrEqual", [concrete, Const(np.array(LOWEST, np.float32))], concrete.shape, (node.name,), TensorProto.BOOL)
    return ctx.host_node("Where", [outside, Const(np.array(-np.inf, np.float32)), concrete], concrete.shape, (node.name,))
