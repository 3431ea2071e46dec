"""Products that every token does on its own, of vectors and a matrix that are both made of channels, as a convolution has whose kernel is
computed for each token. They are multiplied element by element, and summed as the taps of a depthwise convolution.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from attnc.frontend.builder import TAP_WIDTH, TRANSPOSED, LayoutError
from attnc.frontend.context import Context
from attnc.frontend.layout import sort_into_grid
from attnc.frontend.values import Base, Index, Scores, Shape, View, merge


def product(ctx: Context, node: NodeProto, scores: Scores) -> View:
    """q [L, I, D] times k [L, 1, D], summed over D, in the shape [*lead, I, 1]; raises `LayoutError`."""
    q, k = scores.q, scores.k
    rows, columns = k.idx[:, 0] // k.base.channels, k.idx[:, 0] % k.base.channels
    grid = None if np.any(rows != rows[:, :1]) or not k.base.device else sort_into_grid(rows[:, :1], columns)
    if grid is None or not q.base.device:
        raise LayoutError(TRANSPOSED)
    tokens, heads = grid.item.shape
    taps, outs = q.shape[2], q.shape[1]
    width = -(-heads * outs // TAP_WIDTH) * TAP_WIDTH
    if width != heads * outs:
        raise LayoutError(f"needs a multiple of {TAP_WIDTH} channels that a token makes, found {heads * outs}")
    src = merge(scores.src, (node.name,))
    # Channels are (tap, head, out): what a token multiplies, and what it multiplies by, which is repeated for every out.
    left = ctx.builder.beside(q.base, q.idx[grid.item].transpose(0, 3, 1, 2).reshape(tokens, -1), src)
    right = _spread(ctx, node, k, grid.item, outs, src)
    made = ctx.builder.node("mul", [left, right], (tokens, taps * width), f"{node.output[0]}_mul", src)
    params = {"weight": np.ones((width, taps)), "bias": np.zeros(width)}
    total = ctx.builder.node("depthwise", [made.name], (tokens, width), node.output[0], src, {"width": width}, params)
    idx = np.empty((len(rows), outs), np.int64)
    idx[grid.item] = np.arange(tokens * width).reshape(tokens, heads, outs)
    return View(total, _shaped(idx, scores.lead, outs), src)


def _spread(ctx: Context, node: NodeProto, k: View, item: Index, outs: int, src: tuple[str, ...]) -> str:
    """Elements (tap, head) of every token, each `outs` times: a product with zeros and ones."""
    tokens, heads = item.shape
    target = k.idx[item, 0].reshape(tokens, -1)
    taps = target.shape[1] // heads
    once = np.arange(heads * taps).reshape(heads, taps).T.repeat(outs, axis=1).ravel()
    weight = np.zeros((once.size, target.shape[1]))
    weight[np.arange(once.size), once] = 1.0
    made: Base = ctx.linear(View(k.base, target, k.src), target, weight, f"{node.output[0]}_spread", src)
    return made.name


def _shaped(idx: Index, lead: Index, outs: int) -> Index:
    """[L, I] in the ONNX shape of the scores."""
    shape: Shape = (*lead.shape, outs, 1)
    return idx[lead.ravel()].reshape(shape)
