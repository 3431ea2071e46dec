"""Nodes of the device's graph for a mixture of experts.

    logits, x ─► scores, chosen experts ─► order, queue ─► dispatch ─► experts, for each entry of the queue ─► combine

Experts that nobody chose are not in the queue. A choice among softmaxes or sigmoids is one among logits, which are compared as they are.
"""

from __future__ import annotations

import numpy as np

from attnc.frontend.builder import Builder, unsupported
from attnc.frontend.mixture import Mixture, Router
from attnc.frontend.values import Array, Base, Sources
from attnc.ir import Node


def add_mixture(builder: Builder, mixture: Mixture, x: str, logits: str, src: Sources) -> Base:
    """What the experts make of the value `x` [T, d], chosen by the value `logits` [T, E]: a value [T, d_out]. Raises `UnsupportedError`."""
    router, experts = mixture.router, mixture.experts
    rows, (count, _, width) = builder.graph.value(x).shape[0], experts.up.shape
    where = src[-1] if src else "mixture"
    _check(mixture, where)
    chosen = _chosen(builder, router, logits, rows, src)
    scores = _scores(builder, router, logits, chosen, rows, src)
    of_experts = {"experts": count}
    places = builder.node("expert_order", [chosen], (rows, router.k), f"{x}_places", src, dict(of_experts)).name
    pairs = rows * router.k
    queue = builder.node("expert_queue", [chosen], (min(count, pairs), 3), f"{x}_queue", src, dict(of_experts)).name
    moved = builder.node("dispatch", [x, places], (pairs, width), f"{x}_by_expert", src).name
    first = len(builder.graph.nodes)

    def product(name: str, weight: Array, bias: Array | None, stem: str) -> str:
        params = {"weight": weight, "bias": np.zeros(weight.shape[:2]) if bias is None else bias}
        return builder.node("experts", [name, queue], (pairs, weight.shape[1]), f"{x}_{stem}", src, {}, params).name

    hidden, shape = product(moved, experts.up, experts.up_bias, "up"), (pairs, experts.up.shape[1])
    activation = {"function": experts.activation}
    if experts.gate is None:
        hidden = builder.node("unary", [hidden], shape, f"{x}_hidden", src, activation).name
    else:
        gate = product(moved, experts.gate, experts.gate_bias, "gate")
        gate = builder.node("unary", [gate], shape, f"{x}_opened", src, activation).name
        hidden = builder.node("mul", [gate, hidden], shape, f"{x}_hidden", src).name
    made = product(hidden, experts.down, experts.down_bias, "down")
    for node in builder.graph.nodes[first:]:
        node.each = queue
    attrs = {"k": router.k, "scale": router.scale}
    return builder.node("combine", [made, places, scores], (rows, experts.down.shape[1]), f"{x}_combined", src, attrs)


def _check(mixture: Mixture, where: str) -> None:
    router, experts = mixture.router, mixture.experts
    if not 1 <= router.k <= router.experts:
        raise unsupported(where, "mixture of experts", f"each token takes {router.k} of {router.experts} experts")
    if router.groups > 1 and router.kept_groups < router.groups:
        raise unsupported(where, "mixture of experts", f"a choice of {router.kept_groups} of {router.groups} groups of experts first")
    arrays = {"the bias of its choice": router.selection_bias, **{f"{name} of its experts": a for name, a in vars(experts).items()}}
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and not np.isfinite(array).all():
            raise unsupported(where, "mixture of experts", f"{name}: needs finite numbers, found NaN or infinity")
    if not np.isfinite(router.scale) or router.scale < 0:
        raise unsupported(where, "mixture of experts", f"its weights are multiplied by {router.scale}")


def _chosen(builder: Builder, router: Router, logits: str, rows: int, src: Sources) -> str:
    """Experts [T, k]."""
    choice = logits
    if router.selection_bias is not None and np.any(router.selection_bias != router.selection_bias[0]):
        bias = builder.constant(np.asarray(router.selection_bias, np.float64)[None], f"{logits}_bias")
        choice = builder.node(
            "add", [_scored(builder, router, logits, rows, src), bias], (rows, router.experts), f"{logits}_choice", src
        ).name
    return builder.node("top_experts", [choice], (rows, router.k), f"{logits}_experts", src, {"k": router.k}).name


def _scored(builder: Builder, router: Router, logits: str, rows: int, src: Sources) -> str:
    """Scores [T, E]: the node that is there, or a new one."""
    op, attrs = ("softmax", {}) if router.score == "softmax" else ("unary", {"function": "sigmoid"})
    known = (node for node in builder.graph.nodes if node.inputs == [logits] and node.op == op and node.attrs == attrs)
    found: Node | None = next(known, None)
    return found.output if found else builder.node(op, [logits], (rows, router.experts), f"{logits}_scores", src, attrs).name


def _scores(builder: Builder, router: Router, logits: str, chosen: str, rows: int, src: Sources) -> str:
    """Weights [T, k]. Softmaxes of all, divided by the sum of some, are the softmax of these."""
    shape = (rows, router.k)

    def picked(name: str, normalise: bool) -> str:
        return builder.node("expert_scores", [name, chosen], shape, f"{name}_of_experts", src, {"normalise": normalise}).name

    if router.score == "softmax" and router.renormalise:
        return builder.node("softmax", [picked(logits, False)], shape, f"{logits}_weights", src).name
    return picked(_scored(builder, router, logits, rows, src), router.renormalise)
