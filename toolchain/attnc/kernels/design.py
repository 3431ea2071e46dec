"""The numbers that make a design: those of the whole hardware, and a record for each engine that has numbers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Generic, TypeVar

WEIGHT_PORTS = 1, 2, 4
"""Memory ports that may bring the weights of an engine."""
KEYS_AT_ONCE = 4
"""Keys that an engine takes per cycle, at most."""
KEY_PORTS = 1, 2
"""Memory interfaces that may bring the keys of an engine, and as many its values."""


@dataclass(frozen=True)
class Numbers:
    """What may be chosen for an engine of a kernel, named `kernel`. `rows` are the most rows that it takes at a time; None: those of the
    design."""

    kernel: ClassVar[str]
    rows: int | None = None


@dataclass(frozen=True)
class LinearNumbers(Numbers):
    """Multipliers: `pe` output channels at a time, for `rows_at_once` rows that share each weight. Weights come through `weight_ports`
    memory ports: 1, 2 or 4."""

    kernel = "linear"
    pe: int = 16
    rows_at_once: int = 1
    weight_ports: int = 1


@dataclass(frozen=True)
class LookupNumbers(Numbers):
    """Tables: `tables` of them at a time for `columns` output channels, `group` activations per table of ternary weights, and `depth` codes
    per channel that are buffered on chip."""

    kernel = "lookup"
    tables: int = 16
    columns: int = 16
    group: int = 3
    depth: int = 2048


@dataclass(frozen=True)
class AttentionNumbers(Numbers):
    """Attention: `queries` at a time; of caches, `keys` of a query that is alone, for which so many of the queries' multipliers serve."""

    kernel = "attention"
    queries: int = 4
    keys: int = 1


KINDS: dict[str, type[Numbers]] = {kind.kernel: kind for kind in (LinearNumbers, LookupNumbers, AttentionNumbers)}
"""By the names of the kernels, which are the names of their usual engines too."""
AnyNumbers = TypeVar("AnyNumbers", bound=Numbers)


@dataclass(frozen=True)
class NamedEngine:
    """An engine beside the usual one of its kernel, and the nodes that it serves."""

    name: str
    numbers: Numbers
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Design:
    """Lanes per word; rows of a block, which is what an instruction works on; words per beat of the memory ports, 1 or 2 (a vector of 16
    bits, two words of a linear layer's weights); whether (2) or not (1) engines may have copies of small kernels, and whether they run at
    the same time, each with memory ports of its own. Then the numbers of the usual engine of each kernel, and engines of some nodes alone.
    """

    lanes: int = 16
    rows: int = 64
    beat: int = 1
    copies: int = 1
    parallel: int = 1
    linear: LinearNumbers = LinearNumbers()
    lookup: LookupNumbers = LookupNumbers()
    attention: AttentionNumbers = AttentionNumbers()
    named: tuple[NamedEngine, ...] = ()

    @classmethod
    def of(cls, lanes: int = 16, pe: int = 16, rows: int = 64, queries: int = 4, **numbers: int) -> Design:
        """One of the usual engines."""
        return cls().having(lanes=lanes, pe=pe, rows=rows, queries=queries, **numbers)

    def having(self, **numbers: int) -> Design:
        """The same with other numbers; one that a kernel has is for all its engines, `rows` are those of the design."""
        common: dict[str, Any] = {name: number for name, number in numbers.items() if name in COMMON}
        unknown = numbers.keys() - common.keys() - set().union(*OWN.values())
        if unknown:
            raise TypeError(f"no design has numbers named {sorted(unknown)}")

        def changed(old: Numbers) -> Numbers:
            return replace(old, **{name: number for name, number in numbers.items() if name in OWN[old.kernel]})

        return replace(self, **common).having_engines({name: changed(old) for name, old in self.engines.items()})

    def having_engines(self, engines: Mapping[str, Numbers]) -> Design:
        """The same with other numbers of some engines, by name."""
        usual: dict[str, Any] = {name: engines[name] for name in KINDS if name in engines}
        named = tuple(replace(engine, numbers=engines.get(engine.name, engine.numbers)) for engine in self.named)
        return replace(self, **usual, named=named)

    def usual(self, kind: type[AnyNumbers]) -> AnyNumbers:
        """The numbers of the usual engine of a kernel."""
        found = getattr(self, kind.kernel)
        assert isinstance(found, kind)
        return found

    def engine(self, kind: type[AnyNumbers], node: str) -> EngineDesign[AnyNumbers]:
        """The engine of a kernel that serves a node."""
        for engine in self.named:
            if node in engine.nodes and isinstance(engine.numbers, kind):
                return EngineDesign(self, engine.name, engine.numbers)
        return EngineDesign(self, kind.kernel, self.usual(kind))

    def engine_named(self, name: str) -> EngineDesign[Numbers]:
        """One of `engines`."""
        return EngineDesign(self, name, self.engines[name])

    @property
    def engines(self) -> dict[str, Numbers]:
        """The numbers of all engines by name."""
        return {**{name: self.usual(kind) for name, kind in KINDS.items()}, **{engine.name: engine.numbers for engine in self.named}}

    @property
    def order(self) -> tuple[int, ...]:
        """All its numbers, for a choice between equals."""
        engines = (asdict(numbers).values() for numbers in self.engines.values())
        return (*(getattr(self, name) for name in COMMON), *(number or 0 for numbers in engines for number in numbers))

    def facts(self, used: set[str] | None = None) -> dict[str, Any]:
        """As a file has it, with the usual engines of `used` names alone; what a named engine has like the usual one of its kernel is left
        out."""
        found = {name: asdict(self.usual(kind)) for name, kind in KINDS.items() if used is None or name in used}
        for engine in self.named:
            usual = asdict(self.usual(type(engine.numbers)))
            other = {name: number for name, number in asdict(engine.numbers).items() if number != usual[name]}
            found[engine.name] = {"kernel": engine.numbers.kernel, "nodes": list(engine.nodes), **other}
        engines = {name: {key: value for key, value in numbers.items() if value is not None} for name, numbers in found.items()}
        return {**{name: getattr(self, name) for name in COMMON}, "engines": engines}


def flat(facts: Mapping[str, Any]) -> dict[str, int]:
    """The numbers in the facts of a design, those of engines as `linear.pe`."""
    engines = {f"{name}.{key}": number for name, numbers in facts["engines"].items() for key, number in numbers.items()}
    return {name: number for name, number in {**facts, **engines}.items() if isinstance(number, int)}


@dataclass(frozen=True)
class EngineDesign(Generic[AnyNumbers]):
    """What a design says of one engine."""

    design: Design
    name: str
    numbers: AnyNumbers

    @property
    def lanes(self) -> int:
        """Of the design."""
        return self.design.lanes

    @property
    def rows(self) -> int:
        """The most that it takes at a time."""
        return self.numbers.rows or self.design.rows


COMMON = tuple(field.name for field in fields(Design) if field.name not in (*KINDS, "named"))
"""Numbers of the whole design."""
OWN = {name: tuple(field.name for field in fields(kind) if field.name != "rows") for name, kind in KINDS.items()}
"""Numbers of each kernel, `rows` apart; no two kernels have one of the same name."""
