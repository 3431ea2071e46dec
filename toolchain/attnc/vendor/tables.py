"""Tables of what tools of others found."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from attnc.messages import clean


def csim(facts: dict[str, Any]) -> RenderableType:
    """What the C simulation of a tool found."""
    table = Table(show_header=False, title=f"C++ in {escape(facts['tool'])} against golden", title_justify="left")
    table.add_row("bytes compared", f"{facts['bytes']:,}")
    table.add_row("mismatches", f"{facts['mismatches']:,}")
    table.add_row("log", escape(clean(facts["log"])))
    table.add_row("result", "equal, bit for bit" if facts["bit_exact"] else "DIFFERENT")
    return table


def cosim(facts: dict[str, Any]) -> RenderableType:
    """Cycles of a sample: what was estimated and simulated, beside what the tool synthesized and simulated."""
    found = "equal, bit for bit" if facts["bit_exact"] else f"DIFFERENT (status {clean(facts['status'])})"
    caption = f"RTL against golden: {found}; log: {clean(facts['log'])}"
    table = Table(title="Cycles of a sample", title_justify="left", caption=escape(caption), caption_justify="left")
    table.add_column("")
    table.add_column("cycles", justify="right")
    table.add_column("ratio to it", justify="right")
    measured = facts["cycles"]["rtl"]
    for name, title in (
        ("estimate", "estimate"),
        ("stp", "simulated in time, pipelines that stall"),
        ("flp", "simulated in time, pipelines that flush"),
        ("synthesis", f"{facts['tool']}: synthesis, longest"),
        ("rtl", f"{facts['tool']}: RTL in simulation"),
    ):
        cycles = facts["cycles"][name]
        ratio = f"{measured / cycles:.3f}" if measured is not None and cycles and name != "rtl" else "-"
        table.add_row(escape(title), "-" if cycles is None else f"{cycles:,}", ratio)
    return table


def kernels(facts: dict[str, Any]) -> RenderableType:
    """Kernels whose RTL ran, and those that the tool did not take."""
    caption = "the first calls of a sample; processes run one after the other"
    table = Table(title="RTL of bambu against golden", title_justify="left", caption=caption, caption_justify="left")
    for name in ("kernel", "calls", "elements", "mismatches", "cycles of the RTL", ""):
        table.add_column(name, justify="left" if name in ("kernel", "") else "right")
    for row in facts["kernels"]:
        name = escape(clean(row["kernel"]))
        if "refused" in row:
            where = f"log: {row['log']}" if row["log"] else row["refused"]
            table.add_row(name, "-", "-", "-", "-", escape(clean(f"not taken; {where}")))
        else:
            cycles = "-" if row["cycles"] is None else f"{row['cycles']:,}"
            found = "equal, bit for bit" if row["bit_exact"] else f"DIFFERENT: {row['difference']}"
            table.add_row(name, f"{row['calls']:,}", f"{row['elements']:,}", f"{row['mismatches']:,}", cycles, escape(clean(found)))
    return table
