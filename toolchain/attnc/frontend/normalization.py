"""Layer and root-mean-square normalisation in any spelling, by algebra.

With m = mean(x), w = mean(x^2) and r = 1/sqrt(f*(w - m^2) + e), every step between x and its normalisation is a sum of
monomials x^i m^j w^k r^l with constant coefficients. A sum g*x*r - g*m*r + b is a layer normalisation with gamma g / sqrt(f),
beta b and epsilon e / f. With r = 1/sqrt(f*w + e), g*x*r is a root-mean-square normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from attnc.frontend.builder import LayoutError, scalar
from attnc.frontend.context import Context
from attnc.frontend.functions import GRID
from attnc.frontend.layout import identity
from attnc.frontend.values import Array, Const, Deviation, Index, Monomial, Poly, Shape, Sources, Unary, Value, View, merge, same_view

ONE: Monomial = (0, 0, 0, 0)
X: Monomial = (1, 0, 0, 0)
SQUARED: Monomial = (2, 0, 0, 0)
MEAN: Monomial = (0, 1, 0, 0)
SQUARE: Monomial = (0, 2, 0, 0)
POWER: Monomial = (0, 0, 1, 0)
R: Monomial = (0, 0, 0, 1)
DEVIATION: Monomial = (0, 0, 0, -1)
SCALED: Monomial = (1, 0, 0, 1)
SHIFTED: Monomial = (0, 1, 0, 1)
SMALL_EPSILON = 1e-4
"""An epsilon added to the deviation, and not to the variance, is accepted up to here: (s + e) is then taken as sqrt(s^2 + e^2)."""
NO_EPSILON = 1e-12
"""What `_clean` takes for zero."""
OPERATORS = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "Abs", "Max", "Clip", "Sum", "Relu"}

Terms = dict[Monomial, Array]


def _times(a: Terms, b: Terms) -> Terms:
    result: Terms = {}
    for left, p in a.items():
        for right, q in b.items():
            key = (left[0] + right[0], left[1] + right[1], left[2] + right[2], left[3] + right[3])
            result[key] = result[key] + p * q if key in result else p * q
    return _clean(result)


def _plus(a: Terms, b: Terms, sign: float = 1.0) -> Terms:
    result = dict(a)
    for key, q in b.items():
        result[key] = result[key] + sign * q if key in result else sign * q
    return _clean(result)


def _clean(terms: Terms) -> Terms:
    return {key: value for key, value in terms.items() if np.any(np.abs(value) > 1e-12)}


def _number(terms: Terms, key: Monomial) -> float | None:
    """A coefficient that is one number; 0 if there is none."""
    value = terms.get(key, np.zeros(()))
    return float(value.reshape(-1)[0]) if value.size == 1 else None


def lift(value: Value, x: View) -> Poly | None:
    """A value as a step of the normalisation of `x`, if it is one."""
    if isinstance(value, Poly):
        return value if same_view(value.x, x) else None
    if isinstance(value, View):
        return Poly(x, {X: np.ones(())}, x.shape, value.src, "", "", host=None if x.base.device else value) if same_view(value, x) else None
    if isinstance(value, Const) and value.array.dtype.kind in "fiu":
        return Poly(x, _clean({ONE: value.array.astype(np.float64)}), value.shape, value.src, "", "")
    if isinstance(value, Unary):
        if isinstance(value.made, View):
            return lift(value.made, x)
        terms = _quadratic(value.y)
        if terms is not None and same_view(value.view, x):
            return Poly(x, terms, x.shape, merge(value.view.src, value.src), value.node, value.operator)
    return None


def _quadratic(y: Array) -> Terms | None:
    """Samples of a*x^2 + b*x + c."""
    if y.dtype.kind != "f" or not np.all(np.isfinite(y)):
        return None
    a, b, c = np.polyfit(GRID, y, 2)
    if np.abs(np.polyval((a, b, c), GRID) - y).max() > 1e-9 * max(1.0, np.abs(y).max()):
        return None
    tidy = [round(float(k), 12) for k in (a, b, c)]
    return _clean({SQUARED: np.array(tidy[0]), X: np.array(tidy[1]), ONE: np.array(tidy[2])})


def root_of(value: Unary) -> Unary | None:
    """What a value is the square of."""
    return next((earlier for earlier, rest in reversed(value.cuts) if _is_square(rest)), None)


def _is_square(y: Array) -> bool:
    """Samples of x^2."""
    terms = _quadratic(y) or {}
    return set(terms) == {SQUARED} and _number(terms, SQUARED) == 1


def _rooted(ctx: Context, node: NodeProto, poly: Poly) -> Poly:
    """Where a root of a mean of squares is taken, it is what was squared that is normalised."""
    if poly.root is None or node.op_type not in ("Sqrt", "Pow") or not set(poly.terms) <= {MEAN, ONE}:
        return poly
    x = ctx.concrete(poly.root)
    if not isinstance(x, View):
        return poly
    return replace(poly, x=x, terms={POWER if key == MEAN else key: value for key, value in poly.terms.items()}, root=None)


def _mean_terms(terms: Terms) -> Terms | None:
    """The mean over channels."""
    result: Terms = {}
    for (i, j, k, power), value in terms.items():
        if i > 2 or (value.ndim and value.shape[-1] > 1):
            return None
        key = (0, j + (i == 1), k + (i == 2), power)
        result[key] = result[key] + value if key in result else value
    return _clean(result)


def reduce_mean(node: NodeProto, value: Value, keepdims: bool, total: bool, host: View | None) -> Poly | None:
    """Mean (or sum, if `total`) over the last axis."""
    if isinstance(value, Poly):
        lifted: Poly | None = value
    elif isinstance(value, Unary) and value.made is None:
        lifted = lift(value, value.view)
    else:
        lifted = lift(value, value) if isinstance(value, View) else None
    if lifted is None or not lifted.shape or lifted.shape != lifted.x.shape:
        return None
    terms = _mean_terms(lifted.terms)
    if terms is None:
        return None
    channels = lifted.x.shape[-1]
    terms = {key: value * channels for key, value in terms.items()} if total else terms
    shape = (*lifted.shape[:-1], 1) if keepdims else lifted.shape[:-1]
    return Poly(lifted.x, terms, shape, merge(lifted.src, (node.name,)), node.name, node.op_type, lifted.r, host)


def length(node: NodeProto, x: View, keepdims: bool) -> Poly:
    """sqrt(sum(x^2)) over the last axis."""
    shape = (*x.shape[:-1], 1) if keepdims else x.shape[:-1]
    r = Deviation(float(x.shape[-1]), 0.0, centered=False)
    return Poly(x, {DEVIATION: np.ones(())}, shape, merge(x.src, (node.name,)), node.name, node.op_type, r)


def combine(ctx: Context, node: NodeProto, args: Sequence[Value], host: View | None) -> Value | None:
    """A pointwise operator on steps of one normalisation; None if they are not, or if the result leads nowhere."""
    args = [_rooted(ctx, node, value) if isinstance(value, Poly) else value for value in args]
    polys = [value for value in args if isinstance(value, Poly)]
    if not polys and host is not None:
        return _square(node, args, host)
    if not polys or node.op_type not in OPERATORS:
        return None
    x = polys[0].x
    lifted = [lift(value, x) for value in args]
    if any(value is None for value in lifted):
        return None
    operands = [value for value in lifted if value is not None]
    rs = {value.r for value in operands if value.r is not None}
    shape = _shape(operands, x)
    if len(rs) > 1 or shape is None:
        return None
    r = next(iter(rs), None)
    found = _compute(ctx, node, operands, r)
    if found is None:
        return None
    terms, r = found
    src = merge(*(value.src for value in operands), (node.name,))
    result = Poly(x, terms, shape, src, node.name, node.op_type, r, host, root=polys[0].root)
    return _finish(ctx, node, result)


def _square(node: NodeProto, args: Sequence[Value], host: View) -> Poly | None:
    """x * x of a tensor of the host, which may be on the way to E[x^2] - E[x]^2."""
    if len(args) != 2 or not isinstance(args[0], View):
        return None
    x, other = args[0], args[1]
    twice = node.op_type == "Mul" and isinstance(other, View) and same_view(x, other)
    if not twice and not (node.op_type == "Pow" and scalar(other) == 2):
        return None
    return Poly(x, {SQUARED: np.ones(())}, x.shape, merge(x.src, (node.name,)), node.name, node.op_type, host=host)


def _shape(operands: Sequence[Poly], x: View) -> Shape | None:
    """Shape of the result; None where a mean without its axis would be spread along the wrong one."""
    shapes = {value.shape for value in operands}
    if len(shapes) > 1:
        column = (*x.shape[:-1], 1)
        for value in operands:
            lone = not any(key[0] for key in value.terms) and any(key != ONE for key in value.terms)
            if lone and value.shape not in (column, x.shape):
                return None
    return tuple(np.broadcast_shapes(*shapes))


def _compute(ctx: Context, node: NodeProto, operands: Sequence[Poly], r: Deviation | None) -> tuple[Terms, Deviation | None] | None:
    """Terms of the result and its r."""
    op, first = node.op_type, operands[0].terms
    second = operands[1].terms if len(operands) > 1 else {}
    if op in ("Add", "Sum"):
        return (_plus(first, second), r) if len(operands) == 2 else None
    if op == "Sub":
        return _plus(first, second, -1.0), r
    if op == "Neg":
        return {key: -value for key, value in first.items()}, r
    if op == "Mul":
        return _times(first, second), r
    if op == "Div":
        inverse = _inverse(second, r)
        return None if inverse is None else (_times(first, inverse[0]), inverse[1])
    if op == "Reciprocal":
        return _inverse(first, r)
    if op in ("Abs", "Max", "Clip", "Relu"):
        if _is_variance(first):
            return first, r
        return _at_least(*((second, first) if op == "Max" and DEVIATION in second else (first, second)), r)
    return _power(ctx, node, first, 0.5 if op == "Sqrt" else _number(second, ONE), r)


def _is_variance(terms: Terms) -> bool:
    """f*(w - m^2) + e, f > 0: never negative, so that clamping at 0 does nothing."""
    f = _number(terms, POWER)
    return f is not None and f > 0 and set(terms) <= {POWER, SQUARE, ONE}


def _at_least(terms: Terms, bound: Terms, r: Deviation | None) -> tuple[Terms, Deviation | None] | None:
    """max(deviation, bound): a small bound that keeps a row of zeros from a division by zero."""
    scale, least = _number(terms, DEVIATION), _number(bound, ONE)
    if set(terms) != {DEVIATION} or not set(bound) <= {ONE} or r is None or not scale or least is None:
        return None
    if scale < 0 or not 0 <= least / scale <= SMALL_EPSILON:
        return None
    return terms, r._replace(epsilon=r.epsilon + max(least / scale, NO_EPSILON) ** 2)


def _inverse(terms: Terms, r: Deviation | None) -> tuple[Terms, Deviation | None] | None:
    """1 / terms."""
    if len(terms) == 1:
        ((key, value),) = terms.items()
        if key[0] == 0 and np.all(value != 0):
            return {(-key[0], -key[1], -key[2], -key[3]): 1 / value}, r
        return None
    scale, epsilon = _number(terms, DEVIATION), _number(terms, ONE)
    if set(terms) == {DEVIATION, ONE} and r is not None and scale and epsilon is not None and 0 <= epsilon / scale <= SMALL_EPSILON:
        return {R: np.array(1 / scale)}, r._replace(epsilon=r.epsilon + (epsilon / scale) ** 2)
    return None


def _power(
    ctx: Context, node: NodeProto, terms: Terms, exponent: float | None, r: Deviation | None
) -> tuple[Terms, Deviation | None] | None:
    """terms ** exponent: squares, inverses, and roots of a variance."""
    if exponent == 1:
        return terms, r
    if exponent == 2:
        return _times(terms, terms), r
    if exponent == -1:
        return _inverse(terms, r)
    if exponent not in (0.5, -0.5):
        return None
    f, e, square = _number(terms, POWER), _number(terms, ONE), _number(terms, SQUARE)
    if r is not None or f is None or e is None or f <= 0 or e < 0 or not set(terms) <= {POWER, SQUARE, ONE}:
        return None
    if square is None or (square and abs(square + f) > 1e-6 * f):
        return None
    return {DEVIATION if exponent > 0 else R: np.ones(())}, Deviation(f, e, centered=square != 0)


def _finish(ctx: Context, node: NodeProto, poly: Poly) -> Value:
    """The layer or root-mean-square normalisation, if the sum is complete."""
    gamma, shift = poly.terms.get(SCALED), poly.terms.get(SHIFTED)
    if poly.r is None or gamma is None or poly.shape != poly.x.shape or not set(poly.terms) <= {SCALED, SHIFTED, ONE}:
        return poly
    factor, epsilon, centered = poly.r
    if (shift is not None) != centered:
        return poly
    if shift is not None and not np.all(np.abs(gamma + shift) <= 1e-6 * np.abs(shift)):
        return poly
    beta = poly.terms.get(ONE, np.zeros(()))
    return emit(ctx, node, poly.x, gamma / np.sqrt(factor), beta, epsilon / factor, poly.src, centered)


def emit(ctx: Context, node: NodeProto, x: View, gamma: Array, beta: Array, epsilon: float, src: Sources, centered: bool = True) -> View:
    """A normalisation over the last axis; factors that differ between rows follow as operators of their own."""
    src = merge(x.src, src)
    group = 0
    try:
        source, made = ctx.builder.beside(x.base, x.idx.reshape(-1, x.shape[-1]), src), identity(x.shape)
    except LayoutError as error:
        found = _side_by_side(ctx, x, src)
        if found is None:
            ctx.fail(node, f"it normalises over an axis that does not lie along channels: {error}")
        (source, made), group = found, x.shape[-1]
    rows, channels = ctx.builder.graph.value(source).shape
    params = {"gamma": np.ones(channels)} | ({"beta": np.zeros(channels)} if centered else {})
    attrs: dict[str, Any] = {"epsilon": float(epsilon)} | ({"group": group} if group else {})
    kind = "layer_normalization" if centered else "rms_normalization"
    result = View(ctx.builder.node(kind, [source], (rows, channels), node.output[0], src, attrs, params), made)
    for op, amount, neutral in (("mul", gamma, 1.0), ("add", beta, 0.0)):
        constant = Const(np.asarray(amount, np.float64))
        if scalar(constant) != neutral:
            result = ctx.elementwise.apply(op, result, constant, f"{node.output[0]}_{op}", (node.name,))
    return result


def _side_by_side(ctx: Context, x: View, src: Sources) -> tuple[str, Index] | None:
    """(matrix, index of `x` in it) where the last axis lies along channels beside others (heads)."""
    axes = ctx.builder.natural_axes(x)
    if axes is None or axes.channels[-1:] != (len(x.shape) - 1,):
        return None
    try:
        name, axes = ctx.builder.as_matrix(View(x.base, x.idx, src), axes)
    except LayoutError:
        return None
    return name, axes.restore(identity(ctx.builder.graph.value(name).shape), x.shape)


def rms_normalization(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """RMSNormalization of opset 23 and later."""
    attributes = ctx.attributes(node)
    assert args[0] is not None
    x, scale = ctx.view(args[0]), args[1]
    axis = int(attributes.get("axis", -1)) % len(x.shape)
    if any(size != 1 for size in x.shape[axis:-1]):
        ctx.fail(node, f"it normalises over axes {axis} to {len(x.shape) - 1}, only the last one is supported")
    if not isinstance(scale, Const):
        ctx.fail(node, "its scale must be constant")
    gamma, epsilon = np.asarray(scale.array, np.float64), float(attributes.get("epsilon", 1e-5))
    return [emit(ctx, node, x, gamma, np.zeros(()), epsilon, (node.name,), centered=False)]


def layer_normalization(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """The operator."""
    attributes = ctx.attributes(node)
    if any(node.output[1:]):
        ctx.fail(node, "its mean and deviation are used, which the device does not keep")
    assert args[0] is not None
    x = ctx.view(args[0])
    axis = int(attributes.get("axis", -1))
    axis = axis + len(x.shape) if axis < 0 else axis
    if any(size != 1 for size in x.shape[axis:-1]):
        ctx.fail(node, f"it normalises over axes {axis} to {len(x.shape) - 1}, only the last one is supported")
    parameters = []
    for index, default in ((1, 1.0), (2, 0.0)):
        given = args[index] if index < len(args) else None
        if given is not None and not isinstance(given, Const):
            ctx.fail(node, f"operand {index} must be constant")
        parameters.append(np.full((), default) if given is None else np.asarray(given.array, np.float64))
    return [emit(ctx, node, x, parameters[0], parameters[1], float(attributes.get("epsilon", 1e-5)), (node.name,))]
