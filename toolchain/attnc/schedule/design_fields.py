"""The design as schedule.yaml and report.json have it: numbers of the whole, and of engines by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from attnc.errors import ConfigError
from attnc.ir import Graph
from attnc.kernels.design import (
    COMMON,
    KEY_PORTS,
    KINDS,
    OWN,
    WEIGHT_PORTS,
    AttentionNumbers,
    Design,
    LinearNumbers,
    LookupNumbers,
    NamedEngine,
    Numbers,
    flat,
)
from attnc.ops import operator
from attnc.quant.weight_config import matching

LARGEST = 4096
POWERS_OF_TWO = ("lanes", "beat", "pe", "queries", "keys", "tables", "columns")
"""Numbers that size a vector of a kernel."""

Number = Annotated[int, Field(strict=True, ge=1, le=LARGEST)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$", max_length=64)]
STRICT = ConfigDict(extra="forbid", frozen=True)


class _Served(BaseModel):
    model_config = STRICT

    kernel: str | None = None
    nodes: tuple[str, ...] | None = None


_numbers: dict[str, Any] = dict.fromkeys(("rows", *sum(OWN.values(), ())), (Number | None, None))
EngineFields: type[BaseModel] = create_model("EngineFields", __base__=_Served, **_numbers)
"""An engine: its kernel and its nodes, where it is not the usual one of the kernel that it is named after, and those numbers of any kernel
that it gives."""


class DesignFields(BaseModel):
    """A design. What an engine leaves out it has like the usual one of its kernel."""

    model_config = STRICT

    lanes: Number
    rows: Number
    beat: Number = 1
    copies: Number = 1
    parallel: Number = 1
    engines: dict[Name, EngineFields] = Field(default_factory=dict)  # type: ignore[valid-type]

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        """Files of before engines had numbers of their own give those beside the others; they are for the usual engines."""
        if not isinstance(data, dict) or not isinstance(data.get("engines", {}), dict):
            return data
        found, engines = dict(data), dict(data.get("engines", {}))
        for kernel, names in OWN.items():
            given = engines.get(kernel, {})
            if isinstance(given, dict):
                moved = {name: found.pop(name) for name in names if name in found and name not in given}
                engines |= {kernel: {**given, **moved}} if moved else {}
        return {**found, "engines": engines} if engines else found

    def design(self, where: str) -> Design:
        """As a value, in which nodes are still as the file names them. Raises `ConfigError` for engines that cannot be."""
        common = {name: getattr(self, name) for name in COMMON}
        usual: dict[str, Any] = {name: _record(where, name, kind(), self.engines.get(name)) for name, kind in KINDS.items()}
        named = []
        for name, entry in self.engines.items():
            at, kernel, nodes = f"design.engines.{name}", entry.kernel, entry.nodes  # type: ignore[attr-defined]
            if name in KINDS:
                if kernel not in (None, name) or nodes is not None:
                    wrong(where, at, "no kernel or nodes: it serves all that no other engine of its kernel does", kernel or list(nodes))
                continue
            if kernel not in KINDS:
                needed = f"{', '.join(KINDS)}, or an engine with one of these as its kernel and its nodes"
                wrong(where, at if kernel is None else f"{at}.kernel", needed, name if kernel is None else kernel)
            if not nodes:
                wrong(where, f"{at}.nodes", "names of the nodes that it serves, or patterns", nodes)
            named.append(NamedEngine(name, _record(where, name, usual[kernel], entry), nodes))
        return Design(**common, **usual, named=tuple(named))


def _record(where: str, name: str, usual: Numbers, entry: Any) -> Numbers:
    """The numbers of an engine: those given, the others as usual."""
    given = {} if entry is None else entry.model_dump(exclude={"kernel", "nodes"}, exclude_none=True)
    has = ("rows", *OWN[usual.kernel])
    for key, number in given.items():
        if key not in has:
            wrong(where, f"design.engines.{name}.{key}", f"only {', '.join(has)}, the numbers of kernel {usual.kernel}", number)
    return replace(usual, **given)


def check_numbers(design: Design, where: str) -> None:
    """Whether the numbers make sense by themselves."""
    for name, number in flat(design.facts()).items():
        if name.rpartition(".")[2] in POWERS_OF_TWO and number & (number - 1):
            wrong(where, _field(name), "a power of two", number)
    if design.parallel > 2:
        wrong(where, "design.parallel", "1 (engines take turns) or 2 (they run at the same time)", design.parallel)
    for engine in map(design.engine_named, design.engines):
        at, numbers = f"design.engines.{engine.name}", engine.numbers
        if isinstance(numbers, LinearNumbers):
            if numbers.pe % design.lanes or numbers.pe < 2:
                wrong(where, f"{at}.pe", f"a multiple of design.lanes ({design.lanes}), at least 2", numbers.pe)
            if numbers.rows_at_once > engine.rows:
                wrong(where, f"{at}.rows_at_once", f"at most its rows ({engine.rows})", numbers.rows_at_once)
            if numbers.weight_ports not in WEIGHT_PORTS:
                wrong(where, f"{at}.weight_ports", "1, 2 or 4 memory ports that bring the weights", numbers.weight_ports)
        if isinstance(numbers, AttentionNumbers):
            most = min(numbers.queries, engine.rows, KEY_PORTS[-1] * design.beat)
            if numbers.keys > most:
                ports = f"those of {KEY_PORTS[-1]} memory ports"
                wrong(where, f"{at}.keys", f"at most {most}: its queries, its rows, and {ports}", numbers.keys)
        if isinstance(numbers, LookupNumbers) and numbers.group not in (3, 5):
            wrong(where, f"{at}.group", "3 or 5 activations per table of ternary weights", numbers.group)


def check_lanes(design: Design, where: str, divisors: list[int], fewest: int) -> None:
    """Whether the lanes suit the engines, and the heads and operators of a model."""
    if design.lanes < fewest:
        wrong(where, "design.lanes", f"at least {fewest}, which an operator of the model needs", design.lanes)
    for name, number in flat(design.facts()).items():
        if name.rpartition(".")[2] in ("tables", "columns") and number % design.lanes:
            wrong(where, _field(name), f"a multiple of design.lanes ({design.lanes})", number)
    for divisor in divisors:
        if divisor % design.lanes:
            wrong(where, "design.lanes", f"a divisor of {divisor}, the channels of a head", design.lanes)


def served(design: Design, graph: Graph, where: str) -> Design:
    """The design with the names of the nodes that its patterns mean, none of them in two engines of a kernel."""
    taken: dict[str, str] = {}

    def found(engine: NamedEngine) -> NamedEngine:
        at, kernel = f"design.engines.{engine.name}.nodes", engine.numbers.kernel
        nodes = [node for node in graph.nodes if operator(node).numbers(node) is type(engine.numbers)]
        names: dict[str, None] = {}
        for pattern in engine.nodes:
            names |= dict.fromkeys(node.name for node in matching(pattern, nodes, f"{where}: field {at!r}, of kernel {kernel}", "node"))
        for name in names:
            if taken.setdefault(name, engine.name) != engine.name:
                wrong(where, at, f"nodes of no other engine ({taken[name]} serves that)", name)
        return replace(engine, nodes=tuple(names))

    return replace(design, named=tuple(map(found, design.named)))


def _field(name: str) -> str:
    return f"design.engines.{name}" if "." in name else f"design.{name}"


def wrong(where: str, field: str, needed: str, found: object) -> NoReturn:
    """Says what a field of a file had to be."""
    raise ConfigError(f"{where}: field {field!r}: needed {needed}, found {found!r}")
