"""Engines, the hardware that layers share, and the instructions that drive them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from attnc.kernels.call import NO_WALK, Call, Walk
from attnc.kernels.kernel import KernelCall
from attnc.kernels.network import Names
from attnc.kernels.ports import NEXT, OPERAND, IntType, Port
from attnc.kernels.resources import Resources
from attnc.kernels.storage import SHALLOW
from attnc.ops import OPERATORS
from attnc.schedule.chains import Chain, store_port
from attnc.schedule.sharing import Run
from attnc.schedule.streams import POINTERS, SEVERAL, Stream, WordRun

PASSING = 4
"""Vectors that the FIFO between two processes holds of which the first only passes vectors on."""


class Control(NamedTuple):
    """What an instruction says of a slot: whether its kernel works, the vectors that arrive, whether they are stored too."""

    active: int
    vectors: int
    tapped: int


@dataclass(frozen=True)
class Slot:
    """A kernel in an engine, with the sizes that serve all its calls. `fed` is the port through which the vectors of the chain arrive,
    `optional` whether some instructions pass it by, `tap` whether some store what arrives."""

    op: str
    kernel: KernelCall
    fed: int
    optional: bool = False
    tap: bool = False

    @cached_property
    def resources(self) -> Resources:
        """Estimate of the kernel, with its buffers where they usually lie."""
        return OPERATORS[self.op].resources(self.kernel)

    @cached_property
    def macs_per_cycle(self) -> int:
        """Multiply-adds that its array of multipliers can do."""
        return OPERATORS[self.op].macs_per_cycle(self.kernel)


@dataclass(frozen=True)
class Engine:
    """One piece of hardware: kernels, one behind the other, between loaders and storers. It is named after its main kernel. `beat` are the
    words per cycle of its loaders, and of those storers (by name, `wide`) that only 16-bit vectors pass; `small` streams move elements of 4
    bits too, `mixed` ones caches of two precisions, with so many scales for each pointer. `shared` are those that one loader serves
    (`sharing.share`). Pointers are its `own` where engines run at the same time."""

    index: int
    slots: tuple[Slot, ...]
    main: Slot
    beat: int = 1
    wide: frozenset[str] = frozenset()
    small: frozenset[str] = frozenset()
    mixed: tuple[tuple[str, int], ...] = ()
    shared: tuple[tuple[str, int], ...] = ()
    own: bool = False

    @property
    def name(self) -> str:
        """A C++ identifier."""
        return f"engine_{self.index}"

    @property
    def op(self) -> str:
        """Operator of its main kernel."""
        return self.main.op

    @property
    def choice(self) -> str:
        """Its name in the design; none where its main kernel has no numbers there."""
        return self.kernel.engine

    @property
    def kernel(self) -> KernelCall:
        """Its main kernel."""
        return self.main.kernel

    @cached_property
    def operand_slot(self) -> int | None:
        """The slot of its main kernel where that can be brought its operand beforehand."""
        number = next(number for number, slot in enumerate(self.slots) if slot is self.main)
        return number if self.kernel.network.holds else None

    @property
    def chained(self) -> bool:
        """Whether instructions say which of its slots work."""
        return len(self.slots) > 1

    def slot_name(self, number: int) -> str:
        """The C++ function of a slot that is more than its kernel."""
        return f"{self.name}_{number}_{self.slots[number].kernel.function}"

    def arriving(self, number: int) -> IntType:
        """Elements of the stream into a slot."""
        return IntType(16) if number else self.entry

    def converts(self, number: int) -> bool:
        """Whether a slot's kernel takes other elements than those that arrive."""
        slot = self.slots[number]
        return slot.kernel.ports[slot.fed].type != self.arriving(number)

    @property
    def entry(self) -> IntType:
        """Elements of the stream into the first slot: 16 bits where some instructions pass that slot by."""
        first = self.slots[0]
        return IntType(16) if first.optional else first.kernel.ports[first.fed].type

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The input of the first slot, the other operands slot by slot, taps, the output of the last."""
        found: list[Stream] = []
        used, depths, mixed = dict.fromkeys(POINTERS, 0), dict(self.shared), dict(self.mixed)

        def add(name: str, kind: str, type_: IntType, slot: int | None = None, port: int | None = None, words: int = 1) -> None:
            shared = name in depths
            group = "wide" if name in self.wide else "parameters" if shared and kind == "words" else kind
            group, vectors = SEVERAL.get(group, group) if words > 1 else group, words if kind == "load" else 1
            beat, each = 1 if group == "store" else self.beat, group == "words" and self.beat > 1
            if shared and not any(stream.shared for stream in found):
                used["parameters"] = used["load"]
                used["load"] += 1
            first = used["parameters"] if shared else used[group]
            count = max(words // beat, 1)
            prefix = f"{POINTERS[group]}_{self.index}" if self.own else POINTERS[group]
            pointers = tuple(f"{prefix}_{number}" for number in range(first, first + count))
            ahead = kind == "words" and slot is not None and slot == self.operand_slot and not shared
            depth, several = depths.get(name, SHALLOW), name in mixed
            found.append(
                Stream(name, kind, type_, pointers, slot, port, beat, shared, depth, ahead, each, vectors, several, mixed.get(name, 0))
            )
            used[group] += 0 if shared else count

        first, last = self.slots[0], self.slots[-1].kernel
        add(self._name(0, first.kernel.ports[first.fed]), "load", self.entry)
        for number, slot in enumerate(self.slots):
            for index, port in enumerate(slot.kernel.ports):
                if index != slot.fed and port.kind != "store":
                    add(self._name(number, port), port.kind, port.type, number, index, port.beat)
        for number, slot in enumerate(self.slots):
            if slot.tap:
                add(f"tap_{number}", "store", IntType(16), number)
        add(self._name(len(self.slots) - 1, last.ports[store_port(last)]), "store", IntType(16))
        return tuple(found)

    def _name(self, number: int, port: Port) -> str:
        return f"{port.name}_{number}" if self.chained else port.name

    @cached_property
    def parts(self) -> dict[str, int]:
        """What an instruction that drives it is made of, in order, with the integers of each: which engine it is for; the walks of its
        streams by name; of each slot `control_<number>`, where instructions say which ones work, and `call_<number>`."""
        controls = {f"control_{number}": len(Control._fields) for number in range(len(self.slots) if self.chained else 0)}
        calls = {f"call_{number}": len(slot.kernel.network.fields) for number, slot in enumerate(self.slots)}
        return {"engine": 1} | {stream.name: len(stream.fields) for stream in self.streams} | controls | calls

    @cached_property
    def places(self) -> dict[str, int]:
        """Where in an instruction each part begins."""
        return dict(zip(self.parts, accumulate(self.parts.values(), initial=0), strict=False))

    @property
    def instruction_ints(self) -> int:
        """Integers of an instruction that drives it."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Instruction:
    """What an engine does at a time: a call for each slot that works, for a block of the rows of a chain.

    Where the main kernel holds operands: the one of this block lies in `side`, and is there before where it is `ready`. The slots up to the
    main kernel then are free to bring the operand of another instruction (`brings`). One without calls does nothing else.
    Where it holds the weights of two groups of channels: the first of this one lie in `weights_side`, and are there before where they are
    `weights_ready`; behind its own it loads the first weights of the call `weights_next`.
    """

    engine: Engine
    calls: tuple[Call | None, ...]
    tapped: frozenset[int]
    chain: Chain
    block: int = 0
    ready: bool = False
    side: int = 0
    brings: Instruction | None = None
    weights_side: int = 0
    weights_ready: bool = False
    weights_next: Call | None = None

    @property
    def entry(self) -> str:
        """Of the graph, that its nodes belong to."""
        return self.chain.main.node.entry

    @property
    def times(self) -> int:
        """How often an estimate counts it."""
        return self.chain.main.node.times

    @cached_property
    def own(self) -> list[tuple[int, Call]]:
        """The slots that work for its own block, with their calls."""
        return [(number, call) for number, call in enumerate(self.calls) if call is not None]

    @cached_property
    def early(self) -> list[tuple[int, Call]]:
        """The slots before the main kernel that work for another block."""
        return [] if self.brings is None else [pair for pair in self.brings.own if pair[0] < (self.engine.operand_slot or 0)]

    @property
    def active(self) -> list[tuple[int, Call]]:
        """All slots that work, with their calls."""
        return self.early + self.own

    def at(self, more: Mapping[str, int]) -> Instruction:
        """The same with so much more in the registers."""
        calls = tuple(None if call is None else call.at(more) for call in self.calls)
        brings, following = self.brings and self.brings.at(more), self.weights_next and self.weights_next.at(more)
        return replace(self, calls=calls, brings=brings, weights_next=following)

    def waiting(self) -> Instruction:
        """The same where its operand is there already: what brings that does nothing."""
        slot = self.engine.operand_slot
        assert slot is not None
        main = self.calls[slot]
        calls = (None,) * slot + (None if main is None else main.waiting,) + self.calls[slot + 1 :]
        return replace(self, calls=calls, ready=True)

    def bringing(self) -> Instruction:
        """One that does nothing but bring the operand of this one."""
        return replace(self, calls=(None,) * len(self.calls), tapped=frozenset(), ready=True, brings=self)

    @property
    def span(self) -> int:
        """Cycles of its slowest processes, one part of the chain after the other (`Call.held`), whatever the memory does."""
        parts = [0]
        for _, call in self.active:
            parts[-1] = max(parts[-1], *call.cycles.values()) if call.cycles else parts[-1]
            parts += [max(call.held.values())] if call.held else []
        return sum(parts)

    def serves(self, number: int) -> Instruction | None:
        """For which instruction the vectors come that arrive at a slot."""
        slot = self.engine.operand_slot
        return self if slot is None or number > slot or not self.ready else self.brings

    @cached_property
    def walks(self) -> tuple[tuple[Stream, Walk], ...]:
        """The streams of its engine, and how each goes through memory."""
        return tuple((stream, self.walk(stream)) for stream in self.engine.streams)

    def walk(self, stream: Stream) -> Walk:
        """How a stream goes through memory."""
        if stream.slot is None and stream.kind == "store":
            return self.own[-1][1].walks[store_port(self.own[-1][1].kernel)] if self.own else NO_WALK
        number = stream.slot or 0
        # Other operands of the main kernel are those of its own block.
        own = stream.port is not None and number == self.engine.operand_slot
        one = self if own else self.serves(number)
        if one is None or not one.own:
            return NO_WALK
        if stream.slot is None:
            first, call = one.own[0]
            return call.walks[self.engine.slots[first].fed]
        found = one.calls[number]
        if found is None or (stream.port is None and number not in one.tapped):
            return NO_WALK
        if stream.ahead:
            return replace(NO_WALK, counts=(1, 1, 1, sum(run.words for run in self.word_runs(stream))))
        return found.walks[self.engine.slots[number].fed if stream.port is None else stream.port]

    def word_runs(self, stream: Stream) -> list[WordRun]:
        """Of a stream that may bring weights ahead: its own words, then the first ones of the next call."""
        call = self.calls[stream.slot or 0]
        if call is None or call.weights is None:
            return []
        walk, weights = call.walks[stream.port or 0], call.weights
        there = weights.words if self.weights_ready else 0
        runs = [WordRun(walk.offset + there // len(stream.pointers), walk.vectors - there, weights.apart)]
        if self.weights_next is not None and self.weights_next.weights is not None:
            following = self.weights_next.weights
            runs.append(WordRun(self.weights_next.walks[stream.port or 0].offset, following.words, following.apart))
        return runs

    def _numbers(self, stream: Stream) -> dict[str, int]:
        numbers = self.walk(stream).numbers
        if stream.ahead:
            own, more = ([run.words for run in self.word_runs(stream)] + [0, 0])[:2]
            numbers |= {"count": own, "more": more}
        return numbers

    def names(self, stream: Stream) -> Names:
        """What the loops of the process that moves a stream depend on."""
        return Names({"W": stream.beat, "S": stream.vectors}, self._numbers(stream), {})

    def moved(self, stream: Stream) -> int:
        """Cycles in which something of a stream passes, through each of its pointers."""
        return stream.moved(tuple(self._numbers(stream).items()))

    @cached_property
    def likeness(self) -> Hashable:
        """Equal for instructions of an engine that take the same cycles: what its streams move, and when what its kernels work on."""
        timed = [(call, self.timed(number)) for number, call in enumerate(self.calls)]
        calls = tuple(None if call is None or now is None else (call.timing, now.timing, call.macs) for call, now in timed)
        moved = tuple((each.counts, each.bytes, each.half) for _, walk in self.walks for each in walk.stretches)
        ahead = tuple(tuple(run.words for run in self.word_runs(stream)) for stream in self.engine.streams if stream.ahead)
        main = None if self.brings is None else self.brings.calls[self.engine.operand_slot or 0]
        early = None if self.brings is None else (self.brings.likeness, main and main.bringing.timing)
        return self.engine.index, self.ready, calls, moved, ahead, early

    def timed(self, number: int) -> Call | None:
        """The call of a slot, with all that is known of what is there before and of what comes."""
        call = self.calls[number]
        return call if call is None or number != self.engine.operand_slot else replace(call, scalars=self.scalars(number))

    def run(self, stream: Stream, walk: Walk) -> Run:
        """What the stream of an operand does, and when: packed words are for the processes that work once all vectors have arrived."""
        before, after = (sum(c.kernel.network.swallows for n, c in self.own if n < (stream.slot or 0) + more) for more in (0, 1))
        return Run(walk, after if stream.kind == "words" else before, after)

    def operand_reads(self) -> list[Walk]:
        """What the slots up to the main kernel read to bring its operand."""
        slot = self.engine.operand_slot
        assert slot is not None
        return [walk for s, walk in self.walks if s.kind == "load" and (s.slot is None or s.slot < slot)]

    def operand_writes(self) -> list[Walk]:
        """What is stored on the way to its operand."""
        slot = self.engine.operand_slot
        assert slot is not None
        return [walk for s, walk in self.walks if s.kind == "store" and s.slot is not None and s.slot <= slot]

    def moves(self, kind: str) -> list[Walk]:
        """Of its streams that "load", or "store", each stretch of a walk by itself; some pass nothing."""
        return [each for stream, walk in self.walks if stream.kind == kind for each in walk.stretches]

    @cached_property
    def _vectors(self) -> list[int]:
        """That arrive at each slot for the own block."""
        fed = [0 if call is None else call.walks[slot.fed].vectors for slot, call in zip(self.engine.slots, self.calls, strict=True)]
        found: list[int] = []
        vectors = 0 if self.ready or not self.own else fed[self.own[0][0]]
        for number, call in enumerate(self.calls):
            if call is not None and not (self.ready and number == self.engine.operand_slot):
                vectors = fed[number]
            found.append(vectors)
            if call is not None:
                vectors = call.walks[store_port(call.kernel)].vectors
        return found

    def control(self) -> list[Control]:
        """Of every slot."""
        found = []
        for number in range(len(self.calls)):
            one = self.serves(number)
            works = self.calls[number] is not None or (one is not None and one.calls[number] is not None)
            found.append(Control(int(works), one._vectors[number] if one else 0, int(one is not None and number in one.tapped)))
        return found

    def scalars(self, number: int) -> dict[str, int]:
        """Of the kernel in a slot; of the main kernel with the sizes of the operand that comes, and the sides of both."""
        kernel, one = self.engine.slots[number].kernel, self.serves(number)
        call = one.calls[number] if one is not None and number != self.engine.operand_slot else self.calls[number]
        scalars = dict(call.scalars) if call is not None else dict.fromkeys(kernel.scalars, 0)
        if number == self.engine.operand_slot:
            main = one.calls[number] if one is not None else None
            scalars |= (main.operand if main is not None else None) or dict.fromkeys(OPERAND, 0)
            scalars |= {"side": self.side, "fill_side": one.side if one is not None else 0, "fill_first": int(not self.ready)}
            following = self.weights_next.weights if self.weights_next is not None else None
            scalars |= {"w_side": self.weights_side, "w_ready": int(self.weights_ready)}
            scalars |= zip(NEXT, following.format if following is not None else (0,) * len(NEXT), strict=True)
        return scalars

    def _walk_ints(self, stream: Stream) -> list[int]:
        if not stream.ahead:
            return stream.encode(self.walk(stream))
        ints = [integer for run in self.word_runs(stream) for integer in run]
        return ints + [0] * (len(stream.fields) - len(ints))

    def encode(self) -> list[int]:
        """As integers: engine, walks of its streams, control of its slots, calls of its kernels."""
        walks = [i for stream in self.engine.streams for i in self._walk_ints(stream)]
        control = [i for slot in self.control() for i in slot] if self.engine.chained else []
        kernels = [slot.kernel for slot in self.engine.slots]
        calls = [value for number, kernel in enumerate(kernels) for value in kernel.network.values(kernel.args, self.scalars(number))]
        return [self.engine.index, *walks, *control, *calls]
