"""Hand-made graphs with a mixture of experts, quantized as the pipeline does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.frontend.builder import Builder
from attnc.frontend.mixture import Experts, Mixture, Router
from attnc.frontend.mixture_nodes import add_mixture
from attnc.golden import run_reference
from attnc.ir import Graph
from attnc.ops import verify
from attnc.passes.approximations import share_implementations
from attnc.passes.types import assign_types, plan_types, quantize_graph
from attnc.passes.weights import assign_weights
from attnc.quant.calibration import Observer
from attnc.weights import WeightFormat


def mixture(experts: int, width: int, hidden: int, seed: int = 0, gated: bool = False, activation: str = "gelu", **router: Any) -> Mixture:
    """Random experts; `router` are fields of `Router`."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> Array:
        found: Array = rng.normal(0, 1 / np.sqrt(shape[-1]), shape)
        return found

    made = Experts(
        up=weights(experts, hidden, width),
        down=weights(experts, width, hidden),
        activation=activation,
        gate=weights(experts, hidden, width) if gated else None,
        up_bias=weights(experts, hidden),
        down_bias=weights(experts, width),
    )
    return Mixture(Router(experts, **{"k": 2, **router}), made)


def mixture_graph(found: Mixture, tokens: int, width: int, logits: bool = True, residual: bool = False) -> Graph:
    """y = mixture(x), or x + that: float. With `logits` they are an input of their own, else a gate makes them of x."""
    builder = Builder("mixture")
    _add(builder, "", found, tokens, width, logits, residual)
    verify(builder.graph)
    return builder.graph


def mixtures_graph(several: list[tuple[Mixture, int]], width: int) -> Graph:
    """Side by side, each with so many tokens: inputs x0, logits0, x1, ..."""
    builder = Builder("mixtures")
    for number, (found, tokens) in enumerate(several):
        _add(builder, str(number), found, tokens, width, True, False)
    verify(builder.graph)
    return builder.graph


def _add(builder: Builder, suffix: str, found: Mixture, tokens: int, width: int, logits: bool, residual: bool) -> None:
    graph, count, x, name = builder.graph, found.router.experts, f"x{suffix}", f"logits{suffix}"
    for value, channels in ((x, width), (name, count)):
        if value == x or logits:
            graph.add_value(value, (tokens, channels))
            graph.inputs.append(value)
    if not logits:
        weight = np.random.default_rng(1).normal(0, 1 / np.sqrt(width), (count, width))
        name = builder.node("linear", [x], (tokens, count), name, ("gate",), {}, {"weight": weight, "bias": np.zeros(count)}).name
    made = add_mixture(builder, found, x, name, ("mixture",)).name
    graph.outputs.append(builder.node("add", [x, made], (tokens, width), f"y{suffix}", ("residual",)).name if residual else made)


def feeds_of(graph: Graph, samples: int, seed: int = 0) -> dict[str, Array]:
    """Random real inputs."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 1, (samples, *graph.value(name).shape)) for name in graph.inputs}


def quantized(graph: Graph, feeds: dict[str, Array], formats: Mapping[str, WeightFormat] | None = None) -> Graph:
    """In place, calibrated on `feeds`; weights are int8, or of the format in `formats` whose name the input of their node begins with."""
    plan = plan_types(graph)
    observer = Observer(next(iter(feeds.values())).shape[0])
    run_reference(graph, feeds, observer)
    for name, array in graph.constants.items():
        observer.constant(name, array)
    assign_types(graph, plan, observer.found, "minmax")
    if formats is not None:
        assign_weights(graph, lambda node: (next(one for name, one in formats.items() if node.inputs[0].startswith(name)), "mse"), {})
    share_implementations(graph)
    quantize_graph(graph)
    verify(graph)
    return graph


def integers(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    """Real inputs as those of a quantized graph."""
    return {name: graph.type(name).quantize(array) for name, array in feeds.items()}
