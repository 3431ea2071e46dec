"""The Open Inference Protocol, spoken by a client that was not made for attnc."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tritonclient.http as triton

from attnc_host import Accelerator
from serving import Running, infer_body
from small_build import random_inputs

X = np.zeros((1, 4, 6))


@pytest.mark.parametrize("binary", [False, True])
def test_client_gets_what_golden_computes(running: Running, golden: Accelerator, binary: bool) -> None:
    x = random_inputs(5)["x"]
    client = triton.InferenceServerClient(running.url.removeprefix("http://"))
    given = triton.InferInput("x", list(x.shape), "FP32").set_data_from_numpy(x, binary_data=binary)
    asked = [triton.InferRequestedOutput("y", binary_data=binary)]
    found = client.infer("small", [given], outputs=asked, request_id="a7", timeout=20_000_000)
    client.close()
    np.testing.assert_array_equal(found.as_numpy("y"), golden.run({"x": x})["y"])
    assert found.as_numpy("y").dtype == np.float32 and found.get_response()["id"] == "a7"


def test_client_reads_what_is_served(running: Running) -> None:
    client = triton.InferenceServerClient(running.url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("small", "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_repository_index() == [{"name": "small", "version": "1", "state": "READY", "reason": ""}]
    found = client.get_model_metadata("small")
    client.close()
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4, 6]}]
    assert found["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4, 5]}] and found["versions"] == ["1"]


def test_shapes_come_back_as_run_returns_them(running: Running, golden: Accelerator) -> None:
    """One sample; samples; samples on an axis of their own; nested lists."""
    for shape in ((1, 4, 6), (3, 4, 6), (3, 1, 4, 6)):
        x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
        expected = golden.run({"x": x})["y"]
        body = infer_body(x)
        body["inputs"][0]["data"] = x.tolist()
        status, answer = running.json("POST", running.infer, body)
        (output,) = answer["outputs"]
        assert status == 200 and output["shape"] == list(expected.shape)
        np.testing.assert_array_equal(np.float32(output["data"]).reshape(output["shape"]), expected)


def test_bytes_follow_json(running: Running, golden: Accelerator) -> None:
    """By hand, as the extension describes it; doubles are taken where the model has floats."""
    x = random_inputs(2)["x"]
    head = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [2, 4, 6], "parameters": {"binary_data_size": 2 * 24 * 8}}]}
    head["parameters"] = {"binary_data_output": True}
    text = json.dumps(head).encode()
    length = {"Inference-Header-Content-Length": str(len(text))}
    status, content, headers = running.ask("POST", running.infer, text + x.astype("<f8").tobytes(), length)
    size = int(headers["inference-header-content-length"])
    answer = json.loads(content[:size])
    assert status == 200 and answer["outputs"][0]["parameters"] == {"binary_data_size": len(content) - size}
    np.testing.assert_array_equal(np.frombuffer(content[size:], "<f4").reshape(2, 4, 5), golden.run({"x": x})["y"])


def test_timing_and_metrics(running: Running) -> None:
    before = running.metric("attnc_requests_total", path="/v2/models/{name}/infer", status="200")
    status, _, headers = running.ask("POST", running.infer, infer_body(np.zeros((2, 4, 6))))
    assert status == 200 and headers["server-timing"].startswith("queue;dur=")
    _, text, _ = running.ask("GET", "/metrics")
    assert f'attnc_requests_total{{path="/v2/models/{{name}}/infer",status="200"}} {before + 1}' in text.decode()
    assert b"attnc_ready 1.0" in text and b"attnc_requests_inside 0.0" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "z"}, "needed 'x', each once, found 'z'"),
        ({"datatype": "BYTES"}, "needed a datatype out of BOOL, INT8"),
        ({"datatype": "INT32"}, "needed numbers of type INT32, found float"),
        ({"shape": [1, 4, 7]}, "needed 28 elements for shape [1, 4, 7], found 24"),
        ({"shape": [4, 6, 1]}, "needed shape [samples, 4, 6] or [samples, 1, 4, 6], found [4, 6, 1]"),
        ({"shape": [1 << 40, 4, 6]}, "needed a shape of at most 16 samples of [1, 4, 6]"),
        ({"shape": [-1, 4, 6]}, "needed a shape of at most 16 samples"),
        ({"shape": [1.0, 4, 6]}, "field 'inputs.0.shape.0': Input should be a valid integer"),
        ({"data": None}, "needed either 'data' or the parameter 'binary_data_size', found neither"),
        ({"data": ["1"] * 24}, "needed numbers of type FP32, found str"),
        ({"data": [1e300] * 24}, "contains a number that float32 cannot hold"),
        ({"data": [10**400] * 24}, "numbers that FP32 cannot hold"),
        ({"data": [[[1.0] * 5] * 4]}, "found parts of axis 2 that differ from it"),
        ({"parameters": {"shared_memory_region": "r"}}, "there is no shared memory"),
    ],
)
def test_what_is_wrong_is_said(running: Running, change: dict[str, object], message: str) -> None:
    body = infer_body(np.full((1, 4, 6), 0.5))
    body["inputs"][0].update(change)
    status, answer = running.json("POST", running.infer, body)
    assert status == 400 and message in answer["error"]


def test_wrong_whole_requests(running: Running) -> None:
    good = infer_body(X)
    for body, message in (
        (infer_body(np.zeros((17, 4, 6))), "at most 16 samples"),
        (infer_body(X, outputs=[{"name": "z"}]), "outputs: needed names out of 'y', found 'z'"),
        (
            infer_body(X, outputs=[{"name": "y", "parameters": {"classification": 3}}]),
            "'classification' is not supported",
        ),
        (infer_body(X, parameters={"timeout": 0}), "a whole number of microseconds above 0"),
        (infer_body(X, parameters={"binary_data_output": 1}), "needed true or false"),
        ({"inputs": []}, "missing 'x'"),
        ({"inputs": good["inputs"] * 2}, "each once"),
        (b"[" * 20_000, "request"),
        (b"\xff\xfe{}", "request"),
        (b"", "request"),
    ):
        status, answer = running.json("POST", running.infer, body)
        assert status == 400 and message in answer["error"], answer
    for header in ("0", "9999", "-1", "x", "1e3"):
        status, answer = running.json("POST", running.infer, good, {"Inference-Header-Content-Length": header})
        assert status == 400 and "Inference-Header-Content-Length: needed" in answer["error"]
    assert running.json("POST", running.infer.replace("small", "smaller"), good)[0] == 404
    assert running.json("POST", "/v2/models/small/versions/2/infer", good)[0] == 404
    assert running.json("GET", running.infer)[0] == 405
    assert running.json("POST", running.infer, good, {"Content-Encoding": "gzip"})[0] == 415
    assert running.json("POST", running.infer, bytes(70_000))[0] == 413
