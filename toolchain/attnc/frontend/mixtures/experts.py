"""What the experts of a region compute: every way in which its matrices may be put together is tried, and the one taken that explains
what onnxruntime computes.

Whatever the routing, the result of a token is a sum of the results of its experts. So a guess is right if the region's results are such
sums, for weights that least squares find; these weights are what the router gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from attnc.frontend.mixture import Experts
from attnc.frontend.mixtures.matrices import FIRST, SECOND, Matrices, stacks
from attnc.frontend.mixtures.region import Region
from attnc.frontend.values import Array
from attnc.ops.functions import FUNCTIONS

TOLERANCE, EXACT = 1e-4, 1e-5
"""Largest error of a right guess, relative to the results, in single precision, and one that no other guess gets below: two forms of GELU
differ by several times that."""
LIKELY = ("silu", "gelu", "relu", "gelu_tanh")
SCALE = 1.5
"""Standard deviation of the tokens that are tried: activations are to be seen where they bend."""
REPEATS = 2
"""Equations for each unknown weight, at least."""
SCREENED = 6
"""Tokens that guesses are tried on."""
ROUNDS, TRIES = 64, 8
FREE = 24
"""Tokens of any logits."""


@dataclass
class Trials:
    """What a region makes of random tokens: x [n, R, d], logits [n, E], results [n, R, d_out]. All R vectors of a token have its logits."""

    x: Array
    logits: Array
    results: Array


def trials(region: Region, k: int) -> Trials | None:
    """Trials in which every expert is among the `k` largest of some token, then some of any logits, as groups of experts show in these
    alone; None if onnxruntime cannot run the region."""
    rng = np.random.default_rng(0)
    t, e = region.tokens, region.experts
    found: list[Trials] = []
    for number in range(min(ROUNDS, -(-e // (t * k)))):
        chosen = (np.arange(t)[:, None] * k + np.arange(k) + number * t * k) % e
        tries = (_raised(rng, (t, e), chosen) for _ in range(TRIES))
        made = next((made for logits in tries if (made := _trial(region, rng, logits)) is not None), None)
        if made is None:
            return None
        found.append(made)
    free = [_trial(region, rng, rng.normal(0, 1, (t, e))) for _ in range(-(-FREE // t))]
    found += [made for made in free if made is not None]  # a loop that needs tokens for each expert may not run
    return Trials(*(np.concatenate(parts) for parts in zip(*((one.x, one.logits, one.results) for one in found), strict=True)))


def _raised(rng: np.random.Generator, shape: tuple[int, int], chosen: Array) -> Array:
    """Logits of which those of the experts `chosen` [T, k] are the largest."""
    logits = rng.normal(0, 1, shape)
    np.put_along_axis(logits, chosen, rng.normal(4, 0.5, chosen.shape), 1)
    return logits


def _trial(region: Region, rng: np.random.Generator, logits: Array) -> Trials | None:
    """Several tokens with each row of the logits."""
    x: list[Array] = []
    results: list[Array] = []
    logits = logits.astype(np.float32)
    while not results or sum(one.shape[1] for one in results) < REPEATS * region.experts:
        x.append(rng.normal(0, SCALE, (region.tokens, region.width)).astype(np.float32))
        result = region.run(x[-1], logits)
        if result is None:
            return None
        results.append(result)
    return Trials(np.stack(x, 1), logits, np.stack(results, 1))


def explain(region: Region, matrices: Matrices, seen: Trials) -> tuple[Experts, Array] | None:
    """The experts, and the weights [n, E] that the router gave them in these trials; None if no guess explains the results."""
    few = _covering(seen, SCREENED)
    best: tuple[float, Experts] | None = None
    for guess, name in product(_guesses(region, matrices), dict.fromkeys((*LIKELY, *FUNCTIONS))):
        tried = replace(guess, activation=name)
        error = _weights(tried, few)[1]
        if best is None or error < best[0]:
            best = error, tried
        if best[0] < EXACT:
            break
    if best is None or best[0] > TOLERANCE:
        return None
    weights, error = _weights(best[1], seen)
    return (best[1], weights) if error <= TOLERANCE else None


def _covering(seen: Trials, count: int) -> Trials:
    """Some of the trials, of experts as different as may be."""
    step = max(1, len(seen.x) // count)
    return Trials(seen.x[::step][:count], seen.logits[::step][:count], seen.results[::step][:count])


def _weights(experts: Experts, seen: Trials) -> tuple[Array, float]:
    """The weights [n, E] that come closest, and the error that is left, relative to the results."""
    n, repeats, width = seen.x.shape
    made = results(experts, seen.x.reshape(-1, width))  # [E, n * R, d_out]
    count, _, outputs = made.shape
    columns = made.reshape(count, n, repeats * outputs).transpose(1, 2, 0).astype(np.float64)
    wanted = seen.results.reshape(n, -1).astype(np.float64)
    if not np.all(np.isfinite(columns)) or outputs != seen.results.shape[2]:
        return np.zeros((n, count)), np.inf
    weights = np.stack([np.linalg.lstsq(one, goal, rcond=None)[0] for one, goal in zip(columns, wanted, strict=True)])
    rest = wanted - np.einsum("nce,ne->nc", columns, weights)
    return weights, float(np.sqrt(np.square(rest).sum() / max(np.square(wanted).sum(), 1e-30)))


def results(experts: Experts, x: Array) -> Array:
    """Of all experts for all tokens: [E, n, d_out] of x [n, d]."""

    def times(matrix: Array, bias: Array | None, given: Array) -> Array:
        made = given @ matrix.swapaxes(1, 2)
        return made if bias is None else made + bias[:, None]

    with np.errstate(all="ignore"):
        up, function = times(experts.up, experts.up_bias, x), FUNCTIONS[experts.activation]
        hidden = function(up) if experts.gate is None else function(times(experts.gate, experts.gate_bias, x)) * up
        return times(experts.down, experts.down_bias, hidden)


def _guesses(region: Region, matrices: Matrices) -> Iterator[Experts]:
    """Experts without their activations."""
    e, constants = region.experts, region.constants
    first, second, up, down = (
        [constants[name] for name in names.get(level, [])]
        for names, level in (
            (matrices.products, FIRST), (matrices.products, SECOND), (matrices.biases, FIRST), (matrices.biases, SECOND)
        )
    )  # fmt: skip
    biases: list[list[Array]] = stacks(up, e, 1) or [[]]
    downs: list[list[Array]] = stacks(down, e, 1) or [[]]
    for early in stacks(first, e, 2):
        for (late,) in (way for way in stacks(second, e, 2) if len(way) == 1):
            for added in biases:
                for last in downs:
                    yield from _arranged(region.width, early, late, added, last[0] if last else None)


def _arranged(width: int, early: list[Array], late: Array, biases: list[Array], down_bias: Array | None) -> Iterator[Experts]:
    """The matrices in all orientations and roles: a gate may be apart, or lie before, behind or between the rows of `up`."""
    for first in _oriented(early, inputs=width):
        h, n = first[0].shape[1], len(first)
        for (down,) in (*_oriented([late], inputs=h), *(_oriented([late], inputs=h // 2) if n == 1 and h % 2 == 0 else ())):
            given = biases if len(biases) == n else [None] * n
            if down.shape[2] == h and n == 1:
                yield Experts(first[0], down, "", None, given[0], None, down_bias)
            elif down.shape[2] == h and n == 2:
                for gate, up in ((0, 1), (1, 0)):
                    yield Experts(first[up], down, "", first[gate], given[up], given[gate], down_bias)
            elif n == 1:
                half = h // 2
                for gate, up in _halves(half):
                    bias = given[0]
                    parts = (None, None) if bias is None else (bias[:, up], bias[:, gate])
                    yield Experts(first[0][:, up], down, "", first[0][:, gate], parts[0], parts[1], down_bias)


def _halves(half: int) -> tuple[tuple[slice, slice], ...]:
    """(gate, up) among twice as many rows."""
    before, behind, even, odd = slice(0, half), slice(half, None), slice(0, None, 2), slice(1, None, 2)
    return (before, behind), (behind, before), (even, odd), (odd, even)


def _oriented(arrays: list[Array], inputs: int) -> Iterator[list[Array]]:
    """[E, outputs, inputs], where the constants have so many inputs along one of their axes."""
    if all(array.shape[2] == inputs for array in arrays):
        yield arrays
    if all(array.shape[1] == inputs for array in arrays):
        yield [array.swapaxes(1, 2) for array in arrays]
