"""Float-only operators for graphs whose operators are not in the list: what they mean, and nothing of hardware."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from attnc.ir import Node
from attnc.ops import OPERATORS
from attnc.ops.base import Array, Operator, Shape


class StandIn(Operator):
    """Shape and float meaning."""

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def _none(self, *args: Any) -> NoReturn:
        raise NotImplementedError

    quantize = golden = lower = resources = _none  # type: ignore[assignment]


class RmsNormalization(StandIn):
    name = "rms_normalization"

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        x = inputs[0]
        parts = x.reshape(*x.shape[:2], -1, node.attrs.get("group") or x.shape[2])
        parts = parts / np.sqrt(np.square(parts).mean(axis=-1, keepdims=True) + node.attrs["epsilon"])
        return parts.reshape(x.shape) * node.params["gamma"]


class Rotary(StandIn):
    name = "rotary"

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        x, attr = inputs[0], node.attrs
        y = x.reshape(*x.shape[:2], attr["num_heads"], -1).copy()
        half = np.arange(attr["rotary_dims"] // 2)
        first, second = (2 * half, 2 * half + 1) if attr["interleaved"] else (half, half + len(half))
        a, b = y[..., first], y[..., second]
        cos, sin = node.params["cos"][:, None], node.params["sin"][:, None]
        y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
        return y.reshape(x.shape)


def register() -> None:
    """Add those that are missing."""
    for operator in (RmsNormalization(), Rotary()):
        OPERATORS.setdefault(operator.name, operator)
