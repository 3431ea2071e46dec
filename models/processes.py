"""Rows of a table, each made in a process of its own with a time limit: forked from one that has what all of them import."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import resource
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from models import kept_compiler

TIMEOUT = 1800
IMPORTED = ["models.families", "attnc.compiler", "attnc.frontend.load", "onnxruntime.quantization"]
"""What takes long to import."""
Row = dict[str, Any]
_CONTEXT = multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def making(folder: Path) -> Iterator[None]:
    """Rows are made here, each on one core; C++ that is alike is compiled once and kept in `folder`."""
    compiler = [sys.executable, "-S", "-E", kept_compiler.__file__, str(folder), *shlex.split(os.environ.get("CXX", "g++"))]
    changed = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CXX": shlex.join(compiler), "PYTHONPATH": os.pathsep.join(sys.path)}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    folder.mkdir(parents=True, exist_ok=True)
    _CONTEXT.set_forkserver_preload(IMPORTED)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def run(make: Callable[..., Row], *arguments: Any) -> Row:
    """The row that `make` makes, or its error; and seconds, from start to end and of processors."""
    started = time.perf_counter()
    receive, send = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_made, args=(send, make, arguments))
    process.start()
    send.close()
    row: Row
    try:
        row = receive.recv() if receive.poll(TIMEOUT) else {"error": f"not ready after {TIMEOUT} s"}
    except EOFError:
        process.join()
        row = {"error": f"stopped with exit code {process.exitcode}"}
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)  # with what it has started
    process.join()
    return {**row, "seconds": round(time.perf_counter() - started, 1)}


def _made(send: Connection, make: Callable[..., Row], arguments: tuple[Any, ...]) -> None:
    """The child process."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # exporters talk
    os.dup2(nothing, 2)
    logging.disable(logging.WARNING)
    try:
        row = make(*arguments)
    except Exception as error:
        row = {"error": str(error).strip().split("\n")[0] or type(error).__name__}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    send.send({**row, "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in used), 1)})
