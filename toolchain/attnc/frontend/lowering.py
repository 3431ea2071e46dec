"""What every kind of quantized operator needs while a model is walked: its constants, its grids, and what is said of them.

`quantized.py` walks; this module, `qonnx.py` and `blocks.py` say what a node means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from attnc.errors import ModelError, UnsupportedError
from attnc.frontend.load import MICROSOFT, QONNX_DOMAINS
from attnc.frontend.quantized_model import PASSING, Quantized, QuantizedConstant
from attnc.frontend.values import Array
from attnc.tensors import array_of, tensor_of

PRODUCTS = {"MatMul", "Gemm", "Conv", "Einsum", "Attention", "FusedMatMul", "FusedGemm", "TransposeMatMul", "GemmFastGelu", "MoE"}
BITS = {f"{sign}int{bits}": bits for bits in (2, 4, 8, 16) for sign in ("", "u")}


class Lowering:
    """One walk over the nodes. `arrays` are all constants known so far, `sources` leads from integers back to their QuantizeLinear."""

    def __init__(self, model: ModelProto, found: Quantized) -> None:
        self.model = model
        self.found = found
        self.arrays: dict[str, Array] = {tensor.name: array_of(tensor) for tensor in model.graph.initializer}
        self.new: dict[str, Array] = {}
        self.kept: list[NodeProto] = []
        self.sources: dict[str, NodeProto] = {}
        self.carried: dict[str, list[str]] = {}

    def dialect(self, name: str) -> None:
        """The report names it."""
        if name not in self.found.dialects:
            self.found.dialects.append(name)

    def constant(self, node: NodeProto) -> None:
        """A Constant."""
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                self.arrays[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif attribute.name in ("value_float", "value_int", "value_floats", "value_ints"):
                dtype = np.float32 if "float" in attribute.name else np.int64
                self.arrays[node.output[0]] = np.array(helper.get_attribute_value(attribute), dtype)
        self.kept.append(node)

    def other(self, node: NodeProto) -> None:
        """A node in float: which quantized constants it reads."""
        read = [name for operand in node.input for name in self.carried.get(operand, ())]
        if read:
            self.found.readers[node.name] = list(dict.fromkeys(read))
            if node.op_type in PRODUCTS:
                self.found.products.add(node.name)
        if node.op_type in PASSING:
            for output in node.output:
                if read:
                    self.carried[output] = read
                if node.input and node.input[0] in self.sources:
                    self.sources[output] = self.sources[node.input[0]]
            if all(name in self.arrays for name in node.input if name):
                self._rearrange(node)
        self.kept.append(node)

    def _rearrange(self, node: NodeProto) -> None:
        """Constants in another order are constants."""
        operands = {name: self.arrays[name] for name in node.input if name}
        inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in operands.items()]
        graph = helper.make_graph([node], "node", inputs, [helper.make_empty_tensor_value_info(name) for name in node.output])
        try:
            evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=self.model.opset_import))
            results = [np.asarray(result) for result in evaluator.run(None, operands)]
            self.arrays.update(zip(node.output, results, strict=True))
        except Exception:  # whatever the evaluator raises: the node is then met again, and judged, with all others
            return

    def known(self, node: NodeProto, index: int, what: str) -> Array:
        """An operand that must be constant."""
        found = self.arrays.get(node.input[index]) if len(node.input) > index else None
        if found is None:
            fail(node, node.input[index] if len(node.input) > index else "", f"its {what} is not constant: it depends on data")
        return found

    def remember(self, node: NodeProto, constant: QuantizedConstant) -> None:
        """A constant that arrived as integers is one in float, its integers not forgotten."""
        name = constant.name
        self.found.constants[name] = constant
        self.carried[name] = [name]
        self.new[name] = self.arrays[name] = constant.dequantize()

    def count_rounding(self, name: str) -> None:
        """A pair that rounds by this rule."""
        self.found.roundings[name] = self.found.roundings.get(name, 0) + 1

    def finish(self) -> Quantized:
        """Put nodes and constants into the model, and make its float twin."""
        graph = self.model.graph
        replaced = set(self.new)
        kept = [tensor for tensor in graph.initializer if tensor.name not in replaced]
        used = {name for node in self.kept for name in node.input} | {output.name for output in graph.output}
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self.kept)
        graph.initializer.extend(tensor for tensor in kept if tensor.name in used)
        graph.initializer.extend(tensor_of(array, name) for name, array in self.new.items() if name in used)
        opsets = [entry for entry in self.model.opset_import if entry.domain not in QONNX_DOMAINS]
        del self.model.opset_import[:]
        self.model.opset_import.extend(opsets)
        for node in graph.node:
            if node.domain == MICROSOFT and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                node.domain = ""
        self.found.lowered.CopyFrom(self.model)
        return self.found


def check_scale(node: NodeProto, name: str, scale: Array, activation: bool = False) -> None:
    """Scales are finite; those of an activation, which is divided by them, above zero. A constant may have any: zero hides it, and a
    negative one turns its sign."""
    numbers = scale.astype(np.float64)
    legal = np.isfinite(numbers) & ((numbers > 0) | (not activation))
    if scale.size == 0 or not legal.all():
        needed = "finite scales above zero" if activation else "finite scales"
        infinite = "" if np.isfinite(numbers).all() else "; a mask of minus infinity has none: leave its node out of quantization"
        fail(node, name, f"needed {needed}, found {numbers[~legal].reshape(-1)[:3].tolist() or 'none'}{infinite}")


def visited(visit: Callable[[NodeProto], None], node: NodeProto) -> None:
    """Visit a node; the checker knows nothing of operators of other domains, so their operands may be anything."""
    try:
        visit(node)
    except (IndexError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise ModelError(f"node {node.name!r} ({node.op_type}): its operands do not fit together: {error}") from error


def fail(node: NodeProto, tensor: str, reason: str) -> NoReturn:
    """The node cannot be imported because of `tensor`."""
    raise UnsupportedError(node.name, node.op_type, f"tensor {tensor!r}: {reason}")
