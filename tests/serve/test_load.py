"""Under load: every request is answered once, with what golden computes, and memory does not grow. Bounded loops, on loopback alone."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc.arrays import Array
from attnc_host import Accelerator
from serving import PATIENCE, started
from small_build import DIGITS

CLIENTS, REQUESTS, WARM = 64, 10_000, 5_000
GROWTH = 4 << 20
"""Bytes that the process may grow by once buffers of every batch have been used, which takes some thousand requests."""
PATH = "/v2/models/vit_digits/infer"


class Load:
    """Clients that share a number of requests, each with a connection of its own that it keeps."""

    def __init__(self, port: int, images: Array, expected: Array) -> None:
        self.port, self.images, self.expected = port, images, expected
        self.answers: Counter[str] = Counter()
        self.refused = 0
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def run(self, first: int, last: int) -> float:
        """Ask for requests `first` to `last`; the seconds that took."""
        numbers, begin = iter(range(first, last)), time.monotonic()
        threads = [threading.Thread(target=self._client, args=(numbers,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - begin

    def _client(self, numbers: Any) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        while True:
            with self._lock:
                number = next(numbers, None)
            if number is None:
                break
            try:
                found = self._ask(connection, number)
            except Exception as error:
                found = f"{number}: {error!r}"
            if found:
                with self._lock:
                    self.wrong.append(found)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> str:
        """One request, asked again while the queue is full; what is wrong with the answer."""
        at, binary = number % len(self.images), number % 2 == 0
        image = self.images[at : at + 1 + number % 3]
        tensor: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": list(image.shape)}
        tensor.update({"parameters": {"binary_data_size": image.nbytes}} if binary else {"data": image.ravel().tolist()})
        text = json.dumps({"id": str(number), "inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()
        body, headers = (text + image.tobytes(), {"Inference-Header-Content-Length": str(len(text))}) if binary else (text, {})
        for _ in range(1000):
            connection.request("POST", PATH, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 429:
                break
            with self._lock:
                self.refused += 1
            assert int(answer.headers["Retry-After"]) >= 1
            time.sleep(0.02)
        if answer.status != 200:
            return f"{number}: {answer.status} {content[:200]!r}"
        length = int(answer.headers.get("Inference-Header-Content-Length", len(content)))
        told = json.loads(content[:length])
        with self._lock:
            self.answers[told["id"]] += 1
        found = np.frombuffer(content[length:], "<f4") if binary else np.float32(told["outputs"][0]["data"])
        same = np.array_equal(found.reshape(-1, 10), self.expected[at : at + len(image)])
        return "" if same and told["id"] == str(number) else f"{number}: {told}"


def measured(port: int) -> dict[str, float]:
    """Metrics without labels, and the answers to inferences by status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}
    asked = re.findall(r'^attnc_requests_total\{path="/v2/models/\{name\}/infer",status="(\d+)"\} (\S+)$', text, re.MULTILINE)
    return {**found, **{status: float(value) for status, value in asked}}


@pytest.fixture(scope="module")
def known(digits: Path) -> tuple[Array, Array]:
    """Images, and the logits that golden has for them."""
    images = np.load(DIGITS / "heldout.npz")["image"]
    with Accelerator.open(digits, "golden") as golden:
        return images, golden.run({"image": images})["logits"]


@pytest.mark.slow
def test_ten_thousand_requests(digits: Path, known: tuple[Array, Array]) -> None:
    with started(digits, "--backend", "golden", "--samples", "64", "--queue", str(CLIENTS)) as (_, port):
        load = Load(port, *known)
        load.run(0, WARM)
        before = measured(port)["process_resident_memory_bytes"]
        seconds = load.run(WARM, REQUESTS)
        after = measured(port)
    assert not load.wrong, f"{len(load.wrong)} wrong\n" + "\n".join(load.wrong[:5])
    assert load.answers == {str(number): 1 for number in range(REQUESTS)} and load.refused == 0
    samples = sum(len(known[0][number % 599 :][: 1 + number % 3]) for number in range(REQUESTS))
    assert after["200"] == REQUESTS and after["attnc_samples_total"] == samples
    grown = after["process_resident_memory_bytes"] - before
    print(
        f"\n{(REQUESTS - WARM) / seconds:.0f} requests/s, {after['attnc_run_samples_count']:.0f} runs; "
        f"{after['process_resident_memory_bytes'] / 2**20:.1f} MiB, {grown / 2**20:+.1f} MiB since request {WARM}"
    )
    assert grown <= GROWTH


@pytest.mark.slow
def test_more_clients_than_places(digits: Path, known: tuple[Array, Array]) -> None:
    """Most are refused at first, and all are served in the end."""
    with started(digits, "--backend", "golden", "--samples", "8", "--queue", "8") as (_, port):
        load = Load(port, *known)
        load.run(0, 1000)
        after = measured(port)
    assert not load.wrong, f"{len(load.wrong)} wrong\n" + "\n".join(load.wrong[:5])
    assert load.answers == {str(number): 1 for number in range(1000)}
    assert after["200"] == 1000 and after["429"] == load.refused > 0
    print(f"\n1000 answers, {load.refused} refusals")
