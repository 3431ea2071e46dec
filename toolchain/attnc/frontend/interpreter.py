"""Walk the ONNX graph in order and give every tensor an abstract value; nodes of the device's graph appear on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import AttributeProto, NodeProto

from attnc.errors import ModelError, UnsupportedError
from attnc.frontend import (
    attention_operator,
    convolution,
    fourier,
    gathering,
    group_normalization,
    imposed,
    mixtures,
    normalization,
    pointwise,
    pooling,
    products,
    reindexing,
    rotary,
    scattering,
    tokens,
)
from attnc.frontend.builder import LayoutError, elements
from attnc.frontend.context import Context
from attnc.frontend.folding import evaluate
from attnc.frontend.layout import SizeError, check_size, identity
from attnc.frontend.load import ONNX_DOMAINS, QUANTIZED, live_nodes, operator_name
from attnc.frontend.mixtures import lower
from attnc.frontend.simplify import Simplified, TensorInfo, infer_node
from attnc.frontend.values import Const, Failed, Opaque, Poly, ScoreRows, Scores, Test, Unary, Value, View, merge, on_host

Handler = Callable[[Context, NodeProto, Sequence[Value | None]], list[Value]]

HANDLERS: dict[str, Handler] = {
    "MatMul": products.matmul, "Gemm": products.gemm, "Conv": convolution.conv, "Einsum": products.einsum,
    "LayerNormalization": normalization.layer_normalization, "Attention": attention_operator.attention_operator,
    "RMSNormalization": normalization.rms_normalization, "RotaryEmbedding": rotary.rotary_embedding,
    "Concat": tokens.concat, "ReduceMean": tokens.reduce_mean, "ReduceSum": tokens.reduce_mean, "ReduceL2": tokens.reduce_l2,
    "GlobalAveragePool": tokens.global_average, "AveragePool": pooling.average_pool, "MaxPool": pooling.max_pool,
    "GlobalMaxPool": pooling.global_max, "ReduceMax": pooling.reduce_max,
    "InstanceNormalization": group_normalization.instance_normalization,
    "GroupNormalization": group_normalization.group_normalization,
    "Softmax": tokens.softmax, "BatchNormalization": tokens.batch_normalization,
    **dict.fromkeys(reindexing.PLANS, reindexing.rearrange), **dict.fromkeys(pointwise.OPERATORS, pointwise.pointwise),
    "Gather": gathering.gather, "GatherElements": gathering.gather_elements, "ScatterND": scattering.scatter_nd,
    "Pad": convolution.pad, "DFT": fourier.dft, mixtures.OPERATOR: lower.mixture_of_experts,
}  # fmt: skip
HEAVY = {
    "MatMul", "Gemm", "Conv", "Einsum", "LayerNormalization", "Attention", "ConvTranspose", "GroupNormalization",
    "InstanceNormalization", "RMSNormalization", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "DeformConv",
    "DFT", mixtures.OPERATOR,
}  # fmt: skip
"""Operators that are worth a device: they never run on the host."""
ELEMENTWISE = {*pointwise.OPERATORS, "Cast", "QuantizeLinear", "DequantizeLinear"}
UNKNOWN = "this operator is not supported on the device"
CONTROL_FLOW = (
    "control flow that depends on data is not supported; export the model with fixed sizes (torch.onnx.export, dynamo=True), or let "
    "onnxsim fold it"
)
NOT_READ = "this operator of onnxruntime is not read; give the model as it was before, or optimized at the level `basic`"
QDQ_FORM = "quantized models are read in QDQ form (QuantFormat.QDQ of onnxruntime's quantizer)"
REASONS = {
    **dict.fromkeys(
        ("NonZero", "Unique", "Compress", "NonMaxSuppression"),
        "the shape of its result depends on data; export the model without it, or with fixed sizes",
    ),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), "of pooling, means and maxima are supported only"),
    "ConvTranspose": "transposed convolutions are not supported",
    **dict.fromkeys(("LSTM", "GRU", "RNN", "Scan", "CumSum", "CumProd"), "each of its steps waits for the one before"),
    **dict.fromkeys(("TopK", "ArgMax", "ArgMin", "ReduceMin"), "of comparisons, maxima over tokens or windows are supported only"),
}


def subgraphs(node: NodeProto) -> list[AttributeProto]:
    """Attributes that hold graphs."""
    return [a for a in node.attribute if a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)]


class Interpreter:
    """`values` maps ONNX tensors to abstract values, `producer` to the node that makes them.

    With `collect`, nodes that cannot be compiled are noted in `unsupported` and the walk goes on as if they could.
    """

    def __init__(self, simplified: Simplified, name: str, collect: bool = False) -> None:
        self.ctx = Context(simplified, name)
        self.simplified = simplified
        self.collect = collect
        self.unsupported: dict[str, UnsupportedError] = {}
        self.made_up: set[str] = set()
        self.values: dict[str, Value] = {name: Const(array) for name, array in simplified.constants.items()}
        self.producer: dict[str, NodeProto] = {}
        self.nodes = live_nodes(simplified.model.graph, simplified.outputs)
        for value in simplified.model.graph.input:
            shape = simplified.info[value.name].shape
            assert shape is not None
            try:
                self.values[value.name] = self.ctx.host_view(value.name, shape)
            except SizeError as error:
                raise ModelError(f"input {value.name!r}: {error}") from error

    def run(self) -> None:
        """Interpret every node that the outputs need."""
        for node in self.nodes:
            args = [self._operand(name, node) for name in node.input]
            results = self._interpret(node, args)
            for index, name in enumerate(node.output):
                if name:
                    self.producer[name] = node
                    if index < len(results):
                        self.values[name] = results[index]
                    else:
                        error = UnsupportedError(node.name, node.op_type, f"its output {index} is not supported")
                        self.values[name] = Failed(error)

    def _operand(self, name: str, node: NodeProto) -> Value | None:
        if not name:
            return None
        if name not in self.values:
            raise ModelError(f"node {node.name!r} ({node.op_type}) reads {name!r}, which nothing defines before it")
        return self.values[name]

    @staticmethod
    def foreign(node: NodeProto) -> bool:
        """Whether an operator of another domain is left that nothing stands for."""
        return node.domain not in ONNX_DOMAINS and node.op_type not in ("QuantizeLinear", "DequantizeLinear")

    def heavy(self, node: NodeProto) -> bool:
        """Whether the node must be on the device."""
        if subgraphs(node) or self.foreign(node) or node.name in self.simplified.refused:
            return True
        info = self.ctx.info.get(node.output[0])
        return node.op_type in HEAVY and (info is None or info.is_float or node.op_type in REASONS)

    def _interpret(self, node: NodeProto, args: list[Value | None]) -> list[Value]:
        try:
            return self._with_transposes(node, args)
        except UnsupportedError as error:
            return self._failed(node, args, error)
        except SizeError as error:
            raise ModelError(f"node {node.name!r} ({node.op_type}): {error}") from error
        except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError) as error:  # the checker looks at no types
            raise ModelError(f"node {node.name!r} ({node.op_type}): its operands do not fit together: {error}") from error

    def _with_transposes(self, node: NodeProto, args: list[Value | None]) -> list[Value]:
        """A node whose operands cannot be had as they lie may exchange rows and channels."""
        try:
            return self._attempt(node, args)
        except (UnsupportedError, LayoutError):
            self.ctx.builder.transposing = True
            try:
                return self._attempt(node, args)
            except LayoutError as error:
                self.ctx.fail(node, str(error))
        finally:
            self.ctx.builder.transposing = False

    def _attempt(self, node: NodeProto, args: list[Value | None]) -> list[Value]:
        given = [value for value in args if value is not None]
        if subgraphs(node):
            self.ctx.fail(node, CONTROL_FLOW)
        if self.foreign(node):
            reason = self.simplified.refused.get(node.name) or (QDQ_FORM if node.op_type.startswith(QUANTIZED) else NOT_READ)
            raise UnsupportedError(node.name, operator_name(node), reason)
        _check_axis(node, args)
        if any(isinstance(value, Failed) for value in given):
            args = self._repaired(node, args)
            given = [value for value in args if value is not None]
        found = self._shape_of(node, args) or self._pair(node, args)
        if found is not None:
            return found
        if all(isinstance(value, Const) for value in given):
            return self._folded(node, args)
        if all(on_host(value) for value in given) and not self.heavy(node):
            return self._on_host(node, args)
        handler = HANDLERS.get(node.op_type)
        if handler is None:
            self.ctx.fail(node, self.simplified.refused.get(node.name) or REASONS.get(node.op_type, UNKNOWN))
        return handler(self.ctx, node, args)

    def _failed(self, node: NodeProto, args: list[Value | None], error: UnsupportedError) -> list[Value]:
        """An error for a heavy node, a note for one that may run on the host after the device."""
        if not self.heavy(node):
            return [Failed(error) for _ in node.output]
        if not self.collect:
            raise error
        unread = self.foreign(node) or node.op_type not in HANDLERS
        if unread or not any(isinstance(value, View) and value.base.name in self.made_up for value in args):
            self.note(error)  # the layout of a made-up operand is no reason
        return [self._assumed(name) or Failed(error) for name in node.output]

    def note(self, error: UnsupportedError) -> None:
        """What keeps a node from being compiled, unless that is because of another one."""
        if error.node not in self.simplified.behind:
            self.unsupported.setdefault(error.node, error)

    def _repaired(self, node: NodeProto, args: list[Value | None]) -> list[Value | None]:
        """Operands that failed: an error, except that a collecting walk goes on with made-up values before heavy nodes."""
        first = next(value for value in args if isinstance(value, Failed))
        if not (self.collect and self.heavy(node)):
            raise first.error
        repaired: list[Value | None] = []
        for name, value in zip(node.input, args, strict=True):
            if isinstance(value, Failed):
                self.note(value.error)
                self._note_unknown(name)
                assumed = self._assumed(name)
                if assumed is None:
                    raise value.error
                self.values[name] = assumed
                repaired.append(assumed)
            else:
                repaired.append(value)
        return repaired

    def _note_unknown(self, name: str) -> None:
        """Operators that no handler knows, between a tensor that failed and what it failed of: each is a reason of its own."""
        stack, seen = [name], set()
        while stack:
            node = self.producer.get(stack.pop())
            if node is None or node.name in seen or not isinstance(self.values.get(node.output[0]), Failed):
                continue
            seen.add(node.name)
            stack += [operand for operand in node.input if operand]
            if node.op_type not in HANDLERS:
                reason = REASONS.get(node.op_type, UNKNOWN)
                self.note(UnsupportedError(node.name, node.op_type, reason))

    def _assumed(self, name: str) -> View | None:
        """A made-up value of the device for a tensor that could not be computed."""
        info = self.ctx.info.get(name)
        if info is None or not info.shape or 0 in info.shape:
            return None
        rows, channels = elements(info.shape[:-1]), info.shape[-1]
        base = self.ctx.builder.node("unsupported", [], (rows, channels), name, ())
        self.made_up.add(base.name)
        return View(base, identity(info.shape))

    def _shape_of(self, node: NodeProto, args: list[Value | None]) -> list[Value] | None:
        """Shape and Size of anything whose shape is known."""
        if node.op_type not in ("Shape", "Size") or args[0] is None or isinstance(args[0], (Opaque, Failed)):
            return None
        shape = args[0].shape
        if node.op_type == "Size":
            return [Const(np.array(elements(shape), np.int64))]
        attributes = self.ctx.attributes(node)
        return [Const(np.array(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], np.int64).reshape(-1))]

    def _pair(self, node: NodeProto, args: list[Value | None]) -> list[Value] | None:
        """QuantizeLinear and DequantizeLinear on activations."""
        handler = {"QuantizeLinear": imposed.quantize, "DequantizeLinear": imposed.dequantize}.get(node.op_type)
        if handler is None or not isinstance(args[0], (Const, View, Unary, Poly, Scores, ScoreRows, Test)):
            return None
        made = handler(self.ctx, node, args[0])
        self._note_shape(node.output[0], made)
        return None if made is None else [made]

    def _note_shape(self, name: str, made: Value | None) -> None:
        """What inference did not know of the integers of a pair, which the host may read."""
        info = self.ctx.info.get(name)
        if made is not None and not isinstance(made, Opaque) and made.shape is not None and (info is None or info.shape is None):
            self.ctx.info[name] = TensorInfo(info.elem_type if info is not None else 0, tuple(made.shape))

    def _folded(self, node: NodeProto, args: list[Value | None]) -> list[Value]:
        arrays = [value.array if isinstance(value, Const) else None for value in args]
        src = merge(*(value.src for value in args if value is not None))
        return [Const(array, src) for array in evaluate(self.ctx, node, arrays)]

    # ---- nodes that the host can run ----

    def _on_host(self, node: NodeProto, args: list[Value | None]) -> list[Value]:
        """A leading node; rearrangements of one tensor stay views, and steps of a normalisation are remembered."""
        results = [self._host_result(node, name, args) for name in node.output]
        if node.op_type in reindexing.PLANS and isinstance(args[0], (View, Poly, Scores)):
            try:
                return list(reindexing.rearrange(self.ctx, node, args))
            except UnsupportedError:
                return results
        first = results[0]
        if not isinstance(first, View) or not self.ctx.info[node.output[0]].is_float:
            return results
        step = self._step(node, args, first)
        return results if step is None else [step]

    def _step(self, node: NodeProto, args: list[Value | None], host: View) -> Value | None:
        """A step of a normalisation, if the node is one."""
        given = [value for value in args if value is not None]
        if node.op_type in ("ReduceMean", "ReduceSum") and isinstance(args[0], (View, Poly)):
            rank = len(args[0].shape)
            if tokens.reduced_axes(self.ctx, node, args, rank) != [rank - 1]:
                return None
            keepdims = bool(self.ctx.attributes(node).get("keepdims", 1))
            return normalization.reduce_mean(node, args[0], keepdims, node.op_type == "ReduceSum", host)
        return normalization.combine(self.ctx, node, given, host)

    def _host_result(self, node: NodeProto, name: str, args: Sequence[Value | None]) -> Value:
        info = self.ctx.info.get(name)
        if name and (info is None or info.shape is None):
            known = {key: value.array for key in node.input if isinstance(value := self.values.get(key), Const)}
            for output, found in infer_node(node, self.ctx.opset, self.ctx.info, known):
                if found.elem_type or output not in self.ctx.info:
                    self.ctx.info[output] = found
            info = self.ctx.info.get(name)
        if info is None or info.shape is None:
            return Opaque(name)
        check_size(info.shape)
        operands = [value for value in args if isinstance(value, (View, Const))]
        if node.op_type in ELEMENTWISE and len(operands) == len(args):
            return self.ctx.host_pointwise(name, operands, info.shape)
        return self.ctx.host_view(name, info.shape)


def _check_axis(node: NodeProto, args: Sequence[Value | None]) -> None:
    """An axis is one of the first operand's, or the one behind them (Flatten, OneHot): handlers count modulo the rank."""
    shape = getattr(args[0], "shape", None) if args else None
    for attribute in node.attribute:
        if attribute.name == "axis" and shape is not None and not -len(shape) - 1 <= attribute.i <= len(shape):
            raise ModelError(f"node {node.name!r} ({node.op_type}): axis {attribute.i}, but its operand has shape {list(shape)}")
