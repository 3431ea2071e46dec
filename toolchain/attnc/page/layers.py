"""Layers in order: how far golden is from float behind each, and with how many bits weights and results are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from attnc.errors import ConfigError
from attnc.page.markup import number, svg, tag
from attnc.weights import TERNARY_BITS, WeightFormat

MOST_DB, STEP_DB = 60, 10
"""Of the axis; more is as good."""
WORST = 5


def weight_bits(layer: Mapping[str, Any]) -> float | None:
    """Bits of a weight, scales left out; None where a layer has none."""
    weights = layer["weights"]
    if weights is None:
        return None
    try:
        format = WeightFormat.parse(str(weights["format"]))
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return TERNARY_BITS if format.kind == "ternary" else float(format.bits)


def type_bits(name: str) -> int:
    """Bits of a type such as s16."""
    found = re.match(r"[su](\d{1,2})", name)
    if found is None:
        raise ValueError(f"no type: {name!r}")
    return int(found[1])


def chart(facts: Mapping[str, Any], colours: Mapping[str, int]) -> Markup:
    """A column per layer: decibels above, bits of weights, inputs and results below."""
    layers = facts["layers"]
    bars, strips = [], []
    for at, layer in enumerate(layers):
        height = min(max(float(layer["float_graph_db"]), 0.5), MOST_DB)
        title = f"{layer['node']} ({layer['op']}): {layer['float_graph_db']:.1f} dB"
        place = {"x": number(at + 0.1), "width": 0.8, "y": number(MOST_DB - height), "height": number(height)}
        bars.append(tag("rect", tag("title", title), class_=f"c{colours.get(layer['op'], 0)}", **place))
    lines = [tag("line", x1=0, x2=len(layers), y1=y, y2=y, class_="grid") for y in range(0, MOST_DB + 1, STEP_DB)]
    graph = svg(len(layers), MOST_DB, *lines, *bars, preserveAspectRatio="none", class_="bars", aria_label="SQNR by layer")
    ticks = tag(
        "div", tag("span", f"{MOST_DB} dB"), *(tag("span", db) for db in range(MOST_DB - 2 * STEP_DB, -1, -2 * STEP_DB)), class_="ticks"
    )
    rows: dict[str, list[tuple[float | None, str]]] = {
        "weights": [(weight_bits(layer), _format(layer)) for layer in layers],
        "inputs": [(type_bits(layer["weights"]["input"]) if layer["weights"] else None, _input(layer)) for layer in layers],
        "results": [(type_bits(layer["type"]), layer["type"]) for layer in layers],
    }
    for name, bits in rows.items():
        cells = [
            tag("rect", tag("title", f"{layer['node']}: {label}"), x=number(at + 0.04), y=0, width=0.92, height=1, class_=f"b{step(value)}")
            for at, (layer, (value, label)) in enumerate(zip(layers, bits, strict=True))
            if value is not None
        ]
        drawing = svg(len(layers), 1, *cells, preserveAspectRatio="none", class_="bits", aria_label=f"bits of {name}")
        strips.append(tag("div", tag("span", name, class_="name"), drawing, class_="strip"))
    style = f"min-width:{min(8 * len(layers), 4000)}px"
    above = tag("div", tag("span", ticks, class_="name"), graph, class_="strip")
    return tag("div", tag("div", above, *strips, class_="layers", style=style), class_="scroll")


def step(bits: float) -> int:
    """The colour of so many bits: 0 for two and less, up to 5 for more than 8."""
    return next((at for at, most in enumerate((2, 3, 4, 6, 8)) if bits <= most), 5)


STEPS = ("2 and less", "3", "4", "5 to 6", "7 to 8", "more than 8")


def keys() -> Markup:
    """What the colours of bits mean."""
    return tag("ul", *(tag("li", tag("i", class_=f"b{at}"), text) for at, text in enumerate(STEPS)), class_="keys flat")


def worst(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Layers in which golden is farthest from float."""
    return sorted(facts["layers"], key=lambda layer: layer["float_graph_db"])[:WORST]


def _format(layer: Mapping[str, Any]) -> str:
    weights = layer["weights"]
    group = f", a scale per {weights['group_size']} weights" if weights and weights["group_size"] else ""
    return f"{weights['format']}{group}, {weights['quantizer']}, engine {weights['engine']}" if weights else ""


def _input(layer: Mapping[str, Any]) -> str:
    return f"{layer['weights']['input']}, {layer['weights']['activations']}" if layer["weights"] else ""
