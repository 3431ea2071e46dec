"""One accelerator, many clients: who waits, who is refused, who is called off, and what a failing device and the end of the service do."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc_host import Accelerator, AcceleratorError, InputError
from attnc_host.serve.limits import Limits, body_limit
from serving import PATIENCE, Held, Running, infer_body, serving
from small_build import random_inputs

X = random_inputs(8)["x"]


@pytest.fixture
def held(shared_build: Path) -> Iterator[Held]:
    with Accelerator.open(shared_build, "golden") as accelerator:
        yield Held(accelerator)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as found:
        yield found


def begin(pool: ThreadPoolExecutor, at: Running, held: Held, **fields: Any) -> Future[tuple[int, Any]]:
    """A request that the accelerator is busy with."""
    first = pool.submit(at.json, "POST", at.infer, infer_body(X[:1], **fields))
    assert held.began.acquire(timeout=PATIENCE)
    return first


def inside(at: Running, count: int) -> None:
    """Wait until so many requests sit in the queue."""
    at.wait(lambda: at.metric("attnc_queue_length") == count)


def test_what_waits_runs_together_and_stays_apart(held: Held, pool: ThreadPoolExecutor) -> None:
    with serving(lambda: held, Limits(samples=4)) as at:
        first = begin(pool, at, held)
        others = []
        for i in range(3):
            others.append(pool.submit(at.json, "POST", at.infer, infer_body(X[2 * i : 2 * i + 2], id=str(i))))
            inside(at, i + 1)
        held.go.set()
        assert first.result()[0] == 200
        for i, other in enumerate(others):
            status, answer = other.result()
            assert status == 200 and answer["id"] == str(i)
            expected = held.accelerator.run({"x": X[2 * i : 2 * i + 2]})["y"]
            np.testing.assert_array_equal(np.float32(answer["outputs"][0]["data"]).reshape(2, 4, 5), expected)
    assert held.counts == [1, 4, 2] and held.closed == 1


def test_a_full_queue_refuses_and_recovers(held: Held, pool: ThreadPoolExecutor) -> None:
    with serving(lambda: held, Limits(queue=2)) as at:
        first = begin(pool, at, held)
        second = pool.submit(at.json, "POST", at.infer, infer_body(X[:1]))
        inside(at, 1)
        status, content, headers = at.ask("POST", at.infer, infer_body(X[:1]))
        assert status == 429 and int(headers["retry-after"]) >= 1 and "the queue is full (2 requests)" in json.loads(content)["error"]
        assert at.ask("GET", "/v2/health/ready")[0] == 200
        held.go.set()
        assert first.result()[0] == second.result()[0] == 200
        assert at.json("POST", at.infer, infer_body(X[:1]))[0] == 200


def test_bodies_are_counted_before_they_are_read(held: Held) -> None:
    """One that only announces itself, and sends nothing, holds its bytes until its time is over; then there is room again."""
    with serving(lambda: held, Limits(body=2000, bodies=3000, reading=2.0)) as at, socket.create_connection(("127.0.0.1", at.port)) as slow:
        held.go.set()
        slow.sendall(f"POST {at.infer} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n".encode())
        at.wait(lambda: at.metric("attnc_requests_inside") == 1)
        body = json.dumps(infer_body(X[:1])).encode().ljust(1500)
        assert at.ask("POST", at.infer, body)[0] == 429
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
        assert at.ask("POST", at.infer, body)[0] == 200
        assert at.ask("POST", at.infer, bytes(2001))[0] == 413


def test_chunks_are_counted_as_they_come(held: Held) -> None:
    with serving(lambda: held, Limits(body=1000)) as at:
        held.go.set()
        for size, status in ((300, 413), (1, 400)):
            connection = http.client.HTTPConnection("127.0.0.1", at.port, timeout=PATIENCE)
            connection.request("POST", at.infer, iter([b"[" * size] * 9), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
            assert connection.getresponse().status == status
            connection.close()


def test_deadlines(held: Held, pool: ThreadPoolExecutor) -> None:
    """Of the client and of the service; what nobody waits for any more never runs."""
    with serving(lambda: held, Limits(deadline=1.5)) as at:
        first = begin(pool, at, held, parameters={"timeout": 50_000})
        waiting = pool.submit(at.json, "POST", at.infer, infer_body(X[:1]))
        assert first.result()[0] == waiting.result()[0] == 504
        assert "deadline" in waiting.result()[1]["error"]
        held.go.set()
        assert at.json("POST", at.infer, infer_body(X[:3]))[0] == 200
        assert at.metric("attnc_dropped_total") == 1
    assert held.counts == [1, 3]


def test_who_leaves_is_called_off(held: Held, pool: ThreadPoolExecutor) -> None:
    with serving(lambda: held) as at:
        first = begin(pool, at, held)
        body = json.dumps(infer_body(X[:5])).encode()
        with socket.create_connection(("127.0.0.1", at.port)) as leaving:
            leaving.sendall(f"POST {at.infer} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            inside(at, 1)
        inside(at, 0)
        at.wait(lambda: at.metric("attnc_requests_total", path="/v2/models/{name}/infer", status="499") == 1)
        held.go.set()
        assert first.result()[0] == 200
        with socket.create_connection(("127.0.0.1", at.port)) as leaving:
            leaving.sendall(f"POST {at.infer} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
            at.wait(lambda: at.metric("attnc_requests_inside") == 1)
        at.wait(lambda: at.metric("attnc_requests_total", path="/v2/models/{name}/infer", status="499") == 2)
        at.wait(lambda: at.service.gate.requests == at.service.gate.bytes == 0)
    assert held.counts == [1]


def test_nobody_answers_for_a_neighbour(held: Held, pool: ThreadPoolExecutor) -> None:
    """An input that the host's part of the model refuses is the fault of one request among those that run together."""

    def run(inputs: Any, own: Any = held.accelerator.run) -> Any:
        if (inputs["x"] == 77).any():
            raise InputError("77 is not what the model takes")
        return own(inputs)

    with serving(lambda: held) as at:
        first = begin(pool, at, held)
        held.accelerator.run = run
        others = []
        for i, value in enumerate((1.0, 77.0, 2.0)):
            others.append(pool.submit(at.json, "POST", at.infer, infer_body(np.full((1, 4, 6), value))))
            inside(at, i + 1)
        held.go.set()
        assert first.result()[0] == 200
        found = [other.result() for other in others]
        assert [status for status, _ in found] == [200, 400, 200] and "77 is not" in found[1][1]["error"]
        assert at.metric("attnc_failures_total") == 0
    assert held.counts == [1, 3, 1, 1, 1]


def test_a_device_that_fails_is_opened_again(held: Held) -> None:
    opened = []

    def opener() -> Held:
        opened.append(held)
        return held

    held.go.set()
    with serving(opener) as at:
        held.fail = AcceleratorError("the device does not answer")
        status, answer = at.json("POST", at.infer, infer_body(X[:1]))
        assert status == 500 and answer == {"error": "the device does not answer"}
        at.wait(lambda: len(opened) == 2 and at.service.worker.ready)
        assert at.json("POST", at.infer, infer_body(X[:1]))[0] == 200
        assert at.metric("attnc_failures_total") == 1
    assert held.closed == 2


def test_a_device_that_is_gone(held: Held, pool: ThreadPoolExecutor) -> None:
    """What waits is refused, the service says that it is not ready, and it still ends."""
    there = True

    def opener() -> Held:
        if not there:
            raise AcceleratorError("there is no board")
        return held

    with serving(opener) as at:
        first = begin(pool, at, held)
        second = pool.submit(at.json, "POST", at.infer, infer_body(X[:1]))
        inside(at, 1)
        there, held.fail = False, AcceleratorError("power is gone")
        held.samples = 1
        held.go.set()
        assert first.result()[0] == 500
        assert second.result() == (503, {"error": "the accelerator failed: there is no board"})
        assert at.json("GET", "/v2/health/ready") == (503, {"ready": False, "error": "there is no board"})
        assert at.ask("GET", "/v2/health/live")[0] == 200 and at.ask("GET", "/v2/models/small/ready")[0] == 503
        status, _, headers = at.ask("POST", at.infer, infer_body(X[:1]))
        assert status == 503 and "retry-after" in headers


def test_the_end_loses_nothing(held: Held, pool: ThreadPoolExecutor) -> None:
    """What was taken is answered, what comes later is not taken."""
    with serving(lambda: held) as at:
        taken = [begin(pool, at, held)]
        taken.append(pool.submit(at.json, "POST", at.infer, infer_body(X[:2])))
        inside(at, 1)
        at.stop.set()
        refused = threading.Event()

        def closed() -> bool:
            try:
                socket.create_connection(("127.0.0.1", at.port), timeout=1).close()
            except ConnectionRefusedError:
                refused.set()
            return refused.is_set()

        at.wait(closed)
        held.go.set()
        assert [future.result()[0] for future in taken] == [200, 200]
    assert held.counts == [1, 2] and held.closed == 1


def test_the_end_comes(held: Held, pool: ThreadPoolExecutor) -> None:
    """After the grace, whatever the accelerator still does: clients hear of it, and nothing that waits is begun."""
    with serving(lambda: held, Limits(grace=1)) as at:
        taken = [begin(pool, at, held)]
        taken.append(pool.submit(at.json, "POST", at.infer, infer_body(X[:2])))
        inside(at, 1)
        at.stop.set()
        at.thread.join(PATIENCE)
        assert not at.thread.is_alive()
        for future in taken:
            assert future.result() == (503, {"error": "the service ended before there was an answer"})
        held.go.set()
    assert held.counts == [1]


def test_limits(shared_build: Path) -> None:
    with pytest.raises(AcceleratorError, match="queue: needed a number above 0, found 0"):
        Limits(queue=0)
    with pytest.raises(AcceleratorError, match="bodies: needed at least the largest body"):
        Limits(body=10, bodies=9)
    with Accelerator.open(shared_build, "golden") as accelerator:
        assert body_limit(accelerator.manifest, 1 << 40) == (1 << 20) + (1 << 26)
        body = json.dumps(infer_body(np.full((16, 4, 6), -1.2345678901234567e-123))).encode()
        assert len(body) < body_limit(accelerator.manifest, 16)
