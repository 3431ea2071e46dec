"""What stays on the host: the outputs' way back, the nodes before and after the device, and where each node went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from attnc.errors import ModelError, UnsupportedError
from attnc.frontend.interpreter import Interpreter
from attnc.frontend.values import (
    Array,
    Const,
    Failed,
    Patchwork,
    Poly,
    ScoreRows,
    Scores,
    Test,
    TokenWeights,
    TurnedScores,
    Unary,
    View,
    WeighedTokens,
    on_host,
)
from attnc.model import Fetch, Placement
from attnc.tensors import tensor_of

LEADING = "no product or normalisation comes before it"


@dataclass
class Ending:
    """How the outputs are made: tensors fetched from the device, and nodes after it (name: reason)."""

    fetches: list[Fetch] = field(default_factory=list)
    trailing: dict[str, str] = field(default_factory=dict)


def trace_outputs(interpreter: Interpreter) -> Ending:
    """Fetch the outputs, or what the host needs to compute them."""
    ending = Ending()
    outputs = set(interpreter.simplified.outputs)
    stack = [(name, "") for name in reversed(interpreter.simplified.outputs)]
    seen: set[str] = set()
    while stack:
        name, why = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        found = _fetchable(interpreter, name)
        if isinstance(found, View):
            ending.fetches.append(Fetch(name, found.base.name, found.shape, np.ascontiguousarray(found.idx).ravel()))
            continue
        reason = found or why
        if found is None and name not in outputs:
            continue  # an input of the model, a constant, or a tensor that the leading nodes make
        node = interpreter.producer.get(name)
        if node is None:
            _refuse_output(name)
        assert node is not None
        ending.trailing[node.name] = reason or "an output of the model that the host computes"
        if found is None:
            stack += [
                (operand, reason) for operand in reversed(node.input) if operand in interpreter.producer and _plain(interpreter, operand)
            ]
        else:
            stack += [(operand, reason) for operand in reversed(node.input) if operand]
    return ending


def _plain(interpreter: Interpreter, name: str) -> bool:
    """Whether a tensor is an output of the model as well, so that it must be made after the device."""
    return name in interpreter.simplified.outputs


def refuse_passed_inputs(model: ModelProto) -> None:
    """An output of the model must not be one of its inputs: the optimizer renames the input then."""
    inputs = {value.name for value in model.graph.input}
    for output in model.graph.output:
        if output.name in inputs:
            _refuse_output(output.name)


def _refuse_output(name: str) -> None:
    raise ModelError(f"output {name!r} of the model is one of its inputs or a constant: there is nothing to compute")


def _fetchable(interpreter: Interpreter, name: str) -> View | str | None:
    """A view on the device, None for what the host has without it, or the reason why its node must run after the device."""
    value = interpreter.values[name]
    if on_host(value):
        return None
    try:
        made = interpreter.ctx.concrete(value)
        if isinstance(made, Const):
            raise UnsupportedError(name, "output", "it does not depend on the inputs")
        if not _channel_concat(interpreter, made):
            return made
        reason = "tensors are concatenated along channels"
    except UnsupportedError as error:
        node = interpreter.producer[name]
        heavy = interpreter.heavy(node) and not isinstance(value, Scores)  # weights of attention as an output are the host's
        if heavy and not interpreter.collect:
            raise
        if heavy:
            interpreter.note(error)
        reason = error.reason
    assert isinstance(value, (Unary, Poly, Scores, ScoreRows, TurnedScores, TokenWeights, WeighedTokens, Patchwork, Test, Failed, View))
    return reason


def _channel_concat(interpreter: Interpreter, view: View) -> bool:
    producer = interpreter.ctx.builder.graph.producer(view.base.name)
    return producer is not None and producer.op == "concat_columns"


def host_models(
    interpreter: Interpreter, ending: Ending, fed: Iterable[str]
) -> tuple[ModelProto | None, ModelProto | None, dict[str, NodeProto]]:
    """(leading, trailing, leading nodes by name); `fed` are the tensors that the device reads."""
    inputs = [value.name for value in interpreter.simplified.model.graph.input]
    nodes = [*interpreter.nodes, *interpreter.ctx.added]
    producer = {name: node for node in nodes for name in node.output if name}
    after = [node for node in nodes if node.name in ending.trailing]
    made_after = {name for node in after for name in node.output if name}
    fetched = [fetch.tensor for fetch in ending.fetches]
    reads = [name for node in after for name in node.input if name]
    wanted = [name for name in reads if name not in made_after and name not in fetched and not _constant(interpreter, name)]
    needed = dict.fromkeys([*fed, *wanted])
    before = _closure(interpreter, producer, inputs, needed)
    order = {id(node): index for index, node in enumerate(nodes)}
    before.sort(key=lambda node: order[id(node)])
    outputs = [name for name in needed if name not in inputs]
    leading = _model(interpreter, "leading", before, inputs, outputs) if before else None
    ends = [name for name in interpreter.simplified.outputs if name in made_after]
    available = [*fetched, *needed, *inputs]
    trailing = _model(interpreter, "trailing", after, list(dict.fromkeys(available)), ends) if after else None
    return leading, trailing, {node.name: node for node in before}


def _constant(interpreter: Interpreter, name: str) -> bool:
    return name in interpreter.ctx.added_constants or isinstance(interpreter.values.get(name), Const)


def _closure(interpreter: Interpreter, producer: dict[str, NodeProto], inputs: Sequence[str], needed: Iterable[str]) -> list[NodeProto]:
    """The nodes that make `needed` out of inputs and constants."""
    stack, found, seen = list(needed), [], set()
    while stack:
        name = stack.pop()
        if name in seen or name in inputs or _constant(interpreter, name):
            continue
        seen.add(name)
        found.append(producer[name])
        stack += [operand for operand in producer[name].input if operand]
    unique = {id(node): node for node in found}
    return list(unique.values())


def _model(interpreter: Interpreter, name: str, nodes: list[NodeProto], available: Sequence[str], outputs: Sequence[str]) -> ModelProto:
    """A model of its own: the nodes with the constants that they read."""
    reads = dict.fromkeys(operand for node in nodes for operand in node.input if operand)
    made = {output for node in nodes for output in node.output}
    constants = [tensor_of(array, key) for key in reads if (array := _array(interpreter, key)) is not None and key not in made]
    known = {tensor.name for tensor in constants}
    inputs = [_info(interpreter, key) for key in available if key in reads and key not in known and key not in made]
    graph = helper.make_graph(nodes, name, inputs, [_info(interpreter, key) for key in outputs], constants)
    opset = [helper.make_opsetid("", interpreter.simplified.opset)]
    return helper.make_model(
        graph, opset_imports=opset, ir_version=min(interpreter.simplified.model.ir_version, onnx.IR_VERSION), producer_name="attnc"
    )


def _array(interpreter: Interpreter, name: str) -> Array | None:
    if name in interpreter.ctx.added_constants:
        return interpreter.ctx.added_constants[name]
    value = interpreter.values.get(name)
    return value.array if isinstance(value, Const) else None


def _info(interpreter: Interpreter, name: str) -> onnx.ValueInfoProto:
    info = interpreter.ctx.info.get(name)
    shape = info.shape if info is not None else None
    value = interpreter.values.get(name)
    if shape is None and value is not None and getattr(value, "shape", None) is not None:
        shape = value.shape  # type: ignore[union-attr]
    elem_type = info.elem_type if info is not None and info.elem_type else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, elem_type, shape)


def place(interpreter: Interpreter, leading: dict[str, NodeProto], ending: Ending) -> list[Placement]:
    """Where each node of the original model went."""
    nodes = {node.name: node for node in interpreter.nodes}
    original = dict(interpreter.simplified.original)
    placements = []
    for name, operator in [*original.items(), *((n, node.op_type) for n, node in nodes.items() if n not in original)]:
        placements.append(_placement(interpreter, nodes, leading, ending, name, operator))
    for name, node in leading.items():
        if name not in nodes:
            placements.append(Placement(name, node.op_type, "host", "added to prepare a mask or an operand for the device"))
    return placements


def _placement(
    interpreter: Interpreter, nodes: dict[str, NodeProto], leading: dict[str, NodeProto], ending: Ending, name: str, operator: str
) -> Placement:
    if name in interpreter.unsupported:
        return Placement(name, operator, "unsupported", interpreter.unsupported[name].reason)
    if name in ending.trailing:
        return Placement(name, operator, "host", ending.trailing[name])
    if name in leading:
        return Placement(name, operator, "host", LEADING)
    node = nodes.get(name)
    if node is None and any(name in names for names in interpreter.simplified.mixed.values()):
        return Placement(name, operator, "device")
    if node is None:
        return Placement(name, operator, "folded", "replaced by a constant or by its neighbours")
    if all(isinstance(interpreter.values.get(output), Const) for output in node.output if output):
        return Placement(name, operator, "folded", "replaced by a constant or by its neighbours")
    return Placement(name, operator, "device")
