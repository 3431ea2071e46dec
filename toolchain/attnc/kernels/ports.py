"""Values of the emitted code: types, tables, and the streams that a kernel has to memory."""

from __future__ import annotations

from dataclasses import dataclass

NEXT = ("next_k_tiles", "next_bits", "next_unit_tiles", "next_scales")
"""How the first weights of its next run lie in memory, for a kernel that loads them behind its own (0 tiles: none)."""
AHEAD = ("w_side", "w_ready", *NEXT)
"""The last scalars of a kernel that holds the weights of two groups of channels: the side that those of its first group lie in, whether
they are there already, and what follows."""
OPERAND = ("fill_rows", "fill_tiles", "fill_bytes")
"""The size of an operand that a kernel holds."""
FILL = ("side", *OPERAND, "fill_side", "fill_first")
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

    `kind` is "load" or "store" (vectors of `type`, activations in memory) or "words" (packed words of the weight memory). Of words, and of
    vectors that are loaded, `beat` come per cycle: where that is more than 1 from an even word on, and through several pointers if it is
    more than a memory port moves; of vectors a run is a multiple of so many.
    `first` says that the kernel reads all of it as soon as it starts, before it takes anything from another port that is not `first`, and
    `raw` that it takes bytes as memory holds them (`Lowering.walk`).
    """

    name: str
    kind: str
    type: IntType = IntType(16)
    beat: int = 1
    first: bool = False
    raw: bool = False
