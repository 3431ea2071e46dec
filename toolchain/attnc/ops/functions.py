"""Scalar functions of the `unary` operator: one explicit table.

`FUNCTIONS[name](x)` evaluates in float64. The other fields say how a function is put into a ROM: where the interval that needs
one ends, and which slope continues it outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Function:
    """A function of one real number.

    `left` and `right` are the slopes (0 or 1) with which it goes on outside [-limit, limit). `homogeneous` says that
    f(a*x) = a*f(x) for a > 0: such a function is exact in integers and needs no ROM; `low` is then its smallest value.
    """

    name: str
    evaluate: Callable[[Float], Float]
    left: int = 0
    right: int = 1
    limit: int = 8
    homogeneous: bool = False
    low: float = -math.inf

    def __call__(self, x: npt.ArrayLike) -> Float:
        """f(x) in float64, elementwise."""
        return self.evaluate(np.asarray(x, np.float64))


_STEPS = 32
_EDGE = 6
_NODES = np.arange(-_EDGE * _STEPS, _EDGE * _STEPS + 1) / _STEPS
_ERF = np.array([math.erf(float(node)) for node in _NODES])
_SLOPE = 2 / math.sqrt(math.pi) * np.exp(-(_NODES**2))


def erf(x: npt.ArrayLike) -> Float:
    """The error function, absolute error below 1e-13.

    Taylor series around the nearest multiple of 1/32, where math.erf is tabulated: with s = 2/sqrt(pi) exp(-a^2),
    erf(a + d) = erf(a) + s * sum_n (-1)^n H_n(a) d^(n+1) / (n+1)!, H_n the Hermite polynomials. Beyond 6, erf is 1 - 2e-17.
    """
    x = np.clip(np.asarray(x, np.float64), -_EDGE, _EDGE)
    index = np.nan_to_num(np.rint(x * _STEPS)).astype(np.int64) + _EDGE * _STEPS
    a = _NODES[index]
    d = x - a
    previous, hermite = np.zeros_like(a), np.ones_like(a)
    power, total = d, d
    for n in range(1, 7):
        previous, hermite = hermite, 2 * a * hermite - 2 * (n - 1) * previous
        power = power * -d / (n + 1)
        total = total + hermite * power
    result: Float = _ERF[index] + _SLOPE[index] * total
    return result


def sigmoid(x: Float) -> Float:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def hard_sigmoid(x: Float) -> Float:
    """clip(x/6 + 1/2, 0, 1)."""
    return np.clip(x / 6 + 0.5, 0, 1)


def _gelu(x: Float) -> Float:
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def _gelu_tanh(x: Float) -> Float:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Function("gelu", _gelu),
        Function("gelu_sigmoid", lambda x: x * sigmoid(1.702 * x)),
        Function("gelu_tanh", _gelu_tanh),
        Function("hard_sigmoid", hard_sigmoid, right=0),
        Function("hard_swish", lambda x: x * hard_sigmoid(x)),
        Function("identity", lambda x: x, left=1, homogeneous=True),
        Function("relu", lambda x: np.maximum(x, 0.0), homogeneous=True, low=0.0),
        Function("sigmoid", sigmoid, right=0, limit=16),
        Function("silu", lambda x: x * sigmoid(x), limit=16),
        Function("softplus", lambda x: np.logaddexp(0.0, x), limit=16),
        Function("tanh", np.tanh, right=0),
    )
}
