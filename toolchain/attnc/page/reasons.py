"""Why a build is not faster: where the cycles of its multipliers go, the largest first, each with what would change it (estimates)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from attnc.kernels.design import WEIGHT_PORTS
from attnc.page.markup import count, percent

MOST = 3
NEAR = 0.9
"""Share of a limit, or of the rate of the DDR, from which on it binds."""
NEXT = "next operand"
"""What binds a stage in which the next block's operand takes longer to bring than this one takes to multiply."""
BRINGING = "While the multipliers work on one block of rows, the next one is loaded and prepared, and that takes longer."
Facts = Mapping[str, Any]
Kind = tuple[str, str]
"""What sort of reason, and of which process."""
WORK, START, ELSEWHERE, SERIAL, MEMORY, PROCESS = "work", "start", "elsewhere", "serial", "memory", "process"


@dataclass(frozen=True)
class Reason:
    """`cycles` of a sample (estimate) that go there, `percent` of all; `worst` is the stage that loses most, None for the work itself."""

    title: str
    why: str
    change: str
    cycles: int
    percent: float
    worst: str | None


def by_entry(facts: Facts) -> dict[str, list[Reason]]:
    """The largest of a report; of a decoder those of each entry of its program."""
    cost = facts["estimate"]
    entries = cost.get("entries") or {"": {}}
    stages = {entry: [stage for stage in cost["stages"] if stage.get("entry", "") == entry] for entry in entries}
    return {entry: reasons({**facts, "estimate": {**cost, **own, "stages": stages[entry]}}) for entry, own in entries.items()}


def reasons(facts: Facts) -> list[Reason]:
    """The largest of an estimate."""
    cost = facts["estimate"]
    total: Counter[Kind] = Counter()
    stages: dict[Kind, Counter[str]] = defaultdict(Counter)
    if cost["multipliers"]:
        total[WORK, ""] = round(cost["cycles"] * cost["multipliers_busy_percent"] / 100)
    for stage in cost["stages"]:
        for kind, cycles in _parts(stage):
            total[kind] += cycles
            stages[kind][stage["node"]] += cycles
    found = []
    for (kind, bound), cycles in total.most_common(MOST):
        if cycles > 0:
            title, why, change = TEXTS[kind](facts, bound)
            worst = next(iter(stages[kind, bound].most_common(1)), (None, 0))[0]
            found.append(Reason(title, why, change, cycles, round(100 * cycles / cost["cycles"], 1), worst))
    return found


def _parts(stage: Facts) -> Iterator[tuple[Kind, int]]:
    """The lost cycles of a stage. Beyond the process or port that works longest, others work before it or behind it."""
    share = stage["cycles"] / max(stage["cycles"] + stage["hidden_cycles"], 1)
    alone = max(stage["cycles"] - stage["start_cycles"] - round(share * stage["busy"].get(stage["bound"], 0)), 0)
    for cause, cycles in stage["lost"].items():
        bound = cause.partition(", bound by ")[2]
        if not bound:
            yield (START if cause == "start" else ELSEWHERE, ""), cycles
            continue
        serial = min(alone, cycles)
        yield (SERIAL, ""), serial
        memory = re.match(r"port |ddr$|\S+ \(", bound)
        yield (MEMORY, "") if memory else (PROCESS, bound), cycles - serial


def _work(facts: Facts, _: str) -> tuple[str, str, str]:
    cost = facts["estimate"]
    why = f"{count(cost['multiply_adds'])} multiply-adds on {count(cost['multipliers'])} multipliers take this long when all of them work."
    clock = f"A higher clock helps everything (`--clock`, now {facts['target']['clock_mhz']:g} MHz)."
    return "The work itself", why, f"More multipliers: {_room(facts)}. {clock}"


def _start(facts: Facts, _: str) -> tuple[str, str, str]:
    cost, most = facts["estimate"], max((stage["calls"] for stage in facts["estimate"]["stages"]), default=1)
    why = f"Each of {count(cost['instructions'])} instructions waits for its first word from memory, fills its pipelines and drains them."
    blocks = f"More `rows` than {facts['design']['rows']} in schedule.yaml cut values into fewer blocks (up to {most} now)."
    longer = "Most stages are one instruction already: a longer sequence would give each more work."
    return "Starting and ending instructions", why, blocks if most > 2 else longer


def _elsewhere(facts: Facts, _: str) -> tuple[str, str, str]:
    ops = " and ".join(sorted({engine["op"] for engine in facts["engines"]}))
    why = f"Engines ({ops}) have multipliers of their own. While one works, those of the others stand still."
    return "Multipliers of other engines rest", why, f"{_together(facts)} Or move multipliers to the engine that works longest (`engines`)."


def _serial(facts: Facts, _: str) -> tuple[str, str, str]:
    why = (
        "A product needs its whole operand before its first result. What loads and normalises it comes before, what stores results behind; "
        "these parts of a stage do not overlap."
    )
    return "Parts of a stage, one after the other", why, _together(facts)


def _together(facts: Facts) -> str:
    if facts["design"].get("parallel", 1) > 1:
        rows = facts["design"]["rows"]
        return f"Engines run at the same time already; blocks of fewer `rows` (now {rows}) leave more that can run beside each other."
    return "`parallel: 2` in schedule.yaml with blocks of fewer `rows` lets engines work beside each other. It takes more ports and logic."


def _memory(facts: Facts, _: str) -> tuple[str, str, str]:
    cost, design, options = facts["estimate"], facts["design"], []
    why = (
        "Through a port of the board comes less per cycle than the multipliers use. "
        f"The DDR itself moves {cost['ddr_roof_percent']:.0f} % of what it could."
    )
    if cost["ddr_roof_percent"] > 100 * NEAR:
        options.append("a board with faster memory, or weights of fewer bits (`--weights int4`)")
    ports = [one["weight_ports"] for one in design["engines"].values() if "weight_ports" in one]
    if ports and min(ports) < WEIGHT_PORTS[-1]:
        options.append(f"weights through more ports (`weight_ports: {2 * min(ports)}`)")
    if design.get("beat", 1) == 1:
        options.append("ports that move two words per cycle (`beat: 2`)")
    if cost["ddr_bytes"] > 1.2 * cost["ddr_floor_bytes"]:
        passes = f"{count(cost['ddr_bytes'])} bytes pass where {count(cost['ddr_floor_bytes'])} would do"
        options.append(f"blocks of more `rows` than {design['rows']}, since {passes}")
    return "Memory ports", why, f"To try: {'; '.join(options or ['weights of fewer bits (`--weights int4`)'])}."


def _process(facts: Facts, bound: str) -> tuple[str, str, str]:
    stages = [stage for stage in facts["estimate"]["stages"] if stage["bound"] == bound]
    busy, cycles = sum(stage["busy"].get(bound, 0) for stage in stages), sum(stage["cycles"] + stage["hidden_cycles"] for stage in stages)
    why = (
        f"It is the slowest process of {len(stages)} stages and works in {percent(min(busy, cycles), cycles)} of their cycles. "
        "The multipliers wait for it, or not all of their places have work in it."
    )
    if bound == NEXT:
        return "Bringing the next operand", BRINGING, f"More multipliers do not help. {_together(facts)}"
    op = bound.partition("_")[0]
    numbers = facts["design"]["engines"].get(op)
    if numbers:
        shown = ", ".join(f"`{name}: {value}`" for name, value in numbers.items())
        change = f"Numbers of `{op}` in schedule.yaml that divide the sizes of the layers (now {shown}). For larger ones: {_room(facts)}."
    else:
        change = f"It takes `lanes` elements per cycle. An engine of its own (`engines` in schedule.yaml) divides its work; {_room(facts)}."
    return f"Process {bound}", why, change


def _room(facts: Facts) -> str:
    """Whether limits of the board keep the design from being larger, and how to move them."""
    rows = {name: row for name, row in facts["estimate"]["resources"].items() if row["limit"]}
    if not rows:
        return "the report names no limits of the board"
    name = max(rows, key=lambda name: rows[name]["used"] / rows[name]["limit"])
    row = rows[name]
    used = f"{name.upper()} takes {count(row['used'])} of {count(row['limit'])} that the limit allows"
    if row["used"] < NEAR * row["limit"]:
        return f"there is room ({used})"
    share = row["limit"] / row["available"] if row["available"] else 1
    higher = f"a higher limit (`--utilisation {name}={min(share + 0.1, 1):.2g}`) or " if share < NEAR else ""
    return f"{used}; {higher}a larger board (`attnc sweep`) makes room"


TEXTS: dict[str, Callable[[Facts, str], tuple[str, str, str]]] = {
    WORK: _work,
    START: _start,
    ELSEWHERE: _elsewhere,
    SERIAL: _serial,
    MEMORY: _memory,
    PROCESS: _process,
}
