"""All checks of a project's sources."""

from __future__ import annotations

from pathlib import Path

from synthesis import chains, code, directives, loops, regions, storage
from synthesis.program import Finding, Program

CHECKS = (regions.check, loops.check, directives.check, storage.check, chains.check, code.check)


def lint(source: Path, includes: list[Path], top: str) -> list[Finding]:
    """What is wrong in a source, by file and line, each thing once. Raises `ValueError` where it cannot be read."""
    program = Program(source, includes, top)
    if program.errors:
        raise ValueError("\n".join(program.errors))
    found = {(one.file, one.line, one.rule): one for check in CHECKS for one in check(program)}
    return [found[key] for key in sorted(found)]


def lint_project(folder: Path, top: str = "attnc_top") -> list[Finding]:
    """Those of the `hls` folder of a build."""
    return lint(folder / "attnc_top.cpp", [folder, folder / "include"], top)
