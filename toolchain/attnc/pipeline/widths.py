"""Which operands get 16 bits where 8 are usual: the cheapest that bring a model to its SQNR target, on samples that did not calibrate.

An operator says which of its operands may be wide and what that costs (`Operator.widenings`): inputs of linear layers and of depthwise
convolutions, queries and keys of attention, and its values. A model is quantized with all of them in 8 bits first. Where that reaches the
target, nothing more is done and nothing costs more. Where it does not, every 8-bit operand is rounded alone in the float graph
(`quant.noise`), which says what widening it saves, and the model is quantized with all of them widened, which says what can be reached.
They are taken by saving per cost until the rest meets the target, and those that turned out superfluous are given back. Noise only nearly
adds up: parts are scaled to what all of them save together, and the choice is quantized and measured. Where it falls short, what it has
left tells what else must go; after `TRIES` choices all are taken.

The target is held against onnxruntime at the outputs of the model. The search looks at the outputs of the device, against the float graph:
what the host makes of their noise is taken to scale with it.

What few samples show is off by chance, so that the target is aimed at with a margin (`report.margin`): other samples shall reach it too. A
choice looks better on the samples that it was made with, so that it has to exceed that by `CHOSEN_DB`.
Made-up calibration inputs prove nothing: on those, nothing is searched.

A file that says how its tensors are rounded may lie further from what is computed with 16 bits than from what is computed with 8: where the
SQNR at the outputs of the model falls by more than chance explains, nothing is widened.

Where not even all inputs together reach the target, a choice is made that is estimated to come within `SLACK_DB` of what all reach and
measured to come within `WORTHWHILE_DB`; where all together gain less than that, none is taken.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.golden import run_reference
from attnc.ir import Node
from attnc.ops import operator
from attnc.ops.base import Widening
from attnc.ops.linear_weights import weight_shape
from attnc.passes.weights import weighted
from attnc.pipeline.rewrite import weight_config
from attnc.pipeline.state import State
from attnc.quant.noise import Probe
from attnc.quant.samples import Edge, chunks

PROBED, PROBED_ELEMENTS = 8, 1 << 18
"""Samples on which single parts are measured: at most so many, and fewer (down to one) where their widest value has more elements."""
SLACK_DB, WORTHWHILE_DB = 0.5, 1.0
CHOSEN_DB = 0.4
"""So much, at most, 39 small models fell short on other samples of what the margin alone had promised of a choice."""
TRIES = 3
"""Choices that are quantized and measured."""
BINDING_PERCENT = 0.5
"""Share of the noise from which on the report names a node where the target is missed."""
PARTS_MULTIPLY_ADDS = 1 << 40
"""Of a larger graph, for a sample and all of its nodes, what binds is not measured: each node is put into the float graph alone."""


@dataclass(frozen=True)
class Candidate:
    """Values of 8 bits that may have 16, together: the operands that read them (node and index), what that costs in multiply-adds that take
    another step or multiplier, and the noise that their 8 bits bring to every output."""

    values: tuple[str, ...]
    uses: tuple[tuple[str, int], ...]
    cost: int
    noise: Array


def choose_widths(state: State, requantize: Callable[[State], None]) -> None:
    """Widen inputs where the target is missed; `requantize` makes the quantized graph anew, as `state.widened` now says. What was found
    is left in `state.widths`."""
    before, noise, chosen = state.output_sqnr, _noise(state), list[Candidate]()
    sure = min(dependable(state), default=90.0)
    if not state.synthetic and sure < state.options.sqnr_target:
        offered = candidates(state)
        if offered:
            chosen = _search(state, offered, requantize)
            if chosen and min(db + state.margins[name] for name, db in state.output_sqnr.items()) < sure:
                state.widened, chosen = frozenset(), []
                requantize(state)
    state.widths = facts(state, chosen, before, noise)


def _search(state: State, offered: list[Candidate], requantize: Callable[[State], None]) -> list[Candidate]:
    def measured(chosen: list[Candidate]) -> Array:
        state.widened = frozenset(use for candidate in chosen for use in candidate.uses)
        requantize(state)
        return _noise(state)

    before, target = _noise(state), _allowed(state)
    least = measured(offered)
    beyond = least > target
    if beyond.any() and (before <= least * power(WORTHWHILE_DB)).all():
        measured([])
        return []
    aim = np.where(beyond, least * power(SLACK_DB), target)
    offered, estimate = _scaled(offered, before - least), before
    for _ in range(TRIES):
        chosen = cheapest(offered, estimate, aim)
        found, target = measured(chosen), _allowed(state)
        if (found <= np.where(beyond, least * power(WORTHWHILE_DB), target)).all():
            return chosen
        estimate, aim = found + sum(candidate.noise for candidate in chosen), np.where(beyond, aim, np.minimum(aim, target))
    measured(offered)
    return offered


def _scaled(offered: list[Candidate], saved: Array) -> list[Candidate]:
    """With noise that adds up to what all of them together have saved."""
    total = sum(candidate.noise for candidate in offered)
    factor = np.maximum(saved, 0) / np.where(total > 0, total, 1)
    return [replace(candidate, noise=candidate.noise * factor) for candidate in offered]


def missed(state: State) -> bool | None:
    """Whether an output misses the target; None where it does not, on samples that cannot tell (made up, or none held out)."""
    if state.synthetic:
        return None
    below = min(state.output_sqnr.values(), default=90.0) < state.options.sqnr_target
    return None if state.unseen is None and not below else below


def dependable(state: State) -> list[float]:
    """The SQNR of every output less what chance may hide."""
    return [db - state.margins[name] for name, db in state.output_sqnr.items()]


def power(db: float) -> float:
    """Decibels as a ratio of energies."""
    return float(10 ** (db / 10))


def _noise(state: State) -> Array:
    """Of every output of the device, relative to its energy in the float graph."""
    return np.array([power(-state.layer_db[name]) for name in state.graph.outputs])


def _allowed(state: State) -> float:
    """The noise of the device's outputs with which those of the model meet the target: the target's, times what their worst have now."""
    return power(-state.options.sqnr_target - CHOSEN_DB) * float(_noise(state).max()) / max(map(power, (-db for db in dependable(state))))


def probe(state: State) -> Probe:
    """The graph on a few of the samples that figures are measured on."""
    assert state.float_graph is not None
    widest = max(value.shape[0] * value.shape[1] for value in state.graph.values.values())
    count = min(PROBED, max(1, PROBED_ELEMENTS // widest))
    feeds = next(chunks(islice(Edge(state.model).feeds(state.measured), count), count))
    values: dict[str, Array] = {}
    run_reference(state.float_graph, feeds, values.__setitem__)
    return Probe(state.float_graph, state.graph, values)


def candidates(state: State) -> list[Candidate]:
    """The operands that `auto` may widen: layers have settings of their own, other operators those that the options give to all layers."""
    uses: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    costs: Counter[tuple[str, ...]] = Counter()
    config = weight_config(state.options)
    others = config.activation_bits == "auto" and config.activations == "static"
    for node in state.graph.nodes:
        if not (open_to_search(state, node) if node.op == "linear" else others):
            continue
        for widening in _widenings(state, node):
            values = tuple(dict.fromkeys(node.inputs[index] for index in widening.operands))
            if all(state.graph.value(name).imposed is None and state.graph.type(name).bits <= 8 for name in values):
                uses.setdefault(values, []).extend((node.name, index) for index in widening.operands)
                costs[values] += widening.cost
    found = probe(state) if uses else None
    result = []
    for values, readers in uses.items():
        assert found is not None
        noise = np.sum([found.rounding(value) for value in values], axis=0)
        result.append(Candidate(values, tuple(readers), costs[values], noise))
    return result


def open_to_search(state: State, node: Node) -> bool:
    """Linear layers of int8 weights on multipliers with static inputs."""
    settings = state.settings(node)
    plain = settings.weights == "int8" and settings.engine != "lookup" and settings.activations == "static"
    return settings.activation_bits == "auto" and plain


def cheapest(offered: Sequence[Candidate], noise: Array, allowed: Array) -> list[Candidate]:
    """Those that bring `noise` down to `allowed` at little cost, or all."""
    left, taken = noise, list[Candidate]()
    while (left > allowed).any() and len(taken) < len(offered):
        open_ = [c for c in offered if c not in taken]
        gains = [float(np.minimum(c.noise, np.maximum(left - allowed, 0)).sum()) / max(c.cost, 1) for c in open_]
        taken.append(open_[int(np.argmax(gains))])
        left = left - taken[-1].noise
    for candidate in sorted(taken, key=lambda c: -c.cost):
        if (left + candidate.noise <= allowed).all():
            taken.remove(candidate)
            left = left + candidate.noise
    return taken


def facts(state: State, chosen: Sequence[Candidate], before: dict[str, float], noise: Array) -> dict[str, Any]:
    """For the report: the target, what was reached, which inputs have 16 bits and why, and what binds where the target is missed. Without
    the chosen the outputs of the model had the SQNR `before`, and those of the device `noise`."""
    reasons = {
        use: {
            "value": ", ".join(candidate.values),
            "multiply_adds": candidate.cost,
            "noise_percent": round(float((100 * candidate.noise / noise).max()), 1),
        }
        for candidate in chosen
        for use in candidate.uses
    }
    wide = [
        (node, widening)
        for node in state.graph.nodes
        for widening in _widenings(state, node)
        if all(state.graph.type(node.inputs[index]).bits > 8 for index in widening.operands)
    ]
    return {
        "target_db": state.options.sqnr_target,
        "sqnr_db": {name: round(db, 2) for name, db in state.output_sqnr.items()},
        "margin_db": {name: round(db, 2) for name, db in state.margins.items()},
        "sqnr_db_of_8_bits": {name: round(db, 2) for name, db in before.items()} if chosen else None,
        "wide": [
            {
                "node": node.name,
                "op": node.op,
                "operands": widening.name,
                "why": "needed" if (node.name, widening.operands[0]) in reasons else "asked for",
                **reasons.get((node.name, widening.operands[0]), {}),
            }
            for node, widening in wide
        ],
        "missed": missed(state),
        "binding": _binding(state) if missed(state) and _few_products(state) else [],
    }


def _widenings(state: State, node: Node) -> list[Widening]:
    return operator(node).widenings(node, [state.graph.value(name).shape for name in node.inputs])


def _few_products(state: State) -> bool:
    """Whether it does not take too long to measure the nodes one by one."""
    graph = state.graph
    products = sum(graph.value(node.output).shape[0] * math.prod(weight_shape(node)) for node in weighted(graph))
    return len(graph.nodes) * products <= PARTS_MULTIPLY_ADDS


def _binding(state: State) -> list[dict[str, Any]]:
    """The nodes that bring most noise, and why; `percent` of what was measured at the output where they weigh most."""
    assert state.float_graph is not None
    found, measured = probe(state), _noise(state)
    shares: list[tuple[float, str, Node | None]]
    shares = [(float((100 * found.rounding(name) / measured).max()), name, None) for name in state.graph.inputs]
    shares += [(float((100 * found.node(node) / measured).max()), node.name, node) for node in state.float_graph.nodes]
    rows = []
    for share, name, node in sorted(shares, key=lambda row: -row[0]):
        if share < BINDING_PERCENT:
            break
        why = f"input of {state.graph.type(name).bits} bits" if node is None else found.cause(node)
        rows.append({"node": name, "op": "input" if node is None else node.op, "percent": round(share, 1), "why": why})
    return rows
