"""The report of a build as one page of HTML: no script, nothing from elsewhere, every name of a model escaped.

All facts are those of report.json, cosim.json and, where a device was measured, measured.json (docs/report.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from attnc.codegen.folder import MANIFEST, MEASURED, REPORT, SIMULATION
from attnc.errors import BuildError
from attnc.files import read_json
from attnc.page import figures, layers, memories, roofline, timeline
from attnc.page.markup import tag, text
from attnc.page.reasons import by_entry
from attnc.report import load_report
from attnc.report_tables import tokens_of_runs
from attnc.resources import data_path
from attnc.sim.timeline import from_facts
from attnc_host.integrity import OWN

FILES = (REPORT, SIMULATION, MEASURED)
"""Of a build, that a page is made of."""
GENERATOR = '<meta name="generator" content="attnc">'
COLOURS = 6
"""Of engines and operators; 0 is of neither."""
DAMAGE = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError, jinja2.UndefinedError)
"""What a file of the wrong shape raises."""


def made_by_attnc(path: Path) -> bool:
    """Whether a file is such a page."""
    with open(path, "rb") as file:
        return GENERATOR.encode() in file.read(300)


@dataclass(frozen=True)
class Page:
    """The text of a page, and the reasons that it names, as plain values."""

    text: str
    reasons: list[dict[str, Any]]


def build_page(build: Path, measured: Path | None = None) -> Page:
    """Of a build folder. `measured` is what a device was measured to take, by default measured.json of the build where it is."""
    facts = load_report(build)
    simulation = read_json(build / SIMULATION) if (build / SIMULATION).is_file() else None
    given = measured or build / MEASURED
    found = _measured(build, given) if measured or given.is_file() else None
    try:
        named = [{"entry": entry, **asdict(reason)} for entry, own in by_entry(facts).items() for reason in own]
        return Page(render(facts, simulation, found), named)
    except DAMAGE as error:
        files = f"report.json, {SIMULATION} or {given.name}"
        raise BuildError(f"{build}: {files} is damaged ({type(error).__name__}: {error}); compile the model again") from error


def _measured(build: Path, path: Path) -> Any:
    """What a self-test measured; nothing where it ran on no device. It must be of this very build."""
    found, whole = read_json(path), read_json(build / MANIFEST)
    if isinstance(found, dict) and "build" in found and isinstance(whole, dict) and found["build"] != whole.get(OWN):
        raise BuildError(f"{path}: was measured with another build than {build}")
    return None if isinstance(found, dict) and found.get("hardware") is False else found


def render(facts: Mapping[str, Any], simulation: Mapping[str, Any] | None = None, measured: Mapping[str, Any] | None = None) -> str:
    """The page of a report, of what a simulation found, and of what a device was measured to take."""
    time = from_facts(simulation["timeline"]) if simulation and "timeline" in simulation else None
    order = sorted({layer["op"] for layer in facts["layers"]}, key=lambda op: -_cycles(facts, op))
    active = {stage["op"] for stage in facts["estimate"]["stages"] if stage["multiply_adds"]}
    colours = {op: at + 1 if at < COLOURS else 0 for at, op in enumerate(order)}
    return _template().render(
        generator=Markup(GENERATOR),
        facts=facts,
        warnings=figures.warnings(facts, measured),
        tiles=figures.tiles(facts, measured),
        lasts=figures.lasts(facts),
        comparison=figures.comparison(facts, measured),
        reasons={figures.lasts(facts, entry): found for entry, found in by_entry(facts).items()},
        timeline=None if time is None else timeline.picture(time, facts["estimate"]["clock_mhz"]),
        style=None if time is None else figures.STYLES.get(time.style, time.style),
        roofline=roofline.roofline(facts, colours),
        left_out=roofline.left_out(facts),
        operators=_keys(colours),
        multiplying=_keys({op: colour for op, colour in colours.items() if op in active}),
        resources=figures.resources(facts),
        engines=figures.engine_keys(facts),
        plans=[memories.floor_plan(facts, kind) for kind in memories.NAMES if facts["estimate"]["resources"][kind]["available"]],
        layers=layers.chart(facts, colours),
        bits=layers.keys(),
        worst=layers.worst(facts),
        simulated=_simulated(simulation),
        standing=figures.standing(facts),
        measured=measured,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"named": text, "marked": _marked, "tokens_of": lambda decoder, entry: tokens_of_runs(decoder)[entry]}
    return environment.get_template("report.html.j2")


def _cycles(facts: Mapping[str, Any], op: str) -> int:
    return sum(row["cycles"] for row in facts["estimate"]["operators"] if row["op"] == op)


def _keys(colours: Mapping[str, int]) -> Markup:
    """The colours of operators."""
    shown = [(op, colour) for op, colour in colours.items() if colour] + ([("others", 0)] if 0 in colours.values() else [])
    return tag("ul", *(tag("li", tag("i", class_=f"c{colour}"), op) for op, colour in shown), class_="keys flat")


def _simulated(simulation: Mapping[str, Any] | None) -> dict[str, int]:
    """Simulated cycles by the main node of a stage, in the style of the timeline."""
    styles = (simulation or {}).get("styles", {})
    slowest = max(styles.values(), key=lambda run: run["cycles"], default={"stages": ()})
    return {stage["node"]: stage["cycles"] for stage in slowest["stages"]}


def _marked(sentence: str) -> Markup:
    """A sentence of attnc's own, in which `this` is code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(text(sentence, 1000))))
