"""What `python -m attnc_host serve` and `attnc serve` call: an address, a server, an end without losses."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnc_host import backends
from attnc_host.accelerator import Accelerator
from attnc_host.errors import AcceleratorError

KEEP_ALIVE = 30
"""Seconds that a connection may be idle."""


def serve(path: Path, backend: str, host: str, port: int, **limits: Any) -> None:
    """Serve a build folder or an archive until SIGTERM or Ctrl-C; what was taken until then is answered. `limits` are fields of `Limits`;
    those that are None have their defaults."""
    try:
        from attnc_host.serve.generation import Decoder
        from attnc_host.serve.http import Service
        from attnc_host.serve.limits import Limits, body_limit
        from attnc_host.serve.metrics import Metrics
        from attnc_host.serve.worker import Worker
    except ImportError as error:
        raise AcceleratorError(f"a service needs {error.name}, which is not installed: pip install 'attnc-host[serve]'") from error

    given = {name: value for name, value in limits.items() if value is not None}
    with _listening(host, port) as listener:
        chosen, metrics = Limits(**{**given, "body": given.get("body", 1)}), Metrics()

        def opened() -> Any:
            accelerator = Accelerator.open(path, backend)
            return accelerator if accelerator.manifest.decoder is None else Decoder(accelerator)

        worker = Worker(opened, chosen.samples, metrics)
        try:
            accelerator = worker.start()
            if "body" not in given:
                body = body_limit(accelerator.manifest, chosen.samples)
                chosen = replace(chosen, body=body, bodies=given.get("bodies", max(chosen.bodies, body)))
            name = backends.choose(accelerator.manifest) if backend == "auto" else backend
            service = Service(worker, accelerator, chosen, metrics, name)
            run(service, listener, lambda: _say(service, listener))
        finally:
            if not worker.close(chosen.grace):
                print("attnc: the accelerator did not finish in time", file=sys.stderr)


def run(service: Any, listener: socket.socket, started: Callable[[], None] = lambda: None, stop: threading.Event | None = None) -> None:
    """Answer on a socket until a signal or `stop` ends it."""
    import uvicorn

    from attnc_host.serve.app import create_app

    class Server(uvicorn.Server):
        """Ends at a signal as if asked to, and tells when it listens."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or (stop is not None and stop.is_set())

    config = uvicorn.Config(
        create_app(service),
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(service.limits.grace)),
    )
    asyncio.run(Server(config).serve([listener]))


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at an address. It is taken before the accelerator opens, so that a port in use costs no time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        raise AcceleratorError(f"{host}:{port}: cannot listen there: {getattr(error, 'strerror', None) or error}") from error
    with listener:
        yield listener


def _say(service: Any, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"attnc: {service.name} on {service.backend}, at http://{shown}:{port}/", file=sys.stderr, flush=True)


LIMITS: dict[str, tuple[Callable[[str], Any], str]] = {
    "queue": (int, "requests that are taken at a time; a further one gets 429 (default 64)"),
    "samples": (int, "samples of a request, and of those that run together (default 16)"),
    "body": (int, "bytes of a request (default: what the samples take as text, and 1 MiB)"),
    "deadline": (float, "seconds until the answer, or the first token of a text (default 30)"),
    "stream": (float, "seconds until the last token of a text (default 600)"),
    "tokens": (int, "tokens of a text (default 1024)"),
    "grace": (float, "seconds to finish in after SIGTERM (default 30)"),
}
"""Limits that the command line sets, with their types and what they are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line of a service takes."""
    parser.add_argument("build", type=Path, help="an archive (attnc package), or a build folder")
    parser.add_argument("--backend", default="auto", choices=["auto", *backends.names()], help="by default the board that is here")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default %(default)s: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default %(default)s)")
    for name, (kind, text) in LIMITS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)


def serve_arguments(given: argparse.Namespace) -> None:
    """Serve what a command line with `add_arguments` says."""
    serve(given.build, given.backend, given.host, given.port, **{name: getattr(given, name) for name in LIMITS})
