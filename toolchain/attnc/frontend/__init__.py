"""ONNX in: load, check, simplify, and split a model between the host and the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from attnc.errors import AttncError, ModelError, UnsupportedError
from attnc.frontend import imposed
from attnc.frontend.advice import advised
from attnc.frontend.choices import spread_choices
from attnc.frontend.cleanup import drop_unused, fold_constants, unique_names
from attnc.frontend.columns import ColumnSelections
from attnc.frontend.fused import spell_out
from attnc.frontend.fused.integers import split_integers
from attnc.frontend.hostside import Ending, host_models, place, refuse_passed_inputs, trace_outputs
from attnc.frontend.interpreter import Interpreter
from attnc.frontend.lengths import check_lengths
from attnc.frontend.load import load_model
from attnc.frontend.mixtures import find_mixtures, made_sparse
from attnc.frontend.precision import to_float32
from attnc.frontend.quantized import lower_quantization
from attnc.frontend.quantized_model import Quantized
from attnc.frontend.rotary import find_rotations
from attnc.frontend.sequence import bind_sequence
from attnc.frontend.shapes import Pins, pin_shapes
from attnc.frontend.simplify import Simplified, inline_functions, name_nodes, simplify
from attnc.frontend.softmax import find_softmax
from attnc.frontend.values import Const, Opaque
from attnc.ir import Graph
from attnc.model import Feed, Model, Placement, TensorSpec
from attnc.ops import OPERATORS, operator

__all__ = ["import_model", "inspect_model", "load_float32"]


def import_model(
    path: Path, shapes: Pins | None = None, strict: bool = False, samples: Pins | None = None, length: int | None = None
) -> Model:
    """Read an ONNX model and split it between host and device.

    `shapes` fixes dynamic dimensions by input name; of those that are left, the arrays of samples
    with shapes `samples` say what they are. With `strict`, a model of which anything would run on the host is refused. With `length`, a
    decoder becomes a function of so many tokens.
    Raises `ModelError`, `ConfigError` or `UnsupportedError`, which names all nodes that cannot be compiled, as `inspect_model` does.
    """
    try:
        return _import_model(Path(path), shapes, strict, samples, length)
    except UnsupportedError as first:
        raise _with_others(first, Path(path), shapes, samples, length) from first


def _with_others(first: UnsupportedError, path: Path, shapes: Pins | None, samples: Pins | None, length: int | None) -> UnsupportedError:
    """The error with all other nodes that cannot be compiled, and what to do about each."""
    try:
        places = inspect_model(path, shapes, samples, length)
        found = [place for place in places if place.where == "unsupported" and place.node != first.node]
    except AttncError:
        found = []
    others = [*first.others, *(UnsupportedError(place.node, place.operator, place.reason) for place in found)]
    return UnsupportedError(first.node, first.operator, advised(first.operator, first.reason), others)


def _import_model(path: Path, shapes: Pins | None, strict: bool, samples: Pins | None, length: int | None) -> Model:
    simplified, specs, declared, quantized = _prepare(path, shapes or {}, samples, length)
    interpreter = Interpreter(simplified, path.stem)
    interpreter.ctx.quantized = quantized
    interpreter.run()
    ending = trace_outputs(interpreter)
    graph = interpreter.ctx.builder.graph
    feeds = _finish_graph(interpreter, ending)
    if not graph.nodes or not graph.inputs:
        raise ModelError(f"{path}: nothing of this model would run on the device: needed a product with constant weights, attention or "
                         "layer normalization between its inputs and its outputs")  # fmt: skip
    leading, trailing, before = host_models(interpreter, ending, [feed.tensor for feed in feeds])
    if strict:
        _refuse_host(interpreter, before, ending)
    if quantized is not None:
        imposed.finish(graph, quantized)
    graph.verify()
    outputs = _outputs(interpreter, specs, declared)
    placements = place(interpreter, before, ending)
    sparse = made_sparse(simplified)
    return Model(graph, specs, outputs, feeds, ending.fetches, leading, trailing, placements, sparse, quantized)


def _check_numbers(graph: Graph) -> None:
    """Weights, gains and other constants are finite numbers; only a mask may be minus infinity."""
    for node in graph.nodes:
        named = list(node.params.items())
        for index, name in enumerate(node.inputs):
            if name in graph.constants:
                array = graph.constants[name]
                masks = node.op in OPERATORS and operator(node).excludes(node, index)
                named.append(("constant operand", np.where(np.isneginf(array), 0.0, array) if masks else array))
        for name, array in named:
            bad = np.argwhere(~np.isfinite(array))
            if bad.size:
                where = f"node {node.source[-1] if node.source else node.name!r} ({node.op})"
                raise ModelError(f"{where}: its {name} holds NaN or infinity, the first at {bad[0].tolist()}")


def load_float32(path: Path, length: int | None = None) -> onnx.ModelProto:
    """The model as its file has it, but for half and double precision, which become float32: what everything is measured against. With
    `length`, a decoder as a function of so many tokens."""
    model = load_model(path)
    if length:
        bind_sequence(model, length, str(path))
    to_float32(model)
    return model


def inspect_model(path: Path, shapes: Pins | None = None, samples: Pins | None = None, length: int | None = None) -> list[Placement]:
    """Where each node would run; what cannot be compiled has `where` "unsupported" and the reason.

    Raises for models that are broken or whose shapes are not known, and not for unsupported nodes.
    """
    simplified, specs, declared, quantized = _prepare(Path(path), shapes or {}, samples, length)
    interpreter = Interpreter(simplified, Path(path).stem, collect=True)
    interpreter.ctx.quantized = quantized
    interpreter.run()
    ending = trace_outputs(interpreter)
    try:
        feeds = _finish_graph(interpreter, ending)
        if not interpreter.unsupported:  # what comes after an unsupported node may have no shape
            _outputs(interpreter, specs, declared)
    except UnsupportedError as error:
        interpreter.note(error)
        feeds = interpreter.ctx.builder.feeds
    try:
        _, _, before = host_models(interpreter, ending, [feed.tensor for feed in feeds])
    except (AttncError, KeyError):
        before = {}
    found = place(interpreter, before, ending)
    return [replace(one, reason=advised(one.operator, one.reason)) if one.where == "unsupported" else one for one in found]


def _prepare(
    path: Path, pins: Pins, samples: Pins | None = None, length: int | None = None
) -> tuple[Simplified, list[TensorSpec], dict[str, bool], Quantized | None]:
    """Load, make static, simplify; also whether each output declares a fixed first dimension, and what a quantized model says."""
    model = inline_functions(load_model(path), str(path))
    if length:
        check_lengths(model, length, str(path))
        bind_sequence(model, length, str(path))
    refuse_passed_inputs(model)
    name_nodes(model)
    declared = {output.name: _fixed_first(output) for output in model.graph.output}
    to_float32(model)
    split_integers(model)
    quantized = lower_quantization(model)
    specs = pin_shapes(model, pins, str(path), samples)
    model, refused = spell_out(model, str(path))
    simplified = simplify(model, str(path))
    simplified.refused = refused
    simplified = spread_choices(simplified, str(path))
    find_softmax(simplified)
    find_mixtures(simplified)
    return simplified, specs, declared, quantized


def _fixed_first(output: onnx.ValueInfoProto) -> bool:
    if output.type.WhichOneof("value") != "tensor_type":
        return False
    tensor = output.type.tensor_type
    return tensor.HasField("shape") and len(tensor.shape.dim) > 0 and tensor.shape.dim[0].WhichOneof("value") == "dim_value"


def _finish_graph(interpreter: Interpreter, ending: Ending) -> list[Feed]:
    """Outputs, channel selections, folding; returns the feeds that are left."""
    graph, builder = interpreter.ctx.builder.graph, interpreter.ctx.builder
    graph.outputs = list(dict.fromkeys(fetch.value for fetch in ending.fetches))
    drop_unused(graph)
    _check_numbers(graph)
    fold_constants(graph)  # gains of a normalisation before it are no part of a rotation
    left_out = find_rotations(graph)
    if interpreter.ctx.quantized is not None:
        pairs = {node.name for node in interpreter.nodes if node.op_type == "QuantizeLinear"}
        interpreter.ctx.quantized.passed.update((name, "a step of a rotation") for name in left_out if name in pairs)
    drop_unused(graph)
    feeds = ColumnSelections(graph, [feed for feed in builder.feeds if feed.value in graph.inputs]).run()
    drop_unused(graph)
    fold_constants(graph)
    drop_unused(graph)
    unique_names(graph)
    return [feed for feed in feeds if feed.value in graph.inputs]


def _refuse_host(interpreter: Interpreter, before: dict[str, onnx.NodeProto], ending: Ending) -> None:
    """--strict."""
    operators = {node.name: node.op_type for node in interpreter.nodes}
    refused = [UnsupportedError(name, node.op_type, "it would run on the host before the device, which --strict refuses")
               for name, node in before.items()]  # fmt: skip
    refused += [UnsupportedError(name, operators[name], f"it would run on the host after the device, which --strict refuses: {reason}")
                for name, reason in ending.trailing.items()]  # fmt: skip
    if refused:
        raise UnsupportedError(refused[0].node, refused[0].operator, refused[0].reason, refused[1:])


def _outputs(interpreter: Interpreter, specs: list[TensorSpec], declared: dict[str, bool]) -> list[TensorSpec]:
    """The outputs of the model, for one sample."""
    batched = any(spec.batched for spec in specs)
    outputs = []
    for name in interpreter.simplified.outputs:
        value, info = interpreter.values[name], interpreter.ctx.info.get(name)
        shape = info.shape if info is not None and info.shape is not None else None
        if shape is None and not isinstance(value, (Opaque,)):
            shape = value.shape
        if shape is None:
            maker = next(node for node in interpreter.nodes if name in node.output)
            raise UnsupportedError(maker.name, maker.op_type, f"the shape of output {name!r} depends on data, or cannot be inferred")
        elem_type = info.elem_type if info is not None and info.elem_type else onnx.TensorProto.FLOAT
        if isinstance(value, Const):
            raise ModelError(f"output {name!r} of the model is constant: it does not depend on the inputs")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
        is_batched = batched and not declared[name] and len(shape) > 0 and shape[0] == 1
        outputs.append(TensorSpec(name, dtype, tuple(shape), is_batched))
    return outputs
