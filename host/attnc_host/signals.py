"""Signals that end the process, held back while something must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and its kin wait until the end of the block."""
    before = {number: signal.getsignal(number) for number in ENDING}
    held = [number for number in ENDING if callable(before[number])]
    if threading.current_thread() is not threading.main_thread() or not held:
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    for number in held:
        signal.signal(number, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        for number in held:
            signal.signal(number, before[number])
        if waiting:
            before[signal.Signals(waiting[0][0])](*waiting[0])  # type: ignore[operator,misc]
