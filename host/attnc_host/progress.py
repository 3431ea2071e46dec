"""What takes long says so on stderr."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

DELAY = 2.0
"""Seconds that a stage may take in silence."""


class Progress:
    """Stages with a name and, where known, a count.

    On a terminal the current stage is one line that is rewritten and wiped at the end; elsewhere each stage prints one line. Stages
    that end within `delay` seconds print nothing. `quiet` prints nothing at all.
    """

    def __init__(self, delay: float = DELAY, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.delay, self.quiet = delay, quiet
        self.stream = stream if stream is not None else sys.stderr
        self._tty = self.stream.isatty()
        self._text, self._done, self._total = "", 0, 0
        self._end: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def stage(self, text: str) -> None:
        """Begin a stage; the one before ends."""
        self.finish()
        self._text, self._done, self._total = text, 0, 0
        if self.quiet:
            return
        if self.delay <= 0 and not self._tty:
            self._write(text + "\n")
            return
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tell, args=(self._end, time.monotonic()), daemon=True)
        self._thread.start()

    def update(self, done: int, total: int) -> None:
        """`done` of `total` parts of the stage are complete."""
        self._done, self._total = done, total

    def finish(self) -> None:
        """End the stage."""
        if self._end is not None and self._thread is not None:
            self._end.set()
            self._thread.join()
            self._end = self._thread = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def _tell(self, end: threading.Event, start: float) -> None:
        if end.wait(self.delay):
            return
        if not self._tty:
            self._write(self._text + "\n")
            return
        while True:
            count = f" {self._done}/{self._total}" if self._total else ""
            self._write(f"\r\x1b[K{self._text}{count} ({time.monotonic() - start:.0f} s)")
            if end.wait(0.5):
                break
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self.quiet = True
