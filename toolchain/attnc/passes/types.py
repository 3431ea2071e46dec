"""Which type every value gets: the widest that all its readers take, with a requantize node where they disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnc.arrays import Array
from attnc.config import Calibration
from attnc.errors import OverflowRiskError
from attnc.ir import Graph, Node, TensorType
from attnc.ops import operator
from attnc.quant.calibration import Statistics, smoothing, symmetric_scale


@dataclass(frozen=True)
class Requirement:
    """What a reader wants: at most `bits`, or exactly `type`."""

    bits: int
    type: TensorType | None = None
    centred: bool = False
    """Needs zero point 0."""

    @property
    def key(self) -> tuple[int, bytes, int]:
        """Equal for equal requirements."""
        if self.type is None:
            return (self.bits, b"", int(self.centred))
        return (self.bits, self.type.scale.tobytes(), self.type.zero_point)

    def met_by(self, own: Requirement) -> bool:
        """Whether a value that becomes `own` will do."""
        asymmetric = own.type is not None and own.type.zero_point != 0
        return self.key == own.key or (self.type is None and own.bits <= self.bits and not (self.centred and asymmetric))


def _requirement(node: Node, index: int, imposed: TensorType | None) -> Requirement:
    fixed = operator(node).fixed_operand_type(node, index)
    if fixed is not None:
        return Requirement(fixed.bits, fixed)
    centred = imposed is not None and imposed.zero_point != 0 and not operator(node).takes_zero_point(node, index)
    return Requirement(operator(node).operand_bits(node, index), None, centred)


def plan_types(graph: Graph, requantized: list[str] | None = None) -> dict[str, Requirement]:
    """Insert requantize nodes (and copies of constants) where readers of one value want different types; return what every
    value is to become. Requires a float graph; the result computes the same. `requantized` receives a line for every value of
    imposed type that had to be brought to another."""
    for node in graph.nodes:
        operator(node).prepare(node, {i: graph.constants[name] for i, name in enumerate(node.inputs) if name in graph.constants})
    plan: dict[str, Requirement] = {}
    for name in [*graph.inputs, *graph.constants]:
        _settle(graph, name, None, plan)
    for node in list(graph.nodes):
        _settle(graph, node.output, node, plan)
    if requantized is not None:
        requantized += [f"{node.inputs[0]} for {reader.name}" for node in graph.nodes for reader in graph.consumers(node.output)
                        if node.op == "requantize" and not node.params and graph.value(node.inputs[0]).imposed is not None
                        and graph.value(node.output).imposed is None]  # fmt: skip
    return plan


def _settle(graph: Graph, name: str, producer: Node | None, plan: dict[str, Requirement]) -> None:
    wanted: dict[tuple[int, bytes, int], tuple[Requirement, list[tuple[Node, int]]]] = {}
    for node, index, used in graph.uses():
        if used == name:
            need = _requirement(node, index, graph.value(name).imposed)
            wanted.setdefault(need.key, (need, []))[1].append((node, index))
    imposed = graph.value(name).imposed
    dictated = imposed if imposed is not None else operator(producer).fixed_output_type(producer, []) if producer else None
    if dictated is not None:
        own = Requirement(dictated.bits, dictated)
    elif len(wanted) == 1 and name not in graph.outputs:
        own = next(iter(wanted.values()))[0]
    else:
        own = Requirement(16 if producer is None else operator(producer).output_bits(producer))
    plan[name] = own
    position = graph.nodes.index(producer) + 1 if producer else 0
    for need, readers in wanted.values():
        if need.met_by(own):
            continue
        copy = graph.fresh(f"{name}.as{need.bits}")
        graph.add_value(copy, graph.value(name).shape)
        if name in graph.constants:
            graph.constants[copy] = graph.constants[name].copy()
        else:
            source, each = (producer.source, producer.each) if producer else ((), "")
            graph.nodes.insert(position, Node(copy, "requantize", [name], copy, source=source, each=each))
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
        before = [_requirement(node, index, graph.value(name).imposed) for index, name in enumerate(node.inputs)]
        operator(node).adapt(node, [float(statistics[name].peak.max(initial=0.0)) for name in node.inputs])
        for index, name in enumerate(node.inputs):
            if before[index].type is not None and plan[name].key == before[index].key:
                plan[name] = _requirement(node, index, graph.value(name).imposed)


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
    """Turn constants and parameters into integers. Requires types on all values. Raises `OverflowRiskError` where a node's output has a
    range far smaller than its operands could make of it, as a value that is 0 but for rounding of floats."""
    for name, array in graph.constants.items():
        readers = [(node, index) for node, index, used in graph.uses() if used == name]
        type_ = graph.type(name)
        graph.constants[name] = operator(readers[0][0]).quantize_operand(*readers[0], array, type_) if readers else type_.quantize(array)
    for node in graph.nodes:
        try:
            operator(node).quantize(node, [graph.type(name) for name in node.inputs], graph.type(node.output))
        except OverflowRiskError as error:
            where = "" if repr(node.name) in str(error) else f"node {node.name!r} ({node.op}): "
            step = f"{float(np.min(graph.type(node.output).scale)):.2g}"
            raise OverflowRiskError(f"{where}{error}; a step of its output, from calibration, is {step}") from error
