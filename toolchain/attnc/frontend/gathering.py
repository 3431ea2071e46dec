"""Rows of a tensor at positions that the host computes: attention whose scores are a mask of the host, which leaves one key to each query.

Where positions are constant, rows are gathered as any rearrangement; operators that gather by element then rearrange as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto

from attnc.errors import ModelError
from attnc.frontend.attention import add_bias, make_scores
from attnc.frontend.attention_node import attend
from attnc.frontend.context import Context
from attnc.frontend.reindexing import rearrange
from attnc.frontend.values import Const, Value, View, on_host, reindex

CHANNELS = 4
"""Of the queries and keys, which are zeros."""


def gather(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Gather."""
    where, subject = args[1], args[0]
    if not isinstance(where, View) or not on_host(where) or subject is None or isinstance(subject, Const):
        return rearrange(ctx, node, args)
    x = ctx.on_device(ctx.view(subject))
    axis = int(ctx.attributes(node).get("axis", 0)) % len(x.shape)
    flat = View(x.base, np.moveaxis(x.idx, axis, 0).reshape(x.shape[axis], -1), x.src)
    positions = reindex(where, lambda i: i.reshape(-1))
    assert isinstance(positions, View)
    made = _picked(ctx, node, flat, positions)
    others = [size for i, size in enumerate(x.shape) if i != axis]
    target = [*range(axis, axis + len(where.shape))]
    return [reindex(made, lambda i: np.moveaxis(i.reshape(*where.shape, *others), range(len(where.shape)), target))]


def gather_elements(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """GatherElements: of constant positions a rearrangement; of computed ones that are the same for all other axes, rows."""
    subject, where = args[0], args[1]
    assert subject is not None and where is not None
    x = ctx.view(subject)
    axis = int(ctx.attributes(node).get("axis", 0)) % len(x.shape)
    shape = getattr(where, "shape", ())
    if len(shape) != len(x.shape) or any(a > b for i, (a, b) in enumerate(zip(shape, x.shape, strict=False)) if i != axis):
        raise ModelError(f"node {node.name!r} (GatherElements): indices of shape {list(shape)} do not fit {list(x.shape)}")
    reached = tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(shape))
    if isinstance(where, Const):
        positions = where.array.astype(np.int64) % x.shape[axis]
        return [reindex(x, lambda i: np.take_along_axis(i[reached], positions, axis), (node.name,))]
    if not isinstance(where, View) or not on_host(where):
        ctx.fail(node, "its indices are computed on the device")
    moved = np.moveaxis(where.idx, axis, -1).reshape(-1, shape[axis])
    if np.any(moved != moved[:1]):
        ctx.fail(node, "its indices depend on an input and differ among channels")
    x = ctx.on_device(x)
    flat = View(x.base, np.moveaxis(x.idx[reached], axis, 0).reshape(x.shape[axis], -1), x.src)
    made = _picked(ctx, node, flat, View(where.base, moved[0], where.src))
    others = [size for i, size in enumerate(shape) if i != axis]
    return [reindex(made, lambda i: np.moveaxis(i.reshape(shape[axis], *others), 0, axis))]


def _picked(ctx: Context, node: NodeProto, x: View, positions: View) -> View:
    """Rows [n] of x [R, C]."""
    (rows, _), count = x.shape, positions.shape[0]
    elem = ctx.info[positions.base.name].elem_type or TensorProto.INT64

    def host(op: str, shape: Sequence[int], *operands: View | Const, elem_type: int = TensorProto.FLOAT) -> View:
        return ctx.host_node(op, operands, shape, (node.name,), elem_type)

    integer = np.int32 if elem == TensorProto.INT32 else np.int64
    column = View(positions.base, positions.idx[:, None], positions.src)
    wrapped = host("Mod", (count, 1), column, Const(np.array(rows, integer)), elem_type=elem)  # negative ones count from the end
    chosen = host("Equal", (count, rows), wrapped, Const(np.arange(rows, dtype=integer)[None]), elem_type=TensorProto.BOOL)
    mask = host("Where", (count, rows), chosen, Const(np.array(0.0, np.float32)), Const(np.array(-np.inf, np.float32)))
    zeros = [Const(np.zeros(shape)) for shape in ((1, count, CHANNELS), (1, CHANNELS, rows))]
    scores = make_scores(ctx, node, *zeros)
    scores = add_bias(ctx, node, scores, reindex(mask, lambda i: i[None]))
    scores.normalized = True
    made = attend(ctx, node, scores, View(x.base, x.idx[None], x.src))
    return View(made.base, made.idx[0], made.src)
