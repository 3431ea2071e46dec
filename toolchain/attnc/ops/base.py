"""What an operator is: pure functions that give it meaning, and its kernel as a value.

An operator has a float meaning (`reference`), a quantization rule, an integer meaning (`golden`) and a lowering to calls of
one HLS kernel, with cycles and resources of that kernel. It renders no code and knows no other operator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attnc.fixedpoint import check_bits
from attnc.ir import Graph, GraphError, Node, TensorType

Array = npt.NDArray[Any]
Shape = tuple[int, int]
FILL = ("side", "fill_rows", "fill_tiles", "fill_bytes", "fill_side", "fill_first")
"""The scalars of a kernel that holds operands: the side that its own lies in, the size and side of the one that comes, and whether it
waits for that one. Any other kernel is given its operand as it runs."""
SIDES = "X_SIDES"
"""The template argument of such a kernel that says how many operands it holds."""


@dataclass(frozen=True)
class IntType:
    """An integer type of C++: `Int<bits>` or `UInt<bits>`."""

    bits: int
    signed: bool = True

    def cpp(self) -> str:
        """Its spelling in the emitted code."""
        return f"attnc::{'Int' if self.signed else 'UInt'}<{self.bits}>"


@dataclass(frozen=True)
class Table:
    """A small ROM of the emitted code: `name` is a C++ identifier, `values` are integers of `type`."""

    name: str
    type: IntType
    values: tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """A stream between memory and a kernel.

    `kind` is "load" or "store" (vectors of `type`, activations in memory) or "words" (packed words from the weight memory; `beat` of
    them per cycle, from an even word on where that is more than 1, and through two pointers where it is twice what a memory port moves).
    `first` says that the kernel reads all of it as soon as it starts, before it takes anything from another port that is not `first`.
    """

    name: str
    kind: str
    type: IntType = IntType(16)
    beat: int = 1
    first: bool = False


@dataclass(frozen=True)
class KernelCall:
    """A kernel as a value: header, function, template arguments in order, ports in order, then run-time scalars.

    Calls of one function share an engine where their ports, tables and the template arguments named in `fixed` agree; of each other
    template argument (an `IntType`'s width or a number) the engine takes the largest.
    """

    header: str
    function: str
    template_args: tuple[tuple[str, IntType | int | Table], ...]
    ports: tuple[Port, ...]
    scalars: tuple[str, ...]
    fixed: tuple[str, ...] = ()

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Calls with equal keys share a kernel of an engine."""
        tables = tuple(arg.name for _, arg in self.template_args if isinstance(arg, Table))
        return self.function, self.ports, tables, tuple(self.arg(name) for name in self.fixed)

    def arg(self, name: str) -> int:
        """The number, or the width of the type, given for template argument `name`."""
        value = dict(self.template_args)[name]
        if isinstance(value, Table):
            raise GraphError(f"template argument {name!r} of {self.function} is a table")
        return value.bits if isinstance(value, IntType) else value

    def with_arg(self, name: str, value: int) -> KernelCall:
        """The same with another number for template argument `name`."""
        return replace(self, template_args=tuple((key, value if key == name else old) for key, old in self.template_args))

    def merge(self, other: KernelCall) -> KernelCall:
        """The kernel that serves both calls."""

        def largest(a: IntType | int | Table, b: IntType | int | Table) -> IntType | int | Table:
            if isinstance(a, IntType) and isinstance(b, IntType):
                return IntType(max(a.bits, b.bits), a.signed)
            if isinstance(a, int) and isinstance(b, int):
                return max(a, b)
            return a

        pairs = zip(self.template_args, other.template_args, strict=True)
        return replace(self, template_args=tuple((name, largest(a, b)) for (name, a), (_, b) in pairs))


@dataclass(frozen=True)
class Walk:
    """How a port goes through memory: vector i0*stride[0] + i1*stride[1] + i2*stride[2] + i3 of a tensor, the innermost
    contiguous. `offset` is in words, `bytes` per element (1 or 2); for packed words, `counts[3]` words from `offset`. A loader takes
    `zero_point` off every element, a storer puts it on."""

    offset: int
    counts: tuple[int, int, int, int]
    strides: tuple[int, int, int]
    bytes: int = 1
    zero_point: int = 0

    @property
    def vectors(self) -> int:
        """Vectors that pass."""
        return math.prod(self.counts)

    @cached_property
    def order(self) -> tuple[Any, ...]:
        """Equal for walks that pass the same vectors in the same order: nested loops without those that go on where another ends."""
        loops = [(self.counts[3], 1)]
        for count, stride in zip(self.counts[2::-1], self.strides[::-1], strict=True):
            inner, step = loops[-1]
            if count > 1 and stride == inner * step:
                loops[-1] = (inner * count, step)
            elif count > 1 and inner == 1:
                loops[-1] = (count, stride)
            elif count > 1:
                loops.append((count, stride))
        return self.offset, self.bytes, self.zero_point, *loops

    def encode(self) -> list[int]:
        """As integers of an instruction."""
        return [self.offset, *self.counts, *self.strides, self.bytes | (self.zero_point << 8)]


@dataclass(frozen=True)
class Call:
    """One run of a kernel: its walks (a per port, in order) and scalars (in order). `cycles` maps the processes of the kernel to the
    cycles that each is busy while its operands arrive; `held` those that work once all of them have arrived, and that packed words
    are for. The processes of each overlap, so the call takes the longest of `cycles` and then the longest of `held`. A kernel with scalars
    `FILL` can be brought its operand beforehand, or find there what a run before had: `operand` are the rows, tiles and bytes of it, and
    `ready` is `held` of a run that finds it there."""

    node: str
    kernel: KernelCall
    walks: tuple[Walk, ...]
    scalars: tuple[int, ...]
    cycles: dict[str, int]
    macs: int = 0
    held: dict[str, int] = field(default_factory=dict)
    operand: tuple[int, int, int] | None = None
    ready: dict[str, int] = field(default_factory=dict)

    def waiting(self) -> Call:
        """The same call where the operand is in the kernel already."""
        return replace(self, cycles={}, held=self.ready)

    @property
    def span(self) -> int:
        """Cycles of its slowest processes."""
        return max(self.cycles.values(), default=0) + max(self.held.values(), default=0)


@dataclass(frozen=True)
class Memory:
    """A buffer of a kernel: `banks` times `depth` words of `width` bits. `name` is that of its macro in the kernel's header,
    ATTNC_<KERNEL>_<NAME>, through which the emitted code says where it lies."""

    name: str
    depth: int
    width: int
    banks: int = 1


@dataclass(frozen=True)
class Resources:
    """An estimate of what a kernel takes on the device; `bram36` in units of 36 Kbit, `uram` of 288 Kbit.

    `memories` are the buffers that `lut`, `ff` and `bram36` already hold, for the planner to place them elsewhere.
    """

    lut: float = 0
    ff: float = 0
    dsp: float = 0
    bram36: float = 0
    uram: float = 0
    memories: tuple[Memory, ...] = ()

    def __add__(self, other: Resources) -> Resources:
        lut, ff, dsp, bram36, uram = (a + b for a, b in zip(self.astuple(), other.astuple(), strict=True))
        return Resources(lut, ff, dsp, bram36, uram, self.memories + other.memories)

    def astuple(self) -> tuple[float, float, float, float, float]:
        """lut, ff, dsp, bram36, uram."""
        return self.lut, self.ff, self.dsp, self.bram36, self.uram


@dataclass(frozen=True)
class Design:
    """The parallelism of the hardware: lanes per word, output channels of the linear engine, rows buffered on chip,
    query rows of the attention engine; of the look-up engine: tables at a time, output channels at a time, activations per table of
    ternary weights, and codes per channel of those that are buffered on chip; rows of the linear engine that share a weight; words per
    beat of the memory ports, 1 or 2 (a vector of 16 bits, two words of a linear layer's weights); whether (2) or not (1) engines may have
    copies of small kernels, and whether they run at the same time, each with memory ports of its own; memory ports through which the
    weights of the linear engine come, 1, or 2 with beats of two words (where all its weights are bytes: `linear.weight_words`)."""

    lanes: int = 16
    pe: int = 16
    rows: int = 64
    queries: int = 4
    tables: int = 16
    columns: int = 16
    group: int = 3
    depth: int = 2048
    rows_at_once: int = 1
    beat: int = 1
    copies: int = 1
    parallel: int = 1
    weight_ports: int = 1


@dataclass
class Lowering:
    """What `lower` may use: the design, where each value lies (word offsets), and where packed weights go.

    `payload(key, make)` returns the word offset of a packed array in the weight memory, and asks `make` for its bytes, or for parts
    of whole words that follow each other, when the key is new.
    """

    graph: Graph
    design: Design
    offsets: dict[str, int]
    payload: Callable[[str, Callable[[], bytes | Iterable[bytes]]], int]
    memo: dict[str, int] = field(default_factory=dict)
    """What operators find out once for the whole graph."""

    def tiles(self, name: str) -> int:
        """Tiles of `lanes` channels of a value."""
        return math.ceil(self.graph.value(name).shape[1] / self.design.lanes)

    def bytes(self, name: str) -> int:
        """Bytes per element of a value in memory."""
        return 1 if self.graph.type(name).bits <= 8 else 2

    def words(self, name: str) -> int:
        """Words that a value takes."""
        return self.graph.value(name).shape[0] * self.tiles(name) * self.bytes(name)

    def zero_point(self, name: str) -> int:
        """Zero point of a value in memory."""
        return self.graph.type(name).zero_point

    def walk(self, name: str, row: int = 0, rows: int | None = None, tile: int = 0, tiles: int | None = None, raw: bool = False) -> Walk:
        """Rows [row, row+rows) of tiles [tile, tile+tiles) of a value, in (tile, row) order; the whole by default. With `raw`,
        bytes as memory holds them, zero point included, low before high ones: for kernels that read bytes."""
        height = self.graph.value(name).shape[0]
        rows = height - row if rows is None else rows
        tiles = self.tiles(name) - tile if tiles is None else tiles
        size = self.bytes(name)
        offset = self.offsets[name] + (tile * height + row) * size
        zero = 0 if raw else self.zero_point(name)
        if raw:
            rows, height, size = rows * size, height * size, 1
        if rows == height:  # one long burst
            return Walk(offset, (1, 1, 1, tiles * rows), (0, 0, 0), size, zero)
        return Walk(offset, (1, 1, tiles, rows), (0, 0, height), size, zero)

    def row_blocks(self, name: str) -> list[tuple[int, int]]:
        """(first row, rows) of the blocks of at most `design.rows` rows that a value is cut into."""
        height, step = self.graph.value(name).shape[0], self.design.rows
        return [(row, min(step, height - row)) for row in range(0, height, step)]


class Operator(ABC):
    """Base of all operators. Arrays are `[samples, rows, channels]`."""

    name: ClassVar[str]
    per_channel_output: ClassVar[bool] = False
    """Whether the output may have one scale per channel."""

    @abstractmethod
    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output; raises `GraphError` when the operands do not fit."""

    @abstractmethod
    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """The operator in float64."""

    def operand_bits(self, node: Node, index: int) -> int:
        """Widest type that operand `index` may have: 8 or 16."""
        return 16

    def output_bits(self, node: Node) -> int:
        """Widest type that the output may have: 8 or 16."""
        return 16

    def fixed_output_type(self, node: Node, inputs: Sequence[TensorType]) -> TensorType | None:
        """The type of the output where the operator dictates it, whatever was calibrated."""
        return None

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """The type of operand `index` where the operator dictates it, whatever was calibrated."""
        return None

    def takes_zero_point(self, node: Node, index: int) -> bool:
        """Whether operand `index` may have a zero point in memory."""
        return True

    def quantize_operand(self, node: Node, index: int, real: Array, type_: TensorType) -> Array:
        """Integers of a constant operand; a feed from the host follows the same rule."""
        return type_.quantize(real)

    def prepare(self, node: Node, constants: Mapping[int, Array]) -> None:
        """Set attributes that depend on constant operands (float, by operand index), before types are planned."""
        return

    def adapt(self, node: Node, peaks: Sequence[float]) -> None:
        """Set attributes that depend on the largest magnitude of each operand, after calibration and before types are assigned."""
        return

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """Number that the lanes must divide, so that no tile straddles a boundary inside the channels; 0 if there is none."""
        return 0

    def excludes(self, node: Node, index: int) -> bool:
        """Whether very negative numbers of operand `index` mean "left out" and become the most negative integer."""
        return False

    def channel_weights(self, node: Node, index: int) -> Array | None:
        """Largest magnitude [channels] of the constants that multiply each channel of operand `index`, where the operator can
        absorb a scale per channel into them; else None."""
        return None

    @abstractmethod
    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Replace the float parameters of `node` by integers, and derive and check the widths."""

    @abstractmethod
    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """The operator in integers, bit for bit as the kernel computes it. `types` belong to `inputs`."""

    @abstractmethod
    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """The calls of its kernel."""

    def macs_per_cycle(self, kernel: KernelCall) -> int:
        """Multiply-adds per cycle that the multipliers of a kernel can do; 0 where it has no array of them."""
        return 0

    def engines(self, node: Node) -> tuple[str, ...]:
        """Names for attrs["engine"] among which the schedule may choose; none where there is no choice. All give the same integers."""
        return ()

    def engine(self, node: Node) -> str:
        """The one of `engines` that serves a quantized node."""
        return str(node.attrs["engine"])

    @abstractmethod
    def resources(self, kernel: KernelCall) -> Resources:
        """Estimate of one engine, all of it: no figure is left at zero that hardware would need."""


def scalar_scale(type_: TensorType, where: str) -> float:
    """The scale of a tensor that must have one scale."""
    if type_.scale.ndim:
        raise GraphError(f"{where}: needs one scale per tensor")
    return float(type_.scale)


def product_bits(node: Node, acc_bits: int, multiplier_bits: int = 18) -> int:
    """Width of acc * multiplier plus rounding, checked to fit 64 bits."""
    return check_bits(acc_bits + multiplier_bits + 1, f"node {node.name!r} ({node.op}): rescaled accumulator")


def samples_first(inputs: Sequence[Array]) -> list[Array]:
    """Constants `[rows, channels]` get a sample axis, so that they broadcast."""
    return [x[np.newaxis] if x.ndim == 2 else x for x in inputs]
