"""All checks of a project's sources."""

from __future__ import annotations

from pathlib import Path

from synthesis import chains, code, directives, loops, regions, storage
from synthesis.program import Finding, Program

CHECKS = (regions.check, loops.check, directives.check, storage.check, chains.check, code.check)


def lint(program: Program) -> list[Finding]:
    """What is wrong in a source, by file and line, each thing once."""
    found = {(one.file, one.line, one.rule): one for check in CHECKS for one in check(program)}
    return [found[key] for key in sorted(found)]


def project(folder: Path) -> Program:
    """The sources in the `hls` folder of a build."""
    return Program(folder / "attnc_top.cpp", [folder, folder / "include"], "attnc_top")


def lint_project(folder: Path) -> list[Finding]:
    """What is wrong in them."""
    return lint(project(folder))
