"""A picture of a simulation over time: instructions as bands, and how every process spends its cycles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.messages import clean
from attnc.pictures import new_figure, save_figure
from attnc.sim.timeline import MOVED, SPENT, Strip, Timeline, fitted

BINS = 1200
"""Parts of the run, about two pixels each."""
COLOURS = {
    "working": "#2166ac",
    "filling": "#92c5de",
    "empty": "#e3e3e3",
    "full": "#f4a582",
    "memory": "#b2182b",
}
"""By how a process spends its cycles."""
PORT_COLOURS = {"read": "#4d9221", "write": "#762a83"}
LEVELS, GAP = 24, 4
"""Pixels of a strip, and between two of them."""
BANDS = ("#d9e6f2", "#f3e6d0", "#dcefdc", "#eee0ee", "#f7dcdc", "#e0eeee")
NARROW, NARROWEST = 0.11, 0.006
"""Shares of the width that a band needs to bear its name level, or upright."""
CHARACTERS = 230
"""Of a name that the whole width holds."""


def draw(path: Path, found: Timeline, clock_mhz: float, estimate: int, title: str) -> None:
    """Write a PNG of a run; `estimate` are its estimated cycles."""
    heights = [1.7, *(0.42 * len(strips) + 0.25 for strips in found.engines.values()), 0.3 * len(found.ports) + 0.3]
    figure = new_figure(17, sum(heights) + 1.4)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    scale = 1 / clock_mhz / 1000
    axes[0].set_xlim(0, found.cycles * scale)
    _bands(axes, found, scale)
    for axis, (engine, strips) in zip(axes[1:], found.engines.items(), strict=False):
        _processes(axis, found, strips, scale)
        axis.set_title(f"{engine}: {' > '.join(found.operators[engine])}", loc="left", fontsize=10, fontweight="bold", pad=3)
    _ports(axes[-1], found, scale)
    axes[-1].set_xlabel(f"ms at {clock_mhz:g} MHz")
    _titles(figure, axes[0], found, clock_mhz, estimate, title)
    save_figure(figure, path, 110)


def _strip(parts: Sequence[tuple[Array, str]], levels: int) -> Array:
    """Shares of bins, stacked, as pixels [levels, bins, 3] from the top; white above."""
    from matplotlib.colors import to_rgb

    pixels = np.ones((levels, len(parts[0][0]), 3))
    height, below = (np.arange(levels) + 0.5)[:, None] / levels, np.zeros(len(parts[0][0]))
    for share, colour in parts:
        pixels[(height >= below) & (height < below + share)] = to_rgb(colour)
        below = below + share
    return pixels[::-1]


def _picture(axis: Any, pictures: Sequence[Array], found: Timeline, scale: float) -> None:
    """Strips below each other, each one unit high with a gap above; an image, since so many areas would take minutes to draw."""
    gap = np.ones((GAP, found.bins, 3))
    pixels = np.concatenate([part for picture in pictures for part in (gap, picture)])
    end = found.bins * found.bin_cycles * scale
    axis.imshow(pixels, aspect="auto", interpolation="nearest", extent=(0, end, 0, len(pictures)))
    axis.set_xlim(0, found.cycles * scale)
    axis.set_ylim(-0.08, len(pictures))


def _processes(axis: Any, found: Timeline, strips: Sequence[Strip], scale: float) -> None:
    """A strip per process, stacked by what it does."""
    _picture(axis, [_strip([(share, COLOURS[name]) for name, share in one.shares.items()], LEVELS) for one in strips], found, scale)
    _beside(axis, [one.name for one in strips], [f"{100 * one.totals['working']:.0f} %" for one in strips])
    axis.text(1.004, 1.0, "works", transform=axis.transAxes, fontsize=8, va="bottom", style="italic")
    _bare(axis)


def _ports(axis: Any, found: Timeline, scale: float) -> None:
    """Beats that the ports of the board read and write, as shares of the cycles."""
    pictures = [np.concatenate([_strip([(port.shares[kind], PORT_COLOURS[kind])], LEVELS // 2) for kind in MOVED]) for port in found.ports]
    if pictures:
        _picture(axis, pictures, found, scale)
    _beside(
        axis,
        [port.name for port in found.ports],
        [" | ".join(f"{100 * port.totals[kind]:.0f}" for kind in MOVED) + " %" for port in found.ports],
    )
    title = "ports of the board: share of cycles in which they read (green, above) and write (purple, below)"
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=3)
    _bare(axis)


def _beside(axis: Any, names: Sequence[str], totals: Sequence[str]) -> None:
    """What stands left and right of strips."""
    heights = [len(names) - 0.57 - number for number in range(len(names))]
    for height, text in zip(heights, totals, strict=True):
        axis.text(1.004, height, text, transform=axis.get_yaxis_transform(), fontsize=8, va="center")
    axis.set_yticks(heights, [clean(name) for name in names], fontsize=8)


def _bare(axis: Any) -> None:
    axis.tick_params(left=False)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)


def _bands(axes: Sequence[Any], found: Timeline, scale: float) -> None:
    """Stages on top, those alike in one colour, named where there is room with what is busiest in them; their limits through all strips."""
    top = axes[0]
    for band in found.bands:
        top.axvspan(band.begin * scale, band.end * scale, color=BANDS[band.kind % len(BANDS)], linewidth=0)
        for axis in axes[1:]:
            axis.axvline(band.begin * scale, color="#00000018", linewidth=0.6, zorder=0)
        work = "" if band.busiest is None else f"{band.busiest[0]} {100 * band.busiest[1]:.0f} %"
        _name(top, band.node + (f" x{band.steps}" if band.steps > 1 else ""), work, band.begin, band.end, found.cycles, scale)
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
        text = clean(fitted(title, room)) + ("\n" + fitted(work, room) if share > 2 * NARROWEST else "")
        top.text(middle, 0.5, text, rotation=90 if upright else 0, ha="center", va="center", fontsize=7.5, parse_math=False)


def _titles(figure: Any, top: Any, found: Timeline, clock_mhz: float, estimate: int, title: str) -> None:
    from matplotlib.patches import Patch

    style = {"stp": "stalling pipelines (stp)", "flp": "flushing pipelines (flp)"}[found.style]
    deadlock, ms = "  DEADLOCK" if found.deadlock else "", found.cycles / clock_mhz / 1000
    text = f"{clean(title)}: {found.cycles:,} cycles, {ms:.4g} ms simulated, {estimate:,} estimated, {style}{deadlock}"
    figure.suptitle(text, fontsize=13, x=0.01, ha="left", parse_math=False)
    handles = [Patch(color=COLOURS[name], label=text) for name, text in SPENT.items()]
    top.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1.0), ncols=len(handles), fontsize=8, frameon=False)
