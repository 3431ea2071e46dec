"""A thousand requests that are broken: each gets a 4xx, none a 5xx, none an answer that took it for something else, none waits for ever."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc_host import manifest as manifests
from attnc_host.serve.limits import Limits
from serving import PATIENCE, Running, Speaker, infer_body, serving

COUNT, SEED = 1000, 0
WRONG: tuple[Any, ...] = (None, True, -1, 10**40, 0.5, "", "x" * 300, "\0\ud800", [], [[]], {}, {"a": 1}, [None], 1e999)
INFER, CHAT, TEXT = "/v2/models/small/infer", "/v1/chat/completions", "/v1/completions"
LENGTH = "Inference-Header-Content-Length"
NEEDED = {
    INFER: [("inputs",), ("inputs", 0), *(("inputs", 0, key) for key in ("name", "datatype", "shape", "data")), ("inputs", 0, "shape", 1)],
    CHAT: [("model",), ("messages",), ("messages", 0), ("messages", 0, "role"), ("messages", 0, "content")],
    TEXT: [("model",), ("prompt",)],
}
"""Fields that a request cannot do without, by path."""


def good(path: str) -> dict[str, Any]:
    if path == INFER:
        return infer_body(np.full((1, 4, 6), 0.25))
    return {"model": "small", **({"prompt": "x"} if path == TEXT else {"messages": [{"role": "user", "content": "x"}]})}


def request(path: str, body: bytes, method: str = "POST", headers: dict[str, str] | None = None) -> bytes:
    fields = {"Host": "x", "Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
    return f"{method} {path} HTTP/1.1\r\n{''.join(f'{k}: {v}' + chr(13) + chr(10) for k, v in fields.items())}\r\n".encode() + body


def wrong_field(rng: random.Random) -> bytes:
    """A field that is needed has another value, or is not there."""
    path = rng.choice([INFER, INFER, CHAT, TEXT])
    body, place = good(path), rng.choice(NEEDED[path])
    at: Any = body
    for key in place[:-1]:
        at = at[key]
    if rng.random() < 0.3:
        del at[place[-1]]
    else:
        text = place[-1] in ("content", "prompt")
        at[place[-1]] = rng.choice([value for value in WRONG if not (text and (isinstance(value, str) or value in ([], [[]])))])
    return request(path, json.dumps(body).encode())


def wrong_limit(rng: random.Random) -> bytes:
    """Something that the service does not have is asked for."""
    path = rng.choice([CHAT, TEXT])
    fields: dict[str, list[Any]] = {
        "max_tokens": [0, -1, 65, "9", 10**30],
        "temperature": [2.1, -1, "0"],
        "n": [0, 17, "1"],
        "stop": [[""], "", [1], ["a"] * 5, 3],
        "stream": ["true", 1],
        "logit_bias": [{"1": 2.0}, 1],
        "stream_options": [1, {"include_usage": 1}],
    }
    field = rng.choice(list(fields))
    return request(path, json.dumps({**good(path), field: rng.choice(fields[field])}).encode())


def no_json(rng: random.Random) -> bytes:
    """JSON that is cut, that goes on, or that is none."""
    path = rng.choice([INFER, CHAT, TEXT])
    text = json.dumps(good(path)).encode()
    cut = text[: rng.randrange(len(text))]
    return request(
        path, rng.choice([cut, text + rng.choice([b"}", b"x", b"\0"]), rng.randbytes(rng.randrange(1, 200)), b"[" * 5000, b'{"a":' * 5000])
    )


def wrong_elements(rng: random.Random) -> bytes:
    """Data that is not what shape and type say."""
    body = good(INFER)
    tensor = body["inputs"][0]
    kind = rng.randrange(5)
    if kind == 0:
        tensor["shape"] = [rng.choice([0, 2, 3, 1 << 62, 10**30]), 4, 6]
    elif kind == 1:
        tensor["data"] = tensor["data"][: rng.randrange(24)] + rng.choice([[], [[1.0]], ["1"], [None]])
    elif kind == 2:
        tensor["data"][rng.randrange(24)] = rng.choice(["1", None, [], {}, True, 1e39, -1e400, float("nan"), 10**400])
    elif kind == 3:
        tensor["datatype"] = rng.choice(["INT8", "UINT64", "BOOL", "BYTES", "fp32", "FP8"])
    else:
        tensor["data"] = [[1.0] * rng.choice([5, 7])] * rng.choice([1, 4])
    return request(INFER, json.dumps(body).encode())


def wrong_bytes(rng: random.Random) -> bytes:
    """Tensors as bytes whose sizes disagree."""
    body, data = good(INFER), rng.randbytes(rng.choice([0, 1, 95, 97, 200]))
    del body["inputs"][0]["data"]
    body["inputs"][0]["parameters"] = {"binary_data_size": rng.choice([len(data), 96, 0, -1, 1 << 60, "96", True])}
    text = json.dumps(body).encode()
    length = rng.choice([len(text), len(text) - 1, 0, 1 << 50, "x", "-4", "٣"])
    return request(INFER, text + data, headers={LENGTH: str(length)}) if length != "٣" else request(INFER, text + data)


def wrong_place(rng: random.Random) -> bytes:
    """No such path, model, version or method; a coding that is not taken; a body that is too large."""
    text = json.dumps(good(INFER)).encode()
    kind = rng.randrange(5)
    if kind == 0:
        return request("/" + "".join(rng.choice("av12/.%-_~") for _ in range(rng.randrange(1, 40))), text)
    if kind == 1:
        return request(rng.choice(["/v2/models/x/infer", "/v2/models/small/versions/9/infer", "/v2/models/%2e%2e/infer"]), text)
    if kind == 2:
        return request(rng.choice([INFER, CHAT]), text, method=rng.choice(["PUT", "DELETE", "PATCH", "TRACE", "NONE"]))
    if kind == 3:
        return request(INFER, text, headers={"Content-Encoding": rng.choice(["gzip", "br", "deflate, gzip", "?"])})
    return request(INFER, b"", headers={"Content-Length": str(rng.choice([1 << 17, 1 << 40, 10**18]))})


def no_http(rng: random.Random) -> bytes:
    """Bytes that are no HTTP."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(4, 100)).replace(b"\n", b"x") + b"\r\n\r\n"
    if kind == 1:
        return request(INFER, b"{}").replace(b" HTTP/1.1", rng.choice([b"", b" HTTP/9.9", b" FTP/1.1"]), 1)
    if kind == 2:
        return request(INFER, b"{}", headers={"Content-Length": rng.choice(["-1", "x", "1, 2", "0x10"])})
    if kind == 3:
        return request(INFER, b"zz\r\n{}\r\n0\r\n\r\n", headers={"Transfer-Encoding": "chunked", "Content-Length": "0"})
    return request(INFER, b"{}").replace(b"Host: x", rng.choice([b"Ho st: x", b": x", b"Host\0: x", b"X: " + b"y" * 70_000]), 1)


KINDS: tuple[Callable[[random.Random], bytes], ...] = (wrong_field, wrong_limit, no_json, wrong_elements, wrong_bytes, wrong_place, no_http)


def answer(port: int, data: bytes) -> bytes:
    """All that the service says before it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture(scope="module")
def services(shared_build: Path, running: Running) -> Iterator[dict[str, Running]]:
    """One that computes, and one that speaks."""
    with ExitStack() as stack:
        speaker = Speaker(manifests.load(shared_build), "y")
        yield {INFER: running, CHAT: stack.enter_context(serving(lambda: speaker, Limits(tokens=64, body=1 << 16)))}


def test_a_thousand_broken_requests(services: dict[str, Running]) -> None:
    wrong = []
    for number in range(COUNT):
        rng = random.Random(f"{SEED}/{number}")
        data = KINDS[number % len(KINDS)](rng)
        at = services[CHAT if b" /v1/" in data[:40] else INFER]
        found = answer(at.port, data)
        if not found.startswith(b"HTTP/1.1 4"):
            wrong.append(f"{number} ({KINDS[number % len(KINDS)].__name__}): {data[-300:]!r} -> {found[:300]!r}")
    assert not wrong, f"{len(wrong)} of {COUNT}\n" + "\n".join(wrong[:10])
    for at in services.values():
        assert at.service.gate.requests == at.service.gate.bytes == 0 and at.metric("attnc_failures_total") == 0
    running = services[INFER]
    assert running.json("POST", INFER, infer_body(np.zeros((1, 4, 6))))[0] == 200
