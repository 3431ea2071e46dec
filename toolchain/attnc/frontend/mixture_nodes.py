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
from attnc.ops.keep_groups import BESTS

LEAST_CHOICE = 1 / 64
"""Of positive choices: many of their steps, and few of their bits."""


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
    if _grouped(router) and router.group_best not in BESTS:
        what = f"groups of experts that are compared by the sum of their {router.group_best} best ones: needed 1 or 2"
        raise unsupported(where, "mixture of experts", what)
    arrays = {"the bias of its choice": router.selection_bias, **{f"{name} of its experts": a for name, a in vars(experts).items()}}
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and not np.isfinite(array).all():
            raise unsupported(where, "mixture of experts", f"{name}: needs finite numbers, found NaN or infinity")
    if not np.isfinite(router.scale) or router.scale < 0:
        raise unsupported(where, "mixture of experts", f"its weights are multiplied by {router.scale}")


def _chosen(builder: Builder, router: Router, logits: str, rows: int, src: Sources) -> str:
    """Experts [T, k]."""
    choice, shape, bias = logits, (rows, router.experts), _selection_bias(router)
    if bias is not None:
        scored, constant = _scored(builder, router, logits, rows, src), builder.constant(bias[None], f"{logits}_bias")
        choice = builder.node("add", [scored, constant], shape, f"{logits}_choice", src).name
    if _grouped(router):
        attrs = {"groups": router.groups, "kept": router.kept_groups, "best": router.group_best}
        choice = builder.node("keep_groups", [choice], shape, f"{logits}_kept", src, attrs).name
    return builder.node("top_experts", [choice], (rows, router.k), f"{logits}_experts", src, {"k": router.k}).name


def _grouped(router: Router) -> bool:
    """Whether some groups of experts are left out."""
    return router.groups > 1 and router.kept_groups < router.groups


def _selection_bias(router: Router) -> Array | None:
    """What is added to the scores before they are compared; None where that changes nothing. The choices of groups that are left out
    become 0: where that is to be less than all others, these get so much more that they are positive."""
    bias = np.zeros(router.experts) if router.selection_bias is None else np.asarray(router.selection_bias, np.float64)
    if not _grouped(router):
        return bias if np.any(bias != bias[0]) else None
    zero = router.left_out == 0 and router.selection_bias is not None
    return bias if zero else bias - bias.min() + LEAST_CHOICE


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
