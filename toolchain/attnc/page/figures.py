"""What stands on top of the page: the figures of a build, each with where it comes from, and what takes the board's resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from attnc.page.layers import weight_bits
from attnc.page.markup import compact, count, join, number, percent, tag
from attnc.report_tables import causes, checked, choice_rows

ESTIMATE, SIMULATED, MEASURED, COMPARED = "estimate", "simulated", "measured", "compared"
STYLES = {"flp": "pipelines that flush", "stp": "pipelines that stall"}
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Tile:
    """A figure, what it is, how it came about, and a line below."""

    title: str
    value: str
    source: str
    more: str


@dataclass(frozen=True)
class Latency:
    """What is known of the time of something: how, from where, in cycles and milliseconds."""

    name: str
    source: str
    cycles: float
    ms: float


def latencies(facts: Facts, measured: Facts | None) -> dict[str, list[Latency]]:
    """By what takes them: a sample, or a token and a block of the prompt of a decoder. The estimate comes first."""
    cost, runs = facts["estimate"], [(style, run) for style in STYLES if (run := facts.get("simulation", {}).get(style)) is not None]
    if "decoder" in facts:
        return _of_decoder(facts, dict(runs))
    found = [Latency("cost model", ESTIMATE, float(cost["cycles"]), float(cost["latency_ms"]))]
    found += [Latency(_style(style, run), SIMULATED, float(run["cycles"]), float(run["latency_ms"])) for style, run in runs]
    if measured is not None:
        ms = float(measured["latency_ms"]["p50"])
        found.append(Latency("device, median", MEASURED, ms * cost["clock_mhz"] * 1000, ms))
    return {"a sample": found}


def _style(style: str, run: Facts) -> str:
    return STYLES[style] + ("" if run["bit_exact"] else ", stands still" if run["deadlock"] else ", differs from golden")


def _of_decoder(facts: Facts, runs: Mapping[str, Facts]) -> dict[str, list[Latency]]:
    """At the positions that were simulated."""
    decoder, clock, found = facts["decoder"], facts["estimate"]["clock_mhz"], {}
    for entry, what in _entries(decoder).items():
        at = decoder["simulated_at"][entry]
        estimate = next(row for row in decoder["estimates"] if (row["entry"], row["position"]) == (entry, at))
        rows, host = [Latency("cost model", ESTIMATE, float(estimate["cycles"]), float(estimate["ms"]))], estimate.get("host_ms", 0.0)
        what += f" and {host:.3g} ms of the host (estimated)" if host else ""
        for style, run in runs.items():
            cycles = float(run["entries"][entry]["cycles"])
            rows.append(Latency(_style(style, run), SIMULATED, cycles, cycles / clock / 1000 + host))
        found[f"{what}, at position {at}"] = rows
    return found


def _entries(decoder: Facts) -> dict[str, str]:
    """What a run of each entry of a decoder works on."""
    named = {"decode": "a token", "prefill": f"a block of {decoder['block']} tokens of a prompt"}
    return named | ({"batch": f"a token of each of {decoder['branches']} branches"} if decoder.get("branches") else {})


def tiles(facts: Facts, measured: Facts | None) -> list[Tile]:
    """The first look."""
    cost = facts["estimate"]
    work = f"{count(cost['multipliers'])} of them, {count(cost['multiply_adds'])} multiply-adds"
    return [
        _time(facts, measured),
        *_exactness(facts),
        *_weights(facts),
        Tile("multipliers work", f"{cost['multipliers_busy_percent']:.0f} %", ESTIMATE, work),
        _energy(facts, measured),
    ]


def _time(facts: Facts, measured: Facts | None) -> Tile:
    """Measured where it is, else simulated, else estimated."""
    what, known = next(iter(latencies(facts, measured).items()))
    one, clock = next((one for one in known if one.source == MEASURED), known[min(1, len(known) - 1)]), facts["estimate"]["clock_mhz"]
    speed = (measured or {}).get("throughput_per_second") if one.source == MEASURED else None
    per_second = count(speed or (1000 / one.ms if one.ms else 0))
    return Tile(f"{what} takes", f"{one.ms:.3g} ms", one.source, f"{count(one.cycles)} cycles at {clock:g} MHz, {per_second} per second")


def _exactness(facts: Facts) -> list[Tile]:
    """The SQNR of the output that is farthest from float, and what `attnc eval` found."""
    widths, found = facts["activation_bits"], []
    if widths["sqnr_db"]:
        name = min(widths["sqnr_db"], key=lambda output: widths["sqnr_db"][output] - widths["margin_db"][output])
        where = "samples held out" if facts["calibration"]["held_out"] else "what calibrated"
        more = f"{name}, against {facts['float_check']['against']}, on {where}"
        found.append(Tile("SQNR of the worst output", f"{widths['sqnr_db'][name]:.1f} dB", MEASURED, more))
    for kind, share in facts.get("evaluation", {}).get("accuracy_percent", {}).items():
        if kind != "golden":
            found.append(Tile(f"accuracy of {kind}", f"{share:.2f} %", MEASURED, f"{count(facts['evaluation']['samples'])} samples"))
    return found


def _weights(facts: Facts) -> list[Tile]:
    weights = [(weight_bits(layer) or 0.0, layer["weights"]["count"]) for layer in facts["layers"] if layer["weights"]]
    total = sum(taken for _, taken in weights)
    if not total:
        return []
    more = f"{compact(total)} weights, {count(facts['estimate']['weight_bytes'])} bytes with scales"
    return [Tile("bits of a weight", f"{sum(bits * taken for bits, taken in weights) / total:.3g}", "as compiled", more)]


def _energy(facts: Facts, measured: Facts | None) -> Tile:
    """Sensors of the device, of which a board may have several; else the estimate."""
    power, cost = (measured or {}).get("power_watts"), facts["estimate"]
    if power and power["busy"]:
        name, watts = max(power["busy"].items(), key=lambda item: item[1])
        shown = ", ".join(f"{other} {found:.2f} W (idle {power['idle'].get(other, 0):.2f})" for other, found in power["busy"].items())
        return Tile(f"power, {name}", f"{watts:.3g} W", MEASURED, shown)
    more = f"{cost['power_watts']:.1f} W, assumed coefficients"
    return Tile(f"energy of {lasts(facts)}", f"{cost['energy_mj']:.3g} mJ", "rough estimate", more)


def warnings(facts: Facts, measured: Facts | None) -> list[str]:
    """What a reader has to know before any figure."""
    cost, widths, found = facts["estimate"], facts["activation_bits"], list(facts["calibration"]["warnings"])
    if measured and measured.get("mismatches"):
        found.append(f"The device differs from golden in {count(measured['mismatches'])} bytes.")
    if cost["misfit"]:
        found.append(f"Does not fit: {cost['misfit']}")
    if widths["missed"]:
        found.append(f"The SQNR misses its target of {widths['target_db']:g} dB: {causes(widths)}.")
    if "unchecked" in facts.get("check", {}):
        found.append(f"The C++ was not compared with golden: {facts['check']['unchecked']}.")
    return found


def comparison(facts: Facts, measured: Facts | None) -> Markup:
    """Bars of the known latencies."""
    groups = latencies(facts, measured)
    titles = [tag("h3", what[0].upper() + what[1:]) if len(groups) > 1 else "" for what in groups]
    return join(part for title, rows in zip(titles, groups.values(), strict=True) for part in (title, _bars(rows)))


def _bars(known: Sequence[Latency]) -> Markup:
    most = max((one.ms for one in known), default=0) or 1
    rows = [
        tag(
            "div",
            tag("span", one.name, tag("em", one.source, class_=f"chip {one.source}"), class_="name"),
            tag("div", tag("i", style=f"width:{number(100 * one.ms / most)}%", class_=one.source), class_="track"),
            tag("span", f"{count(one.cycles)} cycles, {one.ms:.4g} ms", class_="total"),
            class_="bar",
        )
        for one in known
    ]
    return tag("div", *rows, class_="rows")


def lasts(facts: Facts, entry: str = "") -> str:
    """What the cycles of a report, or of an entry of a decoder, are of."""
    if entry:
        return f"{_entries(facts['decoder'])[entry]}, at position {facts['decoder']['simulated_at'][entry]}"
    return "a block of a prompt and a token" if "decoder" in facts else "a sample"


def resources(facts: Facts) -> Markup:
    """A bar for each class of the board: engines, the rest, the limit."""
    cost, rows = facts["estimate"], []
    for name, row in cost["resources"].items():
        if not row["available"]:
            continue
        parts = [(engine["name"], engine["resources"][name], at) for at, engine in enumerate(facts["engines"], 1)]
        rest = row["used"] - sum(taken for _, taken, _ in parts)
        segments = [
            tag("i", title=f"{what}: {count(taken)}", class_=f"c{at}", style=f"width:{number(100 * taken / row['available'])}%")
            for what, taken, at in [*parts, ("memory ports and control", rest, 0)]
            if taken > 0
        ]
        limit = tag("b", title=f"limit {count(row['limit'])}", style=f"left:{number(100 * row['limit'] / row['available'])}%")
        used = f"{count(row['used'])} of {count(row['available'])}, {percent(row['used'], row['available'])}"
        over = " over" if row["used"] > row["limit"] else ""
        label = tag("span", {"bram36": "BRAM36"}.get(name, str(name).upper()), class_="name")
        rows.append(tag("div", label, tag("div", *segments, limit, class_="track"), tag("span", used, class_="total" + over), class_="bar"))
    return tag("div", *rows, class_="rows")


def engine_keys(facts: Facts) -> Markup:
    """The colours of engines."""
    names = [(at, f"{engine['name']}: {' > '.join(engine['kernels'])}") for at, engine in enumerate(facts["engines"], 1)]
    return tag(
        "ul", *(tag("li", tag("i", class_=f"c{at}"), name) for at, name in [*names, (0, "memory ports and control")]), class_="keys flat"
    )


def standing(facts: Facts) -> list[tuple[str, str]]:
    """What the figures stand on: pairs of a name and a sentence."""
    calibration, target = facts["calibration"], facts["target"]
    others = f"; figures on {calibration['held_out']} others" if calibration["held_out"] else "; figures on the same"
    found = [
        ("model", f"{facts['model']['file']}, SHA-256 {facts['model']['sha256']}"),
        ("board", f"{target['name']} ({target['part']}) at {target['clock_mhz']:g} MHz"),
        ("calibration", f"{calibration['samples']} samples of {calibration['source']}, {calibration['method']}{others}"),
        ("C++ against golden", checked(facts["check"]) if "check" in facts else "not compared"),
        ("estimates", f"{facts['estimate']['note']}; not calibrated against synthesis"),
    ]
    if "simulation" in facts:
        assumed = facts["simulation"]["assumed"]
        moved = f"{assumed['ddr_bytes_per_cycle']} bytes per cycle of the DDR, depths of loops {assumed['loops']}"
        text = f"{facts['simulation']['note']}; assumed: {assumed['read_latency']} cycles until memory answers, {moved}"
        found.append(("simulation", text))
    found += choice_rows(facts["decoder"]) if "decoder" in facts else []
    return [*found, ("made by", f"attnc {facts['attnc']}")]
