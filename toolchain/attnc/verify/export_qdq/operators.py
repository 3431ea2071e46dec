"""Every operator of the device in ONNX's, in float; the constants are the integers of the build times their scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attnc.ir import Node
from attnc.ops import operator
from attnc.ops.attention_bias import bias_type
from attnc.ops.attention_channels import channel_table
from attnc.ops.attention_sizes import Sizes as AttentionSizes
from attnc.ops.functions import GELU_SIGMOID, GELU_SIGMOID_BF16, GELU_TANH_BF16, LARGEST_EXPONENT, find
from attnc.ops.layer_normalization import counted, group, together
from attnc.ops.linear_weights import effective_weight
from attnc.ops.rotary import Sizes
from attnc.ops.scale_rows import FRACTION
from attnc.verify.export_qdq.writer import SCALE_FLOOR, Writer

MASKED = -1e9
"""Score of a key that a query may not look at."""
LARGEST = float(np.finfo(np.float32).max)
"""A bound of a clip that is none."""


def _linear(w: Writer, node: Node, x: Sequence[str]) -> str:
    """DequantizeLinear(weight) per output channel, MatMul, and the bias in units of the accumulator. Weights with scales per group or
    plane have these multiplied in, in int16."""
    p, x_type = node.params, w.graph.type(node.inputs[0])
    weight = effective_weight(p["weight"], p.get("group_multiplier"), int(node.attrs.get("group_size", 0)))
    weight, scale = weight.astype(np.int8 if "group_multiplier" not in p else np.int16), np.asarray(p["weight_scale"], np.float64)
    per_channel = np.asarray(x_type.scale, np.float64)
    unit = float(per_channel.max())
    name = w.constant(np.ascontiguousarray(weight.T), f"{node.name}.weight")
    real = w.op("DequantizeLinear", name, w.number(scale), w.constant(np.zeros(scale.shape, weight.dtype)), axis=1)
    if per_channel.ndim:
        real = w.op("Mul", real, w.number((unit / per_channel)[:, None]))
    product = w.op("MatMul", x[0], real)
    # Of three axes, so that onnxruntime does not make a Gemm of it: see `Writer.moved`.
    return w.op("Add", product, w.number((p["bias"] * scale * unit)[None, None]))


def _heads(w: Writer, x: str, groups: int, heads: int, order: Sequence[int]) -> str:
    """[S, G*T, H*D] as [S, G, T, H, D], permuted by `order`."""
    (rows, channels), type_ = w.shape(x), w.type(x)
    shape = w.ints(w.samples, groups, rows // groups, heads, channels // heads)
    return w.moved("Transpose", w.moved("Reshape", x, shape, type_=type_), type_=type_, perm=list(order))


def _attention(w: Writer, node: Node, x: Sequence[str]) -> str:
    """Softmax(mask(cap * tanh(scale * Q K^T / cap) + bias)) V, in the model's own terms."""
    attr = node.attrs
    groups, heads, kv_heads = attr.get("groups", 1), attr["num_heads"], attr["num_kv_heads"]
    q = _heads(w, x[0], groups, heads, (0, 1, 3, 2, 4))
    k = _heads(w, x[1], groups, kv_heads, (0, 1, 3, 4, 2))
    v = _heads(w, x[2], groups, kv_heads, (0, 1, 3, 2, 4))
    if kv_heads != heads:
        which = w.constant(np.repeat(np.arange(kv_heads), heads // kv_heads))
        k, v = (w.moved("Gather", name, which, type_=w.type(name), axis=2) for name in (k, v))
    cap = float(attr.get("softcap", 0.0))
    scores = w.op("Mul", w.op("MatMul", q, k), w.number(attr["scale"] / (cap or 1.0)))
    if cap:
        scores = w.op("Mul", w.op("Tanh", scores), w.number(cap))
    if len(x) > 3:
        shape = w.ints(-1, 1, attr.get("bias_heads", 1), attr.get("bias_rows", 1), w.shape(x[3])[1])
        bias = w.moved("Reshape", x[3], shape, type_=w.type(x[3]))
        scores = w.op("Add", scores, bias)
    sizes = AttentionSizes.of(node, [w.shape(name) for name in x])
    if sizes.channels:
        table = channel_table(node) * float(bias_type(attr["bias_shift"]).scale)
        scores = w.op("Add", scores, w.number(table.reshape(-1, sizes.queries, sizes.keys)))
    allowed = sizes.mask.allowed(sizes.queries, sizes.keys)
    if allowed is not None:
        scores = w.op("Where", w.constant(allowed), scores, w.number(MASKED))
    merged = w.op("Transpose", w.op("MatMul", w.op("Softmax", scores, axis=-1), v), perm=[0, 1, 3, 2, 4])
    rows, channels = w.graph.value(node.output).shape
    return w.reshape(merged, w.samples, rows, channels)


def _normalization(w: Writer, node: Node, x: Sequence[str]) -> str:
    """gamma, beta and epsilon as the integers stand for them: z has 16 fraction bits, gamma `shift` - 16, beta `shift`. Spelled out for
    root-mean-square normalisation, for which there is no operator before opset 23, and for groups of channels and runs of rows."""
    attr, p = node.attrs, node.params
    (rows, channels), step = w.shape(x[0]), w.graph.type(node.output).scale
    size, count, run = group(node, channels), counted(node, channels), together(node)
    gamma = np.broadcast_to(p["gamma"] * 2.0 ** (16 - attr["shift"]) * step, channels)
    beta = np.broadcast_to(p["beta"] * 2.0 ** -attr["shift"] * step, channels)
    epsilon = float(attr["epsilon_int"] * (float(w.graph.type(node.inputs[0]).scale) / (run * count)) ** 2)
    centred = node.op == "layer_normalization"
    if centred and count == channels and run == 1:
        return w.op("LayerNormalization", x[0], w.number(gamma), w.number(beta), axis=-1, epsilon=epsilon)
    whole = count == channels and run == 1
    runs = w.ints(w.samples, rows // run, run, channels // size, size)
    z = x[0] if whole else w.moved("Reshape", x[0], runs, type_=w.type(x[0]))
    if count < size:
        z = w.moved("Slice", z, w.ints(0), w.ints(count), w.ints(4), type_=w.type(x[0]))
    axis = w.ints(-1) if whole else w.ints(2, 4)
    if centred:
        z = w.op("Sub", z, w.op("ReduceMean", z, axis))
    variance = w.op("Add", w.op("ReduceMean", w.op("Mul", z, z), axis), w.number(epsilon))
    z = w.op("Div", z, w.op("Sqrt", variance))
    z = w.op("Pad", z, w.ints(*[0] * 9, size - count)) if count < size else z
    z = z if whole else w.reshape(z, w.samples, rows, channels)
    return w.op("Add", w.op("Mul", z, w.number(gamma[None, None])), w.number(beta[None, None]))


def _rotary(w: Writer, node: Node, x: Sequence[str]) -> str:
    """(a cos - b sin, b cos + a sin) of the pairs of every head, with the integers of the table."""
    (rows, channels), type_ = w.shape(x[0]), w.type(x[0])
    sizes = Sizes.of(node, (rows, channels))
    heads = w.moved("Reshape", x[0], w.ints(w.samples, sizes.groups, sizes.rows, sizes.heads, sizes.head), type_=type_)
    first, second = sizes.pairs()
    rest = np.arange(sizes.turned, sizes.head)
    a, b = (w.moved("Gather", heads, w.constant(which), type_=type_, axis=4) for which in (first, second))
    cos, sin = (w.number(node.params[name][:, None, :] * 2.0 ** -node.attrs["fraction_bits"]) for name in ("cos", "sin"))
    parts = [w.op("Sub", w.op("Mul", a, cos), w.op("Mul", b, sin)), w.op("Add", w.op("Mul", b, cos), w.op("Mul", a, sin))]
    if rest.size:
        parts.append(w.moved("Gather", heads, w.constant(rest), type_=type_, axis=4))
    back = np.argsort(np.concatenate([first, second, rest]))
    return w.reshape(w.op("Gather", w.op("Concat", *parts, axis=4), w.constant(back), axis=4), w.samples, rows, channels)


def _patches(w: Writer, node: Node, x: Sequence[str]) -> str:
    """Rows picked in the order of the taps, from a value with a row of zeros behind it; zeros behind the channels of every tap."""
    (rows, channels), type_, width = w.shape(x[0]), w.type(x[0]), node.attrs["width"]
    numbers = np.arange(1, rows + 1, dtype=np.float64)[None, :, None]
    source = operator(node).reference(node, [numbers])[0, :, ::width].astype(np.int64)  # 0 where a tap is outside
    padded = w.moved("Pad", x[0], w.ints(0, 1, 0, 0, 0, width - channels), type_=type_)
    picked = w.moved("Gather", padded, w.constant(source.ravel()), type_=type_, axis=1)
    return w.moved("Reshape", picked, w.ints(w.samples, source.shape[0], source.shape[1] * width), type_=type_)


def _depthwise(w: Writer, node: Node, x: Sequence[str]) -> str:
    """The sum over taps of x times DequantizeLinear(weight), whose scales are those of the multipliers, and the bias."""
    p, x_type, y_type = node.params, w.type(x[0]), w.graph.type(node.output)
    (rows, _), (channels, taps) = w.shape(x[0]), p["weight"].shape
    unit = p["multiplier"] * 2.0 ** -p["shift"].astype(np.float64) * y_type.scale
    scale = np.maximum(unit / float(x_type.scale), SCALE_FLOOR)
    split = w.moved("Reshape", x[0], w.ints(w.samples, rows, taps, node.attrs["width"]), type_=x_type)
    split = w.moved("Slice", split, w.ints(0), w.ints(channels), w.ints(3), type_=x_type)
    zeros = w.constant(np.zeros(channels, np.int8))
    weight = w.op("DequantizeLinear", w.constant(np.ascontiguousarray(p["weight"].T)), w.number(scale), zeros, axis=1)
    total = w.op("ReduceSum", w.op("Mul", split, weight), w.ints(2), keepdims=0)
    return w.op("Add", total, w.number((p["bias"] * unit)[None, None]))


def _scale_rows(w: Writer, node: Node, x: Sequence[str]) -> str:
    """x * peak + bias; the bias has 8 fraction bits."""
    bias = node.params["bias"] * float(w.graph.type(node.output).scale) / (1 << FRACTION)
    return w.op("Add", w.op("Mul", *x), w.number(bias[None, None]))


def _sigmoid_product(factor: float) -> Callable[[Writer, str], str]:
    return lambda w, x: w.op("Mul", x, w.op("Sigmoid", x if factor == 1 else w.op("Mul", x, w.number(factor))))


def _gelu_tanh(w: Writer, x: str, factor: float, cubic: float) -> str:
    cube = w.op("Mul", x, w.op("Mul", x, x))
    inner = w.op("Mul", w.op("Add", x, w.op("Mul", cube, w.number(cubic))), w.number(factor))
    return w.op("Mul", w.op("Mul", x, w.number(0.5)), w.op("Add", w.op("Tanh", inner), w.number(1.0)))


FUNCTIONS: dict[str, Callable[[Writer, str], str]] = {
    "elu": lambda w, x: w.op("Elu", x, alpha=1.0),
    "erf": lambda w, x: w.op("Erf", x),
    "exp": lambda w, x: w.op("Exp", w.op("Min", x, w.number(LARGEST_EXPONENT))),
    "gelu": lambda w, x: w.op("Gelu", x),
    "gelu_sigmoid": _sigmoid_product(GELU_SIGMOID),
    "gelu_sigmoid_bf16": _sigmoid_product(GELU_SIGMOID_BF16),
    "gelu_tanh": lambda w, x: w.op("Gelu", x, approximate="tanh"),
    "gelu_tanh_bf16": lambda w, x: _gelu_tanh(w, x, *GELU_TANH_BF16),
    "hard_sigmoid": lambda w, x: w.op("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "hard_swish": lambda w, x: w.op("HardSwish", x),
    "identity": lambda w, x: x,
    "leaky_relu": lambda w, x: w.op("LeakyRelu", x, alpha=0.01),
    "mish": lambda w, x: w.op("Mish", x),
    "relu": lambda w, x: w.op("Relu", x),
    "relu_squared": lambda w, x: w.op("Mul", w.op("Relu", x), w.op("Relu", x)),
    "sigmoid": lambda w, x: w.op("Sigmoid", x),
    "silu": _sigmoid_product(1.0),
    "softplus": lambda w, x: w.op("Softplus", x),
    "softsign": lambda w, x: w.op("Softsign", x),
    "tanh": lambda w, x: w.op("Tanh", x),
}


PARAMETRIC: dict[str, tuple[str, dict[str, Any]]] = {
    "elu": ("Elu", {}),
    "hard_sigmoid": ("HardSigmoid", {"beta": 0.5}),
    "leaky_relu": ("LeakyRelu", {}),
}
"""Operators of the functions with a parameter alpha in their names, and their other attributes."""


def _unary(w: Writer, node: Node, x: Sequence[str]) -> str:
    name = node.attrs["function"]
    function = find(name)
    assert function is not None
    if name in FUNCTIONS:
        return FUNCTIONS[name](w, x[0])
    if function.clamp is not None:
        low, high = np.clip(function.clamp, -LARGEST, LARGEST)
        return w.op("Clip", x[0], w.number(low), w.number(high))
    stem, _, alpha = name.rpartition("_")
    op, others = PARAMETRIC[stem]
    return w.op(op, x[0], alpha=float(alpha), **others)


def _concat_rows(w: Writer, node: Node, x: Sequence[str]) -> str:
    """Constants are repeated for every sample."""
    parts = list(x)
    varying = next((name for name, given in zip(x, node.inputs, strict=True) if given not in w.graph.constants), None)
    if w.samples == -1 and varying is not None:
        size = w.op("Shape", varying, start=0, end=1)
        for i, given in enumerate(node.inputs):
            if given in w.graph.constants:
                parts[i] = w.op("Expand", x[i], w.op("Concat", size, w.ints(1, 1), axis=0))
    return w.op("Concat", *parts, axis=1)


def _mean_rows(w: Writer, node: Node, x: Sequence[str]) -> str:
    groups, (rows, channels) = node.attrs["groups"], w.shape(x[0])
    split = w.moved("Reshape", x[0], w.ints(w.samples, groups, rows // groups, channels), type_=w.type(x[0]))
    return w.op("ReduceMean", split, w.ints(2), keepdims=0)


def _max_rows(w: Writer, node: Node, x: Sequence[str]) -> str:
    groups, (rows, channels) = node.attrs["groups"], w.shape(x[0])
    split = w.moved("Reshape", x[0], w.ints(w.samples, groups, rows // groups, channels), type_=w.type(x[0]))
    return w.op("ReduceMax", split, w.ints(2), keepdims=0)


def _gather_channels(w: Writer, node: Node, x: Sequence[str]) -> str:
    """Of a period of rows as one row, its elements."""
    (rows, channels), index = w.shape(x[0]), node.params["index"]
    period, count = index.shape
    flat = w.moved("Reshape", x[0], w.ints(w.samples, rows // period, period * channels), type_=w.type(x[0]))
    picked = w.moved("Gather", flat, w.constant((index + channels * np.arange(period)[:, None]).ravel()), type_=w.type(x[0]), axis=2)
    return w.moved("Reshape", picked, w.ints(w.samples, rows, count), type_=w.type(x[0]))


def _mask_bias(w: Writer, node: Node, x: Sequence[str]) -> str:
    """The mask added to every period of rows, times the gain."""
    (rows, keys), (period, _) = w.shape(x[0]), w.shape(x[1])
    split = w.moved("Reshape", x[0], w.ints(w.samples, rows // period, period, keys), type_=w.type(x[0]))
    mask = w.moved("Reshape", x[1], w.ints(-1, 1, period, keys), type_=w.type(x[1]))
    scaled = w.op("Mul", split, w.number(node.attrs.get("gain", 1.0)))
    return w.reshape(w.op("Add", scaled, mask), w.samples, rows, keys)


OPERATORS: dict[str, Callable[[Writer, Node, Sequence[str]], str]] = {
    "add": lambda w, node, x: w.op("Add", *x),
    "attention": _attention,
    "concat_channels": lambda w, node, x: w.op("Concat", *x, axis=2),
    "concat_rows": _concat_rows,
    "depthwise": _depthwise,
    "gather_channels": _gather_channels,
    "gather_rows": lambda w, node, x: w.op("Gather", x[0], w.ints(*node.attrs["rows"]), axis=1),
    "layer_normalization": _normalization,
    "linear": _linear,
    "mask_bias": _mask_bias,
    "max_rows": _max_rows,
    "mean_rows": _mean_rows,
    "mul": lambda w, node, x: w.op("Mul", *x),
    "normalize_rows": lambda w, node, x: w.op("Div", x[0], w.op("Max", x[1], w.number(SCALE_FLOOR))),
    "patches": _patches,
    "requantize": lambda w, node, x: x[0],
    "rms_normalization": _normalization,
    "rotary": _rotary,
    "row_absmax": lambda w, node, x: w.op("ReduceMax", w.op("Abs", x[0]), w.ints(2), keepdims=1),
    "scale_rows": _scale_rows,
    "softmax": lambda w, node, x: w.op("Softmax", x[0], axis=-1),
    "transpose": lambda w, node, x: w.moved("Transpose", x[0], type_=w.type(x[0]), perm=[0, 2, 1]),
    "unary": _unary,
}
