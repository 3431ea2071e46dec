"""The discrete Fourier transform, as a product with a constant matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from attnc.frontend.context import Context
from attnc.frontend.products import linear
from attnc.frontend.reindexing import integers
from attnc.frontend.values import Array, Value, View, reindex


def dft(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """DFT along one axis of [..., 1 or 2]: real numbers, or real and imaginary parts."""
    attributes = ctx.attributes(node)
    assert args[0] is not None
    x = ctx.view(args[0])
    given = integers(ctx, node, args, 2)
    axis = given[0] if given else int(attributes.get("axis", -2 if ctx.opset >= 20 else 1))
    rank, axis = len(x.shape), axis % len(x.shape)
    n, parts = x.shape[axis], x.shape[-1]
    length = integers(ctx, node, args, 1)
    if axis == rank - 1 or parts not in (1, 2) or (length and length[0] != n):
        ctx.fail(node, f"a transform of length {length or n} along axis {axis} of {list(x.shape)}")
    onesided, inverse = bool(attributes.get("onesided", 0)), bool(attributes.get("inverse", 0))
    if onesided and (inverse or parts == 2):
        ctx.fail(node, "of transforms of one side, that of real numbers is supported only")
    count = n // 2 + 1 if onesided else n
    weight = matrix(n, count, parts, inverse)
    # The parts come first, so that those of one token, or of one channel, lie side by side.
    order = [*(i for i in range(rank - 1) if i != axis), rank - 1, axis]
    flat = reindex(x, lambda i: i.transpose(order).reshape(*(x.shape[j] for j in order[:-2]), parts * n))
    assert isinstance(flat, View)
    made = linear(ctx, node, flat, weight)
    back = np.argsort(order)
    return [reindex(made, lambda i: i.reshape(*i.shape[:-1], 2, count).transpose(back))]


def matrix(n: int, count: int, parts: int, inverse: bool) -> Array:
    """[parts * n, 2 * count] from (real, imaginary) to (real, imaginary)."""
    angle = 2 * np.pi * np.outer(np.arange(n), np.arange(count)) / n * (1 if inverse else -1)
    cos, sin = np.cos(angle), np.sin(angle)
    blocks = [[cos, sin], [-sin, cos]][:parts]
    return np.block(blocks) / (n if inverse else 1)
