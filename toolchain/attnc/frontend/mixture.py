"""What a mixture of experts computes, whatever a file spells it as.

    experts, weights = router(logits)          for each token k of E experts and their weights
    y[t] = sum over its k experts e of weight[t, e] * expert[e](x[t])

The logits [T, E] are a value of their own: what makes them, mostly one product of x, is an ordinary part of the graph, and so is the choice
of one gate of several (a gate per task). Experts that all tokens go to (shared ones) are ordinary parts as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from attnc.frontend.values import Array

Score = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, eq=False)
class Router:
    """How the logits [T, E] of T tokens become k experts of each and their weights, in real numbers.

    1. scores[t, e] = softmax of logits[t] over all E, or sigmoid(logits[t, e])
    2. choice = scores + selection_bias; only this is compared, it is no part of the weights
    3. with `groups` > 1 the experts are so many runs of E / groups. A group counts as the sum of its `group_best` largest choices; in all
       groups but the `kept_groups` largest, choices become `left_out`
    4. the k experts of the largest choices are taken; weights[t, i] = scores[t, expert i]
    5. with `renormalise` these k weights are divided by their sum; then all are multiplied by `scale`

    Of equal choices (and equal groups) the one of the lowest index comes first, as in TopK of ONNX and ArgMax.
    """

    experts: int
    """E."""
    k: int
    """1 to E."""
    score: Score = "softmax"
    selection_bias: Array | None = None
    """[E]."""
    renormalise: bool = False
    scale: float = 1.0
    groups: int = 1
    kept_groups: int = 1
    group_best: int = 1
    left_out: float = -math.inf
    """Less than all choices, or 0."""


@dataclass(frozen=True, eq=False)
class Experts:
    """E feed-forward networks of one shape; matrices are [outputs, inputs], as those of a linear.

    Plain: down(activation(up(x))). Gated: down(activation(gate(x)) * up(x)). x has d channels, the result d_out.
    """

    up: Array
    """[E, h, d]."""
    down: Array
    """[E, d_out, h]."""
    activation: str
    """One of `ops.functions`."""
    gate: Array | None = None
    """[E, h, d]."""
    up_bias: Array | None = None
    """[E, h]."""
    gate_bias: Array | None = None
    """[E, h]."""
    down_bias: Array | None = None
    """[E, d_out]; it is multiplied by the expert's weight, as the rest is."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """A router and its experts. `dense`: the file computes all experts of every token, and multiplies most of them by zero."""

    router: Router
    experts: Experts
    dense: bool = False

    @property
    def products(self) -> tuple[int, int]:
        """Products of one token by its k experts, and by all E."""
        matrices = (self.experts.up, self.experts.down, self.experts.gate)
        one = sum(matrix[0].size for matrix in matrices if matrix is not None)
        return self.router.k * one, self.router.experts * one
