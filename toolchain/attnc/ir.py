"""The graph that everything shares: first in float, then quantized in place.

Every tensor on the device is a matrix `[rows, channels]` of one sample (a token per row). Golden and reference
arrays carry the samples in front: `[samples, rows, channels]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc.errors import AttncError
from attnc.fixedpoint import int_dtype, int_range, quantize_half_even


class GraphError(AttncError):
    """A graph breaks an invariant: always a bug in a pass or in the frontend."""


@dataclass(frozen=True, eq=False)
class TensorType:
    """Integers and what they mean: real = scale * q, and memory holds q + zero_point in `bits` bits.

    All arrays of the compiler and all streams between kernels carry q, whatever the zero point: loaders take it off and storers put it
    on (`memory.hpp`). `scale` is a float64 array of shape () for one scale per tensor, or [channels] for one per channel.
    """

    bits: int
    signed: bool
    scale: npt.NDArray[np.float64]
    zero_point: int = 0

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest q."""
        low, high = int_range(self.bits, self.signed)
        return low - self.zero_point, high - self.zero_point

    @property
    def magnitude(self) -> int:
        """Largest absolute value."""
        return max(abs(bound) for bound in self.range)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type that holds q."""
        return int_dtype(self.bits + bool(self.zero_point), self.signed or bool(self.zero_point))

    @property
    def short(self) -> str:
        """s8, u8, s16 ..."""
        return f"{'s' if self.signed else 'u'}{self.bits}"

    def quantize(self, real: npt.ArrayLike) -> npt.NDArray[Any]:
        """Float to integers: nearest, ties to even, saturated; NaN becomes 0."""
        return quantize_half_even(real, self.scale, *self.range).astype(self.dtype)

    def dequantize(self, q: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Integers to float64."""
        return q.astype(np.float64) * self.scale

    def to_memory(self, q: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """q as memory holds it."""
        return (q.astype(np.int64) + self.zero_point).astype(int_dtype(self.bits, self.signed)) if self.zero_point else q

    def from_memory(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The inverse of `to_memory`."""
        return (stored.astype(np.int64) - self.zero_point).astype(self.dtype)


@dataclass(frozen=True)
class Held:
    """A matrix of `rows` rows in memory, of which a value is those from the position on that a run is for: the keys of a cache, or a table
    of positions. A `ring` has fewer rows than a sequence has tokens: what comes later lies where the earliest did, at the position modulo
    its rows. Values of one `name` lie in the same one. Of a `chunk` of so many tokens memory has those of three chunks alone
    (kernels/chunks.py), whatever the rows. With several `branches` a run is for one token of each of so many sequences that
    share a prefix: behind its rows come the first tokens of all branches, then their second ones."""

    name: str
    rows: int
    ring: bool = False
    chunk: int = 0
    branches: int = 1

    def first(self, position: int, prefix: int) -> int:
        """The row of the first of a run's tokens at a position, where branches are behind a `prefix` of so many; but for a ring's end."""
        return self.branches * position - (self.branches - 1) * prefix


@dataclass
class Value:
    """A tensor that a node makes, an input of the graph, or a constant. `imposed` is the type that a model which arrived quantized
    dictates; `type` is then that one and no other. `held`: it is a part of what lies in memory from run to run."""

    name: str
    shape: tuple[int, int]
    type: TensorType | None = None
    imposed: TensorType | None = None
    held: Held | None = None


@dataclass
class Node:
    """One operator. `params` are its constant arrays: float before quantization, integers after.

    `source` names the nodes of the ONNX model that it stands for. Nodes of one `entry`, which follow each other, run together; those of
    others run when they are asked to. `like` names the node whose constant arrays it has as well, where they are packed once for both.
    `each` names the queue (expert_queue) for each of whose entries it runs, on the rows of that entry; such nodes follow each other.
    In a graph that stands for a longer one (schedule/shorter.py) it is there for so many `times` nodes; `alike` are those of them that have
    other kernels.
    """

    name: str
    op: str
    inputs: list[str]
    output: str
    attrs: dict[str, Any] = field(default_factory=dict)
    params: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    source: tuple[str, ...] = ()
    entry: str = ""
    like: str = ""
    each: str = ""
    times: int = 1
    alike: tuple[Node, ...] = ()

    @property
    def packed(self) -> str:
        """The name under which its constant arrays are packed."""
        return self.like or self.name


@dataclass
class Graph:
    """Nodes in topological order; `constants` are operands that are tensors of their own (a position embedding)."""

    name: str
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    sessions: int = 1
    """For so many there are caches of their own, where values are `held`."""
    length: int = 0
    """Tokens that these are for; 0 where there are no caches."""

    def value(self, name: str) -> Value:
        """The value called `name`."""
        return self.values[name]

    def type(self, name: str) -> TensorType:
        """The integer type of `name`, which must be quantized."""
        found = self.values[name].type
        if found is None:
            raise GraphError(f"value {name!r} has no type: the graph is not quantized yet")
        return found

    def add_value(self, name: str, shape: tuple[int, int]) -> Value:
        """Declare a value under a name that is free."""
        if name in self.values:
            raise GraphError(f"value {name!r} is declared twice")
        value = Value(name, (int(shape[0]), int(shape[1])))
        self.values[name] = value
        return value

    def fresh(self, stem: str) -> str:
        """A free value name that starts with `stem`."""
        name, n = stem, 1
        while name in self.values:
            name, n = f"{stem}_{n}", n + 1
        return name

    @property
    def chunks(self) -> list[int]:
        """Tokens of the chunks of its caches of two precisions."""
        return sorted({value.held.chunk for value in self.values.values() if value.held is not None and value.held.chunk})

    def last(self, rows: int) -> int:
        """The last position that a run of so many tokens may begin at: it ends with the sequence, or with a chunk before."""
        chunks, end = self.chunks, self.length - rows
        return next(at for at in range(end, -1, -1) if all(at % chunk + rows <= chunk for chunk in chunks))

    def producer(self, name: str) -> Node | None:
        """The node that makes `name`; None for inputs and constants."""
        return next((node for node in self.nodes if node.output == name), None)

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read `name`."""
        return [node for node in self.nodes if name in node.inputs]

    def uses(self) -> Iterator[tuple[Node, int, str]]:
        """Every (node, operand index, value name)."""
        for node in self.nodes:
            for index, name in enumerate(node.inputs):
                yield node, index, name

    def verify(self) -> None:
        """Check that names are defined once and before use, and that constants fit their types."""
        defined = set(self.inputs) | set(self.constants)
        if len(defined) != len(self.inputs) + len(self.constants):
            raise GraphError(f"graph {self.name!r}: an input or constant is declared twice")
        for node in self.nodes:
            for name in node.inputs:
                if name not in defined:
                    raise GraphError(f"node {node.name!r} reads {name!r} before it is defined")
            if node.output in defined:
                raise GraphError(f"node {node.name!r} defines {node.output!r} again")
            defined.add(node.output)
        for name in [*defined, *self.outputs]:
            if name not in self.values or name not in defined:
                raise GraphError(f"value {name!r} is used but not declared")
        for name, value in self.values.items():
            if value.imposed is not None and (value.imposed.scale.ndim or not np.all(value.imposed.scale > 0)):
                raise GraphError(f"value {name!r}: an imposed type needs one scale above zero, found {value.imposed.scale}")
            if value.imposed is not None and value.type is not None and value.type is not value.imposed:
                raise GraphError(f"value {name!r}: its type {value.type.short} is not the imposed {value.imposed.short}")
        for name, array in self.constants.items():
            value = self.values[name]
            declared = value.shape if value.held is None else (value.held.rows, value.shape[1])
            if array.shape != declared:
                raise GraphError(f"constant {name!r} has shape {array.shape}, declared {declared}")
            if value.type is None or array.dtype.kind not in "iu":
                continue  # not in integers yet
            if array.min() < value.type.range[0] or array.max() > value.type.range[1]:
                raise GraphError(f"constant {name!r} does not fit {value.type.short}")

    def copy(self) -> Graph:
        """A graph whose nodes, values and constants can be changed and replaced without a trace in this one; arrays are shared."""
        nodes = [replace(node, inputs=[*node.inputs], attrs={**node.attrs}, params={**node.params}) for node in self.nodes]
        values = {name: replace(value) for name, value in self.values.items()}
        return Graph(self.name, [*self.inputs], [*self.outputs], nodes, values, {**self.constants}, self.sessions, self.length)

    def dump(self) -> str:
        """The graph as text, a line per node."""

        def show(name: str) -> str:
            value = self.values[name]
            kind = "f" if value.type is None else value.type.short
            return f"{name}:{kind}[{value.shape[0]}x{value.shape[1]}]"

        lines = [f"graph {self.name}({', '.join(map(show, self.inputs))})"]
        lines += [f"  constant {show(name)}" for name in self.constants]
        for node in self.nodes:
            attrs = "".join(f" {key}={value}" for key, value in node.attrs.items())
            lines.append(f"  {show(node.output)} = {node.op}({', '.join(node.inputs)}){attrs}")
        return "\n".join([*lines, f"  return {', '.join(self.outputs)}", ""])
