"""Two processes at one board, and a process that is killed while it computes and started again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attnc_host import AcceleratorError
from attnc_host.virtual.board import VirtualBoard
from attnc_host.virtual.faults import Fault
from attnc_host.virtual.remote import serve
from board.cases import ALWAYS, Bench
from board.processes import KEY, drive


@contextlib.contextmanager
def served(bench: Bench, folder: Path, faults: list[Fault]) -> Iterator[tuple[VirtualBoard, Path]]:
    board, socket = VirtualBoard(bench.manifest, faults), folder / "socket"
    threading.Thread(target=serve, args=(board, socket, KEY), daemon=True).start()
    while not socket.exists():
        threading.Event().wait(0.01)
    try:
        yield board, socket
    finally:
        board.close()


@contextlib.contextmanager
def other(socket: Path, bench: Bench, folder: Path, stop: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "board.processes", str(socket), str(bench.manifest.folder), str(folder), stop]
    here = Path(__file__).parents[1]
    process = subprocess.Popen(command, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_at_one_board(bench: Bench, tmp_path: Path) -> None:
    with served(bench, tmp_path, []) as (_, socket), other(socket, bench, tmp_path, "open") as process:
        assert line(process) == "open"
        with pytest.raises(AcceleratorError, match="/dev/uio0: another process has it open"):
            drive(socket, bench, tmp_path)
        process.kill()
        process.wait()
        with drive(socket, bench, tmp_path) as accelerator:
            np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected)


@pytest.mark.parametrize("seconds", [0.1, ALWAYS], ids=["ends by itself", "does not end"])
def test_killed_in_mid_run_and_started_again(seconds: float, bench: Bench, tmp_path: Path) -> None:
    """What was left running ends first, or with the bitstream being loaded; then the answers are right."""
    late = [Fault("done late", value=seconds, skip=1)]
    with served(bench, tmp_path, late) as (board, socket), other(socket, bench, tmp_path, "in a run") as process:
        assert (line(process), line(process)) == ("open", "runs")
        assert board.run is not None
        process.kill()
        process.wait()
        with drive(socket, bench, tmp_path) as accelerator:
            np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected)
        assert late[0].struck == 1 and board.loaded == (seconds == ALWAYS)
