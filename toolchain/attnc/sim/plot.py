"""A picture of a simulation over time: instructions as bands, and how every process spends its cycles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.messages import clean
from attnc.pictures import new_figure, save_figure
from attnc.sim.program import Listing, engine_of, short
from attnc.sim.trace import is_region
from attnc.verify.cosim import CosimRun

BINS = 1200
"""Parts of the run, about two pixels each."""
COLOURS = {
    "working": "#2166ac",
    "filling": "#92c5de",
    "empty": "#e3e3e3",
    "full": "#f4a582",
    "memory": "#b2182b",
}
"""Of a process: iterations begin; a pipeline fills, drains or starts; it waits for a FIFO that is empty, or full; for memory."""
LEGEND = {
    "working": "an iteration begins",
    "filling": "filling, draining, starting",
    "empty": "waits: FIFO empty",
    "full": "waits: FIFO full",
    "memory": "waits: memory",
}
PORT_COLOURS = {"read": "#4d9221", "write": "#762a83"}
LEVELS, GAP = 24, 4
"""Pixels of a strip, and between two of them."""
BANDS = ("#d9e6f2", "#f3e6d0", "#dcefdc", "#eee0ee", "#f7dcdc", "#e0eeee")
NARROW, NARROWEST = 0.11, 0.006
"""Shares of the width that a band needs to bear its name level, or upright."""
CHARACTERS = 230
"""Of a name that the whole width holds."""


def bin_cycles(run: CosimRun) -> int:
    """Cycles per bin of a run of this length."""
    return max(1, -(-run.cycles // BINS))


def draw(path: Path, run: CosimRun, width: int, listing: Listing, title: str) -> None:
    """Write a PNG of a run with bins of `width` cycles."""
    engines = _rows(run)
    heights = [1.7, *(0.42 * len(rows) + 0.25 for rows in engines.values()), 0.3 * len(run.ports) + 0.3]
    figure = new_figure(17, sum(heights) + 1.4)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    scale = 1 / listing.clock_mhz / 1000
    axes[0].set_xlim(0, run.cycles * scale)
    _bands(axes, run, listing, scale, _busiest(run, width))
    for axis, (engine, rows) in zip(axes[1:], engines.items(), strict=False):
        _processes(axis, run, rows, width, scale)
        ops = " > ".join(listing.engines.get(engine, ()))
        axis.set_title(f"{engine}: {ops}", loc="left", fontsize=10, fontweight="bold", pad=3)
    _ports(axes[-1], run, width, scale)
    axes[-1].set_xlabel(f"ms at {listing.clock_mhz:g} MHz")
    _titles(figure, axes[0], run, listing, title)
    save_figure(figure, path, 110)


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
    return {name: np.minimum(cycles[name] / width, 1) for name in COLOURS}


def _padded(bins: Sequence[int], count: int) -> Array:
    found = np.zeros(count)
    found[: len(bins)] = bins[:count]
    return found


def _strip(parts: Sequence[tuple[Array, str]], levels: int) -> Array:
    """Shares of bins, stacked, as pixels [levels, bins, 3] from the top; white above."""
    from matplotlib.colors import to_rgb

    pixels = np.ones((levels, len(parts[0][0]), 3))
    height, below = (np.arange(levels) + 0.5)[:, None] / levels, np.zeros(len(parts[0][0]))
    for share, colour in parts:
        pixels[(height >= below) & (height < below + share)] = to_rgb(colour)
        below = below + share
    return pixels[::-1]


def _picture(axis: Any, strips: Sequence[Array], run: CosimRun, width: int, scale: float) -> None:
    """Strips below each other, each one unit high with a gap above; an image, since so many areas would take minutes to draw."""
    gap = np.ones((GAP, strips[0].shape[1], 3))
    pixels = np.concatenate([part for strip in strips for part in (gap, strip)])
    end = strips[0].shape[1] * width * scale
    axis.imshow(pixels, aspect="auto", interpolation="nearest", extent=(0, end, 0, len(strips)))
    axis.set_xlim(0, run.cycles * scale)
    axis.set_ylim(-0.08, len(strips))


def _processes(axis: Any, run: CosimRun, rows: Sequence[str], width: int, scale: float) -> None:
    """A strip per process, stacked by what it does."""
    count, stats = run.cycles // width + 1, {process.path: process for process in run.processes}
    shares = [_shares(run, path, width, count) for path in rows]
    _picture(axis, [_strip([(share, COLOURS[name]) for name, share in one.items()], LEVELS) for one in shares], run, width, scale)
    for number, path in enumerate(rows):
        worked = f"{100 * stats[path].working / max(run.cycles, 1):.0f} %"
        axis.text(1.004, len(rows) - 0.57 - number, worked, transform=axis.get_yaxis_transform(), fontsize=8, va="center")
    axis.text(1.004, 1.0, "works", transform=axis.transAxes, fontsize=8, va="bottom", style="italic")
    axis.set_yticks([len(rows) - 0.57 - number for number in range(len(rows))], [clean(_inner(path)) for path in rows], fontsize=8)
    _bare(axis)


def _ports(axis: Any, run: CosimRun, width: int, scale: float) -> None:
    """Beats that the ports of the board read and write, as shares of the cycles."""
    count, strips = run.cycles // width + 1, []
    moved = sorted((tag, read, written) for tag, read, written in run.ports if read or written)
    for number, (tag, read, written) in enumerate(moved):
        shares = {kind: np.minimum(_padded(run.bins.get((tag, kind), ()), count) / width, 1) for kind in PORT_COLOURS}
        halves = [_strip([(share, PORT_COLOURS[kind])], LEVELS // 2) for kind, share in shares.items()]
        strips.append(np.concatenate(halves))
        text = f"{100 * read / run.cycles:.0f} | {100 * written / run.cycles:.0f} %"
        axis.text(1.004, len(moved) - 0.57 - number, text, transform=axis.get_yaxis_transform(), fontsize=8, va="center")
    if strips:
        _picture(axis, strips, run, width, scale)
    axis.set_yticks([len(moved) - 0.57 - number for number in range(len(moved))], [tag for tag, _, _ in moved], fontsize=8)
    title = "ports of the board: share of cycles in which they read (green, above) and write (purple, below)"
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=3)
    _bare(axis)


def _bare(axis: Any) -> None:
    axis.tick_params(left=False)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)


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
            found[step] = path, min(shares[path], 1.0)
    return found


def _bands(axes: Sequence[Any], run: CosimRun, listing: Listing, scale: float, busiest: Mapping[int, tuple[str, float]]) -> None:
    """Stages on top, those alike in one colour, named where there is room with what is busiest in them; their limits through all strips."""
    merged: list[tuple[int, int, int, list[int]]] = []
    for step, begin, end in run.stages:
        stage = listing.main(step).stage
        if merged and merged[-1][0] == stage:
            merged[-1] = stage, merged[-1][1], end, [*merged[-1][3], step]
        else:
            merged.append((stage, begin, end, [step]))
    kinds: dict[tuple[Any, ...], int] = {}
    top = axes[0]
    for stage, begin, end, steps in merged:
        chain = listing.stages[stage]
        kind = chain.engine, len(chain.nodes), chain.blocks, sum(listing.main(step).cycles for step in steps)
        colour = BANDS[kinds.setdefault(kind, len(kinds)) % len(BANDS)]
        top.axvspan(begin * scale, end * scale, color=colour, linewidth=0)
        for axis in axes[1:]:
            axis.axvline(begin * scale, color="#00000018", linewidth=0.6, zorder=0)
        most = max((step for step in steps if step in busiest), key=lambda step: busiest[step][1], default=None)
        work = "" if most is None else f"{_inner(busiest[most][0])} {100 * busiest[most][1]:.0f} %"
        _name(top, chain.node + (f" x{len(steps)}" if len(steps) > 1 else ""), work, begin, end, run.cycles, scale)
    top.set_ylim(0, 1)
    top.set_yticks([0.5], ["instructions,\nand what is\nbusiest in them"], fontsize=8)
    _bare(top)
    top.tick_params(bottom=False)


def _name(top: Any, title: str, work: str, begin: int, end: int, cycles: int, scale: float) -> None:
    """The name of a stage and its busiest process in a band, upright where it is narrow; nothing where it is narrower still."""
    share, middle = (end - begin) / max(cycles, 1), (begin + end) / 2 * scale
    upright = share < NARROW
    room = 30 if upright else int(CHARACTERS * share)
    if share > NARROWEST:
        text = clean(_fitted(title, room)) + ("\n" + _fitted(work, room) if share > 2 * NARROWEST else "")
        top.text(middle, 0.5, text, rotation=90 if upright else 0, ha="center", va="center", fontsize=7.5, parse_math=False)


def _inner(path: str) -> str:
    """A process by its slot and its own name."""
    parts = short(path).split("/")
    return parts[0] if len(parts) == 1 else f"{parts[0].partition('_')[0]}: {parts[-1]}"


def _fitted(text: str, room: int) -> str:
    """The end of a text, which says more than its beginning."""
    return text if len(text) <= room else "\N{HORIZONTAL ELLIPSIS}" + text[-max(room - 1, 1) :]


def _titles(figure: Any, top: Any, run: CosimRun, listing: Listing, title: str) -> None:
    from matplotlib.patches import Patch

    style = {"stp": "stalling pipelines (stp)", "flp": "flushing pipelines (flp)"}[run.style]
    deadlock = "  DEADLOCK" if run.deadlock is not None else ""
    ms = run.cycles / listing.clock_mhz / 1000
    text = f"{clean(title)}: {run.cycles:,} cycles, {ms:.4g} ms simulated, {listing.estimate:,} estimated, {style}{deadlock}"
    figure.suptitle(text, fontsize=13, x=0.01, ha="left", parse_math=False)
    handles = [Patch(color=COLOURS[name], label=LEGEND[name]) for name in COLOURS]
    top.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1.0), ncols=len(handles), fontsize=8, frameon=False)
