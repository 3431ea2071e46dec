"""What a build says of the program that it runs (program.json): names for the numbers that a simulation gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnc.codegen.listing import LISTING, SCHEMA
from attnc.errors import BuildError
from attnc.files import read_json
from attnc.kernels.latency import READ_LATENCY, WRITE_RESPONSE
from attnc.kernels.loops import LOOPS
from attnc.kernels.network import Loop
from attnc.schedule.fifos import Queue
from attnc.verify.cosim import CosimRun, Timing


@dataclass(frozen=True)
class Stage:
    """A chain of nodes, named after its main one, that runs in so many blocks of rows."""

    node: str
    nodes: tuple[str, ...]
    engine: str
    blocks: int


@dataclass(frozen=True)
class Instruction:
    """A block of a stage, and the cycles that it is estimated to account for (0 where a slower one runs beside it)."""

    stage: int
    block: int
    cycles: int


@dataclass(frozen=True)
class Listing:
    """A whole program: stages, the instructions of every step, board ports by interface, FIFOs whose depths a schedule may set."""

    clock_mhz: float
    bytes_per_cycle: float
    interfaces: Mapping[str, str]
    engines: Mapping[str, tuple[str, ...]]
    fifos: Mapping[str, Queue]
    stages: tuple[Stage, ...]
    steps: tuple[tuple[Instruction, ...], ...]
    entries: Mapping[str, range] = field(default_factory=dict)
    """Steps of the entries of a decoder."""

    @property
    def estimate(self) -> int:
        """Estimated cycles of a sample."""
        return sum(one.cycles for step in self.steps for one in step)

    def main(self, step: int) -> Instruction:
        """The instruction that accounts for the cycles of a step."""
        return max(self.steps[step], key=lambda one: one.cycles)

    def title(self, step: int) -> str:
        """A step in words."""
        return " + ".join(self.label(one) for one in self.steps[step])

    def label(self, one: Instruction) -> str:
        """An instruction in words."""
        stage = self.stages[one.stage]
        return stage.node + (f" ({one.block + 1} of {stage.blocks})" if stage.blocks > 1 else "")

    def timing(self, read_latency: int = READ_LATENCY, write_response: int = WRITE_RESPONSE, loops: Mapping[str, Loop] = LOOPS) -> Timing:
        """On the board that the build is for."""
        return Timing(read_latency, write_response, self.bytes_per_cycle, self.interfaces, loops)

    def entry_cycles(self, run: CosimRun) -> dict[str, tuple[int, int]]:
        """Simulated cycles of each entry of a decoder, and their estimate."""
        found = {}
        for entry, steps in self.entries.items():
            simulated = sum(end - begin for number, begin, end in run.stages if number in steps)
            found[entry] = simulated, sum(one.cycles for number in steps for one in self.steps[number])
        return found

    def stage_cycles(self, run: CosimRun) -> dict[int, tuple[int, int, int]]:
        """By stage: steps that it accounts for, their simulated cycles, and the estimate of these."""
        found: dict[int, tuple[int, int, int]] = {}
        seen: set[int] = set()
        for number, begin, end in run.stages:
            one = self.main(number)
            steps, cycles, estimate = found.get(one.stage, (0, 0, 0))
            again = number in seen  # for another entry of a queue: the estimate is of all
            seen.add(number)
            found[one.stage] = steps + 1, cycles + end - begin, estimate + (0 if again else one.cycles)
        return found


def load_listing(build: Path) -> Listing:
    """That of a build; raises `BuildError` where it is missing or makes no sense."""
    path = build / LISTING
    if not path.exists():
        raise BuildError(f"{build}: {LISTING} is missing: it was made by an older attnc, or is damaged; compile the model again")
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise BuildError(f"{path}: needed schema {SCHEMA}, found {found!r}; compile the model again")
    try:
        return _listing(data)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BuildError(f"{path}: is damaged ({type(error).__name__}: {error}); compile the model again") from error


def _listing(data: dict[str, Any]) -> Listing:
    stages = tuple(Stage(str(s["node"]), tuple(map(str, s["nodes"])), str(s["engine"]), int(s["blocks"])) for s in data["stages"])
    steps = tuple(tuple(Instruction(*map(int, one)) for one in step) for step in data["steps"])
    for one in (one for step in steps for one in step):
        if not 0 <= one.stage < len(stages):
            raise ValueError(f"no stage {one.stage}")
    engines = {str(name): tuple(map(str, ops)) for name, ops in data["engines"].items()}
    queues = {_word(name): Queue(int(depth), int(bits)) for name, (depth, bits) in data["fifos"].items()}
    wiring = {_word(pointer): _word(port) for pointer, port in data["interfaces"].items()}
    entries = {str(entry): range(int(start), int(stop)) for entry, (start, stop) in data["entries"].items()}
    return Listing(float(data["clock_mhz"]), float(data["bytes_per_cycle"]), wiring, engines, queues, stages, steps, entries)


def _word(text: Any) -> str:
    """A name that stands in the settings of the simulator, where blanks part names."""
    if not isinstance(text, str) or not text or any(c.isspace() for c in text):
        raise ValueError(f"needed a name, found {text!r}")
    return text


def engine_of(path: str) -> str:
    """The engine whose process a path names; "program" for those that start engines."""
    return next((part.partition(".")[0] for part in path.split("/") if part.startswith("engine_") and "." in part), "program")


def short(path: str) -> str:
    """A process by its name inside its engine."""
    parts = path.split("/")
    at = next((i for i, part in enumerate(parts) if part.startswith("engine_") and "." in part), None)
    if at is None:
        return parts[-1]
    return "/".join([parts[at].partition(".")[2], *parts[at + 1 :]])
