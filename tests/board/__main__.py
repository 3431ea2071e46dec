"""`make test-board`: every fault of the virtual board, what the driver makes of it, and what a driver without its care would."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from board.cases import ALWAYS, CASES, Bench, Case, naive, outcome
from board.processes import killed, memory, two_at_once
from small_build import write_deep_build

EQUAL = "answers equal golden"


def told(text: str) -> str:
    """The gist of an error."""
    return re.sub(r"^.*?: ", "", re.sub(r"; (reached|registers|hint).*", "", text), count=1)


def row(bench: Bench, one: Case) -> tuple[bool, list[str]]:
    ends, recovered = outcome(bench, one)
    if one.ends == "equal":
        fine, what = (ends, recovered) == ("equal", one.recovered), EQUAL if ends == "equal" else told(ends)
    else:
        fine, what = re.search(one.ends, ends) is not None, f"error: {told(ends)}"
    harm = naive(bench, one)
    tries = f", after {recovered} retry" if recovered else ""
    return fine and harm == one.naive, [str(one), what + tries, {"wrong": "a wrong answer", "hangs": "waits for ever"}.get(harm, harm)]


def others(bench: Bench, folder: Path) -> list[tuple[bool, list[str]]]:
    """What takes two processes, or less memory."""
    places = iter(range(10))

    def place() -> Path:
        (found := folder / str(next(places))).mkdir()
        return found

    second, after = two_at_once(bench, place())
    wanted = {
        "two processes: the second": (second, "another process has it open"),
        "two processes: one that comes when the first was killed": (after, "equal"),
        "killed in mid-run, and started again; the run ends": (killed(bench, place(), 0.1)[0], "equal"),
        "killed in mid-run, and started again; the run does not end": (killed(bench, place(), ALWAYS)[0], "equal"),
        "memory exhausted: none for a second sample": (memory(bench, place(), 3), "equal"),
        "memory exhausted: none for the first": (memory(bench, place(), 2), "bytes of contiguous memory for memory, and got none"),
    }
    return [(text in found, [name, EQUAL if found == "equal" else f"error: {told(found)}", "-"]) for name, (found, text) in wanted.items()]


def main() -> int:
    table = Table("fault", "driver", "a driver without care", title="Faults of the virtual board")
    with tempfile.TemporaryDirectory(prefix="attnc-board-") as folder:
        bench = Bench.of(write_deep_build(Path(folder) / "build"))
        rows = [row(bench, one) for one in CASES] + others(bench, Path(folder))
    for fine, cells in rows:
        table.add_row(*cells, style="" if fine else "bold red")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    bad = sum(not fine for fine, _ in rows)
    print(f"{len(rows)} faults, {bad} of them end in another way than they should")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
