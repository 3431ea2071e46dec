"""The tables of `attnc cosim`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from attnc.messages import clean
from attnc.sim.program import short

MOST = 30
"""Rows of a table; the others are in the JSON."""
STYLE_NAMES = {"stp": "stalling (stp)", "flp": "flushing (flp)"}
Run = Mapping[str, Any]


def simulation(found: Mapping[str, Any]) -> RenderableType:
    """All tables; processes are those of the slower style."""
    styles: Mapping[str, Run] = found["styles"]
    live = {style: run for style, run in styles.items() if run["deadlock"] is None}
    tables: list[RenderableType] = [_summary(found, styles), *(_calibration(found["calibration"]) if "calibration" in found else ())]
    if live:
        slower = max(live, key=lambda style: live[style]["cycles"])
        tables += [_stages(live), _processes(slower, live[slower]), _fifos(live)]
    return Group(*tables, *(text for style, run in styles.items() if run["deadlock"] for text in _deadlock(style, run["deadlock"])))


def sizing(found: Mapping[str, Any]) -> RenderableType:
    """Depths and cycles before and after; FIFOs first that got most smaller."""
    cycles = _table("Cycles by depths of FIFOs", ("pipelines",), ("emitted", "without bounds", "least", "least / emitted"))
    for style, run in found["styles"].items():
        ratio = f"{run['cycles'] / run['cycles_emitted']:.4f}"
        cycles.add_row(STYLE_NAMES[style], *(f"{run[key]:,}" for key in ("cycles_emitted", "cycles_unbounded", "cycles")), ratio)
    cycles.caption, cycles.caption_justify = _assumed(found["assumed"]), "left"
    rows = sorted(found["fifos"], key=lambda f: -(f["emitted"] - f["least"]) * f["bits"])
    depths = _table("Depths of FIFOs", ("FIFO",), ("bits", "emitted", "most held", "least", "bits saved"))
    for f in rows:
        numbers = f["bits"], f["emitted"], f["most"], f["least"], (f["emitted"] - f["least"]) * f["bits"]
        depths.add_row(escape(f["fifo"]), *(f"{number:,}" for number in numbers))
    before, after = found["storage"]["emitted"], found["storage"]["least"]
    texts = {"bits": "bits", "lut": "LUT", "ff": "FF", "bram36": "BRAM36"}
    stored = ", ".join(f"{before[key]:,.10g} -> {after[key]:,.10g} {text}" for key, text in texts.items())
    return Group(
        cycles,
        depths,
        f"FIFOs take (estimate): {stored}",
        escape(f"{found['runs']} runs; the depths are `fifos` in {found['schedule']}: attnc compile MODEL --schedule {found['schedule']}"),
    )


def stalls(found: Mapping[str, Any]) -> RenderableType:
    """Runs with random stalls beside one without."""
    first, last = found["seeds"]
    columns = "runs", "different", "deadlocks", "cycles without", "least", "median", "most"
    table = _table(f"With random stalls, seeds {first} to {last}", ("pipelines", "outputs"), columns)
    for style, run in found["styles"].items():
        cycles = (f"{run['cycles'][key]:,}" if run["cycles"] else "-" for key in ("least", "median", "most"))
        outputs = "equal to golden" if run["bit_exact"] else "NOT in every run"
        counts = (f"{run[key]:,}" for key in ("runs", "different", "deadlocks", "cycles_without"))
        table.add_row(STYLE_NAMES[style], outputs, *counts, *cycles)
    table.caption, table.caption_justify = _assumed(found["assumed"]), "left"
    seeds = [
        f"  {STYLE_NAMES[style]}, {what}: seeds {', '.join(map(str, run[key]))}"
        for style, run in found["styles"].items()
        for what, key in (("different", "different_seeds"), ("deadlock", "deadlock_seeds"))
        if run[key]
    ]
    return Group(
        table, *seeds, *(text for style, run in found["styles"].items() if run["deadlock"] for text in _deadlock(style, run["deadlock"]))
    )


def _calibration(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What a synthesis report said of the loops of this build."""
    rows = sorted(found["taken"], key=lambda loop: -abs(loop["depth"] - loop["reasoned_depth"]))
    table = _table(
        f"Loops from {clean(found['source'])}", ("loop",), ("modules", "II", "reasoned II", "depth", "reasoned depth", "depth / reasoned")
    )
    for loop in rows:
        numbers = (loop[key] for key in ("modules", "ii", "reasoned_ii", "depth", "reasoned_depth"))
        table.add_row(escape(loop["loop"]), *map(str, numbers), f"{loop['depth'] / loop['reasoned_depth']:.2f}")
    yield table
    for key, text in (
        ("not_in_the_report", "loops that the report does not name, so they are as reasoned"),
        ("not_in_the_build", "loops that the report names and this build does not run"),
        ("unknown", "loops of the report that are none of attnc's"),
    ):
        if found[key]:
            more = f" and {len(found[key]) - MOST} more" if len(found[key]) > MOST else ""
            yield escape(clean(f"  {text}: {', '.join(found[key][:MOST])}{more}"))
    if found["styles"]:
        yield f"  style of the pipelines in the report: {', '.join(found['styles'])}"


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...], rows: int | None = None) -> Table:
    more = f" (first {MOST} of {rows})" if rows and rows > MOST else ""
    table = Table(title=title + more, title_justify="left")
    for name in left:
        table.add_column(name, overflow="ellipsis", max_width=48)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _summary(found: Mapping[str, Any], styles: Mapping[str, Run]) -> Table:
    assumed, estimate = found["assumed"], found["estimate_cycles"]
    table = _table(
        f"One sample at {found['clock_mhz']:g} MHz", ("pipelines", "outputs"), ("cycles", "ms", "estimate", "simulated / estimate")
    )
    for style, run in styles.items():
        outputs = "DEADLOCK" if run["deadlock"] else "equal to golden" if run["bit_exact"] else "DIFFERENT"
        ratio = f"{run['cycles'] / estimate:.2f}" if estimate and not run["deadlock"] else "-"
        numbers = f"{run['cycles']:,}", f"{run['latency_ms']:.4f}", f"{estimate:,}", ratio
        table.add_row(STYLE_NAMES[style], outputs, *numbers)
    table.caption, table.caption_justify = _assumed(assumed), "left"
    return table


def _assumed(assumed: Mapping[str, Any]) -> str:
    memory = f"memory answers after {assumed['read_latency']} cycles, writes after {assumed['write_response']}"
    return escape(f"{memory}, the DDR moves {assumed['ddr_bytes_per_cycle']:g} bytes per cycle; depths of loops: {clean(assumed['loops'])}")


def _stages(live: Mapping[str, Run]) -> Table:
    """Those that take equally long, as the same one in other layers does, share a row."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in zip(*(run["stages"] for run in live.values()), strict=True):
        first = row[0]
        key = first["engine"], first["steps"], first["estimate_cycles"], *(stage["cycles"] for stage in row)
        groups.setdefault(key, []).append(first["node"])
    rows = sorted(groups.items(), key=lambda item: -len(item[1]) * max(item[0][3:]))
    columns = "of them", "steps each", *live, "share", "estimate", "simulated / estimate"
    table = _table("Stages, those first that take most", ("main node", "engine"), columns, len(rows))
    total = max(run["cycles"] for run in live.values())
    for (engine, steps, estimate, *cycles), nodes in rows[:MOST]:
        ratio = f"{max(cycles) / estimate:.2f}" if estimate else "-"
        share = f"{100 * len(nodes) * max(cycles) / total:.1f} %"
        table.add_row(
            escape(clean(nodes[0])), engine, f"{len(nodes)}", f"{steps}", *(f"{c:,}" for c in cycles), share, f"{estimate:,}", ratio
        )
    return table


def _processes(style: str, run: Run) -> Table:
    rows = [p for p in run["processes"] if p["engine"] != "program" and p["active"] and p["waiting"]["join"] < p["active"] / 2]
    rows.sort(key=lambda p: -p["active"])
    columns = ("active", "working", "empty", "full", "memory", "filling")
    table = _table(f"Processes, {STYLE_NAMES[style]}: cycles", ("engine", "process", "waits most for"), columns, len(rows))
    for p in rows[:MOST]:
        waiting = p["waiting"]
        rest = p["active"] - p["working"] - sum(waiting.values())
        most = next((w for w in p["waits"] if w["cause"] != "join"), None)
        text = f"{most['for'].rpartition('/')[2]} ({most['cause']})" if most else ""
        share = 100 * p["working"] / p["active"]
        numbers = (
            f"{p['active']:,}",
            f"{p['working']:,} ({share:.0f} %)",
            *(f"{waiting[c]:,}" for c in ("empty", "full", "memory")),
            f"{rest:,}",
        )
        table.add_row(p["engine"], escape(short(p["process"])), escape(text), *numbers)
    return table


def _fifos(live: Mapping[str, Run]) -> Table:
    """By name: what is the same FIFO of a kernel in several engines is one row, with the most that any held in any style."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in live.values():
        for fifo in run["fifos"]:
            found.setdefault(fifo["fifo"], []).append(fifo)
    rows = [(name, [max(f[key] for f in same) for key in ("depth", "most", "tokens", "empty", "full")]) for name, same in found.items()]
    rows = sorted((row for row in rows if row[1][2]), key=lambda row: (-row[1][4], -row[1][1] / max(row[1][0], 1)))
    table = _table("FIFOs: the most that each held", ("FIFO",), ("depth", "most", "tokens", "reader waited", "writer waited"), len(rows))
    for name, (depth, most, *others) in rows[:MOST]:
        table.add_row(escape(name), f"{depth}" if depth else "-", f"{most}{' full' if most == depth else ''}", *(f"{n:,}" for n in others))
    return table


def _deadlock(style: str, found: Mapping[str, Any]) -> Iterator[str]:
    where = f"step {found['step']}, {found['instruction']}" if found["step"] is not None else "before the first instruction"
    yield f"\nDEADLOCK, {STYLE_NAMES[style]}, at cycle {found['cycle']:,}: {escape(clean(where))}"
    for wait in found["waits"]:
        yield escape(f"  {'*' if wait['process'] in found['circle'] else ' '} {waiting(wait)}")
    yield "  (* in a circle)" if found["circle"] else "  no circle: somebody waits for a process that has ended"
    if "least_depths" in found:
        depths = found["least_depths"]
        texts = (f"{name} {pair['depth']} -> {pair['least']}" for name, pair in depths.items()) if depths else ()
        yield "  least depths that free it: " + ", ".join(texts) if depths else "  no depths of FIFOs free it"


def waiting(wait: Mapping[str, Any]) -> str:
    """A process that stands still, in words."""
    loop = f" in loop {wait['loop'].rpartition('.')[2]}" if wait["loop"] != "-" else ""
    fifo = wait["fifo"].rpartition("/")[2]
    partner = short(wait["for"]) if wait["for"] else "nobody that was seen"
    if wait["cause"] == "full":
        why = f"{fifo} is full (depth {wait['depth']}), read by {partner}"
    else:
        why = f"{fifo} is empty (depth {wait['depth']}), written by {partner}"
        why += f", which keeps {wait['kept_in_its_pipeline']} for it in its pipeline" if wait["kept_in_its_pipeline"] else ""
    return f"{short(wait['process'])} waits{loop} since cycle {wait['since']:,}: {why}"
