"""Files as onnxruntime's quantizers write them: weights in blocks, dynamic, operators on integers, pairs around operators in float."""

from __future__ import annotations

import functools
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from models.file_kinds import Kind, Source
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

Samples = dict[str, np.ndarray]
Writer = Callable[[Path, Path, Samples], None]
"""Makes a file at the second path of the float model at the first one; the samples calibrate."""
BLOCKED_OPSET = 21
"""From this one on DequantizeLinear knows 4 bits, 16 bits and blocks."""
MASKED = -1e4


class Reader(CalibrationDataReader):
    """The samples, one after the other; `shapes` are those of the model's inputs."""

    def __init__(self, path: Path, samples: Samples) -> None:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        ranks = {value.name: len(value.shape) for value in session.get_inputs()}
        self._samples = iter(one_by_one(samples, ranks))

    def get_next(self) -> Samples | None:
        """The next sample."""
        return next(self._samples, None)


def one_by_one(samples: Samples, ranks: dict[str, int]) -> Iterator[Samples]:
    """Each sample with the batch axis of 1 that the model's inputs have."""
    count = len(next(iter(samples.values())))
    for index in range(count):
        yield {name: array[index : index + 1] for name, array in samples.items() if name in ranks}


def static(
    format_: QuantFormat, activations: QuantType, weights: QuantType, per_channel: bool = False, spared: bool = True, **extra: Any
) -> Writer:
    """quantize_static over all operators that it knows; masks are `spared`, since scores that were calibrated with one round to nothing."""

    def write(source: Path, target: Path, samples: Samples) -> None:
        quantize_static(
            source, target, Reader(source, samples), quant_format=format_, activation_type=activations, weight_type=weights,
            per_channel=per_channel, nodes_to_exclude=masks(source, samples) if spared else None, extra_options=extra,
        )  # fmt: skip

    return write


def masks(path: Path, samples: Samples) -> list[str]:
    """Nodes that make or read what reaches down to minus infinity, or to what stands for it."""
    model = onnx.load(path)
    made = {name: node.name for node in model.graph.node for name in node.output}
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in made if name not in known)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ranks = {value.name: len(value.shape) for value in session.get_inputs()}
    found = set()
    for sample in itertools.islice(one_by_one(samples, ranks), 2):
        results = zip(made, session.run(list(made), sample), strict=True)
        found |= {name for name, array in results if array.dtype.kind == "f" and array.min(initial=0) <= MASKED}
    return [node.name for node in model.graph.node if not found.isdisjoint([*node.input, *node.output])]


def dynamic(weights: QuantType, per_channel: bool = False, **extra: Any) -> Writer:
    """quantize_dynamic over all operators that it knows."""

    def write(source: Path, target: Path, samples: Samples) -> None:
        quantize_dynamic(source, target, per_channel=per_channel, weight_type=weights, extra_options=extra)

    return write


def optimized(writer: Writer) -> Writer:
    """As `writer`, then through a session that fuses: MatMulIntegerToFloat, DynamicQuantizeMatMul, QLinear operators."""

    def write(source: Path, target: Path, samples: Samples) -> None:
        plain = target.with_suffix(".plain.onnx")
        writer(source, plain, samples)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
        plain.unlink()

    return write


def finite(writer: Writer) -> Writer:
    """As `writer`, of a model whose masks are the most negative number and not minus infinity."""

    def write(source: Path, target: Path, samples: Samples) -> None:
        model, least = onnx.load(source), np.finfo(np.float32).min
        tensors = [*model.graph.initializer, *(a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute)]
        for tensor in tensors:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and np.isneginf(array).any():
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.maximum(array, least), tensor.name))
        changed = target.with_suffix(".finite.onnx")
        onnx.save(model, changed)
        writer(changed, target, samples)
        changed.unlink()

    return write


def blocks(bits: int, size: int, symmetric: bool, format_: QuantFormat, operators: tuple[str, ...] = ("MatMul",)) -> Writer:
    """Weights in blocks of `size` along the inputs."""

    def write(source: Path, target: Path, samples: Samples) -> None:
        model = onnx.load(source)
        if format_ == QuantFormat.QDQ or "Gather" in operators:
            model = version_converter.convert_version(model, BLOCKED_OPSET)
        quantizer = MatMulNBitsQuantizer(model, bits, size, symmetric, quant_format=format_, op_types_to_quantize=operators)
        quantizer.process()
        onnx.save(quantizer.model.model, target)

    return write


U8, S8, U16, S16, S4, U4 = (QuantType[name] for name in ("QUInt8", "QInt8", "QUInt16", "QInt16", "QInt4", "QUInt4"))
OPERATORS, PAIRS = QuantFormat.QOperator, QuantFormat.QDQ
WRITERS: dict[str, Writer] = {
    "nbits4-sym-16": blocks(4, 16, True, OPERATORS),
    "nbits4-sym-32": blocks(4, 32, True, OPERATORS),
    "nbits4-zero-32": blocks(4, 32, False, OPERATORS, ("MatMul", "Gather")),
    "nbits4-zero-128": blocks(4, 128, False, OPERATORS),
    "nbits8-sym-32": blocks(8, 32, True, OPERATORS),
    "nbits2-sym-32": blocks(2, 32, True, OPERATORS),
    "blocked-sym-32": blocks(4, 32, True, PAIRS),
    "blocked-zero-16": blocks(4, 16, False, PAIRS),
    "dynamic-s8": dynamic(S8),
    "dynamic-u8-channel": dynamic(U8, True),
    "dynamic-s8-fused": optimized(dynamic(S8)),
    "qoperator-s8": static(OPERATORS, S8, S8),
    "qoperator-u8": static(OPERATORS, U8, U8),
    "qoperator-u8s8-channel": static(OPERATORS, U8, S8, True),
    "qdq-s8": static(PAIRS, S8, S8),
    "qdq-u8": static(PAIRS, U8, U8),
    "qdq-u8s8-channel": static(PAIRS, U8, S8, True),
    "qdq-s16": static(PAIRS, S16, S8),
    "qdq-u16": static(PAIRS, U16, U8),
    "qdq-s8w4": static(PAIRS, S8, S4, True),
    "qdq-s8-finite": finite(static(PAIRS, S8, S8, spared=False)),
    "qdq-u8-fused": optimized(static(PAIRS, U8, U8)),
}
FIXED = ("qoperator", "qdq-s8", "qdq-u8")
"""Kinds whose files say how every tensor is rounded, to 8 bits."""
TYPED = ("qoperator", "qdq")
"""Kinds whose files say how activations are rounded."""
BYTES: dict[str, Any] = {"activation_bits": 8}


def _traced(source: Source) -> Path:
    """The export that all these files are made of."""
    return source.export("torchscript")


def traced(source: Source, path: Path) -> None:
    """That export."""
    shutil.copy(_traced(source), path)


def _make(writer: Writer, source: Source, path: Path) -> None:
    with np.load(path.with_suffix(".npz")) as given:
        samples = dict(given)
    logging.disable(logging.WARNING)
    writer(source.export("torchscript"), path, samples)


def _kind(name: str, writer: Writer) -> Kind:
    """Where the file leaves the widths of activations open, it is compared with the plain export at the same: 8 bits."""
    make = functools.partial(_make, writer)
    if name.startswith(TYPED):
        return Kind(name, make, beside="torchscript", floating=_traced if name.startswith(FIXED) else None)
    return Kind(name, make, beside="plain-8", options=BYTES)


KINDS = [Kind("plain-8", traced, options=BYTES, beside="plain-8"), *(_kind(name, writer) for name, writer in WRITERS.items())]
