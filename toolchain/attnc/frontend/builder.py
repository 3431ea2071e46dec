"""Put nodes, constants and inputs into the device's graph; find a matrix for every view that a node wants to read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from attnc.errors import UnsupportedError
from attnc.frontend.layout import Axes, axes_of, covers, exchanged_blocks, identity, last_axis, separate
from attnc.frontend.values import Array, Base, Const, Grid, Index, Shape, Sources, View, merge
from attnc.ir import Graph, Node
from attnc.model import Feed

MAX_PIECES = 256
"""Most rows (tokens) that may be put side by side: each is moved or multiplied on its own."""
FEW_PIECES, LEAST_ROWS = 16, 4
"""Pieces that are moved on their own however short they are; where there are more, rows that each has on average."""
TAP_WIDTH = 16
"""Channels of a tap are filled up to a multiple of this, so that a tap has tiles of its own with any number of lanes."""
TRANSPOSED = "it needs elements of a tensor on the device in an order that is no matrix of its rows and channels"


class LayoutError(Exception):
    """A view cannot be had in the layout that its reader wants; the reader says who it is."""


class Builder:
    """The graph under construction.

    `gather_columns` (attr columns) and `concat_columns` are operators of its own, which `columns.py` removes at the end.
    """

    def __init__(self, name: str) -> None:
        self.graph = Graph(name)
        self.feeds: list[Feed] = []
        self._cache: dict[tuple[Any, ...], str] = {}
        self._names: set[str] = set()
        self.arrays: dict[str, Array] = {}
        self.transposing = False
        """Whether rows and channels may be exchanged: nothing that can be had without is worth it."""

    def node(
        self, op: str, inputs: Sequence[str], shape: tuple[int, int], stem: str, src: Sources,
        attrs: dict[str, Any] | None = None, params: dict[str, Array] | None = None,
    ) -> Base:  # fmt: skip
        """Append a node; its value is named after `stem`, its name after the last ONNX node."""
        output = self.graph.fresh(stem)
        self.graph.add_value(output, shape)
        name = self._fresh_name(src[-1] if src else op)
        self.graph.nodes.append(Node(name, op, list(inputs), output, attrs or {}, params or {}, src))
        return Base(output, shape[0], shape[1], True)

    def _fresh_name(self, stem: str) -> str:
        name, n = stem, 1
        while name in self._names:
            name, n = f"{stem}_{n}", n + 1
        self._names.add(name)
        return name

    def whole(self, base: Base, shape: Shape | None = None) -> View:
        """The whole of a value, as ONNX shape `shape`."""
        return View(base, identity(shape or (base.rows, base.channels)))

    def constant(self, matrix: Array, stem: str = "constant") -> str:
        """A constant operand of the graph."""
        matrix = np.ascontiguousarray(matrix, dtype=np.float64)
        key = ("constant", matrix.shape, matrix.tobytes())
        if key not in self._cache:
            name = self.graph.fresh(stem)
            self.graph.add_value(name, (matrix.shape[0], matrix.shape[1]))
            self.graph.constants[name] = matrix
            self._cache[key] = name
        return self._cache[key]

    def free_constant(self, array: Array) -> View:
        """A constant as a view that may be read in any layout."""
        name = f"attnc::array_{len(self.arrays)}"
        self.arrays[name] = np.asarray(array, np.float64).ravel()
        return View(Base(name, 1, self.arrays[name].size, False), identity(tuple(array.shape)))

    def feed(self, tensor: str, index: Index) -> str:
        """An input of the graph: `index` [rows, channels] into a tensor of the host."""
        index = np.ascontiguousarray(index, dtype=np.int64)
        key = ("feed", tensor, index.shape, index.tobytes())
        if key not in self._cache:
            name = self.graph.fresh(tensor)
            self.graph.add_value(name, (index.shape[0], index.shape[1]))
            self.graph.inputs.append(name)
            self.feeds.append(Feed(name, tensor, index))
            self._cache[key] = name
        return self._cache[key]

    def matrix(self, base: Base, target: Index, src: Sources) -> str:
        """A value of the graph that holds the elements `target` [R, C] of the base; raises `LayoutError`."""
        if base.name in self.arrays:
            return self.constant(self.arrays[base.name][target])
        if not base.device:
            fed = self.feed(base.name, target)
            return fed if base.imposed is None else self.imposed(fed, base.imposed, src)
        parts = separate(target, base.channels)
        if parts is None:
            return self._exchanged(base, target, src)
        rows, columns = parts
        name, height = base.name, base.rows
        if not np.array_equal(rows, np.arange(base.rows)):
            name, height = self._select("gather_rows", "rows", name, rows, (len(rows), base.channels), src), len(rows)
        if not np.array_equal(columns, np.arange(base.channels)):
            name = self._select("gather_columns", "columns", name, columns, (height, len(columns)), src)
        return name

    def transposed(self, base: Base, src: Sources) -> Base:
        """The base with rows and channels exchanged."""
        key = ("transpose", base.name)
        if key not in self._cache:
            self._cache[key] = self.node("transpose", [base.name], (base.channels, base.rows), f"{base.name}_transposed", src).name
        return Base(self._cache[key], base.channels, base.rows, True)

    def _exchanged(self, base: Base, target: Index, src: Sources) -> str:
        """A matrix whose rows run along channels of the base: of all of it, or block by block."""
        if not self.transposing:
            raise LayoutError(TRANSPOSED)
        blocks = exchanged_blocks(target, base.channels)
        repeated = target.shape[1] > 1 and not np.any(target != target[:, :1])
        if blocks is None or repeated:
            return self._picked(base, target, src)
        if len(blocks) > MAX_PIECES:
            raise LayoutError(TRANSPOSED)
        key = ("exchanged", base.name, target.shape, target.tobytes())
        if key not in self._cache:
            names = []
            for rows, columns in blocks:
                whole = np.arange(base.channels)
                name = self.matrix(base, rows[:, None] * base.channels + whole, src)
                turned = self.transposed(Base(name, len(rows), base.channels, True), src)
                names.append(self.matrix(turned, columns[:, None] * len(rows) + np.arange(len(rows)), src))
            shape = (target.shape[0], target.shape[1])
            joined = names[0] if len(names) == 1 else self.node("concat_rows", names, shape, f"{base.name}_exchanged", src).name
            self._cache[key] = joined
        return self._cache[key]

    def _picked(self, base: Base, target: Index, src: Sources) -> str:
        """A matrix each of whose rows (or else columns) takes any channels of one row of the base."""
        rows = target // base.channels
        if np.any(rows != rows[:, :1]):
            if np.any(rows != rows[:1]):
                raise LayoutError(TRANSPOSED)
            name = self._picked(base, np.ascontiguousarray(target.T), src)
            return self.transposed(Base(name, target.shape[1], target.shape[0], True), src).name
        key = ("picked", base.name, target.shape, target.tobytes())
        if key not in self._cache:
            self._cache[key] = self._picked_blocks(base, target, src)
        return self._cache[key]

    def _picked_blocks(self, base: Base, target: Index, src: Sources) -> str:
        """Blocks of rows in which those of the base go up (heads, say) are read one by one, and picked from together where alike."""
        rows = target[:, 0] // base.channels
        cuts = [0, *(np.flatnonzero(np.diff(rows) <= 0) + 1).tolist(), len(rows)]
        if len(cuts) - 1 > MAX_PIECES or len(cuts) - 1 > max(len(rows) // LEAST_ROWS, FEW_PIECES):
            raise LayoutError(TRANSPOSED)
        names, chosen = [], []
        for first, last in itertools.pairwise(cuts):
            used, which = np.unique(target[first:last] % base.channels, return_inverse=True)
            names.append(self.matrix(base, rows[first:last, None] * base.channels + used, src))
            chosen.append(which.reshape(last - first, -1))
        if all(np.array_equal(one, chosen[0]) for one in chosen):
            return self._channels(self._stacked(base, names, src), chosen[0], src)
        return self._stacked(base, [self._channels(name, one, src) for name, one in zip(names, chosen, strict=True)], src)

    def _stacked(self, base: Base, names: Sequence[str], src: Sources) -> str:
        """Values below each other."""
        shapes = [self.graph.value(name).shape for name in names]
        if len(names) == 1:
            return names[0]
        return self.node("concat_rows", names, (sum(rows for rows, _ in shapes), shapes[0][1]), f"{base.name}_stacked", src).name

    def _channels(self, name: str, index: Index, src: Sources) -> str:
        """Channels `index` [P, N] of the rows of a value."""
        rows, channels = self.graph.value(name).shape
        index = index[:1] if np.array_equal(index, np.broadcast_to(index[:1], index.shape)) else index
        if np.array_equal(index, np.arange(channels)[None]):
            return name
        shape = (rows, index.shape[1])
        return self.node("gather_channels", [name], shape, f"{name}_channels", src, params={"index": index}).name

    def imposed(self, name: str, grid: Grid, src: Sources) -> str:
        """The value `name` as a value of an imposed type."""
        found = self.graph.value(name).imposed
        if found is not None and grid.same(Grid("", found.bits, float(found.scale), found.zero_point)):
            return name
        key = ("imposed", name, grid.bits, grid.scale, grid.zero_point, grid.rectified)
        if key not in self._cache:
            shape = self.graph.value(name).shape
            name = self.node("unary", [name], shape, f"{name}_rectified", src, {"function": "relu"}).name if grid.rectified else name
            made = self.node("requantize", [name], self.graph.value(name).shape, f"{name}_rounded", src).name
            self.graph.value(made).imposed = grid.type()
            self._cache[key] = made
        return self._cache[key]

    def beside(self, base: Base, target: Index, src: Sources) -> str:
        """Like `matrix`, but a row may take its channels from several rows of the base: those are put side by side."""
        if not base.device or separate(target, base.channels) is not None:
            return self.matrix(base, target, src)
        rows, columns = target // base.channels, target % base.channels
        cuts = np.flatnonzero(np.any(rows[:, 1:] != rows[:, :-1], axis=0)) + 1
        bounds = [0, *cuts.tolist(), target.shape[1]]
        if len(bounds) - 1 > MAX_PIECES or len(bounds) - 1 >= target.shape[1] > 1 or np.any(columns != columns[:1]):
            if not self.transposing or exchanged_blocks(target, base.channels) is not None:
                return self.matrix(base, target, src)
            other = columns * base.rows + rows  # as it stands in the transpose
            self.transposing = False
            try:
                return self.beside(self.transposed(base, src), other, src)
            finally:
                self.transposing = True
        names = [self.matrix(base, target[:, start:stop], src) for start, stop in itertools.pairwise(bounds)]
        return self.node("concat_columns", names, (target.shape[0], target.shape[1]), f"{base.name}_beside", src).name

    def _select(self, op: str, attr: str, name: str, which: Index, shape: tuple[int, int], src: Sources) -> str:
        key = (op, name, which.tobytes())
        if key not in self._cache:
            picked = tuple(int(i) for i in which)
            self._cache[key] = self.node(op, [name], shape, f"{name}_{attr}", src, {attr: picked}).name
        return self._cache[key]

    def as_matrix(self, view: View, axes: Axes | None = None) -> tuple[str, Axes]:
        """A view as a matrix: the last axis (or the axes that run along channels) become channels; raises `LayoutError`."""
        axes = axes or self.natural_axes(view)
        if axes is None:
            raise LayoutError(TRANSPOSED)
        return self.matrix(view.base, axes.matrix(view.idx), view.src), axes

    def natural_axes(self, view: View) -> Axes | None:
        """The axes as the base lies in memory; free for a tensor of the host, where the last axis becomes channels."""
        if view.base.device:
            return axes_of(view.idx, view.base.channels)
        return last_axis(view.idx.ndim) if view.idx.ndim else Axes((), ())

    def compact(self, view: View) -> View:
        """The same tensor over a value of the device that holds little else: for functions of single elements."""
        base = view.base
        if base.device and covers(view.idx, base.rows * base.channels):
            return view
        try:
            name, axes = self.as_matrix(view)
        except LayoutError:
            return view  # the function is applied to the whole base, and the view stays
        rows, columns = self.graph.value(name).shape
        matrix = identity((rows, columns))
        return View(Base(name, rows, columns, True), axes.restore(matrix, view.shape), view.src)


def concrete_shape(*shapes: Shape) -> Shape:
    """Broadcast shape."""
    return tuple(np.broadcast_shapes(*shapes))


def unsupported(node: str, operator: str, reason: str) -> UnsupportedError:
    """An `UnsupportedError`; one place so that the texts look alike."""
    return UnsupportedError(node, operator, reason)


class Elementwise:
    """add and mul of a view with a view or a constant, in whatever layout both can be had."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def apply(self, op: str, a: View, b: View | Const, stem: str, src: Sources) -> View:
        """`op` is "add" or "mul"; at least one operand is on the device. Raises `LayoutError`."""
        shape = concrete_shape(a.shape, b.shape)
        src = merge(a.src, b.src, src)
        leaders = [value for value in (a, b) if isinstance(value, View) and value.base.device]
        leaders += [value for value in (a, b) if isinstance(value, View) and not value.base.device]
        leaders.sort(key=lambda value: -value.idx.size)
        problem = LayoutError(TRANSPOSED)
        for leader in leaders:
            other = b if leader is a else a
            try:
                return self._led(op, leader, other, shape, stem, src)
            except LayoutError as error:
                problem = error
        raise problem

    def _led(self, op: str, leader: View, other: View | Const, shape: Shape, stem: str, src: Sources) -> View:
        """The layout of the leader decides."""
        idx = np.broadcast_to(leader.idx, shape)
        base = leader.base
        size, axes = base.rows * base.channels, None
        if base.device and covers(idx, size):
            order = np.argsort(idx.ravel(), kind="stable")
            target = idx.ravel()[order].reshape(base.rows, base.channels)
            second = self._operand(other, shape, lambda x: x.ravel()[order].reshape(base.rows, base.channels), src)
            made = idx
        else:
            axes = self._axes(base, idx)
            if axes is None:
                try:
                    return self._scattered(op, leader, other, shape, stem, src)
                except LayoutError:
                    if not self.builder.transposing:
                        raise
                axes = last_axis(len(shape))
            target = axes.matrix(idx)
            second = self._operand(other, shape, axes.matrix, src)
            made = axes.restore(identity(target.shape), shape)
        first = self._read(base, target, src)
        rows, channels = target.shape
        if self.builder.graph.value(first).shape[0] < self.builder.graph.value(second).shape[0]:
            first, second = second, first
        if self.builder.graph.value(first).shape[0] < rows:  # both repeat one row, and so does the result
            assert axes is not None
            rows, made = 1, axes.restore(np.broadcast_to(identity((1, channels)), target.shape), shape)
        return View(self.builder.node(op, [first, second], (rows, channels), stem, src), made)

    def _axes(self, base: Base, idx: Index) -> Axes | None:
        """How the result lies; None where only `last_axis` is left: a tensor of the device that is spread along its last axis is no row
        for each of that axis."""
        axes = self.builder.natural_axes(View(base, idx))
        if base.device and axes is not None and idx.ndim - 1 in axes.rows and idx.shape[-1] > 1 and not np.any(idx != idx[..., :1]):
            return None
        return axes

    def _operand(self, value: View | Const, shape: Shape, arrange: Any, src: Sources) -> str:
        """The second operand in the leader's layout; one row if all its rows are equal."""
        if isinstance(value, Const):
            matrix = arrange(np.broadcast_to(value.array, shape))
            return self.builder.constant(matrix[:1] if np.array_equal(matrix, np.broadcast_to(matrix[:1], matrix.shape)) else matrix)
        target = arrange(np.broadcast_to(value.idx, shape))
        return self._read(value.base, target, src)

    def _read(self, base: Base, target: Index, src: Sources) -> str:
        """A matrix; a single row where a row is repeated."""
        if target.shape[0] > 1 and bool(np.all(target == target[:1])):
            target = target[:1]
        return self.builder.matrix(base, target, src)

    def _scattered(self, op: str, leader: View, other: View | Const, shape: Shape, stem: str, src: Sources) -> View:
        """A constant spread over the leader's whole base, for a view that is no matrix; elements not shown are left alone."""
        base = leader.base
        if not isinstance(other, Const) or leader.shape != shape or not base.device:
            raise LayoutError(TRANSPOSED)
        number = scalar(other)
        if number is not None:
            second = self.builder.constant(np.full((1, base.channels), number))
            return View(self.builder.node(op, [base.name, second], (base.rows, base.channels), stem, src), leader.idx)
        flat = leader.idx.ravel()
        if np.unique(flat).size != flat.size:
            raise LayoutError(TRANSPOSED)
        matrix = np.full(base.rows * base.channels, 0.0 if op == "add" else 1.0)
        matrix[flat] = np.broadcast_to(other.array, shape).ravel()
        second = self.builder.constant(matrix.reshape(base.rows, base.channels))
        return View(self.builder.node(op, [base.name, second], (base.rows, base.channels), stem, src), leader.idx)


def scalar(value: object) -> float | None:
    """The number that a constant holds in all its elements, or None."""
    if not isinstance(value, Const) or value.array.size == 0 or value.array.dtype.kind not in "fiub":
        return None
    first = value.array.reshape(-1)[0]
    if value.array.size > 1 and not bool(np.all(value.array == first)):
        return None
    return float(first)


def elements(shape: Shape) -> int:
    """Number of elements."""
    return math.prod(shape)
