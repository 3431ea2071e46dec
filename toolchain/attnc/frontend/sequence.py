"""A decoder as it is exported, with or without past keys and values, becomes a function of a whole sequence of tokens: from these attnc
derives the cached form itself (passes/decoding.py), so that it does not matter how a file has it."""

from __future__ import annotations

import re

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from attnc.errors import ModelError

PAST, PRESENT = re.compile(r"past|cache_?[kv]", re.IGNORECASE), re.compile(r"present|past|cache_?[kv]", re.IGNORECASE)
MASK, POSITION = re.compile(r"mask", re.IGNORECASE), re.compile(r"position", re.IGNORECASE)
BRANCH, KEPT = re.compile(r"use_cache", re.IGNORECASE), re.compile(r"logits_to_keep", re.IGNORECASE)
"""Whether a file that has both forms is to take the one with a past, and of how many tokens logits are wanted: 0 stands for all."""
COUNT, LAST = re.compile(r"seq(uence)?_?len", re.IGNORECASE), re.compile(r"seqlens_k", re.IGNORECASE)
"""How many tokens there are, in the past or in all; GroupQueryAttention is told the last of them."""
LEAST = -65504.0
"""Of a mask that is added to scores: a number of half precision too."""


def bind_sequence(model: ModelProto, length: int, path: str) -> None:
    """Leave one input, the tokens [1, length]: nothing is masked, positions count from 0, there is no past. Of the outputs those that are
    caches go."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    tokens = [value for value in inputs if not _says_nothing(value) and _integers(value)]
    if len(tokens) != 1:
        found = ", ".join(repr(value.name) for value in inputs)
        raise ModelError(
            f"{path}: --max-length needs a decoder with one input of token ids beside masks, positions and past keys and values; its "
            f"inputs are {found}"
        )
    rest = [value for value in inputs if value is not tokens[0]]
    others = [value.name for value in rest if not _says_nothing(value)]
    if others:
        raise ModelError(f"{path}: --max-length does not know what input {others[0]!r} of a decoder is")
    for value in rest:
        model.graph.initializer.append(numpy_helper.from_array(_constant(value, length, path), value.name))
    _count_keys(model, length)
    del model.graph.input[:]
    model.graph.input.append(_fixed(tokens[0], length, path))
    outputs = [value for value in model.graph.output if not PRESENT.search(value.name) and not _keys_or_values(value)]
    if len(outputs) != 1:
        found = ", ".join(repr(value.name) for value in model.graph.output)
        raise ModelError(f"{path}: --max-length needs one output, the logits, beside caches, found {found}")
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def _count_keys(model: ModelProto, length: int) -> None:
    """What GroupQueryAttention is told of the keys, the last one and how many there are, as constants: files compute that from the shape of
    a mask, and onnxruntime's inference of shapes takes the result of a Cast for what it was before."""
    counts = {"attnc::last_key": np.array([length - 1], np.int32), "attnc::keys": np.array(length, np.int32)}
    counted = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
    for node in counted:
        node.input[5:7] = counts
    if counted:
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in counts.items())


def _says_nothing(value: ValueInfoProto) -> bool:
    """Whether an input says nothing of the tokens."""
    return _keys_or_values(value) or any(kind.search(value.name) for kind in (PAST, MASK, POSITION, BRANCH, KEPT, COUNT))


def _keys_or_values(value: ValueInfoProto) -> bool:
    """Nothing else of a decoder is a number of four dimensions, whatever it is called, but masks; or of more, where keys and values, or
    those of all layers, lie in one tensor."""
    return _numbers(value) and len(_dims(value)) >= 4 and not MASK.search(value.name)


def _numbers(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def _integers(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in (TensorProto.INT64, TensorProto.INT32)


def _dims(value: ValueInfoProto) -> list[int]:
    """Declared dimensions, 0 where they are symbols."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _fixed(value: ValueInfoProto, length: int, path: str) -> ValueInfoProto:
    dims = _dims(value)
    if len(dims) != 2 or dims[0] not in (0, 1):
        raise ModelError(f"{path}: input {value.name!r} needs shape [batch, tokens], found {dims}")
    if dims[1] not in (0, length):
        raise ModelError(
            f"{path}: input {value.name!r} has {dims[1]} tokens, so --max-length can be nothing but {dims[1]}; export the model with a "
            "dynamic number of tokens"
        )
    # Batch stays a symbol, so that samples may lie along it.
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, ["batch" if dims[0] == 0 else 1, length])


def _constant(value: ValueInfoProto, length: int, path: str) -> np.ndarray:
    """What an input is that says nothing of the tokens."""
    dims, dtype = _dims(value), helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if _integers(value) and COUNT.search(value.name):
        count = 0 if PAST.search(value.name) else length - 1 if LAST.search(value.name) else length
        return np.full([max(dim, 1) for dim in dims], count, dtype)
    if _keys_or_values(value) or PAST.search(value.name):
        if len(dims) < 4:
            raise ModelError(f"{path}: input {value.name!r}: needed past keys or values of 4 dimensions, found {len(dims)}")
        # Batch, the first of the last four, is 1; the dimension of the past, where it is not declared, or as it is, is the one that grows.
        known = [1 if axis == len(dims) - 4 else dim for axis, dim in enumerate(dims)]
        if known.count(0) != 1:
            raise ModelError(f"{path}: input {value.name!r} needs one dynamic dimension beside the batch, found {dims}")
        return np.zeros(known, dtype)
    if POSITION.search(value.name):
        return np.arange(length).reshape([1] * (len(dims) - 1) + [length]).astype(dtype)
    if BRANCH.search(value.name) or KEPT.search(value.name):
        return np.zeros([max(dim, 1) for dim in dims], dtype)
    if len(dims) == 2:
        return np.ones((1, length), dtype)
    if len(dims) != 4:
        raise ModelError(f"{path}: input {value.name!r}: needed a mask [batch, tokens] or one of 4 dimensions, found {len(dims)}")
    # One of a row per query is all that keeps tokens from what comes later; numbers are added to scores.
    seen = np.tri(length)[None, None]
    return np.where(seen, 0.0, LEAST).astype(dtype) if _numbers(value) else seen.astype(dtype)
