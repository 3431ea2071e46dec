"""What a compilation reads and where it writes: refused before the work where the one would cost the user the other."""

from __future__ import annotations

from pathlib import Path

from attnc.codegen.folder import check_output
from attnc.config import CompileOptions
from attnc.errors import ConfigError
from attnc.files import holds
from attnc.frontend.load import external_files
from attnc.schedule.devices import board_file

DUMP_BEGINS = b"graph "
"""How the text of a graph begins."""


def files_read(path: Path, options: CompileOptions) -> dict[str, Path]:
    """Every file that a compilation reads, by what it is."""
    found = {"model": path}
    if options.output.is_dir() and holds(path.parent, options.output):  # else it can hold none of the model's data
        found |= {f"external data {file.name!r}": file for file in external_files(path)}
    for name in ("calib", "heldout", "config", "schedule"):
        if getattr(options, name) is not None:
            found[f"file of --{name}"] = getattr(options, name)
    board = None if options.target is None else board_file(options.target)
    return found if board is None else {**found, "board file": board}


def check_outputs(path: Path, options: CompileOptions) -> None:
    """Refuse an output folder or a folder of --dump in which something would be lost."""
    check_output(options.output, options.force, files_read(path, options))
    if options.dump is not None:
        _check_dump(options.dump, options.output)


def _check_dump(dump: Path, output: Path) -> None:
    if output.absolute() in (dump.absolute(), *dump.absolute().parents) or holds(output, dump):
        raise ConfigError(f"--dump {dump}: needed a folder outside of the build {output}, which is replaced as a whole")
    for file in sorted(dump.glob("[0-9]*_*.txt")) if dump.is_dir() else []:
        with open(file, "rb") as stream:
            if stream.read(len(DUMP_BEGINS)) != DUMP_BEGINS:
                raise ConfigError(f"--dump {dump}: {file.name} is there already, and attnc did not make it; choose another folder")
