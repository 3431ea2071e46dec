"""Reads csynth.xml, the report of a synthesis run of Vitis HLS: cycles and resources of every module.

Fields that a version of the tool leaves out, or writes as "undef", are None. A report may come from anywhere: documents with a DTD
(entities) and absurdly deep ones are refused.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from attnc.errors import DataError

MAX_BYTES = 64 << 20
MAX_DEPTH = 100
RESOURCES = {"lut": ("LUT",), "ff": ("FF",), "dsp": ("DSP", "DSP48E"), "bram36": ("BRAM_18K",), "uram": ("URAM",)}
"""Class of resources to the names that versions of the tool give it; BRAM is counted in halves of a block."""


@dataclass(frozen=True)
class Module:
    """One module: latency and interval in cycles, resources by class, label, II and depth of its labelled loops, and what its pipeline is
    said to be."""

    name: str
    latency_best: int | None = None
    latency_worst: int | None = None
    interval: int | None = None
    clock_ns: float | None = None
    resources: dict[str, float | None] = field(default_factory=dict)
    loops: tuple[tuple[str, int, int], ...] = ()
    pipeline: str = ""


@dataclass(frozen=True)
class Report:
    """A whole csynth.xml."""

    version: str | None
    part: str | None
    target_ns: float | None
    top: Module
    modules: tuple[Module, ...]

    def engine(self, index: int) -> Module | None:
        """The module of the accelerator's engine `index`: `engine_<index>`, whatever the tool puts in front of it."""
        named = [m for m in self.modules if re.search(rf"(^|[^A-Za-z0-9])engine_{index}$", m.name)]
        return min(named, key=lambda m: len(m.name)) if named else None


def read_csynth(path: Path) -> Report:
    """Parse a report; raises `DataError` when it is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: needed a csynth.xml of at most {MAX_BYTES >> 20} MiB, found {path.stat().st_size} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    _check_harmless(data, path)
    root = ET.fromstring(data)
    if root.find("PerformanceEstimates") is None and root.find("AreaEstimates") is None and root.find("ModuleInformation") is None:
        raise DataError(f"{path}: needed a csynth.xml of Vitis HLS (PerformanceEstimates, AreaEstimates), found <{root.tag[:80]}>")
    user = root.find("UserAssignments")
    top = _module(root, _text(user, "TopModelName") or "top")
    modules = tuple(_module(item, _text(item, "Name") or "?") for item in root.findall("ModuleInformation/Module"))
    return Report(_text(root, "ReportVersion/Version"), _text(user, "Part"), _number(_text(user, "TargetClockPeriod")), top, modules)


def _check_harmless(data: bytes, path: Path) -> None:
    """Refuse what is no XML, declares entities, or nests so deep that walking it would overflow."""
    parser, depth = expat.ParserCreate(), 0

    def doctype(*args: Any) -> None:
        raise DataError(f"{path}: needed a report without a document type or entities, found a DOCTYPE")

    def start(*args: Any) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"{path}: needed at most {MAX_DEPTH} nested elements, found more")

    def end(*args: Any) -> None:
        nonlocal depth
        depth -= 1

    parser.StartDoctypeDeclHandler, parser.StartElementHandler, parser.EndElementHandler = doctype, start, end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise DataError(f"{path}: not valid XML: {error}") from error
    except (ValueError, LookupError) as error:
        raise DataError(f"{path}: an encoding that cannot be read: {error}") from error


def _text(element: ET.Element | None, at: str) -> str | None:
    found = None if element is None else element.findtext(at)
    return found.strip() or None if found else None


def _number(text: str | None) -> float | None:
    """The number at the start of a text, such as "12" or "3.10 ns"; None for "undef", "-" and the like."""
    match = re.match(r"[0-9]{1,18}(\.[0-9]{1,18})?", text or "")
    return float(match[0]) if match else None


def _first(element: ET.Element, *places: str) -> float | None:
    """The number in the first of some places that has one."""
    return next((number for number in (_number(_text(element, at)) for at in places) if number is not None), None)


def _cycles(element: ET.Element, name: str) -> int | None:
    number = _number(_text(element, f"PerformanceEstimates/SummaryOfOverallLatency/{name}"))
    return None if number is None else int(number)


def _loops(element: ET.Element) -> tuple[tuple[str, int, int], ...]:
    """Label, II and depth of all loops, those inside others too. One that is not pipelined begins an iteration when the one before ends;
    an outer loop, whose latency depends on the inner ones, may have neither and is left out."""
    found = []
    for loop in element.iterfind("PerformanceEstimates/SummaryOfLoopLatency//*"):
        ii, depth = (_first(loop, tag, "IterationLatency") for tag in ("PipelineII", "PipelineDepth"))
        if ii is not None and depth is not None:
            found.append((_text(loop, "Name") or loop.tag, int(ii), int(depth)))
    return tuple(found)


def _module(element: ET.Element, name: str) -> Module:
    resources: dict[str, float | None] = {}
    for kind, names in RESOURCES.items():
        number = _first(element, *(f"AreaEstimates/Resources/{tag}" for tag in names))
        resources[kind] = number / 2 if number is not None and kind == "bram36" else number
    return Module(
        name,
        _cycles(element, "Best-caseLatency"),
        _cycles(element, "Worst-caseLatency"),
        _cycles(element, "Interval-max"),
        _number(_text(element, "PerformanceEstimates/SummaryOfTimingAnalysis/EstimatedClockPeriod")),
        resources,
        _loops(element),
        _text(element, "PerformanceEstimates/PipelineType") or "",
    )
