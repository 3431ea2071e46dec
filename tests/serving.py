"""Services for tests: real ones, on sockets of this machine alone, in threads of the test process."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnc_host.serve import command
from attnc_host.serve.http import Service
from attnc_host.serve.limits import Limits
from attnc_host.serve.metrics import Metrics
from attnc_host.serve.worker import Worker

PATIENCE = 30.0
"""Seconds after which a test that waits has failed."""


@dataclass
class Running:
    """A service and where it is."""

    service: Service
    port: int
    stop: threading.Event
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def infer(self) -> str:
        return f"/v2/models/{self.service.name}/infer"

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of the answer; a body that is not bytes goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, content, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        status, content, _ = self.ask(method, path, body, headers)
        return status, json.loads(content)

    def metric(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    def wait(self, what: Callable[[], bool]) -> None:
        """Until something is true."""
        pause = threading.Event()
        for _ in range(int(PATIENCE / 0.005)):
            if what():
                return
            pause.wait(0.005)
        raise AssertionError("it did not happen")


@contextmanager
def serving(opener: Callable[[], Any], limits: Limits | None = None) -> Iterator[Running]:
    """A service over what `opener` opens; at the end it must have come to its end."""
    limits, metrics = limits or Limits(), Metrics()
    worker = Worker(opener, limits.samples, metrics)
    service = Service(worker, worker.start(), limits, metrics, "stand-in")
    stop, listens = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        thread = threading.Thread(target=command.run, args=(service, listener, listens.set, stop), daemon=True)
        thread.start()
        assert listens.wait(PATIENCE)
        try:
            yield Running(service, listener.getsockname()[1], stop, thread)
        finally:
            stop.set()
            thread.join(PATIENCE)
            ended = worker.close(PATIENCE)
    assert not thread.is_alive() and ended


@contextmanager
def started(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`attnc serve` on a free port, and the port that it says."""
    line = [sys.executable, "-m", "attnc", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        found = re.search(r"at http://127\.0\.0\.1:(\d+)/$", said.strip())
        assert found, said + process.stderr.read()
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def infer_body(x: Any, **fields: Any) -> dict[str, Any]:
    """The JSON of a request for the small build."""
    array = np.asarray(x, np.float32)
    return {**fields, "inputs": [{"name": "x", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}]}


class Held:
    """An accelerator whose runs wait until they are let go; `fail` is raised once where it is set."""

    def __init__(self, accelerator: Any) -> None:
        self.manifest, self.accelerator = accelerator.manifest, accelerator
        self.go, self.began = threading.Event(), threading.Semaphore(0)
        self.counts: list[int] = []
        self.fail: Exception | None = None
        self.closed = 0

    def run(self, inputs: Mapping[str, Any]) -> Any:
        self.counts.append(inputs["x"].shape[0])
        self.began.release()
        assert self.go.wait(PATIENCE)
        if self.fail is not None:
            failure, self.fail = self.fail, None
            raise failure
        return self.accelerator.run(inputs)

    def close(self) -> None:
        self.closed += 1


class Speaker:
    """A decoder that stands in for a model: its tokens are bytes, and it answers with a text that it was given."""

    context = 200

    def __init__(self, manifest: Any, answer: str) -> None:
        self.manifest, self.answer = manifest, answer.encode()
        self.prompts: list[str] = []
        self.made = self.ended = 0
        self.go: threading.Semaphore | None = None
        """Lets one token after the other go, where it is set."""

    def run(self, inputs: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    def encode(self, text: str) -> Sequence[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    ends: frozenset[int] = frozenset([0])

    def generate(self, ids: Sequence[int], max_new_tokens: int, **options: Any) -> Iterator[int]:
        self.prompts.append(self.decode(ids))
        self.options = options
        try:
            for token in self.answer[:max_new_tokens]:
                assert self.go is None or self.go.acquire(timeout=PATIENCE)
                self.made += 1
                yield token
        finally:
            self.ended += 1

    def close(self) -> None:
        pass
