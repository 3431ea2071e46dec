"""Normalisations of a sum, and the one behind embeddings."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from attnc.frontend.fused.spelling import Spelling


def layer_normalization(s: Spelling) -> None:
    """As ONNX has it since opset 17, over the last axis."""
    _over_last(s)
    s.result(0, _layer_norm(s, s.given(0), s.given(1), s.given(2)))


def simplified(s: Spelling) -> None:
    """By the root mean square, over the last axis."""
    _over_last(s)
    s.result(0, _rms_norm(s, s.given(0), s.given(1)))


def _over_last(s: Spelling) -> None:
    axis = int(s.attribute("axis", -1))
    if axis != -1 and axis != len(s.shape(s.given(0))) - 1:
        s.refuse(f"it normalises all axes from {axis} on; only the last axis is supported")


def skip(s: Spelling) -> None:
    """Layer normalisation of input + skip + bias; the sum is its output 3."""
    total = s.sum(s.given(0), s.given(1), s.given(4))
    s.result(0, _layer_norm(s, total, s.given(2), s.given(3)))
    s.result(3, total)


def skip_simplified(s: Spelling) -> None:
    """The same by the root mean square."""
    total = s.sum(s.given(0), s.given(1), s.given(3))
    s.result(0, _rms_norm(s, total, s.given(2)))
    s.result(3, total)


def embed(s: Spelling) -> None:
    """Layer normalisation of the sum of word, position and segment embeddings; how many tokens of a row are not masked is its output 1."""
    ids, segments, word, position, segment, gamma, beta, mask, positions = (s.given(index) for index in range(9))
    parts = [s("Gather", word, ids)]
    parts.append(s("Gather", position, positions) if positions else s.slice(position, 0, s.shape(ids)[1], 0))
    if segments and segment:
        parts.append(s("Gather", segment, segments))
    total = s.sum(*parts)
    s.result(0, _layer_norm(s, total, gamma, beta))
    s.result(2, total)
    if s.wanted(1):
        count = np.zeros(s.shape(ids)[0], np.int32)
        whole = s("Cast", mask, to=TensorProto.INT32) if mask else ""
        s.result(1, s("ReduceSum", whole, np.array([1]), keepdims=0) if mask else s.constant(count))


def _layer_norm(s: Spelling, x: str, gamma: str, beta: str) -> str:
    return s.sum(_rms_norm(s, s("Sub", x, s.mean(x)), gamma), beta)


def _rms_norm(s: Spelling, x: str, gamma: str) -> str:
    """x over its root mean square, times gamma."""
    epsilon = float(s.attribute("epsilon", 1e-12 if s.node.op_type.startswith(("Skip", "Embed")) else 1e-5))
    normal = s("Div", x, s("Sqrt", s("Add", s.mean(s("Mul", x, x)), epsilon)))
    return s("Mul", normal, gamma) if gamma else normal
