"""Linear nodes with weights on a grid, as a quantizer hands them over."""

from __future__ import annotations

import math

import numpy as np

from attnc.ir import Graph, Node
from attnc.weights import WeightFormat
from harness import quantized, tensor_type

Spec = tuple[str, int, tuple[int, int, int], str]
"""Weights, group size, (rows, K, N), engine."""


def grid_params(format_: WeightFormat, n: int, k: int, rng: np.random.Generator, extreme: bool) -> dict[str, np.ndarray]:
    """Random weights over the whole grid; `extreme` ones have the largest magnitude and multipliers of 255."""
    groups = math.ceil(k / format_.group_size) if format_.group_size else 1
    planes = (format_.bits,) if format_.kind == "binary" else ()
    limit = 1 if planes else format_.limit
    lowest = -limit - (format_.kind == "integer" and format_.bits < 8)  # as in files that are quantized
    q = rng.integers(lowest, limit + 1, (*planes, n, k))
    if extreme or planes:
        q = np.where(rng.random(q.shape) < 0.5, lowest, limit)
    if extreme:
        q[..., 0, :], q[..., -1, :] = lowest, limit
    multiplier = rng.integers(1, 256, (*planes, n, groups)) if groups > 1 or planes else np.ones((n, 1), np.int64)
    if extreme and multiplier.max() > 1:
        multiplier[...] = 255
    peak = limit * math.sqrt(k) * multiplier.max() * max(1, len(planes))
    return {
        "weight_q": q.astype(np.int8),
        "weight_unit": rng.uniform(0.5, 1.0, n) / peak,
        "weight_multiplier": multiplier,
        "bias": rng.normal(size=n),
    }


def low_bit_graph(specs: list[Spec], seed: int = 0, extreme: bool = False, bits: int = 8, wide: bool = False) -> Graph:
    """Independent linear nodes; their outputs have `bits` bits, their inputs 8, or 16 where they are `wide`."""
    rng = np.random.default_rng(seed)
    graph, types = Graph("low_bit"), {}
    for i, (weights, group_size, (rows, k, n), engine) in enumerate(specs):
        x, y = f"x{i}", f"y{i}"
        graph.add_value(x, (rows, k))
        graph.add_value(y, (rows, n))
        graph.inputs.append(x)
        graph.outputs.append(y)
        params = grid_params(WeightFormat.parse(weights, group_size), n, k, rng, extreme)
        graph.nodes.append(Node(f"n{i}", "linear", [x], y, {"weights": weights, "group_size": group_size, "engine": engine}, params))
        types[x], types[y] = tensor_type(16, 8e-5) if wide else tensor_type(8, 0.02), tensor_type(bits, 0.05 if bits == 8 else 3e-4)
    return quantized(graph, types)
