"""Constant masks become attributes: a causal or banded additive bias turns into `causal`, `window` and `offset` of its attention.

Requires a float graph. Ensures the same meaning; a bias that was nothing but a mask is gone, one that also carried numbers keeps them
and forgets the excluded keys; numbers too large for it are lowered per query. Masked work is then never done (see ops/attention.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.ir import Graph, Node
from attnc.ops.attention_bias import EXCLUDED_BELOW, LARGEST_BIAS
from attnc.ops.attention_sizes import UNLIMITED, Mask


@dataclass(frozen=True)
class BandMask:
    """The attributes that say which keys a query may look at."""

    causal: bool
    window: tuple[int, int]
    offset: int

    def attributes(self) -> dict[str, Any]:
        """As attributes of an attention node."""
        return {"causal": self.causal, "window": self.window, "offset": self.offset}


def recognise_mask(bias: Array) -> BandMask | None:
    """The mask of an additive bias [T, Tk], where its excluded entries are exactly those outside a band of diagonals; None where nothing
    is excluded or no band fits. The bias may hold other numbers inside the band."""
    allowed = ~(np.asarray(bias) <= EXCLUDED_BELOW)
    queries, keys = allowed.shape
    if allowed.all() or not allowed.any():
        return None
    distance = np.arange(keys) - np.arange(queries)[:, None]
    low, high = int(distance[allowed].min()), int(distance[allowed].max())
    if not np.array_equal(allowed, (distance >= low) & (distance <= high)):
        return None
    # A limit at the edge of the matrix limits nothing.
    last = keys - queries
    left = None if low == 1 - queries else low
    right = None if high == keys - 1 else high
    offset = last if right is None or right >= last >= (low if left is None else left) else right
    before = -1 if left is None else offset - left
    after = -1 if right is None else right - offset
    if before < 0 and left is not None:  # the band lies beyond the diagonal of the last query
        offset, before, after = left, 0, -1
    return BandMask(after == 0, (before, after), offset)


def fold_masks(graph: Graph) -> int:
    """Turn every constant banded mask of an attention into attributes; returns how many were."""
    count = 0
    for node in graph.nodes:
        if node.op == "attention" and len(node.inputs) > 3 and node.inputs[3] in graph.constants:
            count += _fold(graph, node)
    used = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs)
    for name in [name for name in graph.constants if name not in used]:
        del graph.constants[name], graph.values[name]
    return count


def _lowered(bias: Array, excluded: Array) -> Array:
    """The numbers of allowed keys, 0 elsewhere. Where they are too large for the bias's integers (a slope times the position of the key),
    every query's are lowered so that the largest is 0: softmax does not see it, and only what is far below the largest saturates."""
    peak = np.where(excluded, -np.inf, bias).max(axis=-1, keepdims=True)
    lower = peak if np.abs(peak).max() > LARGEST_BIAS else 0.0
    return np.where(excluded, 0.0, bias - lower)


def _fold(graph: Graph, node: Node) -> bool:
    name, heads, rows = node.inputs[3], node.attrs.get("bias_heads", 1), node.attrs.get("bias_rows", 1)
    groups = node.attrs.get("groups", 1)
    queries, keys = graph.value(node.inputs[0]).shape[0] // groups, graph.value(node.inputs[1]).shape[0] // groups
    if rows != queries or Mask.of(node, queries, keys) != Mask(keys - queries, UNLIMITED, UNLIMITED):
        return False  # one row for all queries is no band; a mask that is there already would have to be merged
    per_head = graph.constants[name].reshape(heads, rows, keys)
    mask = recognise_mask(per_head[0])
    excluded = per_head <= EXCLUDED_BELOW
    if mask is None or np.any(excluded != excluded[:1]) or np.any(excluded.all(axis=-1)):
        return False  # what a query gets whose keys are all masked is for the numbers to say
    node.attrs.update(mask.attributes())
    rest = _lowered(per_head, excluded)
    if not np.any(rest):
        del node.inputs[3]
        for key in ("bias_heads", "bias_rows", "bias_shift", "guarded"):
            node.attrs.pop(key, None)
        return True
    copy = graph.fresh(f"{name}.inside")
    graph.add_value(copy, graph.value(name).shape)
    graph.constants[copy] = rest.reshape(graph.value(name).shape)
    node.inputs[3] = copy
    return True
