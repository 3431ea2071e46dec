"""Endpoints of the Open Inference Protocol, version 2."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from attnc_host.errors import InputError
from attnc_host.manifest import Port
from attnc_host.serve.http import Service, read_body, result_of
from attnc_host.serve.limits import Refusal
from attnc_host.serve.tensors import EXTENSIONS, JSON_LENGTH, NAMES, read_request, write_response
from attnc_host.serve.worker import Inference

VERSION = "1"


def routes(service: Service, server: str) -> APIRouter:
    """All of them; `server` is the version of the program."""
    router = APIRouter(prefix="/v2")
    manifest = service.manifest

    def known(name: str, version: str | None) -> None:
        if name != service.name or version not in (None, VERSION):
            found = name if version is None else f"{name}, version {version}"
            raise Refusal(404, f"model: needed {service.name!r}, version {VERSION!r}, found {found!r:.200}")

    @router.get("")
    async def metadata() -> dict[str, Any]:
        return {"name": "attnc", "version": server, "extensions": list(EXTENSIONS)}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> Response:
        answer = {"ready": service.worker.ready, **({} if service.worker.ready else {"error": service.worker.failure})}
        return JSONResponse(answer, 200 if service.worker.ready else 503)

    @router.post("/repository/index")
    async def index() -> list[dict[str, str]]:
        ready = service.worker.ready
        return [{"name": service.name, "version": VERSION, "state": "READY" if ready else "UNAVAILABLE", "reason": service.worker.failure}]

    @router.get("/models/{name}")
    @router.get("/models/{name}/versions/{version}")
    async def model(name: str, version: str | None = None) -> dict[str, Any]:
        known(name, version)
        ports = {"inputs": [_described(port) for port in manifest.inputs], "outputs": [_described(port) for port in manifest.outputs]}
        return {"name": service.name, "versions": [VERSION], "platform": f"attnc_{service.backend}", **ports}

    @router.get("/models/{name}/ready")
    @router.get("/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> Response:
        known(name, version)
        return JSONResponse({"name": service.name, "ready": service.worker.ready}, 200 if service.worker.ready else 503)

    @router.post("/models/{name}/infer")
    @router.post("/models/{name}/versions/{version}/infer")
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        known(name, version)
        begin = time.monotonic()
        with service.place(request):
            body = await read_body(request, service.limits)
            asked = read_request(body, _json_length(request), manifest.inputs, manifest.outputs, service.limits.samples)
            del body
            job = Inference(asked.given)
            service.worker.submit(job)
            allowed = min(service.limits.deadline, asked.seconds or service.limits.deadline)
            outputs, timing = await result_of(request, job.future, begin + allowed)
        content, length = write_response(service.name, VERSION, asked, outputs)
        headers = {
            "Server-Timing": f"queue;dur={timing.queue * 1e3:.3f}, run;dur={timing.run * 1e3:.3f}, samples;dur={timing.samples}",
            **({} if length is None else {JSON_LENGTH: str(length)}),
        }
        return Response(content, media_type="application/json" if length is None else "application/octet-stream", headers=headers)

    return router


def _described(port: Port) -> dict[str, Any]:
    """A tensor as metadata show it; -1 is the number of samples."""
    shape = [-1, *port.shape[1:]] if port.shape[:1] == (1,) else list(port.shape)
    return {"name": port.name, "datatype": NAMES[port.dtype], "shape": shape}


def _json_length(request: Request) -> int | None:
    found = request.headers.get(JSON_LENGTH)
    if found is None:
        return None
    if not (found.isascii() and found.isdigit() and len(found) < 19):
        raise InputError(f"{JSON_LENGTH}: needed a whole number, found {found!r:.80}")
    return int(found)
