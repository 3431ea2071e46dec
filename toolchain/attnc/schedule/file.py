"""schedule.yaml: what the schedule chose, written with every build, to be edited and given back."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.schedule.cost import Estimate
from attnc.schedule.design import lane_divisors, least_lanes
from attnc.schedule.design_fields import DesignFields, check_lanes, check_numbers, served, wrong
from attnc.schedule.devices import CLASSES, Board, Utilisation
from attnc.schedule.engine import Slot
from attnc.schedule.engine_choice import take_only_engine
from attnc.schedule.fifos import DEEPEST, fifos
from attnc.schedule.given import Given, Style
from attnc.schedule.program import Program
from attnc.settings_file import read_settings, validated

Depth = Annotated[int, Field(strict=True, ge=1, le=DEEPEST)]
Place = Literal["lutram", "bram", "uram"]


class Schedule(BaseModel):
    """A schedule as a file gives it. What it leaves out is chosen by the compiler."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = Field(alias="schema")
    target: str | None = None
    clock_mhz: float | None = Field(default=None, ge=1, le=1000)
    utilisation: Utilisation | None = None
    design: DesignFields
    ports: dict[str, str] = Field(default_factory=dict)
    memory: dict[str, Place] = Field(default_factory=dict)
    fifos: dict[str, Depth] = Field(default_factory=dict)
    pipelines: Style = "flp"

    @property
    def given(self) -> Given:
        """What it settles beside the design."""
        return Given(self.memory, self.ports, self.fifos, self.pipelines)


def read_schedule(path: Path) -> Schedule:
    """A schedule from a YAML file; raises `ConfigError` when its fields make no sense by themselves."""
    where = f"schedule {path}"
    schedule = validated(Schedule, read_settings(path, "schedule"), where)
    check_numbers(schedule.design.design(where), where)
    return schedule


def design_of(schedule: Schedule, path: Path, graph: Graph) -> Design:
    """The design that a schedule gives the quantized graph, whose heads may have been padded to suit its lanes."""
    where = f"schedule {path}"
    take_only_engine(graph, schedule.design.engines)
    check_lanes(schedule.design.design(where), where, lane_divisors(graph), least_lanes(graph))
    return served(schedule.design.design(where), graph, where)


def check_board(schedule: Schedule, path: Path, board: Board) -> None:
    """Whether the board allows the lanes and ports of a schedule."""
    where = f"schedule {path}"
    design = schedule.design.design(where)
    lanes, beat = design.lanes, design.beat
    if schedule.target is not None and schedule.target != board.name:
        wrong(where, "target", f"{board.name!r}, which --target names (or no such field)", schedule.target)
    if beat > 2 or 8 * lanes * beat > board.axi_bits > 8 * lanes:
        wrong(where, "design.beat", f"1, or 2 where a port ({board.axi_bits} bits) holds two words of {lanes} bytes", beat)
    if 8 * lanes > board.axi_bits:
        wrong(where, "design.lanes", f"at most {board.axi_bits // 8}, the bytes of a memory port of {board.name}", lanes)
    for bundle, tag in schedule.ports.items():
        if tag not in board.ports:
            wrong(where, f"ports.{bundle}", f"one of the {len(board.ports)} memory ports of {board.name} ({', '.join(board.ports)})", tag)


def check_program(schedule: Schedule, path: Path, program: Program, cost: Estimate, board: Board) -> None:
    """Whether the interfaces, buffers and FIFOs that a schedule names are there, and the board has the memory."""
    where, buffers = f"schedule {path}", {buffer.key for buffer in cost.buffers}
    for bundle in schedule.ports:
        if bundle not in program.bundles.values():
            wrong(where, "ports", f"only {', '.join(dict.fromkeys(program.bundles.values()))}", bundle)
    for key, kind in schedule.memory.items():
        if key not in buffers:
            wrong(where, "memory", f"only {', '.join(sorted(buffers)) or 'nothing: no engine has buffers'}", key)
        if kind == "uram" and not board.uram:
            wrong(where, f"memory.{key}", f"bram or lutram, because {board.name} has no URAM", kind)
    for name in schedule.fifos.keys() - fifos(program).keys():
        near = difflib.get_close_matches(name, fifos(program), 3, 0.0)
        wrong(where, "fifos", f"a FIFO of this design, such as {', '.join(near)} (schedule.yaml of a build lists all)", name)


def schedule_text(program: Program, cost: Estimate, board: Board, objective: str, pipelines: Style = "flp") -> str:
    """The file for a build: what can be edited, then what follows from it as comments."""
    data = {
        "schema": 1,
        "target": board.name,
        "clock_mhz": cost.clock_mhz,
        "utilisation": board.utilisation.model_dump(),
        "design": program.design_facts,
        "ports": dict(cost.ports),
        "memory": dict(sorted(cost.places.items())),
        **({"fifos": dict(program.depths)} if program.depths else {}),
        "pipelines": pipelines,
    }
    derived = [
        f"objective: {objective}",
        f"cycles per sample: {cost.cycles}",
        "resources, used of limit: "
        + ", ".join(f"{name} {number:.0f}/{board.limits[name]:.0f}" for name, number in cost.used().items() if name in CLASSES),
        "engines:",
        *(
            f"  {engine.name} {_named(slot)}: {_arguments(slot.kernel.template_args)}"
            for engine in program.engines
            for slot in engine.slots
        ),
        "chains, whose kernels overlap (* where the result is stored on the way), and how many instructions run them:",
        *(f"  {text}: {count}" for text, count in _chains(program).items()),
        *_operands(program),
        *_steps(program, cost),
        "buffers, banks x depth x bits:",
        *(f"  {b.key}: {b.memory.banks} x {b.memory.depth} x {b.memory.width} in {cost.places[b.key]}" for b in cost.buffers),
        "FIFOs, depth x bits (`fifos: {name: depth}` gives other depths; `attnc cosim --size-fifos` finds the least):",
        *(f"  {name}: {queue.depth} x {queue.bits}" for name, queue in fifos(program).items()),
        "memory of the board, words from offset:",
        *(f"  {name}: {region.words} from {region.offset}" for name, region in _regions(program)),
        f"  weights (a memory of their own): {program.weight_words} from 0",
    ]
    head = "# The schedule of this build. Edit it and give it back: attnc compile MODEL --schedule schedule.yaml\n"
    return (
        head
        + yaml.safe_dump(data, sort_keys=False)
        + "# What follows from it (estimates; changes here have no effect):\n"
        + "".join(f"# {line}\n" for line in derived)
    )


def _named(slot: Slot) -> str:
    """Operator, kernel, and the engine of the design whose numbers that has, where it has any."""
    numbers = f", numbers of {slot.kernel.engine}" if slot.kernel.engine else ""
    return f"({slot.op}, {slot.kernel.function}{numbers})"


def _arguments(args: Any) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, int) else getattr(value, 'bits', getattr(value, 'name', ''))}" for name, value in args
    )


def _chains(program: Program) -> Counter[str]:
    """Engine and kernels of each kind of chain, with its instructions."""
    return Counter(f"{one.engine.name}: {one.chain.text}" for one in program.instructions if one.own)


def _operands(program: Program) -> list[str]:
    """How the operands of the multipliers come, and so what of that overlaps."""
    runs = [one for one in program.instructions if one.engine.operand_slot is not None and one.calls[one.engine.operand_slot] is not None]
    kept = sum(one.chain.links[0].kept is not None for one in runs)
    brought = sum(one.brings is not None for one in runs)
    alone = sum(not one.own for one in program.instructions)
    counts = f"{brought} while the instruction before computes, {alone} in instructions of their own"
    waited = f"{len(runs) - kept - brought - alone} are waited for, {kept} are there from the one before"
    return [f"operands of the multipliers that come: {counts}; {waited}"] if runs else []


def _steps(program: Program, cost: Estimate) -> list[str]:
    """What runs at the same time, where the design has it: each combination, how often, and the cycles that it hides."""
    if program.design.parallel == 1:
        return []
    times, hidden, first = Counter[str](), Counter[str](), 0
    for step in program.steps:
        text = " | ".join(f"{one.engine.name}: {'' if one.own else 'operand of '}{one.chain.text}" for one in step)
        times[text] += len(step) > 1
        hidden[text] += sum(call.cycles for call in cost.calls[first : first + len(step)] if call.hidden is not None)
        first += len(step)
    together = [f"  {text}: {count} times, {hidden[text]} cycles" for text, count in times.items() if count]
    return [f"what runs at the same time in the {len(program.steps)} steps, and the cycles that this hides:", *(together or ["  nothing"])]


def _regions(program: Program) -> list[tuple[str, Any]]:
    memory = program.memory
    return [("inputs", memory.inputs), ("constants", memory.constants), ("outputs", memory.outputs), ("activations", memory.activations)]
