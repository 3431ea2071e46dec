"""The timeline of a simulation: stages above, then a strip for each process and port."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from attnc.arrays import Array
from attnc.page.markup import count, join, number, percent, svg, tag
from attnc.sim.timeline import MOVED, SPENT, Band, Strip, Timeline, fitted

LEVELS = 20
NARROW = 0.012
"""Share of the width that a band needs to bear its name."""
ROOM = 12
"""Characters of a name in a band."""
KINDS = 6
"""Colours of bands."""


def picture(found: Timeline, clock_mhz: float) -> Markup:
    """Everything below each other, on one scale."""
    rows = [_row("", _bands(found), "works")]
    for engine, strips in found.engines.items():
        rows.append(tag("h4", f"{engine}: {' > '.join(found.operators.get(engine, ()))}"))
        for strip in strips:
            rows.append(_row(strip.name, _strip(strip, SPENT, found), percent(strip.totals.get("working", 0.0))))
    rows.append(tag("h4", "ports of the board: reading and writing"))
    for port in found.ports:
        totals = " | ".join(f"{100 * port.totals.get(kind, 0.0):.0f}" for kind in MOVED) + " %"
        rows.append(_row(port.name, _strip(port, MOVED, found), totals))
    end = found.cycles / clock_mhz / 1000
    scale = tag("div", *(tag("span", f"{end * part / 4:.3g}") for part in range(4)), tag("span", f"{end:.3g} ms"), class_="scale")
    rows.append(_row("", scale, ""))
    keys = [tag("li", tag("i", class_=f"t-{kind}"), text) for kind, text in {**SPENT, "read": "port reads", "write": "port writes"}.items()]
    return tag("div", tag("ul", *keys, class_="keys flat"), tag("div", *rows, class_="timeline"))


def _row(name: str, content: Markup, total: str) -> Markup:
    return tag("div", tag("span", name, class_="name", title=name or None), content, tag("span", total, class_="total"), class_="strip")


def _strip(strip: Strip, kinds: Sequence[str] | dict[str, str], found: Timeline) -> Markup:
    """Shares stacked from below; each is the area between two lines of steps."""
    below: list[int] = [0] * found.bins
    areas = []
    for kind in kinds:
        above = [min(low + round(float(share) * LEVELS), LEVELS) for low, share in zip(below, _share(strip, kind, found), strict=True)]
        path = _area(below, above)
        if path:
            areas.append(tag("path", d=path, class_=f"t-{kind}"))
        below = above
    return svg(found.bins, LEVELS, *areas, preserveAspectRatio="none", aria_label=strip.name)


def _share(strip: Strip, kind: str, found: Timeline) -> Array:
    """Of the cycles of every bin; of a strip of ports halves, so that both kinds fit above each other."""
    return strip.shares[kind] / 2 if kind in MOVED else strip.shares[kind]


def _area(below: Sequence[int], above: Sequence[int]) -> str:
    """A path of rectangles, one for bins in a row that are alike."""
    parts, at = [], 0
    while at < len(below):
        end = at + 1
        while end < len(below) and (below[end], above[end]) == (below[at], above[at]):
            end += 1
        if above[at] > below[at]:
            parts.append(f"M{at} {LEVELS - below[at]}h{end - at}V{LEVELS - above[at]}h{at - end}z")
        at = end
    return "".join(parts)


def _bands(found: Timeline) -> Markup:
    """Steps of stages by kind, with their names where there is room."""
    width = max(found.cycles, 1)
    return tag("div", *(_band(band, width) for band in found.bands), class_="bands")


def _band(band: Band, width: int) -> Markup:
    share = (band.end - band.begin) / width
    busiest = "" if band.busiest is None else f"; busiest {band.busiest[0]}, {percent(band.busiest[1])}"
    steps = f" x{band.steps}" if band.steps > 1 else ""
    title = f"{band.node}{steps}: {count(band.end - band.begin)} cycles{busiest}"
    style = f"left:{number(100 * band.begin / width)}%;width:{number(100 * share)}%"
    shown = tag("span", fitted(f"{band.node}{steps}", ROOM)) if share >= NARROW else join(())
    return tag("div", shown, class_=f"band k{band.kind % KINDS}", style=style, title=title)
