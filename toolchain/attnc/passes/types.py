"""Which type every value gets: the widest that all its readers take, with a requantize node where they disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnc.config import Calibration
from attnc.ir import Graph, Node, TensorType
from attnc.ops import operator
from attnc.ops.base import Array
from attnc.quant.calibration import Statistics, smoothing, symmetric_scale


@dataclass(frozen=True)
class Requirement:
    """What a reader wants: at most `bits`, or exactly `type`."""

    bits: int
    type: TensorType | None = None

    @property
    def key(self) -> tuple[int, bytes, int]:
        """Equal for equal requirements."""
        return (self.bits, b"", 0) if self.type is None else (self.bits, self.type.scale.tobytes(), self.type.zero_point)


def _requirement(node: Node, index: int) -> Requirement:
    fixed = operator(node).fixed_operand_type(node, index)
    return Requirement(operator(node).operand_bits(node, index) if fixed is None else fixed.bits, fixed)


def plan_types(graph: Graph) -> dict[str, Requirement]:
    """Insert requantize nodes (and copies of constants) where readers of one value want different types; return what every
    value is to become. Requires a float graph; the result computes the same."""
    for node in graph.nodes:
        operator(node).prepare(node, {i: graph.constants[name] for i, name in enumerate(node.inputs) if name in graph.constants})
    plan: dict[str, Requirement] = {}
    for name in [*graph.inputs, *graph.constants]:
        _settle(graph, name, None, plan)
    for node in list(graph.nodes):
        _settle(graph, node.output, node, plan)
    return plan


def _settle(graph: Graph, name: str, producer: Node | None, plan: dict[str, Requirement]) -> None:
    wanted: dict[tuple[int, bytes, int], tuple[Requirement, list[tuple[Node, int]]]] = {}
    for node, index, used in graph.uses():
        if used == name:
            need = _requirement(node, index)
            wanted.setdefault(need.key, (need, []))[1].append((node, index))
    dictated = operator(producer).fixed_output_type(producer, []) if producer else None
    if dictated is not None:
        own = Requirement(dictated.bits, dictated)
    elif len(wanted) == 1 and name not in graph.outputs:
        own = next(iter(wanted.values()))[0]
    else:
        own = Requirement(16 if producer is None else operator(producer).output_bits(producer))
    plan[name] = own
    position = graph.nodes.index(producer) + 1 if producer else 0
    for need, readers in wanted.values():
        if need.key == own.key or (need.type is None and own.bits <= need.bits):
            continue
        copy = graph.fresh(f"{name}.as{need.bits}")
        graph.add_value(copy, graph.value(name).shape)
        if name in graph.constants:
            graph.constants[copy] = graph.constants[name].copy()
        else:
            graph.nodes.insert(position, Node(copy, "requantize", [name], copy, source=producer.source if producer else ()))
        plan[copy] = need
        for node, index in readers:
            node.inputs[index] = copy


def _smoothing_factor(graph: Graph, name: str, stats: Statistics) -> Array | None:
    """Per-channel factor of a value whose producer can make it and whose readers all absorb it into their weights, none of which
    lie on a grid already (a factor would move them off it)."""
    producer = graph.producer(name)
    if any(node.attrs.get("lossless") for node in graph.consumers(name)):
        return None
    if producer is None or not operator(producer).per_channel_output or name in graph.outputs:
        return None
    weights = [operator(node).channel_weights(node, node.inputs.index(name)) for node in graph.consumers(name)]
    found = [w for w in weights if w is not None]
    return smoothing(stats, np.max(found, axis=0)) if found and len(found) == len(weights) else None


def _adapt(graph: Graph, plan: dict[str, Requirement], statistics: dict[str, Statistics]) -> None:
    """Let operators fit the types that they dictate to what calibration saw."""
    for node in graph.nodes:
        before = [_requirement(node, index) for index in range(len(node.inputs))]
        operator(node).adapt(node, [float(statistics[name].peak.max(initial=0.0)) for name in node.inputs])
        for index, name in enumerate(node.inputs):
            if before[index].type is not None and plan[name].key == before[index].key:
                plan[name] = _requirement(node, index)


def assign_types(graph: Graph, plan: dict[str, Requirement], statistics: dict[str, Statistics], method: Calibration) -> None:
    """Give every value its type. 8-bit values between a normalisation and linear layers are smoothed: one scale per channel."""
    _adapt(graph, plan, statistics)
    for name, value in graph.values.items():
        need = plan[name]
        if need.type is not None:
            value.type = need.type
            continue
        stats = statistics[name]
        factor = _smoothing_factor(graph, name, stats) if need.bits <= 8 else None
        scale = symmetric_scale(stats, need.bits, method, factor)
        value.type = TensorType(need.bits, True, np.asarray(scale if factor is None else scale * factor, np.float64))


def quantize_graph(graph: Graph) -> None:
    """Turn constants and parameters into integers. Requires types on all values."""
    for name, array in graph.constants.items():
        readers = [(node, index) for node, index, used in graph.uses() if used == name]
        type_ = graph.type(name)
        graph.constants[name] = operator(readers[0][0]).quantize_operand(*readers[0], array, type_) if readers else type_.quantize(array)
    for node in graph.nodes:
        operator(node).quantize(node, [graph.type(name) for name in node.inputs], graph.type(node.output))
