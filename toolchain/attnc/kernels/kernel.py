"""A kernel as a value: the instance of a network that the emitted code has, with its types, sizes and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from attnc.ir import GraphError
from attnc.kernels.network import Names, Network, Timing, numbers
from attnc.kernels.ports import IntType, Port, Table
from attnc.kernels.resources import Resources
from attnc.kernels.storage import fifo, stored


@dataclass(frozen=True)
class KernelCall:
    """A network with template arguments in order.

    Calls of one network share an engine where the design gives them to the same one (`engine`, its name there; none where that gives the
    kernel no numbers), and the beats of their ports, their tables and the template arguments named in `fixed` agree; of each other template
    argument (an `IntType`'s width or a number) the engine takes the largest.
    """

    network: Network
    template_args: tuple[tuple[str, IntType | int | Table], ...]
    fixed: tuple[str, ...] = ()
    engine: str = ""

    @property
    def function(self) -> str:
        """The name of its network."""
        return self.network.name

    @property
    def scalars(self) -> tuple[str, ...]:
        """Run-time scalars, by name and in order."""
        return self.network.scalars

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """Ports in order."""
        beats, elements = self.network.beats, self.network.elements

        def resolved(port: Port) -> Port:
            beat = self.arg(beats[port.name]) if port.name in beats else port.beat
            return replace(port, beat=beat, type=IntType(self.arg(elements[port.name])) if port.name in elements else port.type)

        return tuple(map(resolved, self.network.ports))

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Calls with equal keys share a kernel of an engine."""
        tables = tuple(arg.name for _, arg in self.template_args if isinstance(arg, Table))
        return self.function, tuple(port.beat for port in self.ports), tables, tuple(self.arg(name) for name in self.fixed), self.engine

    @cached_property
    def args(self) -> dict[str, IntType | int | Table]:
        """Template arguments by name."""
        return dict(self.template_args)

    @cached_property
    def names(self) -> Names:
        """The numbers that the instance fixes."""
        return self.network.names(self.args)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return numbers(self.args)

    def timing(self, scalars: Mapping[str, int]) -> Timing:
        """Of a call: the same object for all that agree in the numbers that it follows from."""
        found = self.network.timings.find({**self._numbers, **scalars}.__getitem__)
        if found is None:
            names = self.network.names(self.args, scalars)
            found = self.network.timing(names)
            self.network.timings.keep(names.reads, found)
        return found

    @cached_property
    def storage(self) -> Resources:
        """Estimate of the arrays of its processes, each in its usual kind of memory, and of its FIFOs."""
        arrays = (stored(memory) for memory in self.network.memories(self.names))
        queues = (fifo(each.element(self.names).bits, each.depth(self.names)) for each in self.network.fifos)
        return sum((*arrays, *queues), Resources())

    @cached_property
    def static_functions(self) -> tuple[str, ...]:
        """The C++ functions of its processes that have static arrays, with their template arguments."""
        return tuple(process.spelled(self.names) for process in self.network.processes if process.static)

    def arg(self, name: str) -> int:
        """The number, or the width of the type, given for template argument `name`."""
        value = self.args[name]
        if isinstance(value, Table):
            raise GraphError(f"template argument {name!r} of {self.function} is a table")
        return value.bits if isinstance(value, IntType) else value

    def with_arg(self, name: str, value: int) -> KernelCall:
        """The same with another number for template argument `name`."""
        return replace(self, template_args=tuple((key, value if key == name else old) for key, old in self.template_args))

    def merge(self, other: KernelCall) -> KernelCall:
        """The kernel that serves both calls."""
        if self.template_args == other.template_args:
            return self

        def largest(a: IntType | int | Table, b: IntType | int | Table) -> IntType | int | Table:
            if isinstance(a, IntType) and isinstance(b, IntType):
                return IntType(max(a.bits, b.bits), a.signed)
            if isinstance(a, int) and isinstance(b, int):
                return max(a, b)
            return a

        pairs = zip(self.template_args, other.template_args, strict=True)
        return replace(self, template_args=tuple((name, largest(a, b)) for (name, a), (_, b) in pairs))
