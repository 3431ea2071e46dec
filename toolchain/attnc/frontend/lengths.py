"""Decoders whose tables follow from how long a sequence is: rotary embeddings by dynamic NTK turn all tokens by other angles from each
length to the next, those of LongRoPE beyond a length that the file knows.

A cache keeps keys as they were turned when their token came, so such a decoder is compiled for lengths at which its tables begin alike,
and refused beyond. (`transformers` and onnxruntime-genai work on all tokens again where LongRoPE changes; with dynamic NTK keys of
`transformers` stay as they were, and what it says depends on where the prompt ended.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from attnc.arrays import Array
from attnc.errors import AttncError, UnsupportedError
from attnc.frontend.interpreter import Interpreter, subgraphs
from attnc.frontend.load import ONNX_DOMAINS, all_nodes, live_nodes
from attnc.frontend.precision import OTHER_FLOATS, to_float32
from attnc.frontend.sequence import bind_sequence
from attnc.frontend.simplify import Simplified, TensorInfo, infer, name_nodes, simplify
from attnc.frontend.values import Const
from attnc.tensors import array_of

log = logging.getLogger(__name__)

LEAST = 2
"""Of one token some axes look like others."""
SMALL = 1024
"""Constants up to which inference looks at the numbers."""
NEAR = 1e-6
"""Of the largest number of a table: how far float32 may be off."""


def check_lengths(model: ModelProto, length: int, path: str) -> None:
    """Refuse what gives the first tokens of a sequence of `length` other numbers than those of a shorter one. `model` is as its file has
    it, and stays so."""
    found: dict[int, dict[str, Array]] = {}

    def tables(tokens: int) -> dict[str, Array]:
        if tokens not in found:
            found[tokens] = _tables(model, tokens, path)
        return found[tokens]

    def changed(tokens: int) -> str | None:
        shorter = (tables(each) for each in (LEAST, max(tokens // 2, LEAST)) if each < tokens)
        return next(filter(None, (_changed(each, tables(tokens)) for each in shorter)), None)

    name = changed(length)
    if name is None:
        return
    fits, beyond = LEAST, length
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        fits, beyond = (fits, middle) if changed(middle) else (middle, beyond)
    maker = next(node for node in model.graph.node if name in node.output)
    reason = (
        f"what it gives for the first tokens is another thing where a sequence has more than {fits} (as dynamic NTK and LongRoPE have it), "
        f"and keys in caches stay as they are: needed --max-length {fits} or less, found {length}"
    )
    raise UnsupportedError(maker.name or maker.output[0], maker.op_type, reason)


def _changed(shorter: Mapping[str, Array], longer: Mapping[str, Array]) -> str | None:
    """The first table that does not begin as a shorter one. What has a number for each key on its last axis is a mask, or a bias by
    distance, which may count from the last key: no table."""
    for name, array in shorter.items():
        other = longer.get(name)
        if other is None or other.ndim != array.ndim or other.shape[-1:] != array.shape[-1:]:
            continue
        common = tuple(slice(min(pair)) for pair in zip(array.shape, other.shape, strict=True))
        a, b = array[common], other[common]
        if not np.allclose(a, b, rtol=0, atol=NEAR * float(np.abs(b[np.isfinite(b)]).max(initial=0.0)), equal_nan=True):
            return name
    return None


def _tables(model: ModelProto, length: int, path: str) -> dict[str, Array]:
    """Numbers that follow from the length alone and that go into what follows from tokens, by their names in the file."""
    bound = _without_weights(model)
    try:
        bind_sequence(bound, length, path)
        tokens = bound.graph.input[0]
        tokens.type.tensor_type.shape.dim[0].dim_value = 1
        to_float32(bound)
        own = {tensor.name: tensor for tensor in model.graph.initializer}
        given = {tensor.name for tensor in bound.graph.initializer} - {*own}
        return _computed(bound, _told_apart(bound.graph, tokens.name, given, infer(bound, path)), own, path)
    except AttncError as error:  # the compiler itself says what is wrong with a model
        log.debug("tables of %d tokens cannot be told: %s", length, error)
        return {}


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy whose large constants have no numbers."""
    made = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.graph.name = model.graph.name
    for field in ("node", "input", "output"):
        getattr(made.graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        type_ = TensorProto.FLOAT if tensor.data_type in OTHER_FLOATS else tensor.data_type
        large = math.prod(tensor.dims) > SMALL
        made.graph.initializer.append(TensorProto(name=tensor.name, data_type=type_, dims=tensor.dims) if large else tensor)
    return made


def _told_apart(graph: GraphProto, tokens: str, given: set[str], info: Mapping[str, TensorInfo]) -> list[str]:
    """The names of floats that follow from the length and from no number in `tokens`, and that nodes read whose results do. `given`, masks
    and positions, follow from the length. So do shapes; those of what follows from tokens become constants."""
    behind, ahead, tables, kept = {tokens}, {*given}, dict[str, None](), list[NodeProto]()
    for node in graph.node:
        reads = dict.fromkeys(name for inner in all_nodes([node]) for name in inner.input if name)
        found = info.get(node.input[0]) if node.op_type in ("Shape", "Size") and node.input[0] in behind else None
        if found is not None and found.shape is not None:
            graph.initializer.append(numpy_helper.from_array(_shape(node, found.shape), node.output[0]))
            ahead.add(node.output[0])
            continue
        kept.append(NodeProto.FromString(node.SerializeToString()))
        if not behind.isdisjoint(reads):
            behind.update(node.output)
            own = [name for name in reads if name in ahead - given and name in info and info[name].elem_type == TensorProto.FLOAT]
            tables |= dict.fromkeys(own)
        elif not ahead.isdisjoint(reads):
            ahead.update(node.output)
    del graph.node[:]
    graph.node.extend(kept)
    return [*tables]


def _shape(node: NodeProto, shape: Sequence[int]) -> Array:
    """What Shape or Size gives."""
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(math.prod(shape) if node.op_type == "Size" else shape[ends.get("start") : ends.get("end")], np.int64)


def _computed(bound: ModelProto, names: Iterable[str], own: Mapping[str, TensorProto], path: str) -> dict[str, Array]:
    """What nodes give that follow from constants, which are `own` of the file or bound."""
    model = ModelProto(ir_version=bound.ir_version, opset_import=bound.opset_import)
    model.graph.name = bound.graph.name
    model.graph.node.extend(live_nodes(bound.graph, names))
    made = {name for node in model.graph.node for name in node.output}
    model.graph.output.extend(ValueInfoProto(name=name) for name in names if name in made)
    if not model.graph.output:
        return {}
    used = {name for node in all_nodes(model.graph.node) for name in node.input}
    model.graph.initializer.extend(own.get(tensor.name, tensor) for tensor in bound.graph.initializer if tensor.name in used)
    to_float32(model)
    name_nodes(model)
    interpreter = Interpreter(_simplified(model, path), "tables")
    interpreter.run()
    found = {output.name: interpreter.values[output.name] for output in model.graph.output}
    return {name: value.array for name, value in found.items() if isinstance(value, Const)}


def _simplified(model: ModelProto, path: str) -> Simplified:
    """Folded where branches have to be chosen, else as it is: the interpreter folds the rest, and does not take long."""
    if any(map(subgraphs, model.graph.node)):
        return simplify(model, path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS)
    constants = {tensor.name: array_of(tensor) for tensor in model.graph.initializer}
    return Simplified(model, [], constants, infer(model, path), opset, [output.name for output in model.graph.output])
