"""Index arithmetic: is a view of a matrix [rows, channels] again a matrix of some of its rows and channels?

An `idx` array holds flat positions row * channels + channel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np

from attnc.errors import ModelError
from attnc.frontend.values import Array, Index, Shape

MAX_INDEX = 1 << 27
"""Elements of the largest tensor that is followed element by element, in 8 bytes each."""


class SizeError(ModelError):
    """A tensor is too large to be followed; the interpreter says which."""


def check_size(shape: Shape) -> int:
    """The number of elements, if a tensor of that shape can be followed."""
    count = math.prod(shape)
    if count > MAX_INDEX:
        raise SizeError(f"a tensor of shape {list(shape)} is too large: needed at most {MAX_INDEX} elements, found {count}")
    return count


_COUNTS: WeakValueDictionary[int, Index] = WeakValueDictionary()


def identity(shape: Shape) -> Index:
    """0, 1, 2 ... in the shape, not to be written: values of one size, of which deep models have many, share it."""
    size = check_size(shape)
    found = _COUNTS.get(size)
    if found is None:
        found = np.arange(size, dtype=np.int64)
        found.flags.writeable = False
        _COUNTS[size] = found
    return found.reshape(shape)


def equal_elements(operands: Sequence[Array], shape: Shape) -> Index:
    """For each element of a pointwise result the first that is made of the same: `operands` hold values, or positions in a tensor."""
    key = np.zeros(shape, np.int64)
    for operand in operands:
        values, which = np.unique(operand, return_inverse=True)
        if values.size == key.size:
            return identity(shape)
        key = key * values.size + np.broadcast_to(which.reshape(operand.shape), shape)
        key = np.unique(key, return_inverse=True)[1].reshape(shape)
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return np.asarray(first, np.int64)[which.reshape(shape)]


def separate(target: Index, channels: int) -> tuple[Index, Index] | None:
    """`target` [R, C] as rows [R] and channels [C] of its base, or None."""
    if target.size == 0:
        return None
    rows, columns = target[:, 0] // channels, target[0] % channels
    if np.array_equal(target, rows[:, None] * channels + columns[None, :]):
        return rows, columns
    return None


def exchanged_blocks(target: Index, channels: int) -> list[tuple[Index, Index]] | None:
    """`target` [R, C] as blocks of rows, each the transpose of (rows [C], channels [n]) of its base; None if it is not that."""
    if target.size == 0:
        return None
    rows, columns = target // channels, target % channels
    if np.any(columns != columns[:, :1]):
        return None
    cuts = [0, *(np.flatnonzero(np.any(rows[1:] != rows[:-1], axis=1)) + 1).tolist(), target.shape[0]]
    return [(rows[first], columns[first:last, 0]) for first, last in itertools.pairwise(cuts)]


def covers(idx: Index, size: int) -> bool:
    """Whether every element of a base of `size` elements is shown exactly once."""
    return idx.size == size and bool(np.all(np.bincount(idx.ravel(), minlength=size) == 1))


@dataclass(frozen=True)
class Axes:
    """ONNX axes that run along rows and along channels of a base; `order` lists them, rows first."""

    rows: tuple[int, ...]
    channels: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Permutation that puts rows first."""
        return self.rows + self.channels

    def matrix(self, idx: Index) -> Index:
        """The ONNX tensor as [rows, channels]."""
        moved = idx.transpose(self.order)
        n = len(self.rows)
        return moved.reshape(int(np.prod(moved.shape[:n], dtype=np.int64)), int(np.prod(moved.shape[n:], dtype=np.int64)))

    def restore(self, matrix: Index, shape: Shape) -> Index:
        """A matrix back in ONNX axes, the inverse of `matrix`."""
        moved = matrix.reshape([shape[axis] for axis in self.order])
        return moved.transpose(np.argsort(self.order))


def axes_of(idx: Index, channels: int) -> Axes | None:
    """Which axes run along rows, which along channels; None if an axis does both.

    Axes that do neither (size 1, or repeated) go to the rows, except that a last axis that does neither is kept as channels
    when no other axis is.
    """
    row, column = idx // channels, idx % channels
    along_rows: list[int] = []
    along_channels: list[int] = []
    neither: list[int] = []
    for axis in range(idx.ndim):
        moves_row = bool(np.any(row != row.take([0], axis)))
        moves_column = bool(np.any(column != column.take([0], axis)))
        if moves_row and moves_column:
            return None
        (along_rows if moves_row else along_channels if moves_column else neither).append(axis)
    if not along_channels and neither and neither[-1] == idx.ndim - 1:
        along_channels.append(neither.pop())
    return Axes(tuple(sorted(along_rows + neither)), tuple(along_channels))


def last_axis(ndim: int) -> Axes:
    """All but the last axis are rows."""
    return Axes(tuple(range(ndim - 1)), tuple(range(ndim - 1, ndim)))


@dataclass(frozen=True)
class Grid:
    """L items sorted into groups x heads: item `item[g, h]` belongs to group g and head h."""

    item: Index

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.item.shape[0])

    @property
    def heads(self) -> int:
        """Number of heads."""
        return int(self.item.shape[1])


def sort_into_grid(row_keys: Index, column_keys: Index) -> Grid | None:
    """Items [L] with keys [L, *]: equal row keys are one group, equal column keys one head; None unless it is a full grid.

    Groups and heads are in the order of their keys.
    """
    groups, group = np.unique(row_keys, axis=0, return_inverse=True)
    heads, head = np.unique(column_keys, axis=0, return_inverse=True)
    group, head = group.reshape(-1), head.reshape(-1)
    if len(groups) * len(heads) != len(group):
        return None
    item = np.full((len(groups), len(heads)), -1, np.int64)
    item[group, head] = np.arange(len(group))
    return None if np.any(item < 0) else Grid(item)
