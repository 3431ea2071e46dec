"""What a kernel is made of, stated once: processes, their loops, the FIFOs between them, their memories.

A kernel is a dataflow region: its processes run at the same time, each a C++ function of the kernel's header, and hand values on through
FIFOs. The region that is emitted, cycles, memories and the bounds of simulation all come from what a `Network` says, and nothing says it
again. Sizes are functions of names: of the template arguments of an instance, and of the scalars of a call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from attnc.kernels.ports import FILL, IntType, Port, Table
from attnc.kernels.recall import Recall
from attnc.kernels.resources import Memory

ENTER = LEAVE = 1
"""Cycles that a loop takes beside its iterations: to start, and to go on behind it."""


def numbers(args: Mapping[str, IntType | int | Table]) -> dict[str, int]:
    """Those among template arguments, of a type its bits."""
    return {name: value.bits if isinstance(value, IntType) else value for name, value in args.items() if not isinstance(value, Table)}


class Names:
    """Numbers by name: template arguments (of a type its bits), scalars, and what the network derives from them. `reads` are those of the
    first two that were asked for, in order."""

    def __init__(self, args: Mapping[str, IntType | int | Table], scalars: Mapping[str, int], derived: Mapping[str, Count]) -> None:
        self.args, self.given, self.derived = args, {**numbers(args), **scalars}, derived
        self.reads: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> int:
        """Only for what was not asked for before: it is found, and derived, when it is."""
        known = self.__dict__
        if name in known.get("given", ()):
            number = self.given[name]
            self.reads.append((name, number))
        elif name in known.get("derived", ()):
            number = int(self.derived[name](self))
        else:
            raise AttributeError(f"a network has no number {name!r}")
        known[name] = number
        return number

    def type(self, name: str) -> IntType:
        """The type given for a template argument."""
        value = self.args[name]
        assert isinstance(value, IntType)
        return value


Count = Callable[[Names], int]
Runs = tuple[tuple[int, int], ...]
"""Times that a loop is entered, with so many iterations each."""


def up(number: int, unit: int) -> int:
    """How many units hold a number."""
    return -(-number // unit)


def one(trips: Count) -> Callable[[Names], Runs]:
    """A loop that is entered once."""
    return lambda n: ((1, trips(n)),)


def none(n: Names) -> Runs:
    """A loop that does not run."""
    return ()


@dataclass(frozen=True, eq=False)
class Loop:
    """A pipelined loop. At its end it drains: what follows it begins when its last iteration has ended."""

    label: str
    depth: int
    """Cycles from the start of an iteration to its last result; `latency.py` has the parts."""
    runs: Callable[[Names], Runs] = none
    """Those that take in operands, or for which none has to be there as a whole."""
    late: Callable[[Names], Runs] = none
    """Those for which all vectors of an operand must have come."""
    going_on: Count = lambda n: 0
    """Iterations of `runs` that are late too: where one pipeline takes the operand in and then goes on."""
    ii: int = 1
    """Cycles between the starts of two iterations."""
    function: str = ""
    """The C++ function where it stands, if not the process's own."""

    def busy(self, runs: Runs) -> int:
        """Cycles in which an iteration begins, or the next one could not yet."""
        return sum(times * trips * self.ii for times, trips in runs)

    def cycles(self, runs: Runs) -> int:
        """What its runs take, with filling and draining."""
        return sum(times * ((trips - 1) * self.ii + self.depth + ENTER + LEAVE if trips else ENTER + LEAVE) for times, trips in runs)


@dataclass(frozen=True, eq=False)
class Buffer:
    """An array of a process: `banks` times `depth` words of `width` bits, of which each bank is read at `reads` and written at `writes`
    addresses per cycle. It is `static` where its function declares it so: then it belongs to all calls of that function with these template
    arguments, and no two processes of the accelerator may run them at the same time. Of a `placed` one the emitted code says where it
    lies, through the macro ATTNC_<HEADER>_<NAME>; a `lutram` one is put there by a pragma of its kernel."""

    name: str
    depth: Count
    width: Count
    banks: Count = lambda n: 1
    reads: int = 1
    writes: int = 1
    static: bool = True
    placed: bool = False
    lutram: bool = False

    def memory(self, names: Names) -> Memory:
        """Of an instance."""
        kind = "lutram" if self.lutram else ""
        return Memory(self.name if self.placed else "", self.depth(names), self.width(names), self.banks(names), kind)


@dataclass(frozen=True)
class Element:
    """What a FIFO holds: its C++ type, and how many bits that has."""

    cpp: str
    bits: int


def vector(type_: IntType, count: int) -> Element:
    """A vector of `count` elements."""
    return Element(f"attnc::Vec<{type_.cpp()}, {count}>", type_.bits * count)


def word(count: int) -> Element:
    """A word of `count` bytes."""
    return Element(f"attnc::Word<{count}>", 8 * count)


def scalar(type_: IntType) -> Element:
    """A number."""
    return Element(type_.cpp(), type_.bits)


@dataclass(frozen=True, eq=False)
class Fifo:
    """A stream from one process to another, which holds `depth` elements."""

    name: str
    element: Callable[[Names], Element]
    depth: Count


Argument = str | int | Callable[[Names], str]
"""Of a template: a template argument of the kernel or a derived number by name, a number, or C++ text."""


@dataclass(frozen=True, eq=False)
class Process:
    """A C++ function of the kernel's header that runs beside the others. `reads` and `writes` name ports of the kernel and FIFOs, in the
    order of its parameters; the last one is the call of the kernel.

    It begins with `early` cycles in which it waits for no other process, since what it takes comes through ports. `first` are the cycles
    from then to its first result where it waits for nothing, `rest` those that it still takes when its last operand has come: by them a
    process goes on behind those that feed it, and ends before those that it feeds. What feeds it may give others something first: it goes
    on `after_first` cycles behind that."""

    function: str
    template: tuple[Argument, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    loops: tuple[Loop, ...]
    buffers: tuple[Buffer, ...] = ()
    first: Count | None = None
    rest: Count | None = None
    after_first: Count = lambda n: 0
    early: Count = lambda n: 0

    def spelled(self, names: Names) -> str:
        """The function with its template arguments, in C++."""

        def text(argument: Argument) -> str:
            if callable(argument):
                return argument(names)
            if isinstance(argument, int):
                return str(argument)
            given = names.args.get(argument)
            if isinstance(given, IntType):
                return given.cpp()
            return f"tables::{given.name}" if isinstance(given, Table) else str(getattr(names, argument))

        return f"attnc::{self.function}<{', '.join(map(text, self.template))}>"

    def cycles(self, names: Names, late: bool) -> int:
        """What its loops take before or after all operands have come."""
        after = sum(loop.going_on(names) * loop.ii for loop in self.loops)
        if late:
            return sum(loop.cycles(loop.late(names)) for loop in self.loops) + after
        return sum(loop.cycles(loop.runs(names)) for loop in self.loops) - after

    def to_first(self, names: Names) -> int:
        """Cycles to its first result from where it can go on."""
        return self.loops[0].depth if self.first is None else self.first(names)

    def behind_last(self, names: Names) -> int:
        """Cycles to its first result once it has all it has to wait for."""
        if self.first is not None:
            return self.first(names)
        late = [loop for loop in self.loops if loop.late is not none]
        return sum(loop.cycles(loop.late(names)) for loop in late[:-1]) + late[-1].depth

    def from_last(self, names: Names) -> int:
        """Cycles from its last operand to its end."""
        return self.loops[-1].depth if self.rest is None else self.rest(names)

    @cached_property
    def static(self) -> bool:
        """Whether it has arrays that all its calls share."""
        return any(buffer.static for buffer in self.buffers)


@dataclass(frozen=True, eq=False)
class Timing:
    """What a call of a kernel takes: `cycles` and `held` by process, as `Call` says. It `begins` to give so many cycles behind its operand,
    its first process has `closing` iterations left when the last operand has come, what it opens with comes `again` so often, so many
    vectors are `leaving` behind the last operation,
    `tail` are the cycles from the last operand to the end beyond its depth, `opening` the vectors, by port, before its first result, and
    `trailing` the cycles, by port, from the last vector to the end."""

    cycles: Mapping[str, int]
    held: Mapping[str, int]
    begins: int
    closing: int
    again: int
    leaving: int
    tail: int
    opening: Mapping[str, int]
    trailing: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Network:
    """A kernel: the C++ functions of `header` that run beside each other, in an order in which each follows those that feed it. `ports` and
    `scalars` are those of the region, `derived` numbers that follow from template arguments and scalars. The scalars and `counts` are the
    fields of the header's struct `call`, in its order."""

    name: str
    header: str
    ports: tuple[Port, ...]
    scalars: tuple[str, ...]
    processes: tuple[Process, ...]
    fifos: tuple[Fifo, ...] = ()
    derived: Mapping[str, Count] = field(default_factory=dict)
    counts: tuple[str, ...] = ()
    """Derived numbers that a call brings, behind its scalars: products of them, for which the kernel would need multipliers."""
    beats: Mapping[str, str] = field(default_factory=dict)
    """Of ports that bring several words or vectors at a time: the template argument that says how many."""
    elements: Mapping[str, str] = field(default_factory=dict)
    """Of ports whose vectors are of a type that an instance chooses: the template argument that is this type."""
    opening: Mapping[str, Count] = field(default_factory=dict)
    """Of ports: the vectors that have to come before the first result, where those are many. `busy` takes it that all come at once."""
    trailing: Mapping[str, Count] = field(default_factory=dict)
    """Of ports: cycles in which no vector is taken before the first one, and from the last one to the last result, where those are many."""
    leaving: Count = lambda n: 0
    """Vectors that leave behind the last operation, one per cycle where nothing holds them up."""
    closing: Count = lambda n: 0
    """Iterations of the first process when its last operand has come."""
    again: Count = lambda n: 0
    """Times that what it opens with comes again, for what follows."""

    @property
    def stem(self) -> str:
        """The header without its suffix: what its buffers are named after."""
        return self.header.removesuffix(".hpp")

    @property
    def call(self) -> str:
        """The struct of its header that holds the scalars of a call, in C++."""
        return f"attnc::{''.join(map(str.capitalize, self.stem.split('_')))}Call"

    @property
    def fields(self) -> tuple[str, ...]:
        """What a call brings."""
        return *self.scalars, *self.counts

    def values(self, args: Mapping[str, IntType | int | Table], scalars: Mapping[str, int]) -> list[int]:
        """Of its `fields`."""
        names = self.names(args, scalars)
        return [int(getattr(names, name)) for name in self.fields]

    def names(self, args: Mapping[str, IntType | int | Table], scalars: Mapping[str, int] | None = None) -> Names:
        """Of an instance, and of a call where its scalars are given."""
        return Names(args, scalars or {}, self.derived)

    @property
    def holds(self) -> bool:
        """Whether it can be brought its operand beforehand."""
        return set(FILL) <= set(self.scalars)

    @cached_property
    def swallows(self) -> bool:
        """Whether it takes all vectors of an operand before it gives any."""
        return any(loop.late is not none for process in self.processes for loop in process.loops)

    @cached_property
    def depth(self) -> int:
        """Cycles that a vector takes through its processes, into one that takes all of them before it gives any."""
        return sum(max((loop.depth for loop in process.loops if loop.runs is not none), default=0) for process in self.processes)

    def begins(self, names: Names) -> int:
        """Cycles from the last vector of the operand that it swallows to its first result; where it swallows none, from its start, and 0
        where a vector that comes is one that goes."""
        if not self.swallows:
            last = self.processes[-1]
            before = self._before(names, [process.cycles(names, False) for process in self.processes])[-1]
            return before if last.first is None else before + last.first(names)
        swallowing = (process for process in self.processes if any(loop.late is not none for loop in process.loops))
        return sum(process.behind_last(names) for process in swallowing)

    @cached_property
    def feeds(self) -> tuple[tuple[int, int], ...]:
        """(from, to) for every FIFO, as places in `processes`."""
        writer = {name: number for number, process in enumerate(self.processes) for name in process.writes}
        inner = {fifo.name for fifo in self.fifos}
        return tuple((writer[name], number) for number, process in enumerate(self.processes) for name in process.reads if name in inner)

    def busy(self, names: Names, late: bool = False) -> dict[str, int]:
        """Cycles by process, as each would make a call last, were no other slower: what comes before its first operand, its own, and what
        follows its last result. Those before all operands have come, or those after (`late`); of the latter only where there are any."""
        own = [process.cycles(names, late) for process in self.processes]
        before, after = self._before(names, own), self._after(names, own)
        return {
            process.function: before[number] - process.early(names) + own[number] + after[number]
            for number, process in enumerate(self.processes)
            if own[number]
        }

    def _before(self, names: Names, own: Sequence[int]) -> list[int]:
        """Cycles from the start of the kernel until each process can go on with what others give it; `own` are those that each works."""
        before = [process.early(names) for process in self.processes]
        for source, target in self.feeds:
            if own[source] and own[target]:
                starts = before[source] + self.processes[source].to_first(names) + self.processes[target].after_first(names)
                before[target] = max(before[target], starts)
        return before

    def _after(self, names: Names, own: Sequence[int]) -> list[int]:
        """Cycles from the end of each process to that of the kernel; `own` are those that each works."""
        after = [0] * len(own)
        for source, target in reversed(self.feeds):
            if own[source] and own[target]:
                after[source] = max(after[source], self.processes[target].from_last(names) + after[target])
        return after

    def tail(self, names: Names) -> int:
        """Cycles from its last operand to its end beyond its depth, where several processes hand vectors on as they come."""
        if self.swallows or len(self.processes) == 1:
            return 0
        after = self._after(names, [process.cycles(names, False) for process in self.processes])
        ports = {port.name for port in self.ports}
        ends = [p.from_last(names) + after[number] for number, p in enumerate(self.processes) if ports & {*p.reads}]
        return max(max(ends, default=0) + self.closing(names) - self.depth, 0)

    def timing(self, names: Names) -> Timing:
        """Of a call."""
        held = self.busy(names, late=True) if self.swallows else {}
        opening, trailing = ({port: count(names) for port, count in each.items()} for each in (self.opening, self.trailing))
        closing, again, leaving, tail = self.closing(names), self.again(names), self.leaving(names), self.tail(names)
        return Timing(self.busy(names), held, self.begins(names), closing, again, leaving, tail, opening, trailing)

    @cached_property
    def timings(self) -> Recall[Timing]:
        """What is known of its calls."""
        return Recall()

    @cached_property
    def loads(self) -> tuple[int, ...]:
        """Indices of the ports through which values come."""
        return tuple(index for index, port in enumerate(self.ports) if port.kind == "load")

    @cached_property
    def store(self) -> int:
        """Index of the port through which the result leaves."""
        return next(index for index, port in enumerate(self.ports) if port.kind == "store")

    def memories(self, names: Names) -> tuple[Memory, ...]:
        """Of an instance."""
        found = (buffer.memory(names) for process in self.processes for buffer in process.buffers)
        return tuple(memory for memory in found if math.prod((memory.depth, memory.width, memory.banks)))


def alone(
    function: str, template: tuple[Argument, ...], *loops: Loop, buffers: tuple[Buffer, ...] = (), first: Count | None = None
) -> tuple[Process, ...]:
    """The only process of a kernel: it has all ports of it, in their order, and the call, and no region is needed around it."""
    return (Process(function, template, (), (), loops, buffers, first),)
