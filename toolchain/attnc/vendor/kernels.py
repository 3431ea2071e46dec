"""A kernel of a build by itself: C++ that runs it on the calls that a simulated sample makes of it, and what it has to give."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attnc.arrays import Array
from attnc.codegen.render import environment
from attnc.errors import ConfigError
from attnc.kernels.ports import IntType
from attnc.schedule.engine import Engine, Slot
from attnc.schedule.program import Program
from attnc.vendor.recording import Recording, numbers

TOP = "attnc_kernel"
USUAL, MOST = 2048, 65_536
"""Tokens that calls are chosen for, and those that a single one may have."""


@dataclass(frozen=True)
class Traffic:
    """What passes a port in all calls: numbers [tokens, lanes], and the tokens of each call."""

    tokens: Array
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """A kernel in an engine: `name` is that of its slot in the emitted code."""

    name: str
    engine: Engine
    number: int

    @property
    def slot(self) -> Slot:
        """Its slot."""
        return self.engine.slots[self.number]

    @property
    def function(self) -> str:
        """The name of the kernel, which several slots may have."""
        return self.slot.kernel.function

    @property
    def same(self) -> tuple[str, ...]:
        """Equal for kernels that are one: their C++ functions with all template arguments."""
        return tuple(process.spelled(self.slot.kernel.names) for process in self.slot.kernel.network.processes)

    def streams(self) -> list[str]:
        """The stream of each port."""
        loaded = {(stream.slot, stream.port): stream.name for stream in self.engine.streams}
        last = len(self.engine.slots) - 1
        arrives = f"tapped_{self.number}" if self.slot.tap else f"chain_{self.number}" if self.number else self.engine.streams[0].name
        leaves = f"chain_{self.number + 1}" if self.number < last else self.engine.streams[-1].name
        return [
            f"{self.engine.name}.{arrives if index == self.slot.fed else leaves if port.kind == 'store' else loaded[self.number, index]}"
            for index, port in enumerate(self.slot.kernel.ports)
        ]


def kernels_of(program: Program, wanted: str | None) -> list[Kernel]:
    """Those named `wanted`, by slot or by kernel, or all that differ; raises `ConfigError` where there is none."""
    every = [Kernel(engine.slot_name(number), engine, number) for engine in program.engines for number in range(len(engine.slots))]
    if wanted is None:
        return list({kernel.same: kernel for kernel in reversed(every)}.values())[::-1]
    found = [kernel for kernel in every if wanted in (kernel.name, kernel.function)]
    if not found:
        raise ConfigError(f"--kernel: needed one of {', '.join(kernel.name for kernel in every)}, found {wanted!r}")
    return found


@dataclass(frozen=True)
class Bench:
    """A kernel with the calls that it is run on: scalars by call, what passes each port, the most tokens that any of its streams holds."""

    kernel: Kernel
    calls: tuple[tuple[int, ...], ...]
    traffic: tuple[Traffic, ...]
    capacity: int

    @property
    def expected(self) -> Array:
        """What it has to give, [tokens, lanes]."""
        return self.traffic[self.kernel.slot.kernel.network.store].tokens


def bench(kernel: Kernel, program: Program, code: Array, recording: Recording) -> Bench | str:
    """The first calls of a kernel, of about `USUAL` tokens together, or why there are none. `code` is the program as the accelerator gets
    it, [instructions, integers]; a kernel may keep what an earlier call brought, so none is left out."""
    slot, engine = kernel.slot, kernel.engine
    ports, streams = slot.kernel.ports, kernel.streams()
    types = [engine.arriving(kernel.number) if index == slot.fed else port.type for index, port in enumerate(ports)]
    types = [IntType(8, False) if port.kind == "words" else type_ for port, type_ in zip(ports, types, strict=True)]
    inner = [f"{kernel.name}.{fifo.name}" for fifo in slot.kernel.network.fifos]
    chosen: list[tuple[tuple[int, ...], list[Array]]] = []
    total, capacity = 0, 1
    for run, scalars in enumerate(_runs(kernel, program, code)):
        held = [recording.get(name, ())[run : run + 1] for name in streams]
        kept = [recording.get(name, ())[len(chosen) : len(chosen) + 1] for name in inner]
        if not all(held) or (scalars is not None and not all(kept)):
            break
        if scalars is None:
            continue
        tokens = sum(len(each[0]) for each in held)
        if tokens > MOST or (chosen and total + tokens > USUAL):
            break
        total += tokens
        capacity = max(capacity, *(len(each[0]) for each in (*held, *kept)))
        chosen.append((scalars, [numbers(each[0], type_.bits, type_.signed) for each, type_ in zip(held, types, strict=True)]))
    if not chosen:
        return f"none of its first calls has at most {MOST} tokens"
    traffic = tuple(
        Traffic(np.concatenate([brought[port] for _, brought in chosen]), tuple(len(brought[port]) for _, brought in chosen))
        for port in range(len(ports))
    )
    return Bench(kernel, tuple(scalars for scalars, _ in chosen), traffic, capacity)


def _runs(kernel: Kernel, program: Program, code: Array) -> list[tuple[int, ...] | None]:
    """For every run of the engine the scalars of the kernel's call, or None where the run passes it by."""
    engine, places = kernel.engine, kernel.engine.places
    first = program.places[engine.index]
    runs = code[:, first] != 0 if program.design.parallel > 1 else code[:, 0] == engine.index
    control = f"control_{kernel.number}"
    found: list[tuple[int, ...] | None] = []
    for row in code[runs]:
        at = first + places[f"call_{kernel.number}"]
        passed = kernel.slot.optional and row[first + places[control]] == 0
        found.append(None if passed else tuple(int(number) for number in row[at : at + len(kernel.slot.kernel.network.fields)]))
    return found


def write_bench(bench: Bench, sources: Path, folder: Path, lanes: int, found: Path) -> None:
    """`kernel.cpp` with its headers, free of HLS pragmas, and `testbench.cpp`, which writes what the kernel gives to `found`. `sources` is
    the `hls` folder of the build."""
    kernel = bench.kernel.slot.kernel
    network, traffic = kernel.network, dict(zip((port.name for port in kernel.ports), bench.traffic, strict=True))
    brought = [port for port in kernel.ports if port.kind != "store"]
    result = kernel.ports[network.store]
    arrays = ["calls", *(f"{port.name}_tokens" for port in brought), f"{result.name}_tokens"]
    order = [*brought, result]
    calls = [
        number for call, scalars in enumerate(bench.calls) for number in (*scalars, *(traffic[port.name].counts[call] for port in order))
    ]
    names = [port.name for port in kernel.ports]
    shown = {
        "name": bench.kernel.name,
        "top": TOP,
        "header": network.header,
        "call": network.call,
        "scalars": network.fields,
        "count": len(bench.calls),
        "capacity": 1 << (bench.capacity - 1).bit_length(),  # no divider finds a place
        "arrays": arrays,
        "ports": [
            {
                "name": port.name,
                "kind": port.kind,
                "lanes": lanes * port.beat,
                "element": _element(port.kind, port.type),
                "token": f"attnc::Vec<{_element(port.kind, port.type)}, {lanes * port.beat}>",
            }
            for port in kernel.ports
        ],
        "fifos": [{"name": fifo.name, "element": fifo.element(kernel.names).cpp} for fifo in network.fifos],
        "processes": [
            {
                "function": process.spelled(kernel.names),
                "given": ", ".join([*([*process.reads, *process.writes] if network.fifos else names), "call"]),
            }
            for process in network.processes
        ],
        "given": {"calls": calls, **{f"{port.name}_tokens": traffic[port.name].tokens.reshape(-1).tolist() or [0] for port in brought}},
        "results": bench.expected.size,
        "found": "".join(f"\\{byte:03o}" for byte in bytes(found)),
    }
    copy_without_pragmas(sources, folder)
    env = environment()
    for template, target in (
        ("kernel.cpp.j2", "kernel.cpp"),
        ("kernel_testbench.cpp.j2", "testbench.cpp"),
        ("kernel_stream.h.j2", "hls_stream.h"),
    ):
        (folder / target).write_text(env.get_template(template).render(shown))


def _element(kind: str, type_: IntType) -> str:
    return "attnc::UInt<8>" if kind == "words" else type_.cpp()


def copy_without_pragmas(sources: Path, folder: Path) -> None:
    """The headers of kernels and tables. Pragmas of Vitis HLS say nothing to other tools: their lines are left empty."""
    for path in (sources / "tables.hpp", *(sources / "include").rglob("*.hpp")):
        target = folder / path.relative_to(sources)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(re.sub(r"^[ \t]*#pragma HLS\b.*$", "", path.read_text(), flags=re.MULTILINE))


def compare(bench: Bench, lines: Sequence[str]) -> tuple[int, str]:
    """Elements that differ from what the kernel has to give, and the first of them in words."""
    found = np.array([int(line) if re.fullmatch(r"-?\d{1,18}", line) else None for line in lines], object)
    expected = bench.expected.reshape(-1)
    if found.size != expected.size:
        return expected.size, f"needed {expected.size} numbers, found {found.size}"
    wrong = np.flatnonzero(found != expected)
    if wrong.size == 0:
        return 0, ""
    token, lane = divmod(int(wrong[0]), bench.expected.shape[1])
    return int(wrong.size), f"token {token}, lane {lane}: expected {expected[wrong[0]]}, found {found[wrong[0]]}"
