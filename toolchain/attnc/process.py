"""A command line as a process: exit codes, one message on stderr, signals that let everything be cleaned up."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

from attnc.console import EXIT_DIFFERENT, State, remarks
from attnc.errors import AttncError, DeadlockError, DifferenceError
from attnc.messages import clean, message
from attnc_host import AcceleratorError

EXIT_ERROR = 2
EXIT_INTERNAL = 70
EXIT_SIGNAL = 128
COLLECT_AFTER = 100_000
"""Objects made since garbage was last looked for: a search of designs makes many, hardly any of them in circles."""
EXIT_INTERRUPTED = EXIT_SIGNAL + signal.SIGINT


def run(command: Callable[[], int]) -> int:
    """The exit code of a command; what goes wrong in it is told on stderr in one message."""
    gc.set_threshold(COLLECT_AFTER)
    try:
        with _ended_by_signals(), remarks():
            code = command()
            sys.stdout.flush()
        if code == EXIT_INTERRUPTED:
            print("attnc: interrupted", file=sys.stderr)
        return code
    except BrokenPipeError:
        _drop_stdout()  # nobody reads on
        return EXIT_DIFFERENT
    except KeyboardInterrupt:
        print("attnc: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (DifferenceError, DeadlockError) as error:
        return _fail("error", str(error), EXIT_DIFFERENT)
    except (AttncError, AcceleratorError) as error:
        return _fail("error", str(error), EXIT_ERROR)
    except MemoryError:
        return _fail("error", "out of memory", EXIT_ERROR)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail("error", f"{where}{error.strerror or error}", EXIT_ERROR)
    except Exception as error:
        hint = "" if State.verbose else " (-v for the traceback)"
        return _fail("internal error", f"{type(error).__name__}: {error}{hint}", EXIT_INTERNAL)


def _fail(label: str, text: str, code: int) -> int:
    """One message on stderr."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()
    if State.verbose:
        print(clean(traceback.format_exc()), file=sys.stderr)
    print(message(label, text, State.verbose), file=sys.stderr)
    return code


def _drop_stdout() -> None:
    """Point stdout elsewhere, so that closing it does not complain of what it cannot write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A request to end (SIGTERM, SIGHUP) unwinds what runs, as Ctrl-C does, so that nothing half done stays."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT_SIGNAL + number)

    held = {}
    if threading.current_thread() is threading.main_thread():
        held = {n: signal.signal(n, end) for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, before in held.items():
            signal.signal(number, before)
