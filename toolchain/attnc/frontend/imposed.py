"""Pairs of QuantizeLinear and DequantizeLinear become types of values, quantized constants integers of the device's graph.

A pair on the device is a `requantize` whose output has an imposed type; `finish` hands that type to whoever makes the value, so that
it is rounded once. A pair inside what the device computes in one piece (attention scores, steps of a normalisation or of a function)
is left out, and noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from attnc.frontend.builder import LayoutError
from attnc.frontend.context import MASKED, Context
from attnc.frontend.imported_weights import TOLERANCE, impose_experts, impose_weight
from attnc.frontend.quantized_model import Quantized, weight_names, written
from attnc.frontend.values import Const, Grid, ScoreRows, Scores, Unary, Value, View, merge
from attnc.ir import Graph, Node, TensorType
from attnc.ops import operator
from attnc.ops.functions import find

LOST_STEP = 16.0
"""Of scores of attention in steps of this and more, those that round to different numbers differ by more than a softmax sees (e**-16)."""


# ---- in the interpreter ----


def quantize(ctx: Context, node: NodeProto, value: Value) -> Value | None:
    """A QuantizeLinear on an activation; None where the host computes it."""
    found = ctx.quantized
    if found is None or node.output[0] not in found.grids:
        return None
    if node.output[0] in ctx.simplified.outputs:
        ctx.fail(node, "it makes integers that are an output of the model")
    grid = found.grids[node.output[0]]
    if isinstance(value, Const):  # constant only since the shapes are fixed, as a token repeated for each sample
        found.rounded.add(node.name)
        return Const(grid.round(value.array), merge(value.src, (node.name,)))
    if isinstance(value, View) and not value.base.device and (value.base.imposed is None or grid.same(value.base.imposed)):
        if grid.range[0] <= MASKED:  # a mask: the host rounds it, and attention takes it in a type of its own
            found.rounded.add(node.name)
            return None
        return View(replace(value.base, imposed=grid), value.idx, merge(value.src, (node.name,)))
    if isinstance(value, Unary) and value.made is None:
        return _later(ctx, node, value, grid)
    view = value.made if isinstance(value, Unary) else value
    if isinstance(view, Scores) and not view.normalized:
        if grid.scale >= max(LOST_STEP, 2 * _reach(view) * abs(view.scale)):
            return _lost(ctx, node, view, grid)
        if value is view and view.bias is None and view.computed is None and view.cap is None:
            value = replace(view, reach=min(view.reach, _most(grid) / abs(view.scale)))
    if not isinstance(view, View):
        what = "attention scores or probabilities" if isinstance(value, (Scores, ScoreRows)) else "a step of a normalisation"
        found.passed[node.name] = f"{what}: the device keeps them in its own type"
        return value
    try:
        return ctx.impose(view, grid, node.name)
    except LayoutError as error:
        ctx.fail(node, str(error))


def _later(ctx: Context, node: NodeProto, value: Unary, grid: Grid) -> Value:
    """A function of single elements gets the type if it is put into the graph; as a step of another one it stays in its own."""
    assert ctx.quantized is not None
    if value.pair is not None:
        if grid.same(value.pair[0]):
            ctx.quantized.passed[node.name] = "the same rounding a second time does nothing"
            return value
        made = ctx.concrete(value)
        return quantize(ctx, node, made) or made
    ctx.quantized.passed[node.name] = "a step of a function or of attention, which the device computes in one piece"
    return replace(value, src=merge(value.src, (node.name,)), pair=(grid, node.name))


def _reach(scores: Scores) -> float:
    """No product of a query and a key is beyond, by their types and by a pair behind them."""
    q, k = scores.q.base.imposed, scores.k.base.imposed
    return scores.reach if q is None or k is None else min(scores.reach, scores.q.shape[2] * _most(q) * _most(k))


def _most(grid: Grid) -> float:
    return max(map(abs, grid.range))


def _lost(ctx: Context, node: NodeProto, value: Scores, grid: Grid) -> Scores:
    """Scores whose steps are so large, since a mask was calibrated with them, that products round to 0: nothing is left but the mask."""
    assert ctx.quantized is not None
    ctx.quantized.lost.append(f"{node.name} (a step is {grid.scale:.2g})")
    ctx.quantized.rounded.add(node.name)
    zeros = ctx.constant_view(Const(np.zeros(value.q.shape)))
    bias = Const(grid.round(value.bias.array), value.bias.src) if isinstance(value.bias, Const) else value.bias
    return replace(value, q=zeros, bias=bias, fallback=None, src=merge(value.src, (node.name,)))


def dequantize(ctx: Context, node: NodeProto, value: Value) -> Value | None:
    """A DequantizeLinear on an activation: nothing is left to do, unless its integers come from the host."""
    found = ctx.quantized
    if found is None or (isinstance(value, Const) and value.array.dtype.kind != "f"):
        return None
    if isinstance(value, View) and not value.base.device and value.base.imposed is None:
        grid = found.grids.get(node.output[0])
        if grid is None:
            return None
        made = ctx.host_view(node.output[0], value.shape, (node.name,))
        return View(replace(made.base, imposed=grid), made.idx, made.src)
    return value


# ---- after the interpreter ----


def finish(graph: Graph, found: Quantized) -> None:
    """Types to their makers, integers to weights and constants. Raises `UnsupportedError`."""
    _absorb(graph)
    if _without_relu(graph):
        _absorb(graph)
    for node in graph.nodes:
        if node.op == "linear":
            impose_weight(node, found)
            if not found.dynamic.isdisjoint(written(name, found.dynamic) for name in node.source):
                node.attrs["dynamic_input"] = True
            imposed = graph.value(node.inputs[0]).imposed
            if imposed is not None and imposed.bits > 8:
                node.attrs["wide_input"] = True
        elif node.op == "experts":
            impose_experts(node, found)
    _impose_constants(graph, found)


def _absorb(graph: Graph) -> None:
    """A requantize with an imposed type vanishes where the maker of its operand can round to that type itself."""
    for node in list(graph.nodes):
        if node.op != "requantize" or node not in graph.nodes:
            continue
        source = node.inputs[0]
        type_, producer = graph.value(node.output).imposed, graph.producer(source)
        if type_ is not None and _equal(graph.value(source).imposed, type_) and node.output not in graph.outputs:
            _bypass(graph, node)
            continue
        if type_ is None or source in graph.outputs or source in graph.constants or graph.value(source).imposed is not None:
            continue
        if producer is not None and (producer.op == "requantize" or operator(producer).fixed_output_type(producer, []) is not None):
            continue
        readers = graph.consumers(source)
        if any(reader.op != "requantize" or not _equal(graph.value(reader.output).imposed, type_) for reader in readers):
            continue
        if any(reader.output in graph.outputs for reader in readers) and (producer is None or len(readers) > 1):
            continue
        _replace(graph, source, readers, producer, type_)


def _without_relu(graph: Graph) -> bool:
    """A relu into a type without negative numbers is done by its saturation; says whether there was one."""
    found = False
    for node in graph.nodes:
        type_ = graph.value(node.output).imposed
        if node.op == "unary" and node.attrs["function"] == "relu" and type_ is not None and type_.range[0] == 0:
            node.op, node.attrs, found = "requantize", {}, True
    return found


def _bypass(graph: Graph, node: Node) -> None:
    """A second rounding to the same type does nothing."""
    graph.nodes = [other for other in graph.nodes if other is not node]
    for reader in graph.nodes:
        reader.inputs = [node.inputs[0] if name == node.output else name for name in reader.inputs]
    del graph.values[node.output]


def _replace(graph: Graph, source: str, readers: Sequence[Node], producer: Node | None, type_: TensorType) -> None:
    """`source` takes the type and the place of the values that `readers` made of it."""
    kept = source
    if producer is not None:
        kept = readers[0].output
        producer.output = kept
        producer.source = merge(producer.source, *(reader.source for reader in readers))
        del graph.values[source]
    graph.value(kept).imposed = type_
    gone = {reader.output for reader in readers} - {kept}
    graph.nodes = [node for node in graph.nodes if all(node is not reader for reader in readers)]
    for node in graph.nodes:
        node.inputs = [kept if name in gone else name for name in node.inputs]
    for name in gone:
        del graph.values[name]


def _equal(a: TensorType | None, b: TensorType) -> bool:
    return a is not None and (a.bits, float(a.scale), a.zero_point) == (b.bits, float(b.scale), b.zero_point)


def _impose_constants(graph: Graph, found: Quantized) -> None:
    """Constant operands that arrived quantized per tensor keep their integers."""
    for node in graph.nodes:
        for name in node.inputs:
            if name not in graph.constants or graph.value(name).imposed is not None or node.op not in ("add", "mul"):
                continue
            for constant in weight_names(found, node.source):
                if constant.block or constant.scale.ndim or constant.bits > 8:
                    continue
                ratio = graph.constants[name] / float(constant.scale)
                low, high = int(constant.q.min()), int(constant.q.max())
                zero = max(-128, 127 - high) if high > 127 else min(127, -128 - low) if low < -128 else 0
                if high - low > 255:
                    continue
                if np.abs(ratio - np.rint(ratio)).max() <= 4 * TOLERANCE and np.rint(ratio).min() >= low and np.rint(ratio).max() <= high:
                    graph.value(name).imposed = TensorType(8, True, np.asarray(constant.scale, np.float64), zero)
                    break


def report(found: Quantized, graph: Graph) -> dict[str, object]:
    """The section "import" of the report."""
    imposed = [name for name, value in graph.values.items() if value.imposed is not None]
    return {
        "dialects": found.dialects,
        "weights": found.weights,
        "constants": len(found.constants),
        "activation_types": len(imposed),
        "zero_points": sum(graph.values[name].imposed.zero_point != 0 for name in imposed),  # type: ignore[union-attr]
        "left_out": [{"node": name, "reason": reason} for name, reason in found.passed.items()],
        "requantized": found.requantized,
        "rounding_rules": rounding_rules(found, graph),
    }


def rounding_rules(found: Quantized, graph: Graph) -> list[str]:
    """What differs from the framework's own integers, and by how much."""
    rules = [
        f"{count} pairs round {name}; the device rounds half up (inputs of the device, on the host: half to even): one step, on ties only"
        for name, count in sorted(found.roundings.items())
    ]
    rules.append("rescaling: a multiplier of 17 bits, relative error 2**-18, instead of a float32 factor: one step, next to a tie only")
    ops = {node.op for node in graph.nodes}
    texts = {
        "attention": "attention: softmax by a chord table of 2**x and one reciprocal (see ops/attention.py), its scores and "
        "probabilities not rounded to 8 bits",
        "layer_normalization": "layer_normalization: an integer reciprocal root (see ops/layer_normalization.py)",
        "rms_normalization": "rms_normalization: an integer reciprocal root (see ops/rms_normalization.py)",
        "rotary": "rotary: cosines and sines of 14 fraction bits (see ops/rotary.py)",
        "softmax": "softmax: a chord table of 2**x and one reciprocal (see ops/softmax.py)",
        "unary": "unary: functions other than relu and clip are interpolated in a table (see ops/unary.py)",
    }
    rules += [text for op, text in texts.items() if op in ops and (op != "unary" or _tables(graph))]
    rules += found.changed
    if found.centred:
        rules.append(
            f"{len(found.centred)} pairs of 16 bits have a zero point: here 16 bits around 0 that reach as far, at most twice the step"
        )
    if found.dynamic:
        rules.append(f"{len(found.dynamic)} products find the scale of their input in the data: here one per token, symmetric (in the "
                     "file one per tensor, with a zero point)")  # fmt: skip
    if found.requantized:
        count = len(found.requantized)
        rules.append(f"{count} operands rounded once more to a type that their reader takes: zero point 0 for attention, 8 bits for linear")
    return rules


def _tables(graph: Graph) -> bool:
    functions = [find(node.attrs["function"]) for node in graph.nodes if node.op == "unary"]
    return any(function is None or function.clamp is None for function in functions)
