"""The tables of `attnc estimate` and `attnc sweep`."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from attnc.kernels.design import flat
from attnc.messages import clean
from attnc.report_tables import render_estimate

UNITS = ("cycles", "lut", "ff", "dsp", "bram36", "uram")


def estimate(facts: dict[str, Any]) -> RenderableType:
    """One build on one board."""
    target = facts["target"]
    tables = render_estimate(facts["estimate"], f"{clean(facts['build'])} on {target['name']}")
    again = facts.get("recompiled")
    if again is None:
        return tables
    if "error" in again:
        text = f"Compiled for {target['name']}: {again['error']}"
    else:
        design = ", ".join(f"{name} {number}" for name, number in flat(again["design"]).items())
        text = f"Compiled for {target['name']} it would take {again['cycles']:,} cycles, {again['latency_ms']:.4f} ms ({design}; estimate)"
    return Group(tables, escape(text))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def calibration(facts: dict[str, Any]) -> RenderableType:
    """Estimate / tool per engine, then the modules of the report."""
    report = facts["report"]
    title = f"Estimate / synthesis: {clean(report['file'])}, Vitis HLS {clean(report['version'] or '?')}, {clean(report['part'] or '?')}"
    clock = "" if report["clock_ns"] is None else f"; the tool estimates a clock of {report['clock_ns']:g} ns"
    clock += f", {report['target_ns']:g} ns were asked for" if clock and report["target_ns"] is not None else ""
    table = Table(title=escape(title), title_justify="left", caption=f"cycles of the longest call{clock}", caption_justify="left")
    table.add_column("")
    for name in (*UNITS, "II"):
        table.add_column(name, justify="right")
    for row in facts["rows"]:
        tool = row["tool"] or dict.fromkeys(UNITS)
        pairs = (f"{_number(row['estimate'][name])} / {_number(tool[name])}" for name in UNITS)
        table.add_row(escape(clean(row["name"])), *pairs, _number(row["interval"]))
    modules = Table(title="Other modules of the report", title_justify="left")
    modules.add_column("module", overflow="ellipsis", max_width=60)
    for name in (*UNITS, "II"):
        modules.add_column(name, justify="right")
    for module in facts["modules"]:
        used = {**module["resources"], "cycles": module["latency_worst"]}
        modules.add_row(escape(clean(module["name"])), *(_number(used[name]) for name in UNITS), _number(module["interval"]))
    return Group(table, modules) if facts["modules"] else table


def sweep(facts: dict[str, Any]) -> RenderableType:
    """A row per board and setting; what does not fit says why below."""
    table = Table(title=escape(f"{clean(facts['model'])} ({facts['note']})"), title_justify="left")
    table.add_column("board")
    for name in ("MHz", "objective", "design", "cycles", "ms", "mJ", "MAC busy", "LUT", "DSP", "BRAM36", "URAM"):
        table.add_column(name, justify="left" if name in ("objective", "design") else "right")
    reasons = []
    for row in facts["rows"]:
        setting = row["target"], f"{row['clock_mhz']:g}", row["objective"]
        if "error" in row:
            table.add_row(*setting, "does not fit")
            reasons.append(f"{row['target']}: {row['error']}")
            continue
        design = " ".join(f"{name}={number}" for name, number in flat(row["design"]).items())
        used = (f"{row['resources'][name]['used']:,}" for name in ("lut", "dsp", "bram36", "uram"))
        numbers = f"{row['cycles']:,}", f"{row['latency_ms']:.3f}", f"{row['energy_mj']:.2f}", f"{row['multipliers_busy_percent']:.1f} %"
        table.add_row(*setting, design, *numbers, *used)
    return Group(table, *(escape(clean(reason)) for reason in dict.fromkeys(reasons)))
