"""Mutants in processes of their own: what hangs or crashes costs one process and no more."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from fuzz.judge import Verdict, judge
from fuzz.mutants import Mutants

ADDRESSES = 6 << 30
"""Bytes of data after which a process gets no more: the machine outlives what a mutant asks for."""
PATIENCE = 180.0
"""Seconds after which a process that a mutant runs in is ended: it hangs where Python cannot interrupt it, or waits for ever."""


@dataclass(frozen=True)
class Finding:
    """A mutant and what is wrong."""

    number: int
    what: str
    command: str
    wrong: list[str]


def run_one(mutants: Mutants, number: int, root: Path, verbose: bool = False) -> tuple[Finding | None, Verdict]:
    """Make mutant `number` in a folder of `root`, run it; its folder stays if something is wrong."""
    place = root / f"{mutants.seed}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    folder, temporary = place / "files", place / "tmp"
    for made in (folder, temporary):
        made.mkdir(parents=True)
    mutant = mutants.make(number, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    verdict = judge(mutant.command, folder, temporary, size, verbose)
    if not verdict.wrong:
        shutil.rmtree(place)
        return None, verdict
    found = Finding(number, mutant.what, " ".join(mutant.command), verdict.wrong)
    (place / "finding.json").write_text(json.dumps({**asdict(found), "stdout": verdict.out, "stderr": verdict.err}, indent=2))
    return found, verdict


def work(pipe: Connection, mutants: Mutants, root: Path) -> None:
    """A process that runs the mutants it is told to, one after the other."""
    resource.setrlimit(resource.RLIMIT_DATA, (ADDRESSES, ADDRESSES))
    os.environ.update(CXX="false", OMP_NUM_THREADS="1")  # C++ is compiled elsewhere; here that it fails is enough
    while (number := pipe.recv()) is not None:
        found, verdict = run_one(mutants, number, root)
        pipe.send((number, found, verdict.code, verdict.seconds, verdict.peak))


class Worker:
    """One of those processes, seen from outside."""

    def __init__(self, mutants: Mutants, root: Path) -> None:
        self.mutants, self.root = mutants, root
        self.number, self.since = -1, 0.0
        self.pipe: Connection
        self.process: SpawnProcess
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.mutants, self.root), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, number: int | None) -> None:
        self.number, self.since = (-1 if number is None else number), time.monotonic()
        self.pipe.send(number)

    def lost(self, why: str) -> Finding:
        """What becomes of the mutant that ended the process; another one starts."""
        self.process.kill()
        self.process.join()
        self.start()
        return Finding(self.number, "see its folder", "", [why])


def results(mutants: Mutants, numbers: range, workers: int, root: Path) -> Iterator[tuple[int, Finding | None, int, float, int]]:
    """(number, finding, exit code, seconds, peak of memory) of all mutants, in the order in which they end."""
    left, crew = iter(numbers), [Worker(mutants, root) for _ in range(min(workers, len(numbers)))]
    for worker in crew:
        worker.give(next(left))
    busy = list(crew)
    while busy:
        ready = wait([worker.pipe for worker in busy], timeout=1.0)
        for worker in list(busy):
            late = time.monotonic() - worker.since > PATIENCE
            if worker.pipe not in ready and not late:
                continue
            try:
                if late and worker.pipe not in ready:
                    yield worker.number, worker.lost(f"hangs, more than {PATIENCE:g} s"), -1, PATIENCE, 0
                else:
                    yield worker.pipe.recv()
            except (EOFError, ConnectionError):
                worker.process.join()
                yield worker.number, worker.lost(f"ends the process, code {worker.process.exitcode}"), -1, 0.0, 0
            following = next(left, None)
            if following is None:
                busy.remove(worker)
            worker.give(following)
    for worker in crew:
        worker.process.join()
