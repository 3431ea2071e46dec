"""Runs one command line in this process and says what is wrong with how it went."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from attnc.cli import main

SECONDS = 20.0
"""Of the processor: a mutant that takes longer hangs."""
MEMORY = 1 << 30
"""Bytes beyond four times the size of its input that a mutant may take."""
LONGEST = 2000
"""Characters of a message."""
LINE = re.compile(r"attnc: (note|error): .|(reading|compiling|golden|C\+\+|simulating)[\w:+ ]*$")
"""A message, or a stage that takes more than two seconds."""


class TimeOut(BaseException):
    """Raised in a command that takes too long; no handler of ordinary exceptions sees it."""


@dataclass
class Verdict:
    """How a command went: its exit code, what it printed, and what is wrong with that."""

    code: int
    seconds: float
    peak: int
    out: str
    err: str
    wrong: list[str] = field(default_factory=list)


@contextmanager
def captured(into: list[str]) -> Iterator[None]:
    """What this process and the libraries in it write to stdout and stderr, in C as well, goes into the list when the block ends."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = [os.dup(number) for number in (1, 2)]
        streams = sys.stdout, sys.stderr
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        with (
            open(1, "w", encoding="utf-8", closefd=False) as one,
            open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as two,
        ):
            sys.stdout, sys.stderr = one, two
            try:
                yield
            finally:
                sys.stdout, sys.stderr = streams
        for number, was in zip((1, 2), kept, strict=True):
            os.dup2(was, number)
            os.close(was)
        for file in (out, err):
            file.seek(0)
            into.append(file.read().decode("utf-8", "backslashreplace"))


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """`TimeOut` in the main thread once the process has used so much time."""

    def stop(*_: object) -> None:
        raise TimeOut

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _status(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def judge(command: Sequence[str], folder: Path, temporary: Path, size: int, verbose: bool = False) -> Verdict:
    """Run `command`, which may leave nothing but `out` in `folder` and nothing in `temporary`, over inputs of `size` bytes."""
    before, threads = set(os.listdir(folder)), threading.active_count()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start, resident, texts = time.process_time(), _status("VmRSS"), list[str]()
    with captured(texts):
        try:
            with limited(SECONDS):
                code = main([*command, *(["-v"] if verbose else [])])
        except TimeOut:
            code = -1
    verdict = Verdict(code, time.process_time() - start, max(0, _status("VmHWM") - resident), *texts)
    wrong = verdict.wrong
    if code == -1:
        wrong.append(f"takes more than {SECONDS:g} s")
    if verdict.peak > 4 * size + MEMORY:
        wrong.append(f"takes {verdict.peak >> 20} MiB")
    wrong += [*_left(before, folder, code), *_left(set(), temporary, code)]
    if threading.active_count() > threads:
        wrong.append("leaves threads behind")
    wrong += _said(verdict, verbose)
    return verdict


def _left(before: set[str], folder: Path, code: int) -> list[str]:
    allowed = before | ({"out", "y.npz"} if code == 0 else set())
    return [f"leaves {name!r} behind" for name in sorted(set(os.listdir(folder)) - allowed)]


def _said(verdict: Verdict, verbose: bool) -> list[str]:
    """Success is silent but for notes, an error is one message."""
    code, wrong = verdict.code, list[str]()
    lines = verdict.err.splitlines()
    errors = [line for line in lines if line.startswith("attnc: error: ")]
    if code not in (-1, 0, 1, 2):
        wrong.append(f"exit code {code}: {lines[-1] if lines else ''}")
    if code == 2 and len(errors) != 1:
        wrong.append("exit code 2 without one error")
    if code == 0 and errors:
        wrong.append("an error, and exit code 0")
    if code == 2 and "out of memory" in verdict.err:
        wrong.append("runs out of memory")
    if verbose or code == 70:
        return wrong
    strays = [line for line in lines if not LINE.match(line) and not line.startswith("  ")]
    if strays:
        wrong.append(f"stray text on stderr: {strays[0][:200]!r}")
    if not all(c.isprintable() or c == "\n" for c in verdict.err + verdict.out):
        wrong.append("control characters in what it says")
    if len(verdict.err) > LONGEST * max(1, len(lines)) or max(map(len, lines), default=0) > LONGEST:
        wrong.append(f"a message of {max(map(len, lines))} characters")
    return wrong
