"""II and depth of loops from a synthesis run of Vitis HLS, in place of those that kernels/loops.py reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnc.errors import DataError
from attnc.kernels.loops import LOOPS
from attnc.kernels.network import Loop
from attnc.verify.csynth import Module, Report, read_csynth

LONGEST = 10_000
"""Cycles of an II or a depth that a report may give."""


@dataclass(frozen=True)
class Calibration:
    """What reports say of attnc's loops: II and depth by "function.LABEL", the largest where several modules have the loop, and these
    modules. `unknown` are pipelines that are none of attnc's, as "module: LABEL", `styles` those of pipelines that the reports name."""

    source: str
    loops: Mapping[str, tuple[int, int]]
    modules: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    styles: tuple[str, ...]

    @property
    def timing(self) -> dict[str, Loop]:
        """All loops, as reported or else as reasoned."""
        return {name: self._loop(name, loop) for name, loop in LOOPS.items()}

    def _loop(self, name: str, loop: Loop) -> Loop:
        ii, depth = self.loops.get(name, (loop.ii, loop.depth))
        return replace(loop, ii=ii, depth=depth)

    def facts(self, entered: Iterable[str]) -> dict[str, Any]:
        """What was taken for the loops that a run `entered`, beside what is reasoned, and what was found on one side only."""
        used = sorted(entered)
        return {
            "source": self.source,
            "styles": list(self.styles),
            "taken": [
                {
                    "loop": name,
                    "modules": len(self.modules[name]),
                    "ii": self.loops[name][0],
                    "depth": self.loops[name][1],
                    "reasoned_ii": LOOPS[name].ii,
                    "reasoned_depth": LOOPS[name].depth,
                }
                for name in used
                if name in self.loops
            ],
            "not_in_the_report": [name for name in used if name not in self.loops],
            "not_in_the_build": sorted(self.loops.keys() - set(used)),
            "unknown": list(self.unknown),
        }


def read_calibration(path: Path) -> Calibration:
    """From a csynth.xml, or from all reports of a folder (`solution/syn/report`, or the solution); raises `DataError` where it is none, or
    names none of attnc's loops."""
    loops: dict[str, tuple[int, int]] = {}
    modules: dict[str, tuple[str, ...]] = {}
    unknown: dict[str, None] = {}
    reports = [read_csynth(file) for file in _files(path)]
    for module in (module for report in reports for module in (report.top, *report.modules)):
        for label, ii, depth in module.loops:
            if not (1 <= ii <= LONGEST and 1 <= depth <= LONGEST):
                raise DataError(f"{path}: loop {label} of {module.name}: needed II and depth from 1 to {LONGEST}, found {ii} and {depth}")
            name = _loop_of(module.name, label)
            if name is None:
                unknown[f"{module.name}: {label}"] = None
                continue
            before = loops.get(name, (0, 0))
            loops[name] = max(ii, before[0]), max(depth, before[1])
            modules[name] = tuple(dict.fromkeys([*modules.get(name, ()), module.name]))
    if not loops:
        found = ", ".join(list(unknown)[:3]) or "no pipelined loop at all"
        raise DataError(f"{path}: needed the synthesis report of an attnc design, which names its loops; found {found}")
    return Calibration(path.name, loops, modules, tuple(unknown), _styles(reports))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [file for folder in (path, path / "syn" / "report") for file in sorted(folder.glob("*csynth.xml"))]
    if not found:
        raise DataError(f"{path}: needed reports (csynth.xml, MODULE_csynth.xml), as a solution has them in syn/report; found none")
    return found


def _styles(reports: Iterable[Report]) -> tuple[str, ...]:
    modules: Iterable[Module] = (module for report in reports for module in (report.top, *report.modules))
    return tuple(sorted({style for module in modules for style in re.findall(r"\b(stp|flp|frp)\b", module.pipeline)}))


def _loop_of(module: str, label: str) -> str | None:
    """The loop that a module has under a label: modules are named after functions, with template arguments behind. None where it is none
    of attnc's, or where several functions have such a label and the module, into which one was inlined, is named after none of them."""
    names = [name for name in LOOPS if name.partition(".")[2] == label]
    found = [name for name in names if re.search(rf"(^|_){name.partition('.')[0]}(_|$)", module)] or names
    return found[0] if len(found) == 1 else None
