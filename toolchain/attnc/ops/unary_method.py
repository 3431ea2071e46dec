"""What the implementations of `unary` have in common: a method serves some of the functions, through a kernel of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from attnc.arrays import Array
from attnc.fixedpoint import Int64
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.network import Network
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import IntType, Table
from attnc.kernels.resources import Resources
from attnc.ops.approximation import Implementation
from attnc.ops.base import scalar_scale
from attnc.ops.functions import Function
from attnc.ops.requantize import activation, factor_scalars, wide_products

VALUE_BITS = 16
"""Fraction bits of the values in tables and coefficients."""
FRACTION_BITS = 11
"""Of inputs that must be a power of two, unless attribute `fraction_bits` of the node says otherwise: range [-16, 16)."""


class Method(ABC):
    """An implementation of some functions. `name` is the one that a user knows."""

    name: ClassVar[str]
    network: ClassVar[Network]
    """That of its kernel."""

    @abstractmethod
    def implementation(self, function: Function) -> Implementation | None:
        """Its error, tables and cost for a function; None where it cannot compute it."""

    @abstractmethod
    def accepts(self, function: Function, x: TensorType) -> bool:
        """Whether inputs may have this type."""

    @abstractmethod
    def quantize(self, node: Node, function: Function, x: TensorType, output: TensorType) -> None:
        """Integer parameters and widths of a node."""

    @abstractmethod
    def golden(self, node: Node, function: Function, x: Int64, output: TensorType) -> Int64:
        """Integers of the output."""

    @abstractmethod
    def evaluate(self, function: Function, x: Int64, fraction_bits: int) -> Array:
        """f(x * 2**-fraction_bits) as float64 of what the kernel computes before it rounds to the output."""

    @abstractmethod
    def lower(self, node: Node, function: Function, ctx: Lowering) -> list[Call]:
        """The calls of its kernel."""

    @abstractmethod
    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate of an engine."""

    def where(self, node: Node) -> str:
        """For messages."""
        return f"node {node.name!r} (unary {node.attrs['function']}, {self.name})"


def fraction_bits(x: TensorType) -> int | None:
    """n of a type with one scale 2**-n; None for other types."""
    if x.scale.ndim or x.zero_point:
        return None
    mantissa, exponent = math.frexp(float(x.scale))
    return 1 - exponent if mantissa == 0.5 else None


def input_fraction(method: Method, node: Node, x: TensorType, least: int) -> int:
    """Fraction bits of the input, at least `least` and at most 15."""
    where = method.where(node)
    found = fraction_bits(activation(x, where))
    if found is None or not least <= found <= 15:
        raise GraphError(f"{where}: needs a scale of 2**-{least} to 2**-15, found {scalar_scale(x, where):g}")
    return found


def every(x: TensorType) -> Int64:
    """All integers of a type."""
    low, high = x.range
    return np.arange(low, high + 1, dtype=np.int64)


def tabulated(function: Callable[[Int64], Array], x: Int64) -> Array:
    """function(x) elementwise, found once for every integer between the smallest and the largest of x where those are fewer."""
    low, high = int(x.min(initial=0)), int(x.max(initial=0))
    if high - low >= x.size:
        return function(x)
    return function(np.arange(low, high + 1)).take(x - low)


def unary_calls(
    method: Method,
    node: Node,
    ctx: Lowering,
    widths: dict[str, int],
    rom: Table | None,
    scalars: dict[str, int],
    sizes: dict[str, int] | None = None,
) -> list[Call]:
    """A call per block of rows. The kernel's template arguments are XT, types of `widths`, YT, the ROM, `sizes`, L; its scalars are rows,
    tiles, channels, `scalars`, the factor, and the range of the output."""
    x, y = node.inputs[0], node.output
    own = {"tiles": ctx.tiles(x), "channels": ctx.graph.value(x).shape[1], **scalars, **factor_scalars(node), **ctx.bounds(y)}
    kernel = KernelCall(
        network=method.network,
        template_args=(
            ("XT", IntType(ACTIVATION_BITS)),
            *((name, IntType(bits)) for name, bits in widths.items()),
            ("YT", IntType(ACTIVATION_BITS)),
            *((("Rom", rom),) if rom is not None else ()),
            *(sizes or {}).items(),
            ("L", ctx.design.lanes),
        ),
    )
    calls = []
    for row, rows in ctx.row_blocks(x):
        calls.append(Call(node.name, kernel, (ctx.walk(x, row, rows), ctx.walk(y, row, rows)), {"rows": rows, **own}))
    return calls


def rescaling_lane(acc_bits: int) -> Resources:
    """requantize of one value of `acc_bits` bits: `wide_product`, a shifter, an adder and a clamp."""
    return wide_products(acc_bits, 1) + Resources(lut=5 * (acc_bits + 19), ff=3 * (acc_bits + 19))


def rom_lane(entries: int, width: int) -> Resources:
    """A ROM of one lane: LUTs of 64 bits each up to 256 words deep, half a block of 36 Kbit per 512 x 36 or 1024 x 18 bits beyond."""
    if entries <= 256:
        return Resources(lut=width * math.ceil(entries / 64) * (1 if entries <= 64 else 1.25))
    halves = min(math.ceil(entries / words) * math.ceil(width / bits) for words, bits in ((512, 36), (1024, 18), (2048, 9)))
    return Resources(bram36=halves / 2)
