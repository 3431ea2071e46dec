"""Values of the emitted code: types, tables, and the streams that a kernel has to memory."""

from __future__ import annotations

from dataclasses import dataclass


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
    `first` says that the kernel reads all of it as soon as it starts, before it takes anything from another port that is not `first`, and
    `raw` that it takes bytes as memory holds them (`Lowering.walk`).
    """

    name: str
    kind: str
    type: IntType = IntType(16)
    beat: int = 1
    first: bool = False
    raw: bool = False
