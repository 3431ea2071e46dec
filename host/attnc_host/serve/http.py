"""What every endpoint does with HTTP: read a body within limits, wait for a result while the client stays, answer errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from attnc_host.errors import AcceleratorError, InputError
from attnc_host.manifest import Manifest
from attnc_host.serve.limits import Gate, Limits, Refusal
from attnc_host.serve.metrics import Metrics
from attnc_host.serve.worker import Unavailable, Worker

CLIENT_LEFT = 499
"""Status of a request whose client left, in metrics alone: nobody reads an answer."""
LATE = "the deadline of the request passed before the answer was there"
T = TypeVar("T")
Message = MutableMapping[str, Any]


@dataclass
class Service:
    """What the endpoints share. `accelerator` is there for its description; the worker's thread alone runs it."""

    worker: Worker
    accelerator: Any
    limits: Limits
    metrics: Metrics
    backend: str
    gate: Gate = field(init=False)
    started: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.gate = Gate(self.limits)

    @property
    def manifest(self) -> Manifest:
        """Of the build that is served."""
        return self.accelerator.manifest

    @property
    def name(self) -> str:
        """Of the model."""
        return self.manifest.name

    @contextmanager
    def place(self, request: Request) -> Iterator[None]:
        """A place among the requests that are taken, for one whose body has yet to be read."""
        self.gate.pace = self.worker.job_seconds
        with self.gate.enter(_declared(request)):
            self.metrics.inside.set(self.gate.requests)
            try:
                yield
            finally:
                self.metrics.inside.set(self.gate.requests - 1)


def _declared(request: Request) -> int | None:
    """Bytes of the body as its header says them; None where it comes in chunks."""
    found = request.headers.get("content-length")
    if found is None:
        return None
    if not (found.isascii() and found.isdigit() and len(found) < 19):
        raise Refusal(400, f"Content-Length: needed a whole number, found {found!r:.80}")
    return int(found)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, which may take so much room and time and must not be compressed."""
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise Refusal(415, f"Content-Encoding: needed none, found {coding!r:.80}")
    parts: list[bytes] = []

    async def read() -> None:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limits.body:
                raise Refusal(413, f"body: needed at most {limits.body} bytes, found more")
            parts.append(part)

    try:
        await asyncio.wait_for(read(), limits.reading)
    except asyncio.TimeoutError:
        raise Refusal(408, f"body: needed all of it within {limits.reading:g} s") from None
    except ClientDisconnect:
        raise Refusal(CLIENT_LEFT, "the client left") from None
    return b"".join(parts)


async def result_of(request: Request, future: Future[T], until: float) -> T:
    """What a job gives; the job is called off when the client leaves or the time (of `time.monotonic`) is over."""
    try:
        return await while_connected(request, asyncio.wrap_future(future), until)
    finally:
        future.cancel()  # at once, not when the loop comes to it: nothing to a job that has begun


async def while_connected(request: Request, waiting: asyncio.Future[T], until: float) -> T:
    """The result of `waiting`, which is cancelled when the client leaves or the time is over."""
    gone = asyncio.ensure_future(_gone(request))
    begin = time.monotonic()
    try:
        either: set[asyncio.Future[Any]] = {waiting, gone}
        done, _ = await asyncio.wait(either, timeout=max(0.0, until - begin), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        raise Unavailable("the service ended before there was an answer") from None
    finally:
        gone.cancel()
        if not waiting.done():
            waiting.cancel()
    if waiting in done:
        return waiting.result()
    if gone in done:
        raise Refusal(CLIENT_LEFT, "the client left")
    raise Refusal(504, LATE)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refusal(error: BaseException) -> Refusal:
    """What an error means to a client: whose fault it is, and what it says."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, asyncio.TimeoutError):
        return Refusal(504, LATE)
    if isinstance(error, InputError):
        return Refusal(400, str(error))
    if isinstance(error, Unavailable):
        return Refusal(503, str(error), Retry_After="1")
    if isinstance(error, AcceleratorError):
        return Refusal(500, str(error))
    return Refusal(500, f"internal error: {type(error).__name__}")


class Measured:
    """ASGI middleware: counts and times every answer by the path of its route."""

    def __init__(self, app: Callable[..., Awaitable[None]], metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.monotonic(), CLIENT_LEFT

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception:
            status = 500
            raise
        finally:
            path = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - begin)
