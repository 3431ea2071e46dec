"""Rotary embeddings: pairs of channels of one tensor, turned by an angle per row.

However it is spelled, the result is a sum of two tensors that each show chosen channels of one tensor, times constants:
y[r, c] = a[r, c] * x[r, own[c]] + b[r, c] * x[r, partner[c]]. It is a rotation where partners come in pairs (i, j) with
a_i = a_j and b_i = -b_j; channels with b = 0 and a = 1 pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from attnc.frontend.builder import LayoutError
from attnc.frontend.context import Context
from attnc.frontend.values import Array, Concrete, Const, Index, Sources, Value, View, merge, on_host, reindex
from attnc.ir import Graph, Node

TOLERANCE = 1e-6
NORMS = ("layer_normalization", "rms_normalization")


@dataclass(frozen=True)
class Mix:
    """A sum of channels of `root`: columns [n, C], factors [n, R or 1, C], n at most 2."""

    root: str
    columns: Index
    factors: Array

    def pick(self, which: Sequence[int]) -> Mix:
        """Chosen channels."""
        return replace(self, columns=self.columns[:, list(which)], factors=self.factors[:, :, list(which)])

    def turned(self) -> Mix:
        """The same sum with its terms the other way round."""
        return replace(self, columns=self.columns[::-1], factors=self.factors[::-1])


@dataclass(frozen=True)
class Rotation:
    """`own` [C] are the channels of the root in the order of the result; cos and sin are [R, rotary_dims / 2]."""

    own: Index
    heads: int
    interleaved: bool
    cos: Array
    sin: Array

    @property
    def attrs(self) -> dict[str, int | bool]:
        """As attributes of the operator."""
        return {"num_heads": self.heads, "rotary_dims": 2 * self.cos.shape[1], "interleaved": self.interleaved}


def find_rotations(graph: Graph) -> list[str]:
    """Replace sums that are rotations by the operator `rotary`; what they were made of is left to be dropped. Returns the ONNX nodes of
    roundings (of a quantized model) that were among their steps."""
    mixes: dict[str, Mix] = {}
    nodes: list[Node] = []
    steps: dict[str, Sources] = {}
    left_out: list[str] = []
    for node in graph.nodes:
        mix = _mix(graph, mixes, node)
        found = None
        if mix is not None:
            mixes[node.output] = mix
            steps[node.output] = merge(*(steps.get(name, ()) for name in node.inputs), node.source if node.op == "requantize" else ())
            found = rotation(mix, graph.value(node.output).shape[0]) if len(mix.columns) == 2 and node.op != "requantize" else None
        if mix is None or found is None:
            nodes.append(node)
            continue
        left_out += steps[node.output]
        source = mix.root
        if not np.array_equal(found.own, np.arange(graph.value(source).shape[1])):
            source = graph.fresh(f"{mix.root}_rotated")
            graph.add_value(source, (graph.value(mix.root).shape[0], len(found.own)))
            columns = tuple(int(column) for column in found.own)
            nodes.append(Node(f"{node.name}:columns", "gather_columns", [mix.root], source, {"columns": columns}, source=node.source))
        params = {"cos": found.cos, "sin": found.sin}
        nodes.append(Node(node.name, "rotary", [source], node.output, dict(found.attrs), params, node.source))
    graph.nodes = nodes
    _turn_whole(graph)
    return left_out


@dataclass(frozen=True)
class _Rows:
    """Some rows of a tensor, turned or as they are."""

    gather: Node
    rotary: Node | None

    def table(self, key: str, pairs: int) -> Array:
        """Cosines or sines of the rows, of no angle where they are not turned."""
        if self.rotary is not None:
            return self.rotary.params[key]
        return np.full((len(self.gather.attrs["rows"]), pairs), float(key == "cos"))


def _turn_whole(graph: Graph) -> None:
    """A tensor of which some rows are turned and the others pass (class and register tokens) is turned as a whole, those by no angle."""
    producer = {node.output: node for node in graph.nodes}
    for index, node in enumerate(graph.nodes):
        found = [_rows(producer, name) for name in node.inputs] if node.op == "concat_rows" else []
        parts = [part for part in found if part is not None]
        turned = [part.rotary for part in parts if part.rotary is not None]
        if not turned or len(parts) < len(found) or any(rotary.attrs != turned[0].attrs for rotary in turned):
            continue
        source, rows = parts[0].gather.inputs[0], [row for part in parts for row in part.gather.attrs["rows"]]
        if {part.gather.inputs[0] for part in parts} != {source} or rows != list(range(graph.value(source).shape[0])):
            continue
        pairs = turned[0].params["cos"].shape[1]
        params = {key: np.concatenate([part.table(key, pairs) for part in parts]) for key in ("cos", "sin")}
        origin = merge(*(part.gather.source for part in parts), *(rotary.source for rotary in turned), node.source)
        graph.nodes[index] = Node(node.name, "rotary", [source], node.output, dict(turned[0].attrs), params, origin)


def _rows(producer: Mapping[str, Node], name: str) -> _Rows | None:
    node = producer.get(name)
    rotary = node if node is not None and node.op == "rotary" else None
    gather = producer.get(rotary.inputs[0]) if rotary is not None else node
    return _Rows(gather, rotary) if gather is not None and gather.op == "gather_rows" else None


def _mix(graph: Graph, mixes: dict[str, Mix], node: Node) -> Mix | None:
    """The result of a node as a mix of one value; None if it is another operator, or a mix of several."""
    if node.op == "gather_columns":
        return _of(graph, mixes, node.inputs[0]).pick(node.attrs["columns"])
    if node.op == "requantize" and node.inputs[0] in mixes:
        mix = mixes[node.inputs[0]]
        again = graph.value(mix.root).imposed is not None  # what was rounded before, whatever was selected of it
        return mix if again or len(mix.columns) == 2 or np.any(mix.factors != 1) else None
    if node.op == "mul":
        x, constant = node.inputs if node.inputs[1] in graph.constants else node.inputs[::-1]
        if constant not in graph.constants or x in graph.constants or graph.value(x).shape != graph.value(node.output).shape:
            return None
        mix = _of(graph, mixes, x)
        return replace(mix, factors=mix.factors * graph.constants[constant])
    parts = [_of(graph, mixes, name) for name in node.inputs] if node.op in ("add", "concat_columns") else []
    if not parts or len({part.root for part in parts}) != 1 or any(name in graph.constants for name in node.inputs):
        return None
    if node.op == "concat_columns":
        return _side_by_side(parts)
    if sum(len(part.columns) for part in parts) != 2 or len({graph.value(name).shape for name in node.inputs}) != 1:
        return None
    rows = max(part.factors.shape[1] for part in parts)
    factors = [np.broadcast_to(part.factors, (1, rows, part.columns.shape[1])) for part in parts]
    mix = Mix(parts[0].root, np.concatenate([part.columns for part in parts]), np.concatenate(factors))
    return mix.turned() if _pairs(mix) is None and _pairs(mix.turned()) is not None else mix


def _of(graph: Graph, mixes: dict[str, Mix], name: str) -> Mix:
    channels = graph.value(name).shape[1]
    return mixes.get(name) or Mix(name, np.arange(channels)[None], np.ones((1, 1, channels)))


def is_rotated_apart(graph: Graph, names: Sequence[str]) -> bool:
    """Whether the values side by side are a rotation, each made on its own: [a * cos - b * sin, a * sin + b * cos]."""
    needed, nodes = set(names), []
    normal = {node.output for node in graph.nodes if node.op in NORMS}
    for node in reversed(graph.nodes):
        gain = node.op == "mul" and not normal.isdisjoint(node.inputs)  # of the norm, and none of the angles
        if node.output in needed and node.op in ("gather_columns", "mul", "add", "concat_columns") and not gain:
            needed.update(node.inputs)
            nodes.append(node)
    mixes: dict[str, Mix] = {}
    for node in reversed(nodes):
        mix = _mix(graph, mixes, node)
        if mix is not None:
            mixes[node.output] = mix
    parts = [mixes[name] for name in names if name in mixes]
    if len(parts) < len(names) or len({part.root for part in parts}) != 1 or any(len(part.columns) != 2 for part in parts):
        return False
    return _pairs(_side_by_side(parts)) is not None


def _side_by_side(parts: Sequence[Mix]) -> Mix:
    """Channels of several mixes of one root, their terms in an order that makes a rotation of the whole if there is one."""
    whole = _joined(parts)
    if len(whole.columns) == 2 and _pairs(whole) is None:
        for turned in (False, True):
            faced = _joined(_faced(parts, turned))
            if _pairs(faced) is not None:
                return faced
    return whole


def _faced(parts: Sequence[Mix], turned: bool) -> list[Mix]:
    """Sums with their terms in the order in which no channel is the first term twice; where both orders are, `turned` decides."""
    taken: set[int] = set()
    faced = []
    for part in parts:
        orders = [part.turned(), part] if turned else [part, part.turned()]
        fitting = [order for order in orders if taken.isdisjoint(order.columns[0].tolist())]
        faced.append(fitting[0] if fitting and len(part.columns) == 2 else part)
        taken.update(faced[-1].columns[0].tolist())
    return faced


def _joined(parts: Sequence[Mix]) -> Mix:
    """Channels of several mixes of one root; a missing second term is the first one times zero."""
    terms, rows = max(len(part.columns) for part in parts), max(part.factors.shape[1] for part in parts)
    columns, factors = [], []
    for part in parts:
        missing = terms - len(part.columns)
        wide = np.broadcast_to(part.factors, (len(part.columns), rows, part.columns.shape[1]))
        columns.append(np.concatenate([part.columns, *[part.columns[:1]] * missing]))
        factors.append(np.concatenate([wide, *[np.zeros_like(wide[:1])] * missing]))
    return Mix(parts[0].root, np.concatenate(columns, axis=1), np.concatenate(factors, axis=2))


def _pairs(mix: Mix) -> Index | None:
    """The partner of each channel, itself where it passes; None if this is no rotation."""
    (own, other), (cos, sin) = mix.columns, mix.factors
    place = {int(column): channel for channel, column in enumerate(own)}
    if len(place) != len(own):
        return None
    turned = np.any(sin != 0, axis=0)
    partner = np.arange(len(own))
    for channel in np.flatnonzero(turned):
        partner[channel] = place.get(int(other[channel]), -1)
    if not np.any(turned) or np.any(partner < 0) or not np.array_equal(partner[partner], np.arange(len(own))):
        return None
    if np.any(partner[turned] == np.flatnonzero(turned)) or not np.array_equal(turned[partner], turned):
        return None
    near = np.allclose(cos, cos[:, partner], rtol=0, atol=TOLERANCE) and np.allclose(sin, -sin[:, partner], rtol=0, atol=TOLERANCE)
    return partner if near and np.allclose(cos[:, ~turned], 1, rtol=0, atol=TOLERANCE) else None


def rotation(mix: Mix, rows: int) -> Rotation | None:
    """The rotation that a mix of two terms is, with heads of one layout side by side."""
    partner = _pairs(mix)
    if partner is None:
        return None
    channels = len(partner)
    moved = partner != np.arange(channels)
    step = int(partner[0])
    if step < 1:
        return None
    size = _head(mix, moved, step)
    if size is None:
        return None
    rotary = int(np.argmin(moved[:size])) if not np.all(moved[:size]) else size
    first = np.arange(0, rotary, 2) if step == 1 else np.arange(rotary // 2)
    expected = np.arange(size)
    expected[first], expected[first + step] = first + step, first
    heads = channels // size
    if 2 * len(first) != rotary or not np.array_equal(partner.reshape(heads, size), expected + size * np.arange(heads)[:, None]):
        return None
    cos, sin = (np.broadcast_to(part, (rows, channels)).reshape(rows, heads, size) for part in mix.factors)
    if max(np.ptp(cos, axis=1).max(), np.ptp(sin, axis=1).max()) > TOLERANCE:
        return None
    return Rotation(mix.columns[0], heads, step == 1, cos[:, 0, first].copy(), -sin[:, 0, first])


def _head(mix: Mix, moved: Index, step: int) -> int | None:
    """Channels per head: up to the next head where some channels pass, else the pairs' span, else the shortest period."""
    channels = len(moved)
    if not np.all(moved):
        starts = np.flatnonzero(moved[1:] & ~moved[:-1]) + 1
        size = int(starts[0]) if len(starts) else channels
        return size if channels % size == 0 else None
    if step > 1:
        return 2 * step if channels % (2 * step) == 0 else None
    for size in range(2, channels + 1, 2):
        parts = mix.factors.reshape(2, -1, channels // size, size) if channels % size == 0 else None
        if parts is not None and np.ptp(parts, axis=2).max() <= TOLERANCE:
            return size
    return None


# ---- the operator ----


def rotary_embedding(ctx: Context, node: NodeProto, args: Sequence[Value | None]) -> list[Value]:
    """RotaryEmbedding of opset 23 and later; its caches and positions are constant or of the host, which then gathers the angles."""
    attributes = ctx.attributes(node)
    assert args[0] is not None
    x = ctx.view(args[0])
    shape = x.shape
    if len(shape) == 3:
        heads = int(attributes.get("num_heads", 0))
        if not heads:
            ctx.fail(node, "num_heads is needed with an input of three axes")
        x = _moved(x, lambda i: i.reshape(*shape[:2], heads, -1).transpose(0, 2, 1, 3))
    size = x.shape[-1]
    rotary = int(attributes.get("rotary_embedding_dim", 0)) or size
    if attributes.get("interleaved", 0):
        first, second = np.arange(0, rotary, 2), np.arange(1, rotary, 2)
    else:
        first, second = np.arange(rotary // 2), np.arange(rotary // 2, rotary)
    partner = np.arange(size)
    partner[first], partner[second] = second, first
    cos, sin = (reindex(table, lambda i: i[..., : rotary // 2]) for table in _angles(ctx, node, args[1:]))
    a, b = _factors(ctx, (cos, sin), (first, second), size, node)
    name, src = node.output[0], (node.name,)
    try:
        own = ctx.elementwise.apply("mul", x, a, f"{name}_cos", src)
        other = ctx.elementwise.apply("mul", _moved(x, lambda i: i[..., partner]), b, f"{name}_sin", src)
        made = ctx.elementwise.apply("add", own, other, name, src)
    except LayoutError as error:
        ctx.fail(node, str(error))
    return [_moved(made, lambda i: i.transpose(0, 2, 1, 3).reshape(shape)) if len(shape) == 3 else made]


def _angles(ctx: Context, node: NodeProto, given: Sequence[Value | None]) -> list[Concrete]:
    """Cosines and sines [samples, rows, pairs]: the caches, at the positions where these are given."""
    tables = [value for value in given if isinstance(value, (Const, View)) and on_host(value)]
    if len(tables) < sum(value is not None for value in given):
        ctx.fail(node, "its caches and positions must be constant or made by the host, not by the device")
    caches, positions = tables[:2], tables[2:]
    if not positions:
        return caches
    where = positions[0]
    if isinstance(where, Const) and all(isinstance(cache, Const) for cache in caches):
        return [reindex(cache, lambda i: i[where.array]) for cache in caches]
    return [ctx.host_node("Gather", [cache, where], (*where.shape, cache.shape[-1]), (node.name,)) for cache in caches]


def _factors(ctx: Context, angles: Sequence[Concrete], pairs: tuple[Index, Index], size: int, node: NodeProto) -> list[Concrete]:
    """What channels and their partners are multiplied by, [samples, 1, rows, size]: the cosine, and the sine, which is negative for the
    first of a pair; 1 and 0 where a channel passes."""
    (cos, sin), (first, second), src = angles, pairs, (node.name,)
    count, passing = cos.shape[-1], (*cos.shape[:-1], 1)
    own, other = np.full(size, count), np.full(size, 2 * count)
    own[first] = own[second] = other[second] = np.arange(count)
    other[first] = count + np.arange(count)
    negative = Const(-sin.array) if isinstance(sin, Const) else ctx.host_node("Neg", [sin], sin.shape, src)
    sides = [cos, Const(np.ones(passing))], [sin, negative, Const(np.zeros(passing))]
    tables = [_joined_tables(ctx, parts, src) for parts in sides]
    return [reindex(tables[0], lambda i: i[..., own][:, None]), reindex(tables[1], lambda i: i[..., other][:, None])]


def _joined_tables(ctx: Context, parts: Sequence[Concrete], src: Sources) -> Concrete:
    """Tables of constants or of the host, joined along their last axis."""
    if all(isinstance(part, Const) for part in parts):
        return Const(np.concatenate([part.array for part in parts if isinstance(part, Const)], axis=-1).astype(np.float64))
    return ctx.host_node("Concat", parts, (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts)), src, axis=-1)


def _moved(view: View, move: Callable[[Array], Array]) -> View:
    result = reindex(view, move)
    assert isinstance(result, View)
    return result
