"""What the interpreter knows about an ONNX tensor: abstract values.

Every value has `shape`, the shape of its ONNX tensor, and `src`, the ONNX nodes that it stands for and that no node of the
device's graph has taken over yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnc.errors import UnsupportedError
from attnc.ir import TensorType

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]
Shape = tuple[int, ...]
Sources = tuple[str, ...]


def merge(*sources: Sources) -> Sources:
    """All names once, in order."""
    return tuple(dict.fromkeys(name for names in sources for name in names))


@dataclass(frozen=True)
class Grid:
    """The type of an activation: one scale; `tensor` is the ONNX tensor that holds the rounded values. `rectified`: nothing is below 0."""

    tensor: str
    bits: int
    scale: float
    zero_point: int
    rectified: bool = False

    def type(self) -> TensorType:
        """As a signed type of the device."""
        return TensorType(self.bits, True, np.asarray(self.scale, np.float64), self.zero_point)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest number that it holds."""
        low, high = self.type().range
        return 0.0 if self.rectified else float(low * self.scale), float(high * self.scale)

    def centred(self) -> Grid:
        """One of as many bits that reaches as far on either side of 0: its step is at most twice as large."""
        low, high = self.range
        peak = max(-low, high)
        return Grid(self.tensor, self.bits, peak / ((1 << (self.bits - 1)) - 1), 0, rectified=low == 0)

    def round(self, real: Array) -> Array:
        """Numbers on the grid, half to even."""
        low, high = self.type().range
        return np.asarray(np.maximum(np.clip(np.rint(real / self.scale), low, high) * self.scale, self.range[0]))

    def same(self, other: Grid | None) -> bool:
        """Whether both round alike."""
        return other is not None and replace(self, tensor="") == replace(other, tensor="")


@dataclass(frozen=True)
class Base:
    """A tensor that exists: on the device a matrix [rows, channels], on the host an ONNX tensor (rows = 1).

    `imposed`: a tensor of the host rounded to this type, as a model that arrived quantized says."""

    name: str
    rows: int
    channels: int
    device: bool
    imposed: Grid | None = None


@dataclass(eq=False)
class Const:
    """A constant."""

    array: Array
    src: Sources = ()

    @property
    def shape(self) -> Shape:
        """Shape of the ONNX tensor."""
        return tuple(self.array.shape)


@dataclass(eq=False)
class View:
    """Element e of the ONNX tensor is flat element `idx[e]` of the base."""

    base: Base
    idx: Index
    src: Sources = ()

    @property
    def shape(self) -> Shape:
        """Shape of the ONNX tensor."""
        return tuple(self.idx.shape)


@dataclass(eq=False)
class Opaque:
    """A tensor on the host whose shape is unknown."""

    name: str
    src: Sources = ()


@dataclass(eq=False)
class Unary:
    """A function of one real number applied to every element of a view; `y` are its samples on `GRID`.

    `cuts` are earlier values on the way, with the samples of the rest of the way, newest last: a chain of two known
    functions is cut there. `parts` are operator and operands of the last step, if that is a sum or product. `made` is the
    view once the function has been put into the graph. `pair` is a rounding of a quantized model that the value gets if it is put
    into the graph, with the name of its node.
    """

    view: View
    y: Array
    src: Sources
    node: str
    operator: str
    cuts: tuple[tuple[Unary, Array], ...] = ()
    parts: tuple[str, tuple[Unary | View | Const, ...]] | None = None
    made: View | Const | None = None
    pair: tuple[Grid, str] | None = None

    @property
    def shape(self) -> Shape:
        """Shape of the ONNX tensor."""
        return self.view.shape


Monomial = tuple[int, int, int, int]
"""Exponents of x, mean(x), mean(x^2) and r, the reciprocal deviation."""


class Deviation(NamedTuple):
    """sqrt(factor * v + epsilon), where v is the variance of x, or mean(x^2) if it is not `centered`."""

    factor: float
    epsilon: float
    centered: bool = True


@dataclass(eq=False)
class Poly:
    """A step of a normalisation of `x` over its last axis: a sum of monomials with constant coefficients.

    `r` defines the deviation whose reciprocal is r. `host` is the same tensor on the host, if the host can compute it.
    """

    x: View
    terms: dict[Monomial, Array]
    shape: Shape
    src: Sources
    node: str
    operator: str
    r: Deviation | None = None
    host: View | None = None
    fallback: Callable[[], View] | None = None
    """Makes it another way on the device."""
    root: Unary | None = None
    """What `x` is the square of, where it is that of a function: whether `x` or its root is normalised shows later."""


@dataclass(eq=False)
class Scores:
    """softmax-to-be: scale * q . k^T + bias.

    `q`, `k` are views of shape [L, T, D] and [L, Tk, D], L the flattened leading axes; `lead` holds, in the ONNX shape of the
    leading axes, which l is meant. With `cap`, scores are cap * tanh(scale * q . k^T) + bias. `bias` is a view or constant of
    shape [L or 1, T or 1, Tk or 1]. After softmax `normalized` is set; `guarded`: a query without any key gets zeros in place of NaN.
    `host` is the same tensor on the host, where that is cheap (outer products); `fallback` makes it another way on the device. `computed`
    is a further bias, of the device, times `gain`. A pair in a file says that no product q . k^T is beyond `reach`.
    """

    q: View
    k: View
    lead: Index
    scale: float
    src: Sources
    node: str
    operator: str
    bias: View | Const | None = None
    cap: float | None = None
    normalized: bool = False
    guarded: bool = False
    host: View | None = None
    fallback: Callable[[], View] | None = None
    computed: View | None = None
    gain: float = 1.0
    reach: float = math.inf

    @property
    def shape(self) -> Shape:
        """Shape of the ONNX tensor."""
        return (*self.lead.shape, self.q.shape[1], self.k.shape[1])


@dataclass(eq=False)
class ScoreRows:
    """Scores whose leading axes and queries are flattened into one, [rows, Tk], as older opsets have it around a softmax."""

    scores: Scores
    shape: Shape
    src: Sources


@dataclass(eq=False)
class TurnedScores:
    """Scores with their axes in another order: those of the ONNX tensor are `order` of those of the scores."""

    scores: Scores
    order: tuple[int, ...]
    src: Sources

    @property
    def shape(self) -> Shape:
        """Shape of the ONNX tensor."""
        return tuple(self.scores.shape[axis] for axis in self.order)


@dataclass(eq=False)
class Test:
    """IsNaN or IsInf of attention probabilities or scores, as exporters put around a softmax, possibly negated or reduced."""

    of: Scores
    shape: Shape
    negated: bool
    src: Sources


@dataclass(eq=False)
class TokenWeights:
    """A softmax over tokens: element e of the ONNX tensor is the weight `idx[e] % tokens` of item `idx[e] // tokens` of `scores`, which
    are those of one query each. `made` puts it into the graph as a tensor of its own, item after item."""

    scores: Scores
    idx: Index
    tokens: int
    made: Callable[[], View]
    src: Sources

    @property
    def shape(self) -> Shape:
        """Shape of the ONNX tensor."""
        return tuple(self.idx.shape)


@dataclass(eq=False)
class WeighedTokens:
    """A tensor times such weights, element by element; both have its shape."""

    weights: TokenWeights
    x: View
    src: Sources

    @property
    def shape(self) -> Shape:
        """Shape of the ONNX tensor."""
        return self.x.shape


@dataclass(eq=False)
class Patchwork:
    """A tensor of elements of several bases: element e is flat element `idx[e]` of `parts[which[e]]`."""

    parts: tuple[Base, ...]
    which: Index
    idx: Index
    src: Sources

    @property
    def shape(self) -> Shape:
        """Shape of the ONNX tensor."""
        return tuple(self.idx.shape)

    def moved(self, move: Callable[[Array], Array], src: Sources) -> View | Patchwork:
        """Rearranged."""
        return Patchwork(self.parts, move(self.which), move(self.idx), merge(self.src, src)).simplest()

    def simplest(self) -> View | Patchwork:
        """A view, where all elements are of one base."""
        used = {self.parts[number] for number in np.unique(self.which)}
        return View(used.pop(), self.idx, self.src) if len(used) == 1 else self


@dataclass(eq=False)
class Failed:
    """A value that the device cannot compute, and why."""

    error: UnsupportedError
    src: Sources = ()
    shape: Shape | None = None


Value = Const | View | Opaque | Unary | Poly | Scores | ScoreRows | TurnedScores | TokenWeights | WeighedTokens | Patchwork | Test | Failed
Concrete = Const | View


def on_host(value: Value) -> bool:
    """Whether the host can compute the value before the device runs."""
    if isinstance(value, View):
        return not value.base.device
    return isinstance(value, (Const, Opaque)) or (isinstance(value, (Poly, Scores)) and value.host is not None)


def same_view(a: View, b: View) -> bool:
    """Whether both show the same elements in the same order."""
    return a is b or (a.base == b.base and (a.idx is b.idx or (a.idx.shape == b.idx.shape and bool(np.array_equal(a.idx, b.idx)))))


def reindex(value: View | Const, function: Callable[[Array], Array], src: Sources = ()) -> View | Const:
    """Apply a rearrangement to the index of a view, or to a constant itself."""
    if isinstance(value, Const):
        return Const(function(value.array), merge(value.src, src))
    return View(value.base, function(value.idx), merge(value.src, src))
