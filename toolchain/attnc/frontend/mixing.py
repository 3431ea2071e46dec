"""A softmax over tokens: numbers that weigh tokens, whose weighted sum is an attention of one query, which is a constant.

Such a softmax may be rearranged, multiplied with what it weighs, and summed over the tokens; anything else makes it a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from attnc.frontend.attention import make_scores
from attnc.frontend.attention_node import attend
from attnc.frontend.context import Context
from attnc.frontend.layout import identity
from attnc.frontend.values import Array, Const, Index, TokenWeights, Value, View, WeighedTokens, merge, reindex

FEWEST = 4
"""Channels that are weighed alike: fewer than a word of memory are not worth attention of as many heads."""


def over_tokens(ctx: Context, node: NodeProto, view: View, axis: int, made: Callable[[], View]) -> TokenWeights | None:
    """The softmax of a view over an axis that runs along rows alone; None if it does not. `made` puts it into the graph."""
    if not view.base.device:
        return None
    items = np.moveaxis(view.idx, axis, -1)
    flat = items.reshape(-1, items.shape[-1])
    columns = flat % view.base.channels
    if flat.shape[1] < 2 or np.any(columns != columns[:, :1]):
        return None
    count, tokens = flat.shape
    keys = View(view.base, flat[:, None, :], view.src)
    scores = make_scores(ctx, node, Const(np.ones((count, 1, 1))), keys)
    idx = np.moveaxis(identity(items.shape), -1, axis)

    def by_item() -> View:
        found = made()
        return View(found.base, np.moveaxis(found.idx, axis, -1), found.src)

    return TokenWeights(replace(scores, normalized=True), idx, tokens, by_item, merge(view.src, (node.name,)))


def weigh(ctx: Context, node: NodeProto, args: Sequence[Value]) -> WeighedTokens | None:
    """The product of weights and a tensor."""
    if node.op_type != "Mul" or len(args) != 2:
        return None
    weights, other = args if isinstance(args[0], TokenWeights) else args[::-1]
    if not isinstance(weights, TokenWeights) or isinstance(other, (TokenWeights, WeighedTokens, Const)):
        return None
    x = ctx.concrete(other)
    return None if isinstance(x, Const) else _weighed(node, weights, x, weights.idx, x.idx)


def _weighed(node: NodeProto, weights: TokenWeights, x: View, which: Array, what: Array) -> WeighedTokens:
    shape = np.broadcast_shapes(which.shape, what.shape)
    spread = replace(weights, idx=np.broadcast_to(which, shape))
    return WeighedTokens(spread, View(x.base, np.broadcast_to(what, shape), x.src), merge(weights.src, x.src, (node.name,)))


def product(ctx: Context, node: NodeProto, a: Value, b: Value) -> Value:
    """A MatMul of which one side is weights."""
    left, right = (value if isinstance(value, TokenWeights) else ctx.view(value) for value in (a, b))
    if isinstance(left, TokenWeights) and not isinstance(right, TokenWeights):
        weighed = _weighed(node, left, right, left.idx[..., None], right.idx[..., None, :, :])
    elif isinstance(right, TokenWeights) and not isinstance(left, TokenWeights):
        weighed = _weighed(node, right, left, right.idx[..., None, :, :], left.idx[..., None])
    else:
        ctx.fail(node, "a product of two softmaxes over tokens is not supported")
    return total(ctx, node, weighed, [len(weighed.shape) - 2], False, 1.0)


def total(ctx: Context, node: NodeProto, value: WeighedTokens, axes: Sequence[int], keepdims: bool, factor: float) -> Value:
    """The sum over axes, times a factor: attention, where these are all tokens that were weighed."""
    found = _attention(ctx, node, value, axes)
    if found is None:
        ctx.fail(node, "weights of tokens are multiplied and summed in a way that is no attention")
    if factor != 1:
        found = ctx.elementwise.apply("mul", found, Const(np.array(factor)), f"{node.output[0]}_mean", (node.name,))
    shape = [1 if axis in axes else size for axis, size in enumerate(value.shape)]
    return reindex(found, lambda i: i.reshape(shape)) if keepdims else found


def _attention(ctx: Context, node: NodeProto, value: WeighedTokens, axes: Sequence[int]) -> View | None:
    """The sum as an attention, in the shape of the other axes; None if it is none."""
    which, what = (_last(array, axes) for array in (value.weights.idx, value.x.idx))
    shape, tokens = which.shape[:-1], value.weights.tokens
    which, what = which.reshape(-1, which.shape[-1]), what.reshape(-1, what.shape[-1])
    item, token = which // tokens, which % tokens
    if which.shape[1] != tokens or np.any(item != item[:, :1]) or np.any(np.sort(token, axis=1) != np.arange(tokens)):
        return None
    items, place, counts = np.unique(item[:, 0], return_inverse=True, return_counts=True)
    if np.any(counts != counts[0]) or (counts[0] < FEWEST < len(items)):
        return None
    order = np.argsort(place, kind="stable")
    by_token = np.take_along_axis(what, np.argsort(token, axis=1), axis=1)[order]
    values = View(value.x.base, by_token.reshape(len(items), -1, tokens).swapaxes(1, 2), value.x.src)
    scores = value.weights.scores
    q, k = (View(part.base, part.idx[items], part.src) for part in (scores.q, scores.k))
    made = attend(ctx, node, replace(scores, q=q, k=k, lead=identity((len(items),)), src=value.src), values)
    back = np.empty(len(order), np.int64)
    back[order] = made.idx.reshape(-1)
    return View(made.base, back.reshape(shape), made.src)


def _last(array: Array, axes: Sequence[int]) -> Array:
    """The array with `axes` joined behind the others."""
    moved = np.moveaxis(array, axes, range(-len(axes), 0))
    result: Index = moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)
    return result
