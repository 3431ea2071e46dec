"""What the handlers of operators share: attributes, messages, nodes added on the host, and views made out of lazy values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper

from attnc.errors import ModelError, UnsupportedError
from attnc.frontend import functions
from attnc.frontend.builder import Builder, Elementwise, LayoutError
from attnc.frontend.layout import equal_elements, identity
from attnc.frontend.quantized_model import Quantized
from attnc.frontend.simplify import Simplified, TensorInfo
from attnc.frontend.values import (
    Array,
    Base,
    Const,
    Failed,
    Grid,
    Index,
    Opaque,
    Patchwork,
    Poly,
    ScoreRows,
    Scores,
    Sources,
    TokenWeights,
    TurnedScores,
    Unary,
    Value,
    View,
    WeighedTokens,
    merge,
    same_view,
)  # fmt: skip

MASKED = -1e4
"""Scores of this much and less are as good as minus infinity."""
MAX_FOLDED = 1 << 28
"""Bytes that constants which are computed may take together, beyond twice the size of the model's own."""


class Context:
    """State of one interpretation."""

    def __init__(self, simplified: Simplified, name: str) -> None:
        self.simplified = simplified
        self.opset = simplified.opset
        self.info: dict[str, TensorInfo] = simplified.info
        self.builder = Builder(name)
        self.elementwise = Elementwise(self.builder)
        self.added: list[NodeProto] = []
        self.added_constants: dict[str, Array] = {}
        self.quantized: Quantized | None = None
        self._equal: dict[str, Index] = {}
        self._foldable = MAX_FOLDED + 2 * sum(array.nbytes for array in simplified.constants.values())

    # ---- reading nodes ----

    def attributes(self, node: NodeProto) -> dict[str, Any]:
        """Attributes by name, as Python values; bytes become text."""
        found = {}
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            found[attribute.name] = value.decode() if attribute.type == AttributeProto.STRING else value
        return found

    def fail(self, node: NodeProto, reason: str) -> NoReturn:
        """The node cannot be on the device."""
        raise UnsupportedError(node.name, node.op_type, reason)

    def fold(self, node: NodeProto, size: int) -> None:
        """Account for `size` bytes of constants that `node` computes; raises `ModelError` when that is too much."""
        if size > self._foldable:
            reason = f"needed constants of at most {self._foldable} more bytes, found {size} bytes; give the model fewer or smaller ones"
            raise ModelError(f"node {node.name!r} ({node.op_type}): {reason}")
        self._foldable -= size

    # ---- lazy values ----

    def view(self, value: Value) -> View:
        """A view of a value, which may put nodes into the graph; raises `UnsupportedError` if the device cannot hold it."""
        found = self.concrete(value)
        if isinstance(found, Const):
            return self.constant_view(found)
        return found

    def constant_view(self, value: Const) -> View:
        """A constant as a tensor of the graph."""
        view = self.builder.free_constant(value.array)
        return replace(view, src=value.src)

    def concrete(self, value: Value) -> View | Const:
        """A view or constant; raises `UnsupportedError` for what exists only between two operators."""
        if isinstance(value, (View, Const)):
            return value
        if isinstance(value, Unary):
            return self._make_unary(value)
        if isinstance(value, (Poly, Scores)) and value.host is not None:
            return value.host
        if isinstance(value, (Poly, Scores)) and value.fallback is not None:
            try:
                return value.fallback()
            except LayoutError as error:
                raise UnsupportedError(value.node, value.operator, str(error)) from error
        if isinstance(value, TokenWeights):
            made = value.made()
            return View(made.base, made.idx.ravel()[value.idx], value.src)
        if isinstance(value, WeighedTokens):
            return self._make_weighed(value)
        if isinstance(value, (ScoreRows, TurnedScores)):
            value = value.scores
        if isinstance(value, Failed):
            raise value.error
        if isinstance(value, Patchwork):
            return self._side_by_side(value)
        if isinstance(value, Poly):
            reason = "means and deviations over channels are supported as parts of a layer normalisation only"
            raise UnsupportedError(value.node, value.operator, reason)
        if isinstance(value, Scores):
            raise UnsupportedError(value.node, value.operator, self.why_no_attention(value))
        if isinstance(value, Opaque):
            raise UnsupportedError(value.name, "tensor", "its shape depends on data")
        raise UnsupportedError(value.of.node, value.of.operator, "a test of attention scores is used other than around their softmax")

    def _side_by_side(self, value: Patchwork) -> View:
        """Tensors of as many rows, their channels side by side."""
        used = np.unique(value.which)
        parts = [value.parts[number] for number in used]
        if any(not part.device or part.rows != parts[0].rows for part in parts):
            reason = "elements of several tensors are read together where one was written over another"
            raise UnsupportedError(value.src[-1], "ScatterND", reason)
        sizes = np.array([part.channels for part in parts])
        total, which = int(sizes.sum()), np.searchsorted(used, value.which)
        base = self.builder.node("concat_columns", [part.name for part in parts], (parts[0].rows, total), value.src[-1], value.src)
        rows, columns = value.idx // sizes[which], value.idx % sizes[which]
        return View(base, rows * total + (np.cumsum(sizes) - sizes)[which] + columns)

    def _make_weighed(self, value: WeighedTokens) -> View:
        weights = self.concrete(value.weights)
        assert isinstance(weights, View)
        name = value.src[-1]
        try:
            return self.elementwise.apply("mul", value.x, weights, name, value.src)
        except LayoutError as error:
            raise UnsupportedError(name, "Mul", str(error)) from error

    @staticmethod
    def why_no_attention(value: Scores) -> str:
        """What is wrong with a product of two activations that was not used as attention."""
        if value.normalized:
            return "attention probabilities are supported as a factor of the values only"
        return "a product of two activations is supported as part of attention (scale, bias, softmax, product with values) only"

    def _make_unary(self, value: Unary) -> View | Const:
        """Put the function into the graph, once."""
        if value.made is None:
            try:
                made = self._build_unary(value)
            except LayoutError as error:
                raise UnsupportedError(value.node, value.operator, str(error)) from error
            if value.pair is not None:
                made = self.impose(made, *value.pair) if isinstance(made, View) else Const(value.pair[0].round(made.array), made.src)
            value.made, value.cuts, value.parts = made, (), None
        return value.made

    def impose(self, view: View, grid: Grid, name: str) -> View:
        """The view over a value of the type that the pair of node `name` imposes; raises `LayoutError`."""
        if self.quantized is not None:
            self.quantized.passed.pop(name, None)
        view = self.on_device(view)
        spread = np.unique(view.idx).size == view.base.rows * view.base.channels  # each element is shown, some more than once
        compact = view if spread else self.builder.compact(view)
        base = compact.base
        made = self.builder.imposed(base.name, grid, merge(view.src, (name,)))
        return View(Base(made, base.rows, base.channels, True), compact.idx)

    def _build_unary(self, value: Unary) -> View | Const:
        known = functions.recognise(value.y)
        view, src = value.view, value.src
        if known is None:
            for earlier, rest in reversed(value.cuts):
                known = functions.recognise(rest)
                if known is not None and (earlier.made is not None or recognised_chain(earlier)):
                    made = self.concrete(earlier)
                    if isinstance(made, Const):
                        continue
                    view, src = made, tuple(name for name in value.src if name not in earlier.src)
                    break
            else:
                found = self._from_parts(value) or self._from_sum(value)
                if found is not None:
                    return found
                raise UnsupportedError(value.node, value.operator, functions.why_not(value.operator))
        assert known is not None
        return self._apply(known, View(view.base, view.idx, merge(view.src, src)), value, src)

    def _apply(self, known: functions.Known, view: View, value: Unary, src: Sources) -> View | Const:
        """gain * function(view) + offset."""
        stem, result = value.node, view
        if known.gain == 0:
            return Const(np.full(value.shape, known.offset), src)
        if known.function is not None:
            compact = self.on_device(self.builder.compact(result))
            base = compact.base
            node = self.builder.node("unary", [base.name], (base.rows, base.channels), stem, result.src, {"function": known.function})
            result = View(node, compact.idx)
        for op, amount, neutral in (("mul", known.gain, 1.0), ("add", known.offset, 0.0)):
            if amount != neutral:
                result = self.elementwise.apply(op, result, Const(np.array(amount)), f"{stem}_{op}", src)
        return result

    def _from_sum(self, value: Unary) -> View | None:
        """A function that is a sum of known ones."""
        total: View | None = None
        for known in functions.recognise_sum(value.y) or ():
            part = self._apply(known, View(value.view.base, value.view.idx, merge(value.view.src, value.src)), value, value.src)
            if not isinstance(part, Const):
                total = part if total is None else self.elementwise.apply("add", total, part, value.node, value.src)
            elif total is not None and np.any(part.array):
                total = self.elementwise.apply("add", total, part, value.node, value.src)
        return total

    def _from_parts(self, value: Unary) -> View | None:
        """A function that is not known as a whole, as a sum or product of functions that are."""
        if value.parts is None:
            return None
        op, operands = value.parts
        left, right = (self.concrete(operand) for operand in operands)
        if op == "Div" and not isinstance(right, Const):
            return None
        try:
            if op in ("Sub", "Div"):
                if isinstance(right, Const):
                    right = Const(-right.array if op == "Sub" else 1 / right.array, right.src)
                else:
                    right = self.elementwise.apply("mul", right, Const(np.array(-1.0)), value.node, value.src[-1:])
            if isinstance(left, Const):
                left, right = right, left
            if isinstance(left, Const):
                return None
            return self.elementwise.apply("add" if op in ("Add", "Sub") else "mul", left, right, value.node, value.src[-1:])
        except LayoutError as error:
            raise UnsupportedError(value.node, value.operator, str(error)) from error

    def on_device(self, view: View) -> View:
        """The view itself, or a tensor of the host brought to the device."""
        if view.base.device:
            return view
        name, axes = self.builder.as_matrix(view)
        rows, channels = self.builder.graph.value(name).shape
        return View(Base(name, rows, channels, True), axes.restore(identity((rows, channels)), view.shape), view.src)

    def affine(self, value: Value) -> tuple[View, float, float] | None:
        """A view with gain and offset, if the value is that."""
        if isinstance(value, View):
            return value, 1.0, 0.0
        if isinstance(value, Unary):
            if isinstance(value.made, View):
                return value.made, 1.0, 0.0
            known = functions.recognise(value.y)
            if known is not None and known.function is None and known.gain != 0:
                return replace(value.view, src=merge(value.view.src, value.src)), known.gain, known.offset
        return None

    def same(self, a: View, b: View) -> bool:
        """Whether two views show the same."""
        return same_view(a, b)

    # ---- the host's side ----

    def host_view(self, name: str, shape: Sequence[int], src: Sources = ()) -> View:
        """The whole of a tensor on the host."""
        return View(Base(name, 1, math.prod(shape), False), identity(tuple(shape)), src)

    def host_pointwise(self, name: str, operands: Sequence[View | Const], shape: Sequence[int], src: Sources = ()) -> View:
        """The whole of a pointwise result on the host; of elements that are made of the same, as those of a mask that was spread over all
        queries, the view shows the first."""
        made = equal_elements([value.array if isinstance(value, Const) else value.idx for value in operands], tuple(shape))
        self._equal[name] = made.ravel()
        return View(self.host_view(name, shape).base, made, src)

    def host_node(
        self, op: str, inputs: Sequence[View | Const], shape: Sequence[int], src: Sources, elem_type: int = TensorProto.FLOAT, **attrs: Any
    ) -> View:
        """Add a node on the host's side."""
        names = [self.host_tensor(value) for value in inputs]
        return self._host(op, names, shape, elem_type, src, **attrs)

    def _host(self, op: str, names: Sequence[str], shape: Sequence[int], elem_type: int, src: Sources, **attrs: Any) -> View:
        output = self._host_name(op)
        label = src[-1] if src else op
        self.added.append(helper.make_node(op, list(names), [output], name=f"{label}:{op}:{len(self.added)}", **attrs))
        self.info[output] = TensorInfo(elem_type, tuple(int(n) for n in shape))
        return self.host_view(output, shape, src)

    def _host_name(self, stem: str) -> str:
        return f"attnc::{stem}_{len(self.added) + len(self.added_constants)}"

    def host_constant(self, array: Array) -> str:
        """A constant for nodes on the host."""
        name = self._host_name("constant")
        self.added_constants[name] = array
        return name

    def host_tensor(self, value: View | Const) -> str:
        """The name of an ONNX tensor on the host that holds exactly the view."""
        if isinstance(value, Const):
            array = value.array
            return self.host_constant(array.astype(np.float32) if array.dtype.kind == "f" else array)
        if value.base.name in self.builder.arrays:
            return self.host_constant(self.builder.arrays[value.base.name][value.idx].astype(np.float32))
        info = self.info[value.base.name]
        name, count = value.base.name, value.base.channels
        shown = value.idx.ravel()
        if not np.array_equal(shown, np.arange(count)) and not np.array_equal(shown, self._equal.get(name, shown[:0])):
            flat = self._host("Reshape", [name, self.host_constant(np.array([-1]))], [count], info.elem_type, value.src)
            picked = self.host_constant(np.asarray(value.idx, order="C"))
            return self._host("Gather", [flat.base.name, picked], value.shape, info.elem_type, value.src).base.name
        if info.shape != value.shape:
            shape = self.host_constant(np.array(value.shape, np.int64))
            return self._host("Reshape", [name, shape], value.shape, info.elem_type, value.src).base.name
        return name

    # ---- the device's side ----

    def linear(self, x: View, target: Index, weight: Array, stem: str, src: Sources) -> Base:
        """x at `target` [R, K] times weight [N, K] transposed."""
        source = self.builder.beside(x.base, target, merge(x.src, src))
        n = weight.shape[0]
        weight = weight if weight.dtype == np.float32 else np.ascontiguousarray(weight, np.float64)  # mapped weights stay in their file
        params = {"weight": weight, "bias": np.zeros(n)}
        return self.builder.node("linear", [source], (target.shape[0], n), stem, merge(x.src, src), params=params)


def recognised_chain(value: Unary) -> bool:
    """Whether a value can be put into the graph: it is known itself, or an earlier cut and the rest are."""
    stack, seen = [value], set()
    while stack:
        current = stack.pop()
        if current.made is not None or functions.recognise(current.y) is not None:
            return True
        seen.add(id(current))
        stack += [u for u, rest in current.cuts if id(u) not in seen and functions.recognise(rest) is not None]
    return False


__all__ = ["MASKED", "Context", "LayoutError"]
