"""What the service takes: how many requests, how large, for how long. Everything is refused before memory is spent on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest

TEXT_BYTES = 32
"""Bytes that a number may take as text in a JSON body."""
SMALLEST_BODY = 1 << 20
"""No service refuses a body of this size: prompts, and names and brackets around numbers."""
LARGEST_DEFAULT = 1 << 26
"""No default for a body exceeds it, unless one sample as text does."""


class Refusal(Exception):
    """A request that is answered with an error: HTTP `status`, one message, and headers."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Limits:
    """Of one service. Times in seconds, sizes in bytes."""

    queue: int = 64
    """Requests that are being read, wait or run; a further one gets 429."""
    samples: int = 16
    """Of one request, and of those that run together."""
    body: int = SMALLEST_BODY
    """Of one request; a larger one gets 413."""
    bodies: int = 1 << 28
    """Of all requests that are being read, wait or run; one that would exceed it gets 429."""
    deadline: float = 30.0
    """From arrival to the answer, or to the first token of a text; then 504. A request may ask for less."""
    stream: float = 600.0
    """From arrival to the last token of a text."""
    reading: float = 10.0
    """For the body to arrive; then 408."""
    tokens: int = 1024
    """That one request may ask for."""
    grace: float = 30.0
    """At the end, for requests that were taken."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise AcceleratorError(f"{name}: needed a number above 0, found {value}")
        if self.bodies < self.body:
            raise AcceleratorError(f"bodies: needed at least the largest body, {self.body} bytes, found {self.bodies}")


def body_limit(manifest: Manifest, samples: int) -> int:
    """Bytes that a request of so many samples takes as text, within bounds that suit small boards."""
    one = TEXT_BYTES * sum(max(1, math.prod(port.shape)) for port in manifest.inputs)
    return SMALLEST_BODY + max(one, min(samples * one, LARGEST_DEFAULT))


class Gate:
    """Counts the requests inside and the bytes that they may take. The event loop alone passes it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = self.bytes = 0
        self.pace = 0.0
        """Seconds that the accelerator lately took per request."""

    @contextmanager
    def enter(self, declared: int | None) -> Iterator[None]:
        """Hold a place for a request whose body has `declared` bytes, or does not say how many. Raises `Refusal` when there is none."""
        size = self.limits.body if declared is None else declared
        if size > self.limits.body:
            raise Refusal(413, f"body: needed at most {self.limits.body} bytes, found {size}")
        if self.requests >= self.limits.queue or self.bytes + size > self.limits.bodies:
            wait = min(max(1, math.ceil(self.requests * self.pace)), math.ceil(self.limits.deadline))
            raise Refusal(429, f"the queue is full ({self.requests} requests); try again in {wait} s", Retry_After=str(wait))
        self.requests, self.bytes = self.requests + 1, self.bytes + size
        try:
            yield
        finally:
            self.requests, self.bytes = self.requests - 1, self.bytes - size
