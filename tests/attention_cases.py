"""Graphs of independent attention nodes, and feeds with corners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.golden import run_reference
from attnc.ir import Graph, Node
from attnc.ops import operator
from attnc.ops.attention_bias import BIAS_EXCLUDED, BIAS_LIMIT, BIAS_UNIFORM, bias_type
from harness import quantized, random_feeds, tensor_type


@dataclass(frozen=True)
class Case:
    """One attention node."""

    queries: int
    keys: int
    heads: int = 1
    kv_heads: int = 1
    head: int = 16
    value: int = 16
    groups: int = 1
    bias_heads: int = 0
    bias_rows: int = 0
    shift: int = 0
    bits: int = 8
    qk_scale: float = 0.05
    v_scale: float = 0.02
    y_scale: float = 0.01
    scale: float = 0.25
    wide: tuple[int, ...] = ()
    """Operands of 16 bits; their scales are those of bytes, 256 times finer."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Array] = field(default_factory=dict)


def build(cases: list[Case]) -> Graph:
    """A graph of independent attention nodes; biases are inputs."""
    graph, types = Graph("attention"), {}
    for i, c in enumerate(cases):
        names = [f"{name}{i}" for name in "qkv"]
        shapes = [
            (c.groups * c.queries, c.heads * c.head),
            (c.groups * c.keys, c.kv_heads * c.head),
            (c.groups * c.keys, c.kv_heads * c.value),
        ]
        attrs = {"num_heads": c.heads, "num_kv_heads": c.kv_heads, "groups": c.groups, "scale": c.scale, **c.attrs}
        attrs["wide_operands"] = c.wide
        for index, (name, scale) in enumerate(zip(names, (c.qk_scale, c.qk_scale, c.v_scale), strict=True)):
            types[name] = tensor_type(16, scale / 256) if index in c.wide else tensor_type(8, scale)
        if c.bias_heads:
            names.append(f"b{i}")
            shapes.append((c.bias_heads * c.bias_rows, c.keys))
            attrs |= {"bias_heads": c.bias_heads, "bias_rows": c.bias_rows, "bias_shift": c.shift}
            types[f"b{i}"] = bias_type(c.shift)
        for name, shape in zip(names, shapes, strict=True):
            graph.add_value(name, shape)
        graph.inputs += names
        graph.add_value(f"y{i}", (c.groups * c.queries, c.heads * c.value))
        graph.outputs.append(f"y{i}")
        types[f"y{i}"] = tensor_type(c.bits, c.y_scale)
        graph.nodes.append(Node(f"n{i}", "attention", names, f"y{i}", attrs, dict(c.params)))
    return quantized(graph, types)


def feeds_of(graph: Graph, samples: int, seed: int = 0) -> dict[str, Array]:
    """Random integers with corners; biases moderate, with excluded keys, whole rows of them, saturated values, scores that do not count."""
    feeds = random_feeds(graph, samples, seed)
    rng = np.random.default_rng(seed + 1)
    for name in graph.inputs:
        if name.startswith("b"):
            shape = feeds[name].shape
            bias = rng.integers(-8000, 8001, shape)
            bias = np.where(rng.random(shape) < 0.3, BIAS_EXCLUDED, bias)
            bias = np.where(rng.random(shape) < 0.05, rng.choice([BIAS_UNIFORM, -BIAS_LIMIT, BIAS_LIMIT + 1], shape), bias)
            bias[rng.random(shape[:2]) < 0.2] = BIAS_EXCLUDED
            bias[-1, 0] = BIAS_EXCLUDED
            feeds[name] = bias.astype(np.int16)
    return feeds


def float_attention(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    """The float operators on what the integers stand for."""
    readers = {name: (node, index) for node, index, name in graph.uses()}
    return run_reference(
        graph,
        {name: operator(readers[name][0]).dequantize_operand(*readers[name], feeds[name], graph.type(name)) for name in graph.inputs},
    )
