"""The roofline of every stage: multiply-adds per byte of DDR traffic against multiply-adds per cycle, both logarithmic (estimates)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from attnc.page.markup import compact, count, join, number, percent, svg, tag
from attnc.schedule.cost import DDR_EFFICIENCY
from attnc.schedule.stages import MACS_PER_DSP

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 380, 52, 14, 16, 46


class Axis:
    """Powers of ten between two values, on a line from pixel to pixel."""

    def __init__(self, values: list[float], begin: float, end: float) -> None:
        self.low, self.high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
        self.high = max(self.high, self.low + 1)
        self.begin, self.end = begin, end

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + min(max(share, 0.0), 1.0) * (self.end - self.begin)

    @property
    def ticks(self) -> list[float]:
        """The powers of ten."""
        return [10.0**power for power in range(self.low, self.high + 1)]


def roofline(facts: Mapping[str, Any], colours: Mapping[str, int]) -> Markup:
    """A point per kind of stage, its area the cycles; `colours` of the main operators."""
    cost, board = facts["estimate"], facts["board"]
    memory = board["ddr_gb_s"] * 1e3 * DDR_EFFICIENCY / cost["clock_mhz"]
    roofs = {"multipliers of the design": float(cost["multipliers"]), "DSPs of the board": float(MACS_PER_DSP * board["dsp"])}
    points: Counter[tuple[str, float, float]] = Counter()
    names: dict[tuple[str, float, float], list[str]] = {}
    for stage in cost["stages"]:
        running = stage["cycles"] + stage["hidden_cycles"]
        if stage["multiply_adds"] and stage["ddr_bytes"] and running:
            point = (
                stage["op"],
                float(f"{stage['multiply_adds'] / stage['ddr_bytes']:.3g}"),
                float(f"{stage['multiply_adds'] / running:.3g}"),
            )
            points[point] += running
            names.setdefault(point, []).append(stage["node"])
    if not points:
        return tag("p", "No stage has multiply-adds.")
    high = [roof for roof in roofs.values() if roof]
    x = Axis([point[1] for point in points] + [4 * roof / memory for roof in high], LEFT, WIDTH - RIGHT)
    y = Axis([point[2] for point in points] + high, HEIGHT - BOTTOM, TOP)
    total = max(sum(points.values()), 1)
    dots = [_dot(x, y, point, names[point], cycles, total, colours.get(point[0], 0)) for point, cycles in points.most_common()]
    return svg(WIDTH, HEIGHT, _grid(x, y), _roofs(x, y, memory, roofs), *dots, class_="chart", aria_label="roofline of every stage")


def _dot(x: Axis, y: Axis, point: tuple[str, float, float], nodes: list[str], cycles: int, total: int, colour: int) -> Markup:
    _, intensity, rate = point
    title = tag("title", f"{_named(nodes)}: {count(cycles)} cycles, {rate:g} multiply-adds per cycle, {intensity:g} per byte")
    radius = number(4 + 22 * math.sqrt(cycles / total))
    return tag("circle", title, cx=number(x(intensity)), cy=number(y(rate)), r=radius, class_=f"dot c{colour}")


def _named(nodes: list[str]) -> str:
    return nodes[0] + (f" and {len(nodes) - 1} alike" if len(nodes) > 1 else "")


def _grid(x: Axis, y: Axis) -> Markup:
    parts = []
    for value in x.ticks:
        parts.append(tag("line", x1=number(x(value)), x2=number(x(value)), y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
        parts.append(tag("text", compact(value), x=number(x(value)), y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    for value in y.ticks:
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=number(y(value)), y2=number(y(value)), class_="grid"))
        parts.append(tag("text", compact(value), x=LEFT - 6, y=number(y(value) + 4), text_anchor="end"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(tag("text", "multiply-adds per byte of DDR traffic", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 8, text_anchor="middle"))
    turned = f"rotate(-90 12 {number(middle)})"
    parts.append(tag("text", "multiply-adds per cycle", x=12, y=number(middle), text_anchor="middle", transform=turned))
    return join(parts)


def _roofs(x: Axis, y: Axis, memory: float, roofs: Mapping[str, float]) -> Markup:
    """The slope of the memory up to the highest roof, and each roof from there on."""
    parts, top = [], max(roofs.values())
    if top:
        begin = max(10.0**x.low, 10.0**y.low / memory)
        ends = {"x1": x(begin), "y1": y(begin * memory), "x2": x(top / memory), "y2": y(top)}
        parts.append(tag("line", **{key: number(value) for key, value in ends.items()}, class_="roof memory"))
        label = f"memory, {number(memory)} bytes per cycle"
        middle = math.sqrt(begin * top / memory)
        angle = math.degrees(math.atan2(ends["y2"] - ends["y1"], ends["x2"] - ends["x1"]))
        at = f"translate({number(x(middle) - 6)} {number(y(middle * memory) - 6)}) rotate({number(angle)})"
        parts.append(tag("text", label, text_anchor="middle", transform=at, class_="label"))
    for name, roof in roofs.items():
        if roof:
            parts.append(tag("line", x1=number(x(roof / memory)), x2=WIDTH - RIGHT, y1=number(y(roof)), y2=number(y(roof)), class_="roof"))
            above = roof == top
            place = number(y(roof) - 5 if above else y(roof) + 14)
            parts.append(tag("text", f"{name}, {count(roof)}", x=WIDTH - RIGHT, y=place, text_anchor="end", class_="label"))
    return join(parts)


def left_out(facts: Mapping[str, Any]) -> str:
    """What the picture cannot show."""
    cost = facts["estimate"]
    others = [stage for stage in cost["stages"] if not stage["multiply_adds"]]
    if not others:
        return ""
    share = percent(sum(stage["cycles"] for stage in others), cost["cycles"], 1)
    return f"{len(others)} {'stage' if len(others) == 1 else 'stages'} without multiply-adds ({share} of the cycles) have no place in it."
