"""What a simulation did over time, in equal parts of the run: stages as bands, and how every process and port spends its cycles. The
picture of `attnc cosim --plot` and the page of `attnc report` draw it; cosim.json holds it with fewer parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.sim.program import Listing, engine_of, short
from attnc.sim.trace import is_region
from attnc.verify.cosim import CosimRun

BINS = 240
"""Parts of a run that cosim.json tells apart."""
SPENT = {
    "working": "an iteration begins",
    "filling": "filling, draining, starting",
    "empty": "waits: FIFO empty",
    "full": "waits: FIFO full",
    "memory": "waits: memory",
}
"""How a process spends its cycles."""
MOVED = ("read", "write")
"""What a port of the board does."""


@dataclass(frozen=True)
class Band:
    """Steps behind each other that one stage accounts for. Bands of the same `kind` have the same engine, number of nodes and blocks, and
    estimate. `busiest` is the process that begins most iterations in them, with its share of the cycles."""

    node: str
    steps: int
    begin: int
    end: int
    kind: int
    busiest: tuple[str, float] | None


@dataclass(frozen=True)
class Strip:
    """A process or a port: its share of the cycles of every bin by what it does, [bins] between 0 and 1, and of the run by `totals`."""

    name: str
    shares: Mapping[str, Array]
    totals: Mapping[str, float]


@dataclass(frozen=True)
class Timeline:
    """One run, in bins of so many cycles; `engines` are the strips of processes in the order in which tokens pass, `operators` what each
    engine is made of."""

    style: str
    cycles: int
    deadlock: bool
    bin_cycles: int
    bands: tuple[Band, ...]
    engines: Mapping[str, tuple[Strip, ...]]
    operators: Mapping[str, tuple[str, ...]]
    ports: tuple[Strip, ...]

    @property
    def bins(self) -> int:
        """Number of bins, the last one perhaps cut short."""
        return self.cycles // self.bin_cycles + 1


def bin_cycles(cycles: int, bins: int = BINS) -> int:
    """Cycles per bin of a run of about this length."""
    return max(1, -(-cycles // bins))


def timeline(run: CosimRun, width: int, listing: Listing) -> Timeline:
    """Of a run with bins of `width` cycles."""
    count, stats = run.cycles // width + 1, {process.path: process for process in run.processes}
    engines = {
        engine: tuple(
            Strip(inner(path), _shares(run, path, width, count), {"working": stats[path].working / max(run.cycles, 1)}) for path in rows
        )
        for engine, rows in _rows(run).items()
    }
    ports = tuple(
        Strip(
            tag,
            {kind: np.minimum(_padded(run.bins.get((tag, kind), ()), count) / width, 1) for kind in MOVED},
            {"read": read / max(run.cycles, 1), "write": written / max(run.cycles, 1)},
        )
        for tag, read, written in sorted(run.ports)
        if read or written
    )
    bands, operators = _bands(run, listing, _busiest(run, width)), {engine: listing.engines.get(engine, ()) for engine in engines}
    return Timeline(run.style, run.cycles, run.deadlock is not None, width, bands, engines, operators, ports)


def inner(path: str) -> str:
    """A process by its slot and its own name."""
    parts = short(path).split("/")
    return parts[0] if len(parts) == 1 else f"{parts[0].partition('_')[0]}: {parts[-1]}"


def fitted(text: str, room: int) -> str:
    """The end of a text, which says more than its beginning."""
    return text if len(text) <= room else "\N{HORIZONTAL ELLIPSIS}" + text[-max(room - 1, 1) :]


def _rows(run: CosimRun) -> dict[str, list[str]]:
    """By engine its processes that do anything themselves, in the order in which their tokens pass."""
    found: dict[str, list[str]] = {}
    active = {process.path for process in run.processes if process.working or any(process.waited[c] for c in ("empty", "full", "memory"))}
    for path in _in_order(run):
        if path in active and engine_of(path) != "program" and not is_region(run, path):
            found.setdefault(engine_of(path), []).append(path)
    return dict(sorted(found.items(), key=lambda item: int(item[0].rpartition("_")[2])))


def _in_order(run: CosimRun) -> list[str]:
    """Processes, each behind those that feed it."""
    feeds: dict[str, set[str]] = {process.path: set() for process in run.processes}
    for fifo in run.fifos:
        if fifo.writer and fifo.reader and fifo.writer != fifo.reader:
            feeds[fifo.reader].add(fifo.writer)
    found: list[str] = []

    def visit(path: str, above: frozenset[str]) -> None:
        for before in sorted(feeds[path] - above):
            visit(before, above | {path})
        if path not in found:
            found.append(path)

    for process in sorted(feeds, key=lambda path: (engine_of(path), path)):
        visit(process, frozenset())
    return found


def _shares(run: CosimRun, process: str, width: int, count: int) -> dict[str, Array]:
    """Of every bin, by what the process does in it."""
    cycles = {name: _padded(run.bins.get((process, name), ()), count) for name in ("working", "empty", "full", "memory", "active")}
    filling = cycles["active"] - sum(cycles[name] for name in ("working", "empty", "full", "memory"))
    cycles["filling"] = np.maximum(filling, 0)
    return {name: np.minimum(cycles[name] / width, 1) for name in SPENT}


def _padded(bins: Sequence[int], count: int) -> Array:
    found = np.zeros(count)
    found[: len(bins)] = bins[:count]
    return found


def _busiest(run: CosimRun, width: int) -> dict[int, tuple[str, float]]:
    """By step the process that begins most iterations in it, and the share of its cycles in which it does."""
    count = run.cycles // width + 1
    bins = {
        p.path: _padded(run.bins.get((p.path, "working"), ()), count) for p in run.processes if p.working and engine_of(p.path) != "program"
    }
    working = {path: np.cumsum(np.append(0.0, cycles)) for path, cycles in bins.items()}
    at = np.arange(count + 1) * width
    found = {}
    for step, begin, end in run.stages:
        if end > begin and working:
            shares = {
                path: float(np.interp(end, at, total) - np.interp(begin, at, total)) / (end - begin) for path, total in working.items()
            }
            path = max(shares, key=lambda name: shares[name])
            found[step] = inner(path), min(shares[path], 1.0)
    return found


def _bands(run: CosimRun, listing: Listing, busiest: Mapping[int, tuple[str, float]]) -> tuple[Band, ...]:
    """Steps that follow each other in one stage are a band."""
    merged: list[tuple[int, int, int, list[int]]] = []
    for step, begin, end in run.stages:
        stage = listing.main(step).stage
        if merged and merged[-1][0] == stage:
            merged[-1] = stage, merged[-1][1], end, [*merged[-1][3], step]
        else:
            merged.append((stage, begin, end, [step]))
    kinds: dict[tuple[Any, ...], int] = {}
    bands = []
    for stage, begin, end, steps in merged:
        chain = listing.stages[stage]
        alike = chain.engine, len(chain.nodes), chain.blocks, sum(listing.main(step).cycles for step in steps)
        most = max((step for step in steps if step in busiest), key=lambda step: busiest[step][1], default=None)
        work = None if most is None else busiest[most]
        bands.append(Band(chain.node, len(steps), begin, end, kinds.setdefault(alike, len(kinds)), work))
    return tuple(bands)


def as_facts(found: Timeline) -> dict[str, Any]:
    """As plain values; shares are whole percent, the bins of a strip in one text."""

    def strip(one: Strip) -> dict[str, Any]:
        percent = {kind: " ".join(map(str, np.rint(100 * share).astype(int))) for kind, share in one.shares.items()}
        return {"name": one.name, "totals": {kind: round(share, 4) for kind, share in one.totals.items()}, **percent}

    return {
        "style": found.style,
        "cycles": found.cycles,
        "deadlock": found.deadlock,
        "bin_cycles": found.bin_cycles,
        "bands": [{**asdict(band), "busiest": None if band.busiest is None else list(band.busiest)} for band in found.bands],
        "engines": {name: [strip(one) for one in strips] for name, strips in found.engines.items()},
        "operators": {name: list(ops) for name, ops in found.operators.items()},
        "ports": [strip(one) for one in found.ports],
    }


def from_facts(facts: Mapping[str, Any]) -> Timeline:
    """What `as_facts` made; raises KeyError, TypeError or ValueError where it is no such thing."""
    cycles, width = int(facts["cycles"]), int(facts["bin_cycles"])
    count = cycles // width + 1 if width > 0 else 0

    def strip(given: Mapping[str, Any], kinds: Sequence[str]) -> Strip:
        shares = {kind: np.array(given[kind].split(), dtype=np.float64) / 100 for kind in kinds}
        if any(share.shape != (count,) or not ((share >= 0) & (share <= 1)).all() for share in shares.values()):
            raise ValueError(f"needed {count} percentages per strip")
        return Strip(str(given["name"]), shares, {str(kind): float(share) for kind, share in given["totals"].items()})

    def band(given: Mapping[str, Any]) -> Band:
        work = None if given["busiest"] is None else (str(given["busiest"][0]), float(given["busiest"][1]))
        return Band(str(given["node"]), int(given["steps"]), int(given["begin"]), int(given["end"]), int(given["kind"]), work)

    return Timeline(
        style=str(facts["style"]),
        cycles=cycles,
        deadlock=bool(facts["deadlock"]),
        bin_cycles=width,
        bands=tuple(map(band, facts["bands"])),
        engines={str(name): tuple(strip(one, tuple(SPENT)) for one in strips) for name, strips in facts["engines"].items()},
        operators={str(name): tuple(map(str, ops)) for name, ops in facts["operators"].items()},
        ports=tuple(strip(one, MOVED) for one in facts["ports"]),
    )
