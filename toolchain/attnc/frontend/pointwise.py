"""Operators that work on single elements: functions of one view are composed, the rest becomes add and mul."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from attnc.errors import UnsupportedError
from attnc.frontend import attention, mixing, normalization
from attnc.frontend.builder import LayoutError, concrete_shape, elements, scalar
from attnc.frontend.context import Context
from attnc.frontend.functions import GRID
from attnc.frontend.values import (
    Array,
    Const,
    Failed,
    Poly,
    Scores,
    Test,
    TokenWeights,
    TurnedScores,
    Unary,
    Value,
    View,
    WeighedTokens,
    merge,
    on_host,
    reindex,
    same_view,
)  # fmt: skip
from attnc.ops.functions import FUNCTIONS, erf

MAX_CUTS = 6
MAX_DEPTH = 48
Attributes = dict[str, Any]
Function = Callable[..., Array]


def _elu(x: Array, a: Attributes) -> Array:
    return np.where(x > 0, x, a.get("alpha", 1.0) * np.expm1(np.minimum(x, 0)))


def _selu(x: Array, a: Attributes) -> Array:
    alpha, gamma = a.get("alpha", 1.67326319217681884765625), a.get("gamma", 1.05070102214813232421875)
    return gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _gelu(x: Array, a: Attributes) -> Array:
    return FUNCTIONS["gelu_tanh" if a.get("approximate", "none") == "tanh" else "gelu"](x)


def _hard_sigmoid(x: Array, a: Attributes) -> Array:
    return np.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1)


def _leaky(x: Array, a: Attributes) -> Array:
    return np.where(x >= 0, x, a.get("alpha", 0.01) * x)


def _pow(x: Array, y: Array) -> Array:
    return np.power(x, np.round(y) if np.all(np.round(y) == y) else y)


ONE_OPERAND: dict[str, Callable[[Array, Attributes], Array]] = {
    "Relu": lambda x, a: np.maximum(x, 0), "Tanh": lambda x, a: np.tanh(x), "Sigmoid": lambda x, a: FUNCTIONS["sigmoid"](x),
    "Softplus": lambda x, a: np.logaddexp(0, x), "Erf": lambda x, a: erf(x), "Exp": lambda x, a: np.exp(x),
    "Log": lambda x, a: np.log(x), "Sqrt": lambda x, a: np.sqrt(x), "Neg": lambda x, a: -x, "Abs": lambda x, a: np.abs(x),
    "Reciprocal": lambda x, a: 1 / x, "Gelu": _gelu, "Elu": _elu, "Selu": _selu, "LeakyRelu": _leaky,
    "HardSigmoid": _hard_sigmoid, "HardSwish": lambda x, a: FUNCTIONS["hard_swish"](x),
    "Mish": lambda x, a: x * np.tanh(np.logaddexp(0, x)), "Softsign": lambda x, a: x / (1 + np.abs(x)),
    "ThresholdedRelu": lambda x, a: np.where(x > a.get("alpha", 1.0), x, 0), "Sin": lambda x, a: np.sin(x),
    "Cos": lambda x, a: np.cos(x), "Sign": lambda x, a: np.sign(x), "Floor": lambda x, a: np.floor(x),
    "Ceil": lambda x, a: np.ceil(x), "Round": lambda x, a: np.rint(x), "Not": lambda x, a: ~x, "Sinh": lambda x, a: np.sinh(x),
    "Cosh": lambda x, a: np.cosh(x), "Atan": lambda x, a: np.arctan(x), "Shrink": lambda x, a: np.where(
        x < -a.get("lambd", 0.5), x + a.get("bias", 0.0), np.where(x > a.get("lambd", 0.5), x - a.get("bias", 0.0), 0)),
    "IsNaN": lambda x, a: np.isnan(x), "IsInf": lambda x, a: np.isinf(x),
}  # fmt: skip
MORE_OPERANDS: dict[str, Function] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": _pow, "Max": np.maximum, "Min": np.minimum,
    "Sum": np.add, "Mean": lambda *x: sum(x) / len(x), "Where": np.where, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
    "Less": np.less, "LessOrEqual": np.less_equal, "Equal": np.equal, "And": np.logical_and, "Or": np.logical_or,
    "PRelu": lambda x, slope: np.where(x >= 0, x, slope * x),
}  # fmt: skip
OPERATORS = {*ONE_OPERAND, *MORE_OPERANDS, "Clip", "Celu", "Swish"}


def pointwise(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """Handler of all pointwise operators with at least one operand on the device."""
    given = [value for value in args if value is not None]
    turned = next((value for value in given if isinstance(value, TurnedScores)), None)
    if turned is not None:
        return [_on_turned(ctx, node, args, turned)]
    if any(isinstance(value, (Scores, Test)) for value in given):
        found = attention.pointwise_scores(ctx, node, args)
        if found is not None:
            return [found]
        _refuse_scores(ctx, given)
    if any(isinstance(value, (TokenWeights, WeighedTokens)) for value in given):
        weighed = mixing.weigh(ctx, node, given)
        if weighed is not None:
            return [weighed]
        given = [ctx.concrete(value) if isinstance(value, (TokenWeights, WeighedTokens)) else value for value in given]
        args = given
    if node.op_type in ("IsInf", "IsNaN") and isinstance(given[0], (View, Unary, Poly)):
        return [Const(np.zeros(given[0].shape, bool), (node.name,))]  # numbers on the device are finite
    combined = normalization.combine(ctx, node, given, None)
    if combined is not None:
        return [combined]
    if node.op_type in EXPANSIONS and isinstance(given[0], (View, Unary)):
        expanded = EXPANSIONS[node.op_type](ctx, node, given)
        if expanded is not None:
            return [expanded]
    given = [_without_poly(ctx, value) for value in given]
    composed = compose(ctx, node, given if node.op_type != "Clip" else [None if v is None else _without_poly(ctx, v) for v in args])
    if composed is not None:
        return [composed]
    return [_binary(ctx, node, given)]


def _on_turned(ctx: Context, node: NodeProto, args: Sequence[Value | None], turned: TurnedScores) -> Value:
    """The operator on scores as they were before their axes were turned, with the other operands turned back."""
    order, rank = turned.order, len(turned.order)
    back = np.argsort(order)

    def aligned(value: Value | None) -> Value | None:
        if value is None or (isinstance(value, TurnedScores) and value.order == order):
            return None if value is None else value.scores
        concrete = ctx.concrete(value)
        return reindex(concrete, lambda x: x.reshape((1,) * (rank - x.ndim) + x.shape).transpose(back))

    (made,) = pointwise(ctx, node, [aligned(value) for value in args])
    if isinstance(made, Scores):
        return TurnedScores(made, order, made.src)
    return reindex(ctx.concrete(made), lambda x: x.transpose(order))


def step(ctx: Context, node: NodeProto, op: str, *args: Value) -> Value:
    """A pointwise operator inside another one."""
    inner = NodeProto()
    inner.CopyFrom(node)
    inner.op_type = op
    del inner.attribute[:]
    return pointwise(ctx, inner, args)[0]


def _number(value: float) -> Const:
    return Const(np.array(value))


def _celu(ctx: Context, node: NodeProto, given: Sequence[Value]) -> Value | None:
    """alpha * elu(x / alpha)."""
    alpha = ctx.attributes(node).get("alpha", 1.0)
    scaled = step(ctx, node, "Elu", step(ctx, node, "Mul", given[0], _number(1 / alpha)))
    return step(ctx, node, "Mul", scaled, _number(alpha))


def _swish(ctx: Context, node: NodeProto, given: Sequence[Value]) -> Value | None:
    """x * sigmoid(alpha * x)."""
    scaled = step(ctx, node, "Mul", given[0], _number(ctx.attributes(node).get("alpha", 1.0)))
    return step(ctx, node, "Mul", given[0], step(ctx, node, "Sigmoid", scaled))


def _prelu(ctx: Context, node: NodeProto, given: Sequence[Value]) -> Value | None:
    """relu(x) * (1 - slope) + x * slope, where the slopes are not one number."""
    slope = given[1]
    if not isinstance(slope, Const) or scalar(slope) is not None:
        return None
    rising = step(ctx, node, "Mul", step(ctx, node, "Relu", given[0]), Const(1 - slope.array.astype(np.float64), slope.src))
    return step(ctx, node, "Add", rising, step(ctx, node, "Mul", given[0], slope))


def _power(ctx: Context, node: NodeProto, given: Sequence[Value]) -> Value | None:
    """x**2 as x * x."""
    return step(ctx, node, "Mul", given[0], given[0]) if len(given) == 2 and scalar(given[1]) == 2 else None


EXPANSIONS: dict[str, Callable[[Context, NodeProto, Sequence[Value]], Value | None]] = {
    "Celu": _celu, "Swish": _swish, "PRelu": _prelu, "Pow": _power,
}  # fmt: skip
"""Operators that are made of others, where the first operand is on the device; None where they are not."""


def _refuse_scores(ctx: Context, given: Sequence[Value]) -> None:
    """Scores that are made another way (a product with a constant) go on as that; others raise."""
    for value in given:
        if isinstance(value, (Scores, Test)):
            ctx.concrete(value)


def _without_poly(ctx: Context, value: Value) -> Value:
    return ctx.concrete(value) if isinstance(value, (Poly, Scores)) else value


def compose(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> Value | None:
    """A function of one view, if all operands are functions of that view or numbers."""
    lazies = [value for value in args if isinstance(value, (Unary, View))]
    if not lazies or any(not isinstance(value, (Unary, View, Const, type(None))) for value in args):
        return None
    if any(isinstance(value, View) and not value.base.device for value in lazies):
        return None
    numbers = [scalar(value) if isinstance(value, Const) else None for value in args]
    if any(isinstance(value, Const) and number is None for value, number in zip(args, numbers, strict=True)):
        return None
    shape = concrete_shape(*(value.shape for value in args if isinstance(value, (Unary, View, Const))))
    if any(elements(value.shape) != elements(shape) for value in lazies):
        return None
    lazies = [_bounded(ctx, value) for value in lazies]
    candidates = _common(ctx, [_with_shape(value, shape) for value in lazies])
    results = []
    for key, samples in candidates:
        remaining = iter(samples)
        operands = [None if v is None else n if n is not None else next(remaining) for v, n in zip(args, numbers, strict=True)]
        results.append((key, _evaluate(ctx, node, operands)))
    if not results:
        return None
    src = merge(*(value.src for value in args if value is not None and not isinstance(value, View)), (node.name,))
    root, y = results[0]
    assert isinstance(root, View)
    if y.dtype.kind == "f" and np.array_equal(y, GRID):
        return View(root.base, root.idx, merge(root.src, src))
    cuts = tuple((key, rest) for key, rest in results[1:] if isinstance(key, Unary))[-MAX_CUTS:]
    parts = None
    if node.op_type in ("Add", "Sub", "Mul", "Div") and not any(isinstance(value, Unary) and value.shape != shape for value in args):
        parts = node.op_type, tuple(value for value in args if isinstance(value, (Unary, View, Const)))
    return Unary(root, y, src, node.name, node.op_type, cuts, parts)


def _bounded(ctx: Context, value: Unary | View) -> Unary | View:
    """Very long chains are put into the graph on the way where that is possible, so that they cannot pile up."""
    if isinstance(value, Unary) and len(value.src) > MAX_DEPTH and value.made is None and value.y.dtype.kind == "f":
        made = _settled(ctx, value)
        return made if isinstance(made, View) else value
    return value


def _settled(ctx: Context, value: Unary) -> View | Const | None:
    try:
        return ctx.concrete(value)
    except UnsupportedError:
        return None


def _with_shape(value: Unary | View, shape: tuple[int, ...]) -> Unary | View:
    """Axes of size 1 in front, where a constant of higher rank brings them."""
    if value.shape == shape:
        return value
    if isinstance(value, View):
        return View(value.base, value.idx.reshape(shape), value.src)
    view = reindex(value.view, lambda x: x.reshape(shape))
    assert isinstance(view, View)
    return replace(value, view=view, cuts=(), parts=None, made=None)


def _common(ctx: Context, values: Sequence[Unary | View]) -> list[tuple[View | Unary, list[Array]]]:
    """Everything that all values are functions of, the first being a view: (it, samples of each value)."""
    options = [_options(value) for value in values]
    found: list[tuple[View | Unary, list[Array]]] = []
    for key, samples in options[0]:
        row = [samples]
        for other in options[1:]:
            match = next((y for candidate, y in other if _same(key, candidate)), None)
            if match is None:
                break
            row.append(match)
        if len(row) == len(values):
            found.append((key, row))
    return found if found and isinstance(found[0][0], View) else []


def _same(a: View | Unary, b: View | Unary) -> bool:
    return a is b or (isinstance(a, View) and isinstance(b, View) and same_view(a, b))


def _options(value: Unary | View) -> list[tuple[View | Unary, Array]]:
    """What a value is a function of."""
    if isinstance(value, View):
        return [(value, GRID)]
    if isinstance(value.made, View):
        return [(value.made, GRID)]
    return [(value.view, value.y), *value.cuts, *([(value, GRID)] if value.y.dtype.kind == "f" else [])]


def _evaluate(ctx: Context, node: NodeProto, operands: Sequence[Any]) -> Array:
    """The operator on samples and numbers, in float64."""
    with np.errstate(all="ignore"):
        if node.op_type == "Clip":
            low, high = ([*operands[1:], None, None])[:2]
            return np.clip(operands[0], -np.inf if low is None else low, np.inf if high is None else high)
        if node.op_type in ONE_OPERAND:
            return ONE_OPERAND[node.op_type](operands[0], ctx.attributes(node))
        function = MORE_OPERANDS[node.op_type]
        if node.op_type in ("Max", "Min", "Sum") and len(operands) != 2:
            result = np.asarray(operands[0])
            for operand in operands[1:]:
                result = function(result, operand)
            return np.broadcast_to(result, GRID.shape)
        result = function(*operands)
        return np.broadcast_to(np.asarray(result), GRID.shape)


def _binary(ctx: Context, node: NodeProto, given: Sequence[Value]) -> Value:
    """add and mul of different tensors."""
    op = node.op_type
    if op == "Where" and isinstance(given[0], Const):
        return _chosen(ctx, node, given[0].array.astype(bool), given[1], given[2])
    if op in ("Sum",) and len(given) > 2:
        total = given[0]
        for value in given[1:]:
            total = _binary_pair(ctx, node, "Add", total, value)
        return total
    if op not in ("Add", "Sub", "Mul", "Div", "Sum") or len(given) != 2:
        if any(isinstance(value, Failed) for value in given):
            ctx.concrete(next(value for value in given if isinstance(value, Failed)))
        if op in ONE_OPERAND:
            ctx.concrete(given[0])
        ctx.fail(node, "the device does this between an activation and a number only, not between two tensors")
    return _binary_pair(ctx, node, "Add" if op == "Sum" else op, given[0], given[1])


def _chosen(ctx: Context, node: NodeProto, condition: Array, first: Value, second: Value) -> Value:
    """One of two tensors, or of each the elements that a constant says: their sum, each with zeros where it is not meant."""
    if condition.all() or not condition.any():
        chosen = ctx.concrete(first if condition.all() else second)
        shape = concrete_shape(*(getattr(value, "shape", ()) for value in (first, second)), condition.shape)
        return reindex(chosen, lambda x: np.broadcast_to(x, shape))
    parts = (
        step(ctx, node, "Mul", value, Const(np.where(mask, 1.0, 0.0)))
        for value, mask in ((first, condition), (second, ~condition))
    )  # fmt: skip
    return step(ctx, node, "Add", *parts)


def _binary_pair(ctx: Context, node: NodeProto, op: str, left: Value, right: Value) -> Value:
    a, b = ctx.concrete(left), ctx.concrete(right)
    src = (node.name,)
    if op == "Sub":
        b = _negated(ctx, node, b)
    elif op == "Div":
        b = _inverted(ctx, node, b)
    if isinstance(a, Const) and isinstance(b, Const):  # x - x, say
        return Const(a.array + b.array if op in ("Add", "Sub") else a.array * b.array, merge(a.src, b.src, src))
    if isinstance(a, Const):
        a, b = b, a
    assert isinstance(a, View)
    try:
        return ctx.elementwise.apply("add" if op in ("Add", "Sub") else "mul", a, b, node.output[0], src)
    except LayoutError as error:
        ctx.fail(node, str(error))


def _negated(ctx: Context, node: NodeProto, value: View | Const) -> View | Const:
    if isinstance(value, Const):
        return Const(-value.array.astype(np.float64), value.src)
    if on_host(value) and value.base.imposed is None:  # what is rounded to a type is so before it changes its sign
        return ctx.host_node("Neg", [value], value.shape, (node.name,))
    return ctx.elementwise.apply("mul", value, Const(np.array(-1.0)), f"{node.output[0]}_negated", (node.name,))


def _inverted(ctx: Context, node: NodeProto, value: View | Const) -> View | Const:
    if isinstance(value, Const):
        with np.errstate(divide="ignore"):
            inverse = 1 / value.array.astype(np.float64)
        if not np.all(np.isfinite(inverse)):
            ctx.fail(node, "it divides by a constant that holds zeros")
        return Const(inverse, value.src)
    if on_host(value):
        return ctx.host_node("Reciprocal", [value], value.shape, (node.name,))
    ctx.fail(node, "the device cannot divide by an activation")
