"""Elements of a tensor that others are written over, at constant positions: a tensor whose elements come from several views.

What reads it mostly reads those of one alone, as where a part of a tensor was changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from attnc.frontend.context import Context
from attnc.frontend.values import Const, Patchwork, Value, View, merge


def scatter_nd(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """ScatterND that replaces elements."""
    data, where, updates = (args[i] for i in range(3))
    assert data is not None and updates is not None
    if not isinstance(where, Const) or ctx.attributes(node).get("reduction", "none") != "none":
        ctx.fail(node, "only a replacement of elements at constant positions can be followed on the device")
    below, above = _patchwork(ctx, data), _patchwork(ctx, updates)
    parts = (*below.parts, *above.parts)
    which, idx = below.which.copy(), below.idx.copy()
    places = tuple(np.moveaxis(where.array.astype(np.int64), -1, 0))
    which[places], idx[places] = above.which + len(below.parts), above.idx
    return [Patchwork(parts, which, idx, merge(below.src, above.src, (node.name,))).simplest()]


def _patchwork(ctx: Context, value: Value) -> Patchwork:
    """Any value as one."""
    if isinstance(value, Patchwork):
        return value
    view: View = ctx.view(value)
    return Patchwork((view.base,), np.zeros(view.shape, np.int64), view.idx, view.src)
