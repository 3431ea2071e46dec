"""`make sweep`: random graphs by the thousand, emitted C++ against golden, many graphs to a build.

A build is known by its number, a graph by the build and its place in it: `--only 17:5` compares that one alone. What was done lies in the
log, a line of JSON per build, and the same command goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

from attnc.errors import AttncError, BuildError
from attnc.ir import GraphError
from random_graphs.grow import Growth, grown
from random_graphs.pack import Compared, Settings, compare, quantized

PACK = 40
"""Graphs of a build."""


def settings_of(seed: int, build: int) -> Settings:
    """Of a build."""
    return Settings.drawn(Random(f"{seed} {build}"))


def graph_of(seed: int, build: int, place: int, settings: Settings, steps: int | None = None) -> Growth:
    """A graph of a build; its seed says which."""
    return grown((seed * 1_000_000 + build) * 1000 + place, settings.style, f"g{place}_", steps)


def run_build(job: tuple[int, int, int]) -> dict[str, Any]:
    """Compare `count` graphs of build (seed, build). What is refused or fails is found by compiling each graph alone."""
    seed, build, count = job
    started, settings = time.monotonic(), settings_of(seed, build)
    graphs = [graph_of(seed, build, place, settings) for place in range(count)]
    return {"seed": seed, "build": build, **outcome(graphs, settings), "seconds": round(time.monotonic() - started, 1)}


def outcome(graphs: Sequence[Growth], settings: Settings) -> dict[str, Any]:
    """How many graphs are equal to golden, or all on the host; which differ, are refused or fail, by their places, and why."""
    record: dict[str, Any] = {"refused": {}, "failed": {}, "differ": {}, "host": 0, "equal": 0}
    for one in _compared(graphs, settings, record):
        if one.differs:
            record["differ"][str(one.seed % 1000)] = dict(one.elements)
        else:
            record["equal" if one.elements else "host"] += 1
    return record


def _compared(graphs: Sequence[Growth], settings: Settings, record: dict[str, Any]) -> list[Compared]:
    """All that can be compared: together, without the few graphs that errors name. Where they are more, or an error names none, each graph
    is tried alone: first only quantized, then all of it."""
    alone, few = [compare, only_quantized], 2 if settings.arrives == "float" else 0
    while graphs:
        try:
            return compare(graphs, settings)
        except Exception as error:
            named = re.search(r"\bg(\d+)_", str(error)) if isinstance(error, AttncError) else None
            if named is not None and few:
                few -= 1
                record[kind_of(error)][named[1]] = f"{type(error).__name__}: {error}"
                graphs = [graph for graph in graphs if graph.prefix != f"g{named[1]}_"]
            elif alone:
                check = alone.pop()
                graphs = [graph for graph in graphs if _works(check, graph, settings, record)]
            else:
                record["failed"]["together"] = traceback.format_exc()
                return []
    return []


def kind_of(error: Exception) -> str:
    """Whether a model is refused, or attnc has failed."""
    return "refused" if isinstance(error, AttncError) and not isinstance(error, GraphError | BuildError) else "failed"


def _works(check: Callable[..., object], graph: Growth, settings: Settings, record: dict[str, Any]) -> bool:
    """Whether a graph passes alone; if not, it is refused, or has failed where the error is one of attnc's own."""
    try:
        check([graph], settings)
        return True
    except Exception as error:
        told = f"{type(error).__name__}: {error}" if isinstance(error, AttncError) else traceback.format_exc()
        record[kind_of(error)][str(graph.seed % 1000)] = told
        return False


def only_quantized(graphs: Sequence[Growth], settings: Settings) -> None:
    """The graphs without hardware."""
    with tempfile.TemporaryDirectory(prefix="attnc-sweep-") as folder:
        quantized(graphs, settings, Path(folder))


def shortest(seed: int, build: int, place: int) -> int | None:
    """The least number of steps of a graph at which it differs from golden, or fails, alone; None where it does not."""
    settings = settings_of(seed, build)
    whole = graph_of(seed, build, place, settings)
    for steps in range(1, len(whole.steps) + 1):
        try:
            if any(one.differs for one in compare([graph_of(seed, build, place, settings, steps)], settings)):
                return steps
        except Exception as error:
            print(f"{steps} steps: {type(error).__name__}: {error}")
            if kind_of(error) == "failed":
                return steps
    return None


def replay(seed: int, text: str) -> int:
    """`--only`: a whole build, or one graph alone and as short as it still differs."""
    build, _, place = text.partition(":")
    settings = settings_of(seed, int(build))
    print(settings)
    if not place:
        print(json.dumps(run_build((seed, int(build), PACK)), indent=1))
        return 0
    steps = shortest(seed, int(build), int(place))
    whole = graph_of(seed, int(build), int(place), settings)
    print(f"steps {whole.steps}: " + ("alone it equals golden" if steps is None else f"it fails after {steps}"))
    return 0 if steps is None else 1


def summary(records: Sequence[dict[str, Any]]) -> str:
    """The last line."""
    equal, differ, failed = (sum(size(record[name]) for record in records) for name in ("equal", "differ", "failed"))
    refused = sum(len(record["refused"]) for record in records)
    return f"{equal + differ} graphs, {len(records)} builds, {differ} differ, {failed} failed, {refused} refused"


def size(found: Any) -> int:
    """A number, or how many there are."""
    return found if isinstance(found, int) else len(found)


def sweep(graphs: int, seed: int, workers: int, log: Path) -> int:
    """Go on until `graphs` graphs were compared. Returns 1 where one differs or fails."""
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    records = [record for record in records if record["seed"] == seed]
    done = {record["build"] for record in records}
    jobs = ((seed, build, PACK) for build in range(1_000_000) if build not in done)
    log.parent.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool, log.open("a") as file:
        running = [pool.apply_async(run_build, (next(jobs),)) for _ in range(workers)]
        while sum(size(record["equal"]) + len(record["differ"]) for record in records) < graphs:
            record = running.pop(0).get()
            running.append(pool.apply_async(run_build, (next(jobs),)))
            records.append(record)
            file.write(json.dumps(record) + "\n")
            file.flush()
            for kind in ("differ", "failed"):
                for place, what in record[kind].items():
                    print(f"{kind}: --seed {seed} --only {record['build']}:{place}: {str(what).splitlines()[-1]}", flush=True)
            print(f"{summary(records)} ({record['seconds']} s)", flush=True)
        pool.terminate()
    refused = Counter(message.partition(": ")[2][:100] for record in records for message in record["refused"].values())
    for message, times in refused.most_common(12):
        print(f"refused {times}: {message}")
    print(summary(records))
    return int(any(record["differ"] or record["failed"] for record in records))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Random graphs: emitted C++ against golden.")
    parser.add_argument("--graphs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--log", type=Path, default=Path("build/sweep.jsonl"))
    parser.add_argument("--only", metavar="BUILD[:GRAPH]", help="replay one build, or one graph of it alone")
    args = parser.parse_args()
    return replay(args.seed, args.only) if args.only else sweep(args.graphs, args.seed, args.workers, args.log)


if __name__ == "__main__":
    sys.exit(main())
