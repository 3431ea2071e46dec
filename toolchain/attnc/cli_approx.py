"""The command `attnc approx`, and the option of `attnc compile` that follows from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from attnc.errors import ConfigError
from attnc.files import check_replaceable

APPROX: dict[str, Any] = {
    "name": "approx",
    "short_help": "Error and cost of nonlinear functions.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc approx gelu --bits 8 --impl all\n"
    "  attnc approx silu --bits 16 --impl delta32 --plot silu.png\n"
    "  attnc approx softmax --json\n"
    "  attnc compile model.onnx --implementation gelu=delta16 --implementation softmax=table",
}


def approx(
    function: Annotated[str, typer.Argument(metavar="FUNCTION", help="gelu, silu, tanh, softmax, layer_normalization ...")],
    bits: Annotated[int, typer.Option("--bits", help="Width of the inputs: 8 or 16.")] = 8,
    impl: Annotated[
        list[str] | None, typer.Option("--impl", help="An implementation, or all; may be repeated.", show_default="all")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw function and error (needs matplotlib).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
) -> None:
    """Measure every implementation of a nonlinear function against float64: largest and RMS error, bits of its tables, and an estimate of
    what one value per cycle takes. Softmax and normalisations are measured on random rows, which the output describes."""
    from attnc.approx import plot as draw
    from attnc.approx import study
    from attnc.pictures import made_by_attnc

    if plot is not None:
        check_replaceable(plot, made_by_attnc)
    found = study(function, bits, [] if "all" in (impl or ["all"]) else impl or [])
    if plot is not None:
        draw(found, plot)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(_table(found.to_json()))
    if plot is not None:
        print(f"picture: {plot}")


def _table(found: dict[str, Any]) -> Table:
    """A row per implementation."""
    facts = [f"{name}: {found[name]}" for name in ("inputs", "output", "stated")]
    caption = "\n".join([*facts, "* what auto takes; LUT, DSP and BRAM are estimates"])
    table = Table(title=found["function"], title_justify="left", caption=caption, caption_justify="left")
    for title in (
        "implementation",
        "stated max",
        "max error",
        "RMS",
        "rounded max",
        "rounded RMS",
        "table bits",
        "LUT/lane",
        "DSP",
        "BRAM",
    ):
        table.add_column(title, justify="left" if title == "implementation" else "right", no_wrap=True)
    for row in found["implementations"]:
        errors = [row[key] for key in ("stated_max_error", "max_error", "rms_error", "max_error_rounded", "rms_error_rounded")]
        lane = row["per_lane"]
        mark = " *" if row["implementation"] == found["auto"] else ""
        sizes = (f"{row['table_bits']:,}", f"{lane['lut']:,}", f"{lane['dsp']:g}", f"{lane['bram36']:g}")
        table.add_row(row["implementation"] + mark, *(f"{error:.1e}" for error in errors), *sizes)
    return table


def implementations(given: Sequence[str] | None) -> dict[str, str]:
    """gelu=table to {"gelu": "table"}."""
    found: dict[str, str] = {}
    for text in given or ():
        name, _, value = text.partition("=")
        if not name or not value:
            raise ConfigError(f"--implementation: needed FUNCTION=NAME such as gelu=table, found {text!r}")
        if name in found:
            raise ConfigError(f"--implementation: {name!r} is given twice")
        found[name] = value
    return found
