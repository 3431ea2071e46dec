"""Products: MatMul, Gemm and Einsum become linear, or attention where both operands are activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from onnx import NodeProto

from attnc.errors import ModelError
from attnc.frontend import mixing, rowwise
from attnc.frontend.attention import make_scores
from attnc.frontend.attention_node import attend
from attnc.frontend.builder import LayoutError, elements
from attnc.frontend.context import Context
from attnc.frontend.pointwise import step
from attnc.frontend.reindexing import apply
from attnc.frontend.values import Array, Const, Scores, Shape, Test, TokenWeights, TurnedScores, Unary, Value, View, merge, on_host, reindex

MAX_DENSE = 1 << 24
"""Largest weight that a per-head product may be blown up to."""


def matmul(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """MatMul."""
    a, b = args[0], args[1]
    assert a is not None and b is not None
    return [product(ctx, node, a, b)]


def product(ctx: Context, node: NodeProto, a: Value, b: Value) -> Value:
    """a @ b for every kind of operands."""
    if isinstance(a, Const) and isinstance(b, Const):
        return Const(a.array @ b.array, merge(a.src, b.src, (node.name,)))
    if isinstance(a, Scores) and a.normalized:
        return attend(ctx, node, a, b)
    if isinstance(b, Scores) and b.normalized:
        ctx.fail(node, "attention probabilities are supported as the left factor of a product only")
    if isinstance(a, Test) or isinstance(b, Test):
        ctx.fail(node, "a test of attention scores is multiplied")
    if isinstance(a, TokenWeights) or isinstance(b, TokenWeights):
        return mixing.product(ctx, node, a, b)
    if isinstance(b, Const):
        return _vectors(ctx, node, ctx.view(a), b)
    if isinstance(a, Const):
        return _constant_left(ctx, node, a, b)
    scores = make_scores(ctx, node, a, b)
    if on_host(a) and on_host(b) and scores.q.shape[-1] == 1:
        scores.host = ctx.host_view(node.output[0], scores.shape, (node.name,))
    elif scores.k.shape[1] == 1:  # a vector for each: no softmax over one key
        scores.fallback = partial(rowwise.product, ctx, node, replace(scores))
    return scores


def _vectors(ctx: Context, node: NodeProto, x: View, weight: Const) -> View:
    """x @ W, with NumPy's rules for vectors."""
    array = weight.array if weight.array.dtype == np.float32 else weight.array.astype(np.float64)
    if not x.shape or not array.shape:
        raise ModelError(f"node {node.name!r} ({node.op_type}): a scalar operand")
    column = array.ndim == 1
    array = array[:, None] if column else array
    row = len(x.shape) == 1
    lifted = reindex(x, lambda i: i[None]) if row else x
    assert isinstance(lifted, View)
    result = linear(ctx, node, lifted, array)
    moved = reindex(result, lambda i: i[..., 0] if column else i)
    moved = reindex(moved, lambda i: i.reshape(i.shape[1:] if column else (*i.shape[:-2], i.shape[-1]))) if row else moved
    assert isinstance(moved, View)
    return moved


def _constant_left(ctx: Context, node: NodeProto, a: Const, b: Value) -> Value:
    """W @ x is (x^T W^T)^T; it may also be constant queries of an attention."""
    view = ctx.view(b)
    if len(view.shape) == 1:
        return _vectors(ctx, node, view, Const(a.array.swapaxes(-1, -2), a.src))

    def transposed() -> View:
        weight = a.array if a.array.ndim > 1 else a.array[None]
        flipped = reindex(view, lambda i: i.swapaxes(-1, -2))
        assert isinstance(flipped, View)
        result = linear(ctx, node, flipped, (weight if weight.dtype == np.float32 else weight.astype(np.float64)).swapaxes(-1, -2))
        back = reindex(result, lambda i: i.swapaxes(-1, -2) if a.array.ndim > 1 else i[..., 0])
        assert isinstance(back, View)
        return back

    if a.array.ndim < 2:
        return transposed()
    scores = make_scores(ctx, node, a, b)
    scores.fallback = _once(transposed)
    if on_host(b) and scores.q.shape[-1] == 1:
        scores.host = ctx.host_view(node.output[0], scores.shape, (node.name,))
    return scores


def _once(function: Callable[[], View]) -> Callable[[], View]:
    """Calls a function the first time only."""
    made: list[View] = []

    def call() -> View:
        if not made:
            made.append(function())
        return made[0]

    return call


def linear(ctx: Context, node: NodeProto, x: View, weight: Array) -> View:
    """x [..., T, K] @ weight [..., K, N]: leading axes of the weight become channels."""
    if x.shape[-1] != weight.shape[-2]:
        raise ModelError(f"node {node.name!r} ({node.op_type}): shapes {list(x.shape)} and {list(weight.shape)} do not fit")
    axes = ctx.builder.natural_axes(x) if ctx.builder.transposing else None
    axes = axes if axes is not None and len(x.shape) - 1 in axes.channels else None
    if axes is not None and weight.ndim == 2 and len(x.shape) - 2 in axes.channels:
        made = linear(ctx, node, View(x.base, x.idx[..., None, :], x.src), weight)
        return View(made.base, made.idx[..., 0, :], made.src)
    lead = tuple(np.broadcast_shapes(x.shape[:-2], weight.shape[:-2]))
    weight = np.expand_dims(weight, tuple(range(len(lead) + 2 - weight.ndim)))
    if axes is not None:  # leading axes that lie along channels have products of their own
        beside = [axis for axis in axes.channels if axis < len(x.shape) - 2]
        apart = [size if axis - len(lead) + len(x.shape) - 2 in beside else weight.shape[axis] for axis, size in enumerate(lead)]
        weight = np.broadcast_to(weight, (*apart, *weight.shape[-2:]))
    stacked = tuple(axis for axis in range(len(lead)) if weight.shape[axis] > 1)
    plain = tuple(axis for axis in range(len(lead)) if axis not in stacked)
    idx = np.broadcast_to(x.idx, (*lead, *x.shape[-2:]))
    n, t, k = int(weight.shape[-1]), int(x.idx.shape[-2]), int(x.idx.shape[-1])
    copies = elements(tuple(lead[axis] for axis in stacked))
    rows = elements(tuple(lead[axis] for axis in plain)) * t
    arranged = idx.transpose(*plain, len(lead), *stacked, len(lead) + 1).reshape(rows, copies, k)
    matrices = weight.reshape(copies, k, n) if copies > 1 else weight.reshape(1, k, n)
    if copies == 1 or not np.any(arranged != arranged[:, :1]):
        dense = matrices.transpose(0, 2, 1).reshape(copies * n, k)
        target = arranged[:, 0]
    else:
        dense, target = _block_diagonal(ctx, node, matrices), arranged.reshape(rows, copies * k)
    base_view = flat_linear(ctx, node, View(x.base, target, x.src), dense)
    moved = base_view.idx.reshape(*(lead[axis] for axis in plain), t, *(lead[axis] for axis in stacked), n)
    order = np.argsort(np.array([*plain, len(lead), *stacked, len(lead) + 1]))
    return View(base_view.base, moved.transpose(order))


def _block_diagonal(ctx: Context, node: NodeProto, matrices: Array) -> Array:
    """Weights [S, K, N] of S products side by side as one [S*N, S*K]."""
    s, k, n = matrices.shape
    if s * k * s * n > MAX_DENSE:
        ctx.fail(node, f"{s} different products of {k} x {n} at once would need a weight of {s * n} x {s * k}")
    dense = np.zeros((s, n, s, k))
    dense[np.arange(s), :, np.arange(s), :] = matrices.transpose(0, 2, 1)
    return dense.reshape(s * n, s * k)


def flat_linear(ctx: Context, node: NodeProto, x: View, weight: Array) -> View:
    """x [R, K] times weight [N, K]."""
    try:
        return ctx.builder.whole(ctx.linear(x, x.idx, weight, node.output[0], (node.name,)))
    except LayoutError as error:
        ctx.fail(node, str(error))


def gemm(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Gemm: alpha * A' @ B' + beta * C."""
    attributes = ctx.attributes(node)
    a, b = args[0], args[1]
    assert a is not None and b is not None
    a = _flip(ctx, node, a) if attributes.get("transA", 0) else a
    b = _flip(ctx, node, b) if attributes.get("transB", 0) else b
    alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
    if alpha != 1.0 and isinstance(b, Const):
        b = Const(b.array.astype(np.float64) * alpha, b.src)
        alpha = 1.0
    result = product(ctx, node, a, b)
    if alpha != 1.0:
        result = step(ctx, node, "Mul", result, Const(np.array(alpha)))
    bias = args[2] if len(args) > 2 else None
    if bias is None or beta == 0:
        return [result]
    if beta != 1.0:
        bias = Const(bias.array * beta) if isinstance(bias, Const) else step(ctx, node, "Mul", bias, Const(np.array(beta)))
    return [step(ctx, node, "Add", result, bias)]


def _flip(ctx: Context, node: NodeProto, value: Value) -> Value:
    if not isinstance(value, (View, Const, Unary, Scores, TurnedScores, TokenWeights)):
        value = ctx.concrete(value)
    return apply(ctx, node, value, lambda x: x.swapaxes(-1, -2))


def einsum(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Einsum of one operand (a transposition) or two (a product)."""
    equation = str(ctx.attributes(node)["equation"]).replace(" ", "")
    terms, arrow, result = equation.partition("->")
    labels = terms.split(",")
    if "." in equation or len(labels) > 2 or any(len(set(term)) != len(term) for term in labels):
        ctx.fail(node, f"equation {equation!r}: only products of two operands with distinct letters are supported")
    if not arrow:
        joined = "".join(labels)
        result = "".join(sorted(letter for letter in set(joined) if joined.count(letter) == 1))
    values = [value for value in args if value is not None]
    if len(labels) == 1:
        if set(result) != set(labels[0]):
            ctx.fail(node, f"equation {equation!r}: sums over one operand are not supported")
        return [_moved(ctx, node, values[0], labels[0], result)]
    return [_einsum_pair(ctx, node, values, labels, result)]


def _einsum_pair(ctx: Context, node: NodeProto, values: Sequence[Value], labels: Sequence[str], result: str) -> Value:
    """Two operands: batch letters, letters of either side, and summed ones, brought into the order of MatMul."""
    left, right = labels
    batch = [c for c in result if c in left and c in right]
    summed = [c for c in left if c in right and c not in result]
    rows, columns = [c for c in result if c in left and c not in right], [c for c in result if c in right and c not in left]
    if set(left) - set(batch) - set(summed) - set(rows) or set(right) - set(batch) - set(summed) - set(columns):
        ctx.fail(node, f"equation {left},{right}->{result}: sums over letters of one operand are not supported")
    a, b = values
    if isinstance(b, Scores) and b.normalized:
        a, b, left, right, rows, columns = b, a, right, left, columns, rows
    sizes = dict(zip(left, _shape(ctx, a), strict=True)) | dict(zip(right, _shape(ctx, b), strict=True))

    def size(letters: Sequence[str]) -> int:
        return elements(tuple(sizes[c] for c in letters))

    lead = [sizes[c] for c in batch]
    a = _moved(ctx, node, a, left, [*batch, *rows, *summed], (*lead, size(rows), size(summed)))
    b = _moved(ctx, node, b, right, [*batch, *summed, *columns], (*lead, size(summed), size(columns)))
    found = product(ctx, node, a, b)
    order = [*batch, *rows, *columns]
    return apply(ctx, node, found, lambda x: _back(x, order, sizes, result))


def _shape(ctx: Context, value: Value) -> Shape:
    """Shape of an operand that has one."""
    return value.shape if isinstance(value, (View, Const, Unary, Scores, TurnedScores, TokenWeights)) else ctx.concrete(value).shape


def _back(x: Array, order: Sequence[str], sizes: dict[str, int], result: str) -> Array:
    return x.reshape([sizes[c] for c in order]).transpose([order.index(c) for c in result])


def _moved(ctx: Context, node: NodeProto, value: Value, labels: str, wanted: Sequence[str], shape: Shape | None = None) -> Value:
    """An operand with its letters in another order, then in another shape."""
    if not isinstance(value, (View, Const, Unary, Scores, TurnedScores, TokenWeights)):
        value = ctx.concrete(value)

    def move(x: Array) -> Array:
        y = x.transpose([labels.index(c) for c in wanted])
        return y if shape is None else y.reshape(shape)

    return apply(ctx, node, value, move)
