"""The router that gives the weights which a region was found to give."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
from onnx import NodeProto

from attnc.frontend.mixture import Router, Score
from attnc.frontend.mixtures.matrices import Matrices
from attnc.frontend.mixtures.region import Region
from attnc.frontend.values import Array

TOLERANCE = 1e-3
"""Largest error of a right guess, relative to the largest weight: least squares in single precision are no closer."""
FAR_BELOW = -1e4
"""No score is."""
SCORES: tuple[Score, ...] = ("softmax", "sigmoid")


def explain(region: Region, matrices: Matrices, logits: Array, weights: Array) -> Router | None:
    """The router that makes `weights` [n, E] of `logits` [n, E]; None if none does."""
    best: tuple[float, Router] | None = None
    for guess in _guesses(region, matrices):
        made = route(guess, logits)
        scale = float((made * weights).sum() / np.square(made).sum())
        error = float(np.abs(scale * made - weights).max() / np.abs(weights).max())
        if best is None or error < best[0]:
            best = error, replace(guess, scale=_tidy(scale))
    return best[1] if best is not None and best[0] <= TOLERANCE else None


def route(router: Router, logits: Array) -> Array:
    """Weights [n, E] of logits [n, E], zeros for experts that are not taken."""
    n, e = logits.shape
    x = logits.astype(np.float64)
    raised = np.exp(x - x.max(axis=1, keepdims=True))
    scores = raised / raised.sum(axis=1, keepdims=True) if router.score == "softmax" else 1 / (1 + np.exp(-x))
    choice = scores if router.selection_bias is None else scores + router.selection_bias
    if router.groups > 1:
        grouped = choice.reshape(n, router.groups, -1)
        worth = np.sort(grouped, axis=2)[:, :, -router.group_best :].sum(axis=2)
        kept = np.zeros((n, router.groups), bool)
        np.put_along_axis(kept, largest(worth, router.kept_groups), True, 1)
        choice = np.where(np.repeat(kept, e // router.groups, 1), choice, router.left_out)
    taken = largest(choice, router.k)
    chosen = np.take_along_axis(scores, taken, 1)
    if router.renormalise:
        chosen = chosen / chosen.sum(axis=1, keepdims=True)
    weights = np.zeros((n, e))
    np.put_along_axis(weights, taken, router.scale * chosen, 1)
    return weights


def largest(values: Array, count: int) -> Array:
    """Indices [n, count] of the largest of each row; of equal ones the lowest come first."""
    return np.argsort(-values, axis=1, kind="stable")[:, :count]


def counts(region: Region) -> list[int]:
    """How many experts a token may get by the comparisons of the file, the most likely number first."""
    argmax = sum(node.op_type == "ArgMax" for node in region.choosing)
    found = [count_of(region, node) if node.op_type == "TopK" else argmax for node in region.choosing[::-1]]
    return [count for count in dict.fromkeys(found) if count > 0]


def count_of(region: Region, node: NodeProto) -> int:
    """How many a TopK takes; 0 where that is not constant."""
    number = region.constants.get(node.input[1]) if node.op_type == "TopK" else None
    return 0 if number is None else int(number.reshape(-1)[0])


def _guesses(region: Region, matrices: Matrices) -> Iterator[Router]:
    biases = [None, *(region.constants[name].reshape(-1) for name in matrices.routing)]
    left_out = _left_out(region)
    for k, score, bias, again, groups in product(counts(region), SCORES, biases, (False, True), _groups(region)):
        if k <= region.experts:
            yield Router(region.experts, k, score, bias, again, 1.0, *groups, left_out)


def _groups(region: Region) -> Iterator[tuple[int, int, int]]:
    """(groups, kept, best): none, and what the comparisons before the last may mean."""
    yield 1, 1, 1
    compared = [((0, *(region.wiring.shape(node.input[0]) or ())), count_of(region, node)) for node in region.choosing]
    inner = [count for shape, count in compared if shape[-1] < region.experts and shape[-1] * shape[-2] == region.experts]
    for shape, kept in compared:
        if 1 < shape[-1] < region.experts and region.experts % shape[-1] == 0 and 0 < kept <= shape[-1]:
            for best in dict.fromkeys([*inner, 1]):
                yield shape[-1], kept, best


def _left_out(region: Region) -> float:
    """What the file puts in place of choices of other groups: numbers below all, or zeros, which are more than choices may be."""
    selecting = [node for node in region.nodes if node.op_type == "Where" and any(name in region.routed for name in node.input)]
    scalars = [region.constants[name] for node in selecting for name in node.input if name in region.constants]
    below = any(array.dtype.kind == "f" and array.size and float(array.max()) <= FAR_BELOW for array in scalars)
    return -math.inf if below else 0.0


def _tidy(scale: float) -> float:
    """Least squares leave noise: the number with few digits, where it is as good."""
    return next((short for digits in (1, 2, 3, 4) if abs((short := float(f"{scale:.{digits}g}")) - scale) < 1e-4 * abs(scale)), scale)
