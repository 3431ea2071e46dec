"""Every pipelined loop of the emitted code, by the function and the label that it has in the headers."""

from __future__ import annotations

from collections.abc import Iterable

from attnc.kernels.memory import MOVERS
from attnc.kernels.network import Loop, Process
from attnc.kernels.networks import NETWORKS


def loops_of(processes: Iterable[Process]) -> dict[str, Loop]:
    """By "function.LABEL"."""
    return {f"{loop.function or process.function}.{loop.label}": loop for process in processes for loop in process.loops}


LOOPS = loops_of([*(process for network in NETWORKS for process in network.processes), *MOVERS])
