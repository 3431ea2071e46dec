"""The program: engines shared by all layers, and the instructions that drive them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnc.ir import Graph
from attnc.ops import operator
from attnc.ops.base import Call, Design, KernelCall, Lowering
from attnc.schedule.memory import MemoryMap, plan_memory

WALK_INTS = 9


@dataclass(frozen=True)
class Engine:
    """One piece of hardware: a kernel with the sizes that serve all its calls, between its loaders and storers."""

    index: int
    op: str
    kernel: KernelCall

    @property
    def name(self) -> str:
        """A C++ identifier."""
        return f"engine_{self.index}"

    @property
    def instruction_ints(self) -> int:
        """Integers of an instruction that drives it."""
        return 1 + WALK_INTS * len(self.kernel.ports) + len(self.kernel.scalars)


@dataclass(frozen=True)
class Program:
    """What the hardware runs for one sample."""

    design: Design
    engines: tuple[Engine, ...]
    calls: tuple[tuple[Engine, Call], ...]
    memory: MemoryMap
    weight_words: int

    @property
    def bundles(self) -> list[str]:
        """All memory interfaces of the accelerator."""
        loads = max((sum(port.kind == "load" for port in engine.kernel.ports) for engine in self.engines), default=0)
        return ["program", "weights", *(f"load_{i}" for i in range(loads)), "result"]

    @property
    def instruction_ints(self) -> int:
        """Integers per instruction, the same for all: the longest, rounded up to 16."""
        return 16 * math.ceil(max((engine.instruction_ints for engine in self.engines), default=1) / 16)

    def encode(self) -> npt.NDArray[np.int32]:
        """Instructions as integers [calls, instruction_ints]: engine, walks of its ports, scalars, zeros."""
        code = np.zeros((len(self.calls), self.instruction_ints), np.int32)
        for row, (engine, call) in zip(code, self.calls, strict=True):
            ints = [engine.index, *(i for walk in call.walks for i in walk.encode()), *call.scalars]
            row[: len(ints)] = ints
        return code


def bundles(kernel: KernelCall) -> list[str]:
    """The memory interface (bundle) that each port of a kernel uses: load_0, load_1, ... in order, weights, result."""
    names, loads = [], 0
    for port in kernel.ports:
        names.append({"load": f"load_{loads}", "words": "weights", "store": "result"}[port.kind])
        loads += port.kind == "load"
    return names


class WeightMemory:
    """Packed weights in the order of their first use; `write` takes their bytes as they come, so none is kept.

    Without `write` nothing is packed and offsets only tell arrays apart: enough for an estimate.
    """

    def __init__(self, lanes: int, write: Callable[[bytes], object] | None) -> None:
        self.lanes, self.write = lanes, write
        self.words = 0
        self.offsets: dict[str, int] = {}

    def place(self, key: str, make: Callable[[], bytes | Iterable[bytes]]) -> int:
        """Word offset of the packed array `key`."""
        if self.write is None:
            return self.offsets.setdefault(key, len(self.offsets))
        if key not in self.offsets:
            self.offsets[key] = self.words
            made = make()
            for data in (made,) if isinstance(made, bytes) else made:
                words = math.ceil(len(data) / self.lanes)
                self.write(data.ljust(words * self.lanes, b"\0"))
                self.words += words
        return self.offsets[key]


def weight_walks(call: Call) -> list[tuple[int, int]]:
    """(offset, words) of the packed arrays that a call reads; equal offsets are the same array."""
    return [(walk.offset, walk.vectors) for port, walk in zip(call.kernel.ports, call.walks, strict=True) if port.kind == "words"]


def build_program(graph: Graph, design: Design, write_weights: Callable[[bytes], object] | None) -> Program:
    """Lower every node, merge calls of one kernel into engines, place all values."""
    weights = WeightMemory(design.lanes, write_weights)
    offsets: dict[str, int] = {}
    ctx = Lowering(graph, design, offsets, weights.place)
    memory = plan_memory(graph, {name: ctx.words(name) for name in graph.values})
    offsets.update({name: region.offset for name, region in memory.values.items()})
    merged: dict[object, KernelCall] = {}
    ops: dict[object, str] = {}
    calls: list[Call] = []
    engine_of: list[object] = []
    for node in graph.nodes:
        for call in operator(node).lower(node, ctx):
            key = call.kernel.key
            merged[key] = merged[key].merge(call.kernel) if key in merged else call.kernel
            ops.setdefault(key, node.op)
            calls.append(call)
            engine_of.append(key)
    if write_weights is None:
        weights.words = sum(dict(pair for call in calls for pair in weight_walks(call)).values())
    # Engines are numbered by name, so that their order does not depend on which layer happens to come first.
    keys = sorted(merged, key=str)
    engines = {key: Engine(index, ops[key], merged[key]) for index, key in enumerate(keys)}
    return Program(
        design,
        tuple(engines.values()),
        tuple((engines[key], call) for key, call in zip(engine_of, calls, strict=True)),
        memory,
        weights.words,
    )
