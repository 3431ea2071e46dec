"""Two processes at one board, and a process that is killed while it computes and started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from board.cases import ALWAYS, Bench
from board.processes import killed, two_at_once


def test_two_processes_at_one_board(bench: Bench, tmp_path: Path) -> None:
    second, after = two_at_once(bench, tmp_path)
    assert "/dev/uio0: another process has it open" in second and after == "equal"


@pytest.mark.parametrize("seconds, loaded", [(0.1, 0), (ALWAYS, 1)], ids=["ends by itself", "does not end"])
def test_killed_in_mid_run_and_started_again(seconds: float, loaded: int, bench: Bench, tmp_path: Path) -> None:
    """What was left running ends first, or with the bitstream being loaded; then the answers are right."""
    assert killed(bench, tmp_path, seconds) == ("equal", loaded)
