"""Functions of one variable, and products with a function behind them."""

from __future__ import annotations

import math

from attnc.frontend.fused.spelling import Spelling

ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Tanh": (), "Sigmoid": (), "Softplus": (), "Softsign": (), "LeakyRelu": ("alpha",), "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",), "Selu": ("alpha", "gamma"), "HardSigmoid": ("alpha", "beta"), "HardSwish": (),
}  # fmt: skip
"""Functions that are fused behind products, with the attributes that they may have."""


def gelu(s: Spelling) -> None:
    """Gelu, BiasGelu: x (1 + erf(x / sqrt 2)) / 2, of a sum where there is a bias."""
    x = s.sum(s.given(0), s.given(1))
    s.result(0, s("Mul", s("Mul", x, s("Add", s("Erf", s("Mul", x, math.sqrt(0.5))), 1.0)), 0.5))


def fast_gelu(s: Spelling) -> None:
    """GELU by tanh, of a sum where there is a bias."""
    x = s.sum(s.given(0), s.given(1))
    s.result(0, tanh_gelu(s, x))


def tanh_gelu(s: Spelling, x: str) -> str:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    inner = s("Mul", s("Add", x, s("Mul", s("Mul", s("Mul", x, x), x), 0.044715)), math.sqrt(2 / math.pi))
    return s("Mul", s("Mul", x, s("Add", s("Tanh", inner), 1.0)), 0.5)


def quick_gelu(s: Spelling) -> None:
    """x sigmoid(alpha x); SiLU where alpha is 1."""
    x, alpha = s.given(0), float(s.attribute("alpha", 1.702))
    s.result(0, s("Mul", x, s("Sigmoid", x if alpha == 1 else s("Mul", x, alpha))))


def fused_matmul(s: Spelling) -> None:
    """alpha A B, with the last two axes of either turned."""
    if s.attribute("transBatchA", 0) or s.attribute("transBatchB", 0):
        s.refuse("it moves a batch axis (transBatchA, transBatchB); optimize the model again at the level `basic`")
    a, b = (_turned(s, s.given(index)) if s.attribute(key, 0) else s.given(index) for index, key in enumerate(("transA", "transB")))
    alpha = float(s.attribute("alpha", 1.0))
    product = s("MatMul", a, b)
    s.result(0, product if alpha == 1 else s("Mul", product, alpha))


def _turned(s: Spelling, x: str) -> str:
    axes = list(range(len(s.shape(x))))
    return s("Transpose", x, perm=[*axes[:-2], *axes[:-3:-1]]) if len(axes) > 1 else x


def fused_gemm(s: Spelling) -> None:
    """Gemm with a function behind it."""
    attributes = {key: s.attribute(key, default) for key, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))}
    operands = [s.given(index) for index in range(len(s.node.input))]
    names = {"alpha": "activation_alpha", "beta": "activation_beta", "gamma": "activation_gamma"}
    found = {key: s.attribute(name, None) for key, name in names.items()}
    s.result(0, _activated(s, s("Gemm", *operands, **attributes), {key: value for key, value in found.items() if value is not None}))


def fused_conv(s: Spelling) -> None:
    """Conv, another tensor added where there is one, and a function behind it."""
    convolution(s, s.given(1))


def convolution(s: Spelling, weight: str) -> None:
    """A fused convolution of such weights."""
    own = {"activation", "activation_params"}
    attributes = {attribute.name: s.attribute(attribute.name, None) for attribute in s.node.attribute if attribute.name not in own}
    made = s.sum(s("Conv", s.given(0), weight, *filter(None, [s.given(2)]), **attributes), s.given(3))
    keys = ACTIVATIONS.get(s.attribute("activation", ""), ())
    s.result(0, _activated(s, made, dict(zip(keys, s.attribute("activation_params", ()), strict=False))))


def _activated(s: Spelling, x: str, parameters: dict[str, float]) -> str:
    name = s.attribute("activation", "")
    if not name:
        return x
    if name not in ACTIVATIONS:
        s.refuse(f"the function {name!r} behind it is not supported, but {', '.join(ACTIVATIONS)} are")
    return s(name, x, **{key: value for key, value in parameters.items() if key in ACTIVATIONS[name]})
