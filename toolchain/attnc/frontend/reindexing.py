"""Operators that only rearrange: each becomes a function of an array, applied to the index of a view (or to a constant)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto

from attnc.errors import ModelError, UnsupportedError
from attnc.frontend.builder import elements
from attnc.frontend.context import Context
from attnc.frontend.layout import check_size, identity
from attnc.frontend.values import (
    Array,
    Const,
    Patchwork,
    Poly,
    ScoreRows,
    Scores,
    Shape,
    TokenWeights,
    TurnedScores,
    Unary,
    Value,
    View,
    WeighedTokens,
    merge,
    on_host,
    reindex,
)

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
Move = Callable[[Array], Array]
MOST_AXES = 6
"""Of scores whose order of axes is looked for."""


def integers(ctx: Context, node: NodeProto, args: Sequence[Value | None], index: int) -> list[int] | None:
    """Operand `index` as whole numbers; None if it is not given."""
    if index >= len(args) or args[index] is None:
        return None
    value = args[index]
    if not isinstance(value, Const):
        ctx.fail(node, f"operand {index} ({node.input[index]!r}) must be constant, it depends on an input")
    return [int(number) for number in value.array.reshape(-1)]


def reshaped(node: NodeProto, old: Shape, wanted: Sequence[int], allow_zero: bool) -> Shape:
    """The shape after Reshape."""
    new = [old[axis] if size == 0 and not allow_zero and axis < len(old) else size for axis, size in enumerate(wanted)]
    total = elements(old)
    if new.count(-1) > 1 or any(size < -1 for size in new):
        raise ModelError(f"node {node.name!r} (Reshape): shape {list(wanted)} makes no sense")
    if -1 in new:
        known = elements(tuple(size for size in new if size != -1))
        new[new.index(-1)] = total // known if known else 0
    if elements(tuple(new)) != total:
        raise ModelError(f"node {node.name!r} (Reshape): {list(old)} cannot become {list(wanted)}")
    return tuple(new)


def _identity(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    return [lambda x: x]


def _dropout(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    """Nothing, unless it is told to train."""
    training = args[2] if len(args) > 2 else None
    if training is not None and not (isinstance(training, Const) and not training.array.any()):
        ctx.fail(node, "a dropout in training mode")
    return [lambda x: x]


def _reshape(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    wanted = integers(ctx, node, args, 1) or []
    new = reshaped(node, shape, wanted, bool(ctx.attributes(node).get("allowzero", 0)))
    return [lambda x: x.reshape(new)]


def _transpose(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    order = ctx.attributes(node).get("perm") or tuple(reversed(range(len(shape))))
    return [lambda x: x.transpose(order)]


def _axes(ctx: Context, node: NodeProto, args: Sequence[Value | None], rank: int) -> list[int] | None:
    axes = integers(ctx, node, args, 1)
    axes = axes if axes is not None else ctx.attributes(node).get("axes")
    return None if axes is None else [int(axis) % rank if rank else 0 for axis in axes]


def _squeeze(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    axes = _axes(ctx, node, args, len(shape))
    axes = [axis for axis, size in enumerate(shape) if size == 1] if axes is None else axes
    return [lambda x: np.squeeze(x, tuple(axes))]


def _unsqueeze(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    given = integers(ctx, node, args, 1) or []
    axes = tuple(axis % (len(shape) + len(given)) for axis in given)
    return [lambda x: np.expand_dims(x, axes)]


def _flatten(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    axis = int(ctx.attributes(node).get("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    new = (elements(shape[:axis]), elements(shape[axis:]))
    return [lambda x: x.reshape(new)]


def _split(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    attributes = ctx.attributes(node)
    axis = int(attributes.get("axis", 0)) % len(shape)
    sizes = integers(ctx, node, args, 1)
    if sizes is None:
        parts = int(attributes.get("num_outputs", len(node.output)))
        chunk = -(-shape[axis] // parts)
        sizes = [max(0, min(chunk, shape[axis] - i * chunk)) for i in range(parts)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    if sum(sizes) != shape[axis]:
        raise ModelError(f"node {node.name!r} (Split): parts {sizes} do not add up to {shape[axis]}")

    def part(start: int, size: int) -> Move:
        return lambda x: x.take(range(start, start + size), axis)

    return [part(start, size) for start, size in zip(starts, sizes, strict=True)]


def _slice(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    starts, ends = integers(ctx, node, args, 1) or [], integers(ctx, node, args, 2) or []
    axes = integers(ctx, node, args, 3)
    axes = list(range(len(starts))) if axes is None else [axis % len(shape) for axis in axes]
    steps = integers(ctx, node, args, 4) or [1] * len(starts)
    slices: list[slice] = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        if step > 0:
            first, last = (min(max(bound + size if bound < 0 else bound, 0), size) for bound in (start, end))
            slices[axis] = slice(first, last, step)
        else:
            first = min(max(start + size if start < 0 else start, 0), size - 1)
            last = max(end + size if end < 0 else end, -1)
            slices[axis] = slice(first, None if last < 0 else last, step)
    return [lambda x: x[tuple(slices)]]


def _gather(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    axis = int(ctx.attributes(node).get("axis", 0)) % max(len(shape), 1)
    if not isinstance(args[1], Const):
        ctx.fail(node, "its indices depend on an input, and only constant ones can be followed on the device")
    which = args[1].array.astype(np.int64)
    if which.size and (which.min() < -shape[axis] or which.max() >= shape[axis]):
        raise ModelError(f"node {node.name!r} (Gather): index {which.min()} to {which.max()} on an axis of size {shape[axis]}")
    return [lambda x: np.take(x, which, axis)]


def _gather_nd(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    if not isinstance(args[1], Const) or ctx.attributes(node).get("batch_dims", 0):
        ctx.fail(node, "only constant indices without batch dimensions can be followed on the device")
    which = tuple(np.moveaxis(args[1].array.astype(np.int64), -1, 0))
    return [lambda x: x[which]]


def _expand(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    new = tuple(np.broadcast_shapes(shape, tuple(integers(ctx, node, args, 1) or [])))
    check_size(new)
    return [lambda x: np.broadcast_to(x, new)]


def _tile(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    repeats = integers(ctx, node, args, 1) or []
    check_size(tuple(size * times for size, times in zip(shape, repeats, strict=True)))
    return [lambda x: np.tile(x, repeats)]


def _depth_to_space(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    attributes = ctx.attributes(node)
    block, (b, c, h, w) = int(attributes["blocksize"]), shape
    inner = c // block**2
    if attributes.get("mode", "DCR") == "DCR":
        return [lambda x: x.reshape(b, block, block, inner, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(b, inner, h * block, w * block)]
    return [lambda x: x.reshape(b, inner, block, block, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(b, inner, h * block, w * block)]


def _space_to_depth(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    attributes = ctx.attributes(node)
    block, (b, c, h, w) = int(attributes["blocksize"]), shape
    split = (b, c, h // block, block, w // block, block)
    if attributes.get("mode", "DCR") == "CRD":
        return [lambda x: x.reshape(split).transpose(0, 1, 3, 5, 2, 4).reshape(b, c * block**2, h // block, w // block)]
    return [lambda x: x.reshape(split).transpose(0, 3, 5, 1, 2, 4).reshape(b, c * block**2, h // block, w // block)]


def _col2im(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    """Blocks that do not overlap, put together to a picture."""
    attributes, image, block = ctx.attributes(node), integers(ctx, node, args, 1) or [], integers(ctx, node, args, 2) or []
    rank = len(block)
    strides, dilations, pads = (
        attributes.get(n, [d] * s) for n, d, s in (("strides", 1, rank), ("dilations", 1, rank), ("pads", 0, 2 * rank))
    )
    outs = [(n + pads[i] + pads[i + rank] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i, n in enumerate(image)]
    where: list[Array] = []
    for i in range(rank):
        tap = np.arange(block[i]).reshape([-1 if j == i else 1 for j in range(2 * rank)]) * dilations[i]
        at = np.arange(outs[i]).reshape([-1 if j == rank + i else 1 for j in range(2 * rank)]) * strides[i]
        where.append(np.broadcast_to(tap + at - pads[i], (*block, *outs)).ravel())
    inside = np.all([(w >= 0) & (w < n) for w, n in zip(where, image, strict=True)], axis=0)
    flat = np.ravel_multi_index([w[inside] for w in where], image)
    if not np.array_equal(np.sort(flat), np.arange(elements(tuple(image)))):
        ctx.fail(node, "blocks that overlap or leave gaps cannot be put together on the device")
    source = np.flatnonzero(inside)[np.argsort(flat)]
    return [lambda x: x.reshape(shape[0], -1, elements(tuple(block)) * shape[2])[:, :, source].reshape(shape[0], -1, *image)]


def _pad(ctx: Context, node: NodeProto, shape: Shape, args: Sequence[Value | None]) -> list[Move]:
    """Padding by nothing, as exporters leave it behind, or by less than nothing (a crop)."""
    amounts = padding(ctx, node, args, len(shape))
    if any(low > 0 or high > 0 for low, high in amounts):
        ctx.fail(node, f"a tensor on the device cannot be padded (by {amounts}) here")
    slices = tuple(slice(-low, size + high) for (low, high), size in zip(amounts, shape, strict=True))
    return [lambda x: x[slices]]


def padding(ctx: Context, node: NodeProto, args: Sequence[Value | None], rank: int) -> list[tuple[int, int]]:
    """Elements that a Pad adds before and after, by axis."""
    pads, axes = integers(ctx, node, args, 1) or [], integers(ctx, node, args, 3)
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    amounts = [(0, 0)] * rank
    for axis, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        amounts[axis] = (low, high)
    return amounts


PLANS: dict[str, Callable[[Context, NodeProto, Shape, Sequence[Value | None]], list[Move]]] = {
    "Identity": _identity, "Dropout": _dropout, "Cast": _identity, "CastLike": _identity, "Reshape": _reshape,
    "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Flatten": _flatten, "Split": _split,
    "Slice": _slice, "Gather": _gather, "GatherND": _gather_nd, "Expand": _expand, "Tile": _tile,
    "Pad": _pad, "Col2Im": _col2im, "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
}  # fmt: skip


def rearrange(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Handler of all of them; operand 0 is what is rearranged."""
    subject = args[0]
    assert subject is not None
    if node.op_type in ("Cast", "CastLike"):
        _check_cast(ctx, node, subject)
    if node.op_type == "Dropout" and any(node.output[1:]) and not on_host(subject):
        ctx.fail(node, "the mask of a dropout has no meaning here")
    if isinstance(subject, Unary):
        subject = _settle(ctx, subject)
    if not isinstance(subject, (View, Const, Unary, Poly, Scores, ScoreRows, TurnedScores, TokenWeights, WeighedTokens, Patchwork)):
        subject = ctx.concrete(subject)
    moves = PLANS[node.op_type](ctx, node, subject.shape, args)
    return [apply(ctx, node, subject, move) for move in moves[: len(node.output)]]


def _check_cast(ctx: Context, node: NodeProto, subject: Value) -> None:
    """A cast between float types is no operation; one to integers cuts digits off."""
    target = ctx.attributes(node).get("to", TensorProto.FLOAT)
    if target not in FLOATS:
        ctx.fail(node, "numbers on the device cannot be cast to integers or booleans")
    if on_host(subject) and not ctx.info[node.input[0]].is_float:
        ctx.fail(node, "integers are cast to floating point on the host")


def _settle(ctx: Context, value: Unary) -> Value:
    """A function that is complete is put into the graph before it is rearranged; scaling and half-written ones wait."""
    if ctx.affine(value) is not None:
        return value
    try:
        return ctx.concrete(value)
    except UnsupportedError:
        return value


def apply(ctx: Context, node: NodeProto, subject: Value, move: Move) -> Value:
    """One rearrangement of one value."""
    src = (node.name,)
    if isinstance(subject, (View, Const)):
        return reindex(subject, move, src)
    if isinstance(subject, Unary):
        view = reindex(subject.view, move)
        assert isinstance(view, View)
        return Unary(view, subject.y, merge(subject.src, src), subject.node, subject.operator)
    if isinstance(subject, Patchwork):
        return subject.moved(move, src)
    if isinstance(subject, TokenWeights):
        return replace(subject, idx=move(subject.idx), src=merge(subject.src, src))
    if isinstance(subject, WeighedTokens):
        weights, x = replace(subject.weights, idx=move(subject.weights.idx)), reindex(subject.x, move)
        assert isinstance(x, View)
        return WeighedTokens(weights, x, merge(subject.src, src))
    if isinstance(subject, TurnedScores):
        order = subject.order
        return move_scores(ctx, node, subject.scores, lambda x: move(x.transpose(order)))
    if isinstance(subject, ScoreRows):
        flattened = subject.shape
        return move_scores(ctx, node, subject.scores, lambda x: move(x.reshape(flattened)))
    if isinstance(subject, Scores):
        return move_scores(ctx, node, subject, move)
    assert isinstance(subject, Poly)
    return _move_poly(ctx, node, subject, move)


def move_scores(ctx: Context, node: NodeProto, scores: Scores, move: Move) -> Value:
    """Attention scores may have their leading axes rearranged, queries and keys swapped, and all rows flattened into one axis."""
    t, tk = scores.shape[-2:]
    moved = move(identity_scores(scores))
    src = merge(scores.src, (node.name,))
    host = _host(scores.host, move)
    inner = identity((t, tk))
    if moved.ndim >= 2:
        first = moved[..., :1, :1]
        if moved.shape[-2:] == (t, tk) and np.array_equal(moved, first + inner) and not np.any(first % (t * tk)):
            return replace(scores, lead=moved[..., 0, 0] // (t * tk), src=src, host=host, fallback=_moved(scores, move))
        swappable = not scores.normalized and scores.bias is None
        if swappable and moved.shape[-2:] == (tk, t) and np.array_equal(moved, first + inner.T):
            lead = moved[..., 0, 0] // (t * tk)
            return replace(scores, q=scores.k, k=scores.q, lead=lead, src=src, host=host, fallback=_moved(scores, move))
    if scores.host is not None or scores.fallback is not None:
        made = reindex(ctx.concrete(scores), move, (node.name,))
        assert isinstance(made, View)
        return made
    if np.array_equal(moved, identity_scores(scores).reshape(-1, tk)):
        return ScoreRows(replace(scores, src=src), moved.shape, src)
    order = _turned(identity_scores(scores), moved)
    if order is not None:
        return TurnedScores(replace(scores, src=src), order, src)
    ctx.fail(node, "attention scores are rearranged in a way that the device cannot follow")


def _turned(array: Array, moved: Array) -> tuple[int, ...] | None:
    """The order of axes that makes an array the other one; None if none does."""
    if sorted(array.shape) != sorted(moved.shape) or array.ndim > MOST_AXES:
        return None
    fits = (order for order in itertools.permutations(range(array.ndim)) if array.transpose(order).shape == moved.shape)
    return next((order for order in fits if np.array_equal(array.transpose(order), moved)), None)


def _host(host: View | None, move: Move) -> View | None:
    """The same rearrangement of the tensor on the host."""
    return None if host is None else View(host.base, move(host.idx), host.src)


def _moved(scores: Scores | Poly, move: Move) -> Callable[[], View] | None:
    if scores.fallback is None:
        return None
    inner = scores.fallback

    def fallback() -> View:
        made = reindex(inner(), move)
        assert isinstance(made, View)
        return made

    return fallback


def identity_scores(scores: Scores) -> Array:
    """Flat positions of the scores in their canonical order [L, T, Tk], in the ONNX shape."""
    t, tk = scores.shape[-2:]
    result: Array = scores.lead[..., None, None] * (t * tk) + identity((t, tk))
    return result


def _move_poly(ctx: Context, node: NodeProto, poly: Poly, move: Move) -> Value:
    """Means and deviations may gain and lose axes of size 1, and be repeated along channels."""
    moved = move(identity(poly.shape))
    host = _host(poly.host, move)
    src = merge(poly.src, (node.name,))
    plain = not any(monomial[0] for monomial in poly.terms) and all(c.size == 1 for c in poly.terms.values())
    if moved.shape == poly.shape and np.array_equal(moved, identity(poly.shape)):
        return replace(poly, src=src, host=host)
    fallback = _moved(poly, move)
    if plain and moved.size == elements(poly.shape) and np.array_equal(moved.ravel(), np.arange(moved.size)):
        return replace(poly, shape=moved.shape, src=src, host=host, fallback=fallback)
    if plain and moved.shape == poly.x.shape and np.array_equal(moved, np.broadcast_to(identity((*moved.shape[:-1], 1)), moved.shape)):
        return replace(poly, shape=(*moved.shape[:-1], 1), src=src, host=host, fallback=None)
    if host is not None:
        return host
    if poly.fallback is not None:
        return reindex(poly.fallback(), move, (node.name,))
    ctx.fail(node, "means and deviations over channels are supported as parts of a layer normalisation only")
