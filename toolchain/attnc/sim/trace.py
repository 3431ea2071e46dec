"""What a simulation tells on its way, as a trace for Perfetto (or chrome://tracing) and as a VCD of FIFO levels."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from attnc.files import written_whole
from attnc.sim.program import Listing, engine_of, short
from attnc.verify.cosim import CosimRun, Tracing, fifo_name

MOST_LEVELS = 400_000
"""Changes of levels that a trace may hold; beyond, the largest one of some cycles stands for all of them."""
MOST_WAITS = 20_000
"""Parts of the run; waits that are shorter than one of them are left out."""


MADE = "madeBy"
"""In the first bytes of a trace, in front of who made it."""


def made_by_attnc(path: Path) -> bool:
    """Whether a file is a trace of attnc's."""
    with open(path, "rb") as file:
        begin = file.read(40)
    return begin.startswith((f'{{"{MADE}":"attnc"'.encode(), f"$version {MADE} attnc".encode()))


@dataclass
class Trace:
    """Activations of processes (begin, end), their waits (begin, end, cause, what for), and levels of FIFOs (time, level), by path."""

    activations: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    waits: dict[str, list[tuple[int, int, str, str]]] = field(default_factory=dict)
    levels: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


def tracing(path: Path, run: CosimRun) -> Tracing:
    """How much is to be told, so that a long run's trace can still be opened."""
    tokens = sum(fifo.tokens for fifo in run.fifos)
    return Tracing(path, max(1, -(-2 * tokens // MOST_LEVELS)), max(2, run.cycles // MOST_WAITS))


def read_trace(path: Path) -> Trace:
    """The simulator's lines; levels in the order of their time."""
    found, processes, sources = Trace(), dict[str, str](), {"0": ""}
    with path.open() as lines:
        for line in lines:
            kind, number, *rest = line.split(" ")
            if kind == "L":
                found.levels[sources[number]].append((int(rest[0]), int(rest[1])))
            elif kind == "W":
                found.waits[processes[number]].append((int(rest[2]), int(rest[3]), rest[0], sources[rest[1]]))
            elif kind == "P":
                found.activations[processes[number]].append((int(rest[0]), int(rest[1])))
            elif kind == "N":
                path_ = processes[number] = rest[0].rstrip("\n")
                found.activations[path_], found.waits[path_] = [], []
            else:
                sources[number] = rest[0].rstrip("\n")
                if kind == "F":
                    found.levels[sources[number]] = []
    for levels in found.levels.values():
        levels.sort(key=lambda entry: entry[0])
    return found


def is_region(run: CosimRun, path: str) -> bool:
    """Whether a process does nothing but start others."""
    return any(other.path.startswith(f"{path}/") for other in run.processes)


def write_perfetto(path: Path, trace: Trace, run: CosimRun, listing: Listing) -> None:
    """Instructions, and by engine its processes, an activation as a slice named after its instruction with waits inside, and FIFO levels.
    A microsecond is one at the build's clock; cycles stand in the arguments."""
    with written_whole(path) as beside, beside.open("w", encoding="utf-8") as out:
        out.write(f'{{"{MADE}":"attnc","displayTimeUnit":"ns","traceEvents":[\n')
        for number, event in enumerate(_events(trace, run, listing)):
            out.write((",\n" if number else "") + json.dumps(event, separators=(",", ":")))
        out.write("\n]}\n")


def _events(trace: Trace, run: CosimRun, listing: Listing) -> Iterator[dict[str, Any]]:
    clock = listing.clock_mhz
    groups = {"program": 1} | {name: number for number, name in enumerate(listing.engines, 2)}
    for name, pid in groups.items():
        title = "program" if name == "program" else f"{name} ({' > '.join(listing.engines[name])})"
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": f"{title}, {run.style}"}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    yield _thread(1, 1, "instructions")
    for step, begin, end in run.stages:
        yield _slice(1, 1, listing.title(step), begin, end, clock, {"step": step, "estimate": listing.main(step).cycles})
    starts = [begin for _, begin, _ in run.stages]
    leaves = [process for process in trace.activations if not is_region(run, process) and trace.activations[process]]
    for tid, process in enumerate(leaves, 2):
        engine = engine_of(process)
        pid = groups.get(engine, 1)
        yield _thread(pid, tid, short(process))
        for begin, end in trace.activations[process]:
            number = bisect_right(starts, begin) - 1
            label = _label(listing, run.stages[number][0], engine) if number >= 0 else short(process)
            yield _slice(pid, tid, label, begin, end, clock, {"process": process})
        for begin, end, cause, what in trace.waits[process]:
            yield _slice(pid, tid, f"{cause}: {fifo_name(what)}", begin, end, clock, {})
    for fifo, levels in trace.levels.items():
        pid = groups.get(engine_of(fifo), 1)
        for time, level in levels:
            yield {"ph": "C", "name": f"FIFO {short(fifo)}", "pid": pid, "tid": 0, "ts": time / clock, "args": {"level": level}}


def _label(listing: Listing, step: int, engine: str) -> str:
    """The instruction of a step that an engine runs."""
    own = [one for one in listing.steps[step] if listing.stages[one.stage].engine == engine]
    return listing.label(own[0]) if own else listing.title(step)


def _thread(pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}


def _slice(pid: int, tid: int, name: str, begin: int, end: int, clock: float, args: Mapping[str, Any]) -> dict[str, Any]:
    cycles = {"begin": begin, "cycles": end - begin, **args}
    return {"ph": "X", "name": name, "pid": pid, "tid": tid, "ts": begin / clock, "dur": (end - begin) / clock, "args": cycles}


def write_vcd(path: Path, trace: Trace, run: CosimRun, listing: Listing) -> None:
    """Levels of all FIFOs, in scopes by engine and process; a time step is a picosecond."""
    codes = {fifo: _code(number) for number, fifo in enumerate(trace.levels)}
    widths = {fifo.path: max(fifo.most, fifo.depth, 1).bit_length() for fifo in run.fifos}
    with written_whole(path) as beside, beside.open("w", encoding="ascii", errors="replace") as out:
        out.write(f"$version {MADE} attnc $end\n$comment levels of FIFOs, pipelines {run.style}, {listing.clock_mhz:g} MHz $end\n")
        out.write("$timescale 1 ps $end\n")
        _scopes(out, sorted((_scope(fifo), fifo) for fifo in codes), codes, widths)
        out.write("$enddefinitions $end\n#0\n$dumpvars\n" + "".join(f"b0 {code}\n" for code in codes.values()) + "$end\n")
        changes = sorted((time, number, level) for number, levels in enumerate(trace.levels.values()) for time, level in levels)
        names, now = list(codes.values()), 0
        for time, number, level in changes:
            if time != now:
                out.write(f"#{round(time * 1e6 / listing.clock_mhz)}\n")
                now = time
            out.write(f"b{level:b} {names[number]}\n")
        out.write(f"#{round(run.cycles * 1e6 / listing.clock_mhz)}\n")


def _scope(fifo: str) -> tuple[str, ...]:
    """Engine, processes, name."""
    inner = short(fifo).split("/")
    return engine_of(fifo), *inner[:-1], inner[-1].rpartition(".")[2]


def _scopes(out: TextIO, found: list[tuple[tuple[str, ...], str]], codes: Mapping[str, str], widths: Mapping[str, int]) -> None:
    opened: tuple[str, ...] = ()
    for scope, fifo in found:
        shared = 0
        while shared < min(len(opened), len(scope) - 1) and opened[shared] == scope[shared]:
            shared += 1
        out.write("$upscope $end\n" * (len(opened) - shared))
        out.write("".join(f"$scope module {name} $end\n" for name in scope[shared:-1]))
        opened = scope[:-1]
        out.write(f"$var wire {widths.get(fifo, 32)} {codes[fifo]} {scope[-1]} $end\n")
    out.write("$upscope $end\n" * len(opened))


def _code(number: int) -> str:
    """A short name of printable characters."""
    text = ""
    while True:
        number, digit = divmod(number, 94)
        text += chr(33 + digit)
        if not number:
            return text
