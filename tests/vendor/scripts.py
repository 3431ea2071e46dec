"""Runs the emitted Tcl with stand-ins for the commands of Vitis HLS (vitis.tcl), and reads what they recorded."""

from __future__ import annotations

import subprocess
from pathlib import Path

from debian import needs

STAND_IN = Path(__file__).with_name("vitis.tcl")
ODD = 'it\'s a "folder" of $HOME [exit 3] {; puts \\n'
"""A name that no shell and no Tcl may ever evaluate."""

needs_tcl = needs("tcl")

Call = tuple[str, dict[str, str], list[str]]
"""A command, its options, its other arguments."""


def run_tcl(script: Path, record: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["tclsh", STAND_IN, script, record], cwd=cwd, capture_output=True, text=True)


def words(text: str) -> list[str]:
    """A Tcl list, taken apart by Tcl."""
    code = 'foreach word [gets stdin] {puts [string map {"\\n" " "} $word]}'
    return subprocess.run(["tclsh"], input=f"{code}\n{text}\n", capture_output=True, text=True, check=True).stdout.splitlines()


def calls(record: Path) -> list[Call]:
    """What was recorded."""
    found = []
    for line in record.read_text().splitlines():
        name, options, others = [*words(line), "", ""][:3]
        pairs = words(options)
        found.append((name, dict(zip(pairs[::2], pairs[1::2], strict=True)), words(others)))
    return found
