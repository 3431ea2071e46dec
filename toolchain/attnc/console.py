"""What the commands share: common options, printing, notes."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console, RenderableType

from attnc.config import Objective
from attnc.errors import ConfigError
from attnc.messages import message

EXIT_DIFFERENT = 1
PIPE_WIDTH = 140
"""Columns of a table that goes to a file or a pipe."""


class State:
    """What an option of any command says about all output."""

    verbose = False


def set_verbose(value: bool) -> bool:
    """The callback of --verbose."""
    State.verbose = State.verbose or value
    return value


Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more; with an error, show the traceback.", callback=set_verbose, is_eager=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Types = Annotated[
    Literal["native", "ap"], typer.Option("--types", help="C++ types: native integers (fast), or ap_int as the hardware has.")
]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Check first that the files of the build are those that were compiled (checksums).")
]
Build = Annotated[Path, typer.Argument(metavar="BUILD", help="A build folder, made by `attnc compile`.")]
BuildOrArchive = Annotated[
    Path, typer.Argument(metavar="BUILD", help="A build folder, made by `attnc compile`, or an archive, made by `attnc package`.")
]
Backend = Literal["auto", "csim", "cosim", "golden", "pynq", "uio", "virtual", "xrt"]
"""What runs the program of a build."""
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX model.")]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", metavar="NAME=1,128", help="Fix the shape of an input with dynamic axes; may be repeated.")
]


ObjectiveOption = Annotated[Objective, typer.Option("--objective", help="What the search for a design minimises.")]
UtilisationOption = Annotated[
    str | None, typer.Option("--utilisation", metavar="lut=0.7,...", help="Shares of the board that a design may use.")
]


ActivationBitsOption = Annotated[
    Literal["8", "16", "auto"] | None,
    typer.Option(
        "--activation-bits",
        help="Inputs of linear layers; auto: 16 where the SQNR target needs it, also for attention.",
        show_default="auto",
    ),
]
SqnrTargetOption = Annotated[
    float, typer.Option("--sqnr-target", metavar="DB", help="SQNR against onnxruntime that auto widens inputs for.")
]


def parse_shapes(given: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """NAME=1,128 to {NAME: (1, 128)}."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given or ():
        name, equals, numbers = text.rpartition("=")
        try:
            dims = tuple(int(number) for number in numbers.split(","))
        except ValueError:
            dims = ()
        if not name or not equals or not dims or min(dims) < 0:
            raise ConfigError(f"--shape: needed NAME=1,128 with whole numbers, found {text!r}")
        if name in shapes:
            raise ConfigError(f"--shape: the shape of {name!r} is given twice")
        shapes[name] = dims
    return shapes


def note(text: str) -> None:
    """A remark on stderr."""
    print(message("note", text, State.verbose), file=sys.stderr)


def show(content: RenderableType) -> None:
    """A table on stdout."""
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False).print(content)


def print_json(data: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(data, indent=2))


def tell(facts: Any, table: RenderableType, as_json: bool, differs: bool = False) -> None:
    """Facts in the form that was asked for. Where something differs from golden, the command ends here, with exit code 1."""
    if as_json:
        print_json(facts)
    else:
        show(table)
    if differs:
        raise typer.Exit(EXIT_DIFFERENT)


class _Remarks(logging.Handler):
    """What libraries log and warn of speaks of their insides: it is for whoever asks for it, with -v."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line on stderr, or nothing."""
        if State.verbose:
            print(message(record.name, record.getMessage(), whole=True), file=sys.stderr)


@contextlib.contextmanager
def remarks() -> Iterator[None]:
    """While a command runs, records that no one else takes, and Python's warnings, go to `_Remarks`."""
    handler, root = _Remarks(logging.WARNING), logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
