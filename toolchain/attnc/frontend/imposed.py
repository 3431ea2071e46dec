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

from attnc.errors import UnsupportedError
from attnc.frontend.builder import LayoutError
from attnc.frontend.context import Context
from attnc.frontend.pointwise import ONE_OPERAND
from attnc.frontend.quantized_model import Quantized, QuantizedConstant, weight_names
from attnc.frontend.values import Array, Base, Const, Grid, Scores, Unary, Value, View, merge
from attnc.ir import Graph, Node, TensorType
from attnc.ops import operator
from attnc.ops.functions import find
from attnc.weights import WeightFormat

TOLERANCE = 3e-5
"""Distance of weight / scale from an integer: 2**-24 relative for float32, times 2**8 for the largest integers."""
LARGEST_MULTIPLE = 128


# ---- in the interpreter ----


def quantize(ctx: Context, node: NodeProto, value: Value) -> Value | None:
    """A QuantizeLinear on an activation; None where the host computes it."""
    found = ctx.quantized
    if found is None or node.output[0] not in found.grids:
        return None
    if node.output[0] in ctx.simplified.outputs:
        ctx.fail(node, "it makes integers that are an output of the model")
    if isinstance(value, Const):  # constant only since the shapes are fixed, as a token repeated for each sample
        found.passed[node.name] = "a constant: the device rounds it to the type of what it becomes a part of"
        return value
    grid = found.grids[node.output[0]]
    if isinstance(value, View) and not value.base.device and (value.base.imposed is None or grid.same(value.base.imposed)):
        return View(replace(value.base, imposed=grid), value.idx, merge(value.src, (node.name,)))
    view = _settled(ctx, node, value)
    if view is None:
        what = "attention scores or probabilities" if isinstance(value, Scores) else "a step of a normalisation or of a function"
        found.passed[node.name] = f"{what}: the device keeps them in its own type"
        return value
    try:
        return _imposed(ctx, node, ctx.on_device(view), grid)
    except LayoutError as error:
        ctx.fail(node, str(error))


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


def _settled(ctx: Context, node: NodeProto, value: Value) -> View | None:
    """The value as a view, if it is more than an intermediate step."""
    if isinstance(value, View):
        return value
    if not isinstance(value, Unary):
        return None
    if ctx.affine(value) is not None and _inside_function(ctx, node):
        return None
    try:
        made = ctx.concrete(value)
    except UnsupportedError:
        return None
    return made if isinstance(made, View) else None


def _inside_function(ctx: Context, node: NodeProto) -> bool:
    """Whether a function of single elements follows the pair, as in GELU written out."""
    tensors = {node.output[0]}
    for other in ctx.simplified.model.graph.node:
        if tensors.isdisjoint(other.input):
            continue
        if other.op_type in ONE_OPERAND or other.op_type == "Pow":
            return True
        if other.op_type == "DequantizeLinear":
            tensors.update(other.output)
    return False


def _imposed(ctx: Context, node: NodeProto, view: View, grid: Grid) -> View:
    """The view over a value of the imposed type."""
    compact = ctx.builder.compact(view)
    base = compact.base
    name = ctx.builder.imposed(base.name, grid, merge(view.src, (node.name,)))
    return View(Base(name, base.rows, base.channels, True), compact.idx)


# ---- after the interpreter ----


def finish(graph: Graph, found: Quantized) -> None:
    """Types to their makers, integers to weights and constants. Raises `UnsupportedError`."""
    _absorb(graph)
    if _without_relu(graph):
        _absorb(graph)
    for node in graph.nodes:
        if node.op == "linear":
            _impose_weight(node, found)
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


def _impose_weight(node: Node, found: Quantized) -> None:
    """Integers and scales of a linear whose weight arrived quantized."""
    products = tuple(name for name in node.source if name in found.products)
    candidates = [constant for constant in weight_names(found, products) if constant.q.ndim > 1]
    if not candidates:
        return
    weight = np.asarray(node.params["weight"], np.float64)
    q, unit, exact = _match(weight, candidates)
    if q is None or q.max(initial=0) > 127 or q.min(initial=0) < -128:
        constant = candidates[0]
        what = (
            f"it is asymmetric or of {constant.bits} bits: without the zero point it runs from {constant.q.min()} to {constant.q.max()}"
            if _wide(constant)
            else "its scales do not run along output channels"
        )
        reason = f"weight {constant.name!r}, made by {constant.node!r}: {what}; needed -128 to 127 and a scale per tensor or output channel"
        raise UnsupportedError(node.source[-1] if node.source else node.name, "DequantizeLinear", reason)
    node.params |= {"weight_q": q.astype(np.int8), "weight_unit": unit, "weight_multiplier": np.ones((len(unit), 1), np.int64)}
    name = format_of(q, max(constant.bits for constant in candidates)).name
    node.attrs.update(weights=name, group_size=0, quantizer="imported", lossless=True)
    found.weights.append({
        "node": node.name, "tensors": [constant.name for constant in candidates], "format": name,
        "shape": list(q.shape), "scales": "as imported" if exact else "recovered from the folded weight",
    })  # fmt: skip


def _wide(constant: QuantizedConstant) -> bool:
    return bool(constant.q.max(initial=0) > 127 or constant.q.min(initial=0) < -128)


def format_of(q: Array, bits: int) -> WeightFormat:
    """The narrowest format of at least `bits` bits that holds the integers (-128 counts as 8 bits)."""
    peak = int(np.abs(q).max(initial=0))
    if bits <= 2 and peak <= 1:
        return WeightFormat.parse("ternary")
    formats = map(WeightFormat.parse, ("int2", "int3", "int4", "int5", "int6", "int8"))
    return next(f for f in formats if f.bits == 8 or (f.bits >= bits and f.limit >= peak))


def _match(weight: Array, candidates: Sequence[QuantizedConstant]) -> tuple[Array | None, Array, bool]:
    """Integers [N, K], scale [N], and whether every scale is one of the candidates' own.

    The frontend may have split, merged, transposed and scaled the weight: each row finds its scale by the fact that it divides the
    row into integers. A row that was multiplied by a constant on the way gets the largest scale that does so.
    """
    n = weight.shape[0]
    scales = np.unique(np.concatenate([constant.scale.reshape(-1) for constant in candidates]))
    unit, done = np.zeros(n), np.zeros(n, bool)
    aligned = [c.scale for c in candidates if c.scale.size in (1, n)]
    for scale in [np.broadcast_to(s, n) for s in aligned]:
        fits = ~done & _divides(weight, scale)
        unit[fits], done = scale[fits], done | fits
    for scale in scales if not done.all() and len(scales) <= 1 << 14 else ():
        rows = np.flatnonzero(~done)
        fits = rows[_divides(weight[rows], np.full(rows.size, scale))]
        unit[fits], done[fits] = scale, True
        if done.all():
            break
    exact = bool(done.all())
    for row in np.flatnonzero(~done):
        found = _largest_step(weight[row])
        if found is None:
            return None, unit, False
        unit[row] = found
    return np.rint(weight / unit[:, None]).astype(np.int64), unit, exact


def _divides(weight: Array, scale: Array) -> Array:
    """Rows that are integers of at most 8 bits times their scale."""
    ratio = weight / scale[:, None]
    nearest = np.rint(ratio)
    return np.asarray((np.abs(ratio - nearest) <= TOLERANCE).all(axis=1) & (np.abs(nearest) <= LARGEST_MULTIPLE).all(axis=1))


def _largest_step(row: Array) -> float | None:
    """The largest scale that makes integers of at most 8 bits of a row, refined by least squares."""
    peak = float(np.abs(row).max(initial=0.0))
    if peak == 0:
        return 1.0
    for m in range(1, LARGEST_MULTIPLE + 1):
        if _divides(row[None], np.array([peak / m]))[0]:
            q = np.rint(row * m / peak)
            return float(row @ q / (q @ q))
    return None


def _impose_constants(graph: Graph, found: Quantized) -> None:
    """Constant operands that arrived quantized per tensor keep their integers."""
    for node in graph.nodes:
        for name in node.inputs:
            if name not in graph.constants or graph.value(name).imposed is not None or node.op not in ("add", "mul"):
                continue
            for constant in weight_names(found, node.source):
                if constant.scale.ndim or constant.bits > 8:
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
    if found.blocks:
        rules.append(f"weights with scales per block are quantized again, to the format of --weights: {'; '.join(found.blocks)}")
    if found.requantized:
        count = len(found.requantized)
        rules.append(f"{count} operands rounded once more to a type that their reader takes: zero point 0 for attention, 8 bits for linear")
    return rules


def _tables(graph: Graph) -> bool:
    functions = [find(node.attrs["function"]) for node in graph.nodes if node.op == "unary"]
    return any(function is None or function.clamp is None for function in functions)
