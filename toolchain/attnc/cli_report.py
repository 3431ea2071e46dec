"""The command `attnc report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attnc.console import Build, Json, Verbose, print_json
from attnc.errors import ConfigError
from attnc.files import check_replaceable, write_whole
from attnc.messages import clean

REPORT: dict[str, Any] = {
    "name": "report",
    "short_help": "The report of a build as one page to look at.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc report build/ -o report.html\n"
    "  attnc report build/ -o report.html --measured measured.json\n\n"
    "\b\nWhat it shows: figures, each with its source; the three largest reasons why it is not faster (of a decoder for\n"
    "a token and for a block of a prompt), and what to change;\n"
    "the timeline of `attnc cosim`; every stage under its roofs; resources and memories of the board; SQNR and bits by\n"
    "layer. The page has no script and asks for nothing from elsewhere. It reads report.json, cosim.json and\n"
    "measured.json, and runs nothing of the build.",
}


def report(
    build: Build,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    measured: Annotated[
        Path | None,
        typer.Option("--measured", metavar="JSON", help="What a device was measured to take; measured.json of the build by default."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the report of a build as one page of HTML that needs nothing else. With --json the reasons are printed too."""
    from attnc import page

    read = [build / name for name in page.FILES] + ([measured] if measured else [])
    check_replaceable(output, page.made_by_attnc, read)
    if measured is not None and not measured.is_file():
        raise ConfigError(f"--measured {measured}: no such file")
    found = page.build_page(build, measured)
    try:
        write_whole(output, found.text.encode())
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written ({error})") from error
    if as_json:
        print_json({"build": str(build), "output": str(output), "reasons": found.reasons})
    else:
        for reason in found.reasons:
            of = f" of {reason['entry']}" if reason["entry"] else ""
            print(clean(f"{reason['percent']:.0f} % of the cycles{of}: {reason['title']} (estimate). {reason['change']}"))
        print(clean(f"page: {output}"))
