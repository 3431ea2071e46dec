"""A kernel as a value: the instance of a C++ function that the emitted code has, with its ports, types and tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from attnc.ir import GraphError
from attnc.kernels.ports import IntType, Port, Table

AHEAD = ("w_side", "w_ready", "next_k_tiles")
"""The last scalars of a kernel that holds the weights of two groups of channels: the side that those of its first group lie in, whether
they are there already, and of how many tiles the first weights of its next run are, which it loads behind its own (0: none)."""
FILL = ("side", "fill_rows", "fill_tiles", "fill_bytes", "fill_side", "fill_first")
"""The scalars of a kernel that holds operands: the side that its own lies in, the size and side of the one that comes, and whether it
waits for that one. Any other kernel is given its operand as it runs."""
SIDES = "X_SIDES"
"""The template argument of such a kernel that says how many operands it holds."""


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
