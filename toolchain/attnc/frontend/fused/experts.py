"""Mixtures of experts in one operator: the experts' weights are picked for each token, and multiplied in batches.

What comes out is read as any other mixture. The operator compares softmaxes; where it has weights of the router's own (the last operand
that is read), the first are compared alone.
"""

from __future__ import annotations

import math

import numpy as np

from attnc.frontend.fused.pointwise import tanh_gelu
from attnc.frontend.fused.spelling import Spelling

ROUTER_WEIGHTS = 14


def mixture(s: Spelling) -> None:
    """MoE: x [.., d], logits [T, E], then a weight [E, outputs, inputs] and a bias [E, outputs] for each product."""
    kind = str(s.attribute("activation_type", "relu"))
    _check(s, kind)
    x, logits = s.given(0), s.given(1)
    shape, k = s.shape(x), int(s.attribute("k", 1))
    tokens, d = math.prod(shape[:-1]), shape[-1]
    scores = s("Softmax", logits, axis=-1)
    if own := s.given(ROUTER_WEIGHTS):
        _, index = s.several(2, "TopK", logits, np.array([k]))
        weights = s("GatherElements", own, index, axis=1)
    else:
        weights, index = s.several(2, "TopK", scores, np.array([k]))
    if s.attribute("normalize_routing_weights", 0):
        weights = s("Div", weights, s("ReduceSum", weights, np.array([-1]), keepdims=1))
    flat = s("Reshape", index, np.array([-1]))
    rows = s("Reshape", s("Expand", s("Reshape", x, np.array([tokens, 1, d])), np.array([tokens, k, d])), np.array([tokens * k, d, 1]))

    def product(at: int, given: str) -> str:
        made = s("MatMul", s("Gather", s.given(at), flat, axis=0), given)
        bias = s.given(at + 1)
        return s("Add", made, s("Unsqueeze", s("Gather", bias, flat, axis=0), np.array([-1]))) if bias else made

    hidden = product(2, rows)
    if kind == "swiglu" and not s.given(6):
        pairs = s("Reshape", hidden, np.array([tokens * k, -1, 2, 1]))
        gate, up = (s("Reshape", s.slice(pairs, i, i + 1, 2), np.array([tokens * k, -1, 1])) for i in (0, 1))
        hidden = s("Mul", _activated(s, "silu", gate), up)
    else:
        hidden = _activated(s, "silu" if kind == "swiglu" else kind, hidden)
        hidden = s("Mul", hidden, product(6, rows)) if s.given(6) else hidden
    weighed = s("Mul", product(4, hidden), s("Reshape", weights, np.array([tokens * k, 1, 1])))
    total = s("ReduceSum", s("Reshape", weighed, np.array([tokens, k, -1])), np.array([1]), keepdims=0)
    s.result(0, s("Reshape", total, np.array([*shape[:-1], -1])))


def _check(s: Spelling, kind: str) -> None:
    """Refuse what is not read."""
    if s.attribute("use_sparse_mixer", 0):
        s.refuse("its router is a sparse mixer: needed the largest of softmaxes")
    if kind not in ("relu", "gelu", "silu", "swiglu", "identity"):
        s.refuse(f"activation_type {kind!r}: needed relu, gelu, silu, swiglu or identity")
    alpha, beta, limit = (float(s.attribute(key, default)) for key, default in (
        ("activation_alpha", 1.0), ("activation_beta", 0.0), ("swiglu_limit", math.inf)
    ))  # fmt: skip
    if kind == "swiglu" and (alpha, beta, limit) != (1.0, 0.0, math.inf):
        s.refuse(f"SwiGLU with activation_alpha {alpha:g}, activation_beta {beta:g}, swiglu_limit {limit:g}: needed 1, 0 and none")
    if kind == "swiglu" and not s.given(6) and s.attribute("swiglu_fusion", 0) != 1:
        s.refuse("SwiGLU whose halves do not alternate: needed swiglu_fusion 1, as onnxruntime on CPUs, or weights of the gate apart")


def _activated(s: Spelling, kind: str, x: str) -> str:
    if kind == "silu":
        return s("Mul", x, s("Sigmoid", x))
    if kind == "gelu":
        return tanh_gelu(s, x)
    return s("Relu", x) if kind == "relu" else x
