"""A mixture of experts in the device's graph."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from attnc.frontend.context import Context
from attnc.frontend.layout import identity, last_axis
from attnc.frontend.mixture_nodes import add_mixture
from attnc.frontend.values import Value, View, merge


def mixture_of_experts(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """x [.., d] and logits [.., E] to [.., d_out]: a row for each token."""
    found = []
    for value in args:
        assert value is not None
        view = ctx.on_device(ctx.view(value))
        found.append((ctx.builder.as_matrix(view, last_axis(len(view.shape)))[0], view))
    (x, tokens), (logits, scores) = found
    if ctx.quantized is not None:
        inside = set(ctx.simplified.mixed[node.name])
        pairs = (one.name for one in ctx.simplified.model.graph.node if one.op_type == "QuantizeLinear" and one.name in inside)
        ctx.quantized.passed.update(dict.fromkeys(pairs, "inside a mixture of experts: the device keeps it in its own type"))
    src = merge(tokens.src, scores.src, tuple(ctx.simplified.mixed[node.name]))
    base = add_mixture(ctx.builder, ctx.simplified.mixtures[node.name], x, logits, src)
    return [View(base, identity((*tokens.shape[:-1], base.channels)))]
