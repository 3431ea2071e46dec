"""What an operator is: pure functions that give it meaning, and its kernel as a value.

An operator has a float meaning (`reference`), a quantization rule, an integer meaning (`golden`) and a lowering to calls of
one HLS kernel, with cycles and resources of that kernel. It renders no code and knows no other operator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from attnc.arrays import Array, Shape
from attnc.fixedpoint import check_bits
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.design import Numbers
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.resources import Resources


@dataclass(frozen=True)
class Widening:
    """Operands of a node that may have 16 bits, together, what a report calls them, and what that costs: of multiply-adds so many that one
    more step or multiplier each is taken for."""

    name: str
    operands: tuple[int, ...]
    cost: int


class Operator(ABC):
    """Base of all operators. Arrays are `[samples, rows, channels]`."""

    name: ClassVar[str]
    per_channel_output: ClassVar[bool] = False
    """Whether the output may have one scale per channel."""
    routes: ClassVar[bool] = False
    """Whether its rows are pairs of a token and an expert, or say where these lie: what each token gets follows from its own."""

    @abstractmethod
    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """Shape of the output; raises `GraphError` when the operands do not fit."""

    @abstractmethod
    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """The operator in float64."""

    def operand_bits(self, node: Node, index: int) -> int:
        """Widest type that operand `index` may have: 8 or 16."""
        return 16

    def widenings(self, node: Node, inputs: Sequence[Shape]) -> list[Widening]:
        """Operands of 8 bits that may have 16, where attrs["wide_operands"] names them."""
        return []

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

    def dequantize_operand(self, node: Node, index: int, q: Array, type_: TensorType) -> Array:
        """What the integers of an operand stand for."""
        return type_.dequantize(q)

    def prepare(self, node: Node, constants: Mapping[int, Array]) -> None:
        """Set attributes that depend on constant operands (float, by operand index), before types are planned."""
        return

    def adapt(self, node: Node, peaks: Sequence[float]) -> None:
        """Set attributes that depend on the largest magnitude of each operand, after calibration and before types are assigned."""
        return

    def lane_divisor(self, node: Node, inputs: Sequence[Shape]) -> int:
        """Number that the lanes must divide, so that no tile straddles a boundary inside the channels; 0 if there is none."""
        return 0

    def least_lanes(self, node: Node) -> int:
        """Lanes that it needs: the channels of a vector that it takes as a whole."""
        return 0

    def excludes(self, node: Node, index: int) -> bool:
        """Whether very negative numbers of operand `index` mean "left out" and become the most negative integer."""
        return False

    def allows_nothing(self, node: Node, index: int) -> bool:
        """Whether a row of operand `index` may leave everything out: the model says what comes of it."""
        return True

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

    def by_rows(self, node: Node) -> bool:
        """Whether every row of the output follows from the same rows of the operands (or from their only one) alone, in the same way."""
        return False

    def mixes(self, node: Node, length: int) -> str | None:
        """Why the rows of `length` tokens cannot be worked on one after the other, over a cache of `cached` operands; None if they can."""
        return None if self.by_rows(node) else "it mixes tokens"

    def cached(self, node: Node) -> tuple[int, ...]:
        """Operands of which a row needs those of all tokens before."""
        return ()

    def cache_rows(self, node: Node, length: int, block: int) -> int:
        """Rows of the caches of `cached` operands that blocks of at most `block` of `length` tokens need."""
        return length

    def parts(self, node: Node, length: int) -> str | None:
        """Why the rows of a run cannot be branches of a sequence of at most `length` tokens, at the same position; None if they can."""
        return None

    def over_cache(self, node: Node, length: int, rows: int, block: int, branches: int = 1) -> dict[str, Any]:
        """Attributes of a node whose rows are at most `block` of a sequence of `length` tokens, where `cached` operands are parts of a
        cache of `rows`; or one of each of several `branches` (`Held`)."""
        return node.attrs

    def placed(self, node: Node, position: int, rows: int, prefix: int = 0) -> Node:
        """What it is for `rows` rows at a position, where it depends on that; branches share a `prefix` of so many tokens."""
        return node

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

    def numbers(self, node: Node) -> type[Numbers] | None:
        """The record of numbers that a design has for the kernel of a quantized node; None where it has none."""
        return None

    def resources(self, kernel: KernelCall) -> Resources:
        """Estimate of one engine, all of it."""
        return self.logic(kernel) + kernel.storage

    @abstractmethod
    def logic(self, kernel: KernelCall) -> Resources:
        """Estimate of what one engine takes beside its memories and FIFOs: no figure is left at zero that hardware would need."""


def scalar_scale(type_: TensorType, where: str) -> float:
    """The scale of a tensor that must have one scale."""
    if type_.scale.ndim:
        raise GraphError(f"{where}: needs one scale per tensor")
    return float(type_.scale)


def product_bits(node: Node, acc_bits: int, multiplier_bits: int = 18) -> int:
    """Width of acc * multiplier plus rounding, checked to fit 64 bits."""
    return check_bits(acc_bits + multiplier_bits + 1, f"node {node.name!r} ({node.op}): rescaled accumulator")
