"""A virtual board in a process of its own, so that others can open it, fight for it, and be killed while it computes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from attnc_host.virtual.board import VirtualBoard

CALLS = ("read", "write", "wait", "now", "program", "to_memory", "from_memory")


@contextlib.contextmanager
def served(board: VirtualBoard, path: Path, key: bytes) -> Iterator[None]:
    """Until the end of the block whoever connects to the socket at `path` and has the key is answered."""
    with Listener(str(path), "AF_UNIX", authkey=key) as listener:
        threading.Thread(target=_accept, args=(board, listener), daemon=True).start()
        yield


def _accept(board: VirtualBoard, listener: Listener) -> None:
    with contextlib.suppress(OSError):  # it was closed
        while True:
            threading.Thread(target=_answer, args=(board, listener.accept()), daemon=True).start()


def _answer(board: VirtualBoard, connection: Connection) -> None:
    try:
        while True:
            name, *given = connection.recv()
            connection.send(getattr(board, name)(*given) if name in CALLS else None)
    except (EOFError, OSError):
        return  # its process is gone; the board goes on


class RemoteBoard:
    """The bus of a virtual board that another process serves."""

    def __init__(self, path: Path, key: bytes) -> None:
        self._connection = Client(str(path), "AF_UNIX", authkey=key)

    def _ask(self, *what: Any) -> Any:
        self._connection.send(what)
        return self._connection.recv()

    def read(self, offset: int) -> int:
        """A register."""
        return int(self._ask("read", offset))

    def write(self, offset: int, value: int) -> None:
        """A register."""
        self._ask("write", offset, int(value))

    def wait(self, seconds: float) -> bool:
        """For an interrupt."""
        return bool(self._ask("wait", seconds))

    def now(self) -> float:
        """Seconds."""
        return float(self._ask("now"))

    def program(self) -> bool:
        """Load the bitstream."""
        return bool(self._ask("program"))

    def to_memory(self, at: int, data: bytes) -> None:
        """From the caches."""
        self._ask("to_memory", at, data)

    def from_memory(self, at: int, size: int) -> bytes | None:
        """Into the caches."""
        found: bytes | None = self._ask("from_memory", at, size)
        return found
