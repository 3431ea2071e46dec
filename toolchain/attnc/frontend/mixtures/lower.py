"""A mixture of experts in the device's graph."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from attnc.frontend.context import Context
from attnc.frontend.values import Value


def mixture_of_experts(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """x [.., d] and logits [.., E] to [.., d_out]: a row for each token."""
    ctx.fail(node, "mixtures of experts are read, but not on the device yet")
