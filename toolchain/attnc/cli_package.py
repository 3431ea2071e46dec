"""`attnc package`: what goes to the board, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attnc.console import Build, Json, Verbose, Verify, print_json
from attnc.errors import ConfigError
from attnc.files import check_replaceable
from attnc.messages import clean
from attnc_host import archive
from attnc_host import manifest as manifests

PACKAGE: dict[str, Any] = {
    "short_help": "Pack what goes to the board.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc package build/ -o app.zip\n"
    "  attnc package build/ -o app.zip --bitstream design.bit --bitstream design.hwh\n\n"
    "\b\nOn the board:\n"
    "  pip install app.zip                      (the runtime, from the archive itself; needs numpy alone)\n"
    "  python -m attnc_host selftest app.zip    (golden vectors bit for bit, latency, throughput, power)",
}


def package(
    build: Build,
    output: Annotated[Path, typer.Option("--output", "-o", help="The archive to write; one that is there is replaced.")] = Path("app.zip"),
    bitstream: Annotated[
        list[Path] | None,
        typer.Option("--bitstream", help="A bitstream and what belongs to it (.bit .hwh .bin .dtbo .xclbin); may be repeated."),
    ] = None,
    golden: Annotated[
        bool, typer.Option("--golden/--no-golden", help="Take the golden model along, for computers with the compiler.")
    ] = True,
    verify: Verify = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Pack weights, program, golden vectors, what runs on the host, bitstreams and the runtime into one file. The same build gives the
    same bytes."""
    if output.suffix != ".zip":
        raise ConfigError(f"--output: needed a name that ends in .zip, as pip wants it, found {str(output)!r}")
    check_replaceable(output, archive.made_by_attnc, [build, *(bitstream or ())])
    names = archive.write_archive(manifests.load(build, verify), output, bitstream or (), golden)
    size = output.stat().st_size
    if as_json:
        print_json({"archive": str(output), "bytes": size, "entries": names})
    else:
        print(f"{clean(str(output))}: {len(names)} files, {size:,} bytes")
