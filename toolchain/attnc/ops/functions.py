"""Scalar functions of the `unary` operator: one explicit table.

`FUNCTIONS[name](x)` evaluates in float64. The other fields say what its implementations may use: where the interval that needs a
ROM ends and which slope continues it outside, which symmetry it has, whether it commutes with scaling. `find` also knows the
functions with parameters in their names, such as leaky_relu_0.3 and clip_-1_1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
BLOCK_ELEMENTS = 1 << 13
"""Elements that a function is evaluated on at a time."""


@dataclass(frozen=True)
class Function:
    """A function of one real number.

    `left` and `right` are the slopes (0 or 1) with which it goes on outside [-limit, limit); None where it grows otherwise.
    `degree` n > 0 says that f(a*x) = a**n * f(x) for a > 0: such a function takes inputs of any scale.
    `clamp` gives the bounds of a function that is x between them: it is a change of type that saturates, and takes any scale too.
    `delta` says that f is an asymptote minus a function of |x|: of ReLU ("relu": ReLU(x) - f(x) is even and vanishes), or of a
    step from f(-inf) to f(inf) given by `ends` ("step": the difference is odd).
    """

    name: str
    evaluate: Callable[[Float], Float]
    left: int | None = 0
    right: int = 1
    limit: int = 8
    degree: int = 0
    clamp: tuple[float, float] | None = None
    delta: str = ""
    ends: tuple[float, float] = (0.0, 0.0)

    def __call__(self, x: npt.ArrayLike) -> Float:
        """f(x) in float64, elementwise; a block at a time, so that what `evaluate` needs on the way stays in a core's cache."""
        x = np.asarray(x)
        flat, result = x.reshape(-1), np.empty(x.size)
        for at in range(0, x.size, BLOCK_ELEMENTS):
            result[at : at + BLOCK_ELEMENTS] = self.evaluate(flat[at : at + BLOCK_ELEMENTS].astype(np.float64, copy=False))
        return result.reshape(x.shape)


LARGEST_EXPONENT = 80.0
"""exp is constant from here on; e**80 is 5e34, and single precision ends at 3e38."""
_STEPS = 32
_EDGE = 6
_NODES = np.arange(-_EDGE * _STEPS, _EDGE * _STEPS + 1) / _STEPS
_ERF = np.array([math.erf(float(node)) for node in _NODES])
_SLOPE = 2 / math.sqrt(math.pi) * np.exp(-(_NODES**2))


def _hermite(degrees: int) -> list[Float]:
    """H_1 to H_degrees at the nodes."""
    found = [np.zeros_like(_NODES), np.ones_like(_NODES)]
    for n in range(1, degrees + 1):
        found.append(2 * _NODES * found[-1] - 2 * (n - 1) * found[-2])
    return found[2:]


_HERMITE = _hermite(6)


def erf(x: npt.ArrayLike) -> Float:
    """The error function, absolute error below 1e-13.

    Taylor series around the nearest multiple of 1/32, where math.erf is tabulated: with s = 2/sqrt(pi) exp(-a^2),
    erf(a + d) = erf(a) + s * sum_n (-1)^n H_n(a) d^(n+1) / (n+1)!, H_n the Hermite polynomials. Beyond 6, erf is 1 - 2e-17.
    """
    x = np.clip(np.asarray(x, np.float64), -_EDGE, _EDGE)
    index = np.fmax(np.rint(x * _STEPS), 0.0 - _EDGE * _STEPS).astype(np.int64) + _EDGE * _STEPS  # of NaN any
    d = x - _NODES[index]
    power, total, less = d, d, -d
    for n, hermite in enumerate(_HERMITE, 1):
        power = power * less / (n + 1)
        total = total + hermite[index] * power
    result: Float = _ERF[index] + _SLOPE[index] * total
    return result


def sigmoid(x: Float) -> Float:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def hard_sigmoid(x: Float, alpha: float = 1 / 6) -> Float:
    """clip(alpha*x + 1/2, 0, 1)."""
    return np.clip(alpha * x + 0.5, 0, 1)


def _gelu(x: Float) -> Float:
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x: Float, factor: float, cubic: float) -> Float:
    """x/2 * (1 + tanh(factor * (x + cubic*x^3)))."""
    return 0.5 * x * (1 + np.tanh(factor * (x + cubic * x**3)))


GELU_TANH = math.sqrt(2 / math.pi), 0.044715
GELU_TANH_BF16 = 0.796875, 0.044677734375
"""Its constants as models in bfloat16 have them."""
GELU_SIGMOID, GELU_SIGMOID_BF16 = 1.702, 1.703125


def _hard_sigmoid(name: str, alpha: float) -> Function:
    return Function(name, lambda x: hard_sigmoid(x, alpha), right=0, delta="step", ends=(0.0, 1.0))


def _leaky_relu(name: str, alpha: float) -> Function:
    return Function(name, lambda x: np.where(x < 0, alpha * x, x), left=None, degree=1)


def _elu(name: str, alpha: float) -> Function:
    return Function(name, lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x), limit=16)


def _clip(name: str, low: float, high: float) -> Function:
    """min(max(x, low), high); either bound may be infinite."""
    return Function(name, lambda x: np.clip(x, low, high), left=int(low == -math.inf), right=int(high == math.inf), clamp=(low, high))


PARAMETRIC: dict[str, tuple[Callable[[str, float], Function], float, float, float]] = {
    "elu": (_elu, 1.0, 0.0, 2.0),
    "hard_sigmoid": (_hard_sigmoid, 1 / 6, 0.1, 1.0),
    "leaky_relu": (_leaky_relu, 0.01, -1.0, 1.0),
}
"""Functions of a parameter alpha, its usual, least and largest value: `elu` is elu_1.0, `elu_0.5` another; leaky_relu_-1 is |x|."""


def _parametric(name: str) -> Function | None:
    stem, _, text = name.rpartition("_")
    first, _, low = stem.rpartition("_")
    try:
        if stem in PARAMETRIC:
            make, _, least, largest = PARAMETRIC[stem]
            return make(name, float(text)) if least <= float(text) <= largest else None
        if first == "clip":
            return _clip(name, float(low), float(text)) if float(low) < float(text) else None
    except ValueError:
        pass
    return None


FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        *(make(name, usual) for name, (make, usual, *_) in PARAMETRIC.items()),
        _hard_sigmoid("hard_sigmoid_0.2", 0.2),
        Function("erf", erf, right=0, delta="step", ends=(-1.0, 1.0)),
        Function("exp", lambda x: np.exp(np.minimum(x, LARGEST_EXPONENT)), left=None),
        Function("gelu", _gelu, delta="relu"),
        Function("gelu_sigmoid", lambda x: x * sigmoid(GELU_SIGMOID * x), delta="relu"),
        Function("gelu_sigmoid_bf16", lambda x: x * sigmoid(GELU_SIGMOID_BF16 * x), delta="relu"),
        Function("gelu_tanh", lambda x: gelu_tanh(x, *GELU_TANH), delta="relu"),
        Function("gelu_tanh_bf16", lambda x: gelu_tanh(x, *GELU_TANH_BF16), delta="relu"),
        Function("hard_swish", lambda x: x * hard_sigmoid(x), delta="relu"),
        Function("identity", lambda x: x, left=1, degree=1, clamp=(-math.inf, math.inf)),
        Function("mish", lambda x: x * np.tanh(np.logaddexp(0.0, x)), limit=16),
        Function("relu", lambda x: np.maximum(x, 0.0), degree=1, clamp=(0.0, math.inf)),
        Function("relu_squared", lambda x: np.square(np.maximum(x, 0.0)), left=None, degree=2),
        Function("sigmoid", sigmoid, right=0, limit=16, delta="step", ends=(0.0, 1.0)),
        Function("silu", lambda x: x * sigmoid(x), limit=16, delta="relu"),
        Function("softsign", lambda x: x / (1 + np.abs(x)), left=None),
        Function("softplus", lambda x: np.logaddexp(0.0, x), limit=16, delta="relu"),
        Function("tanh", np.tanh, right=0, delta="step", ends=(-1.0, 1.0)),
    )
}


@cache
def find(name: str) -> Function | None:
    """The function of a name, with its parameter in the name or not; None if there is none."""
    return FUNCTIONS.get(name) or _parametric(name)
