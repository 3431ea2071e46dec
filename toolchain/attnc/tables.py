"""Tables that the command line prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from attnc.messages import clean
from attnc.model import Placement
from attnc.schedule.devices import Board
from attnc.verify.csim import CsimResult


def comparison(result: CsimResult, verbose: bool = False) -> RenderableType:
    """What csim found; with `verbose` the depth of every stream too."""
    table = Table(show_header=False, title="C++ against golden", title_justify="left")
    table.add_row("samples", f"{result.samples:,}")
    table.add_row("elements compared", f"{result.elements:,}")
    table.add_row("mismatches", f"{result.mismatches:,}")
    table.add_row("types", result.types)
    table.add_row("simulation", f"{result.seconds:.2f} s")
    if result.difference:
        table.add_row("first mismatch", escape(clean(result.difference)))
    if verbose:
        for name, depth in sorted(result.depths.items()):
            table.add_row(f"depth of {escape(name)}", f"{depth:,}")
    table.add_row("result", "equal, bit for bit" if result.bit_exact else "DIFFERENT")
    return table


def placements(nodes: Sequence[Placement], verbose: bool = False) -> RenderableType:
    """Nodes on the host and unsupported ones by their names, those with the same reason together; others counted by operator, unless all
    are asked for."""
    table = Table()
    for title in ("where", "operator", "node", "reason"):
        table.add_column(title, overflow="fold")
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for p in nodes:
        grouped.setdefault((p.where, p.operator, f"{p.reason}\0{p.node}" if verbose else p.reason), []).append(p.node)
    order = {"unsupported": 0, "host": 1, "device": 2, "folded": 3}
    for (where, operator, reason), names in sorted(grouped.items(), key=lambda item: order.get(item[0][0], 4)):
        name = ", ".join(names) if len(names) == 1 or where in ("host", "unsupported") else f"{len(names)} nodes"
        table.add_row(where, *(escape(clean(text)) for text in (operator, name, reason.split("\0")[0])))
    return table


def boards(known: Iterable[Board]) -> RenderableType:
    """Boards and their limits."""
    table = Table(caption="BRAM in blocks of 36 Kbit, URAM of 288 Kbit", caption_justify="left")
    for title in ("target", "part"):
        table.add_column(title, no_wrap=True)
    for title in ("LUT", "FF", "DSP", "BRAM", "URAM", "DDR GB/s", "MHz"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for b in known:
        numbers = (b.lut, b.ff, b.dsp, b.bram36, b.uram)
        table.add_row(b.name, b.part, *(f"{n:,}" for n in numbers), f"{b.ddr_gb_s:g}", f"{b.clock_mhz:g}", escape(b.note))
    return table
