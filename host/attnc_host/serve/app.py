"""The service as an ASGI application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from attnc_host.errors import AcceleratorError
from attnc_host.serve import completions, inference
from attnc_host.serve.http import Measured, Service, refusal
from attnc_host.serve.limits import Refusal
from attnc_host.serve.page import PAGE, POLICY
from attnc_host.serve.worker import Unavailable
from attnc_host.version import __version__


def create_app(service: Service) -> FastAPI:
    """The application in front of a service whose worker has been started."""
    app = FastAPI(title="attnc", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(inference.routes(service, __version__))
    app.include_router(completions.routes(service))

    @app.get("/")
    async def page() -> Response:
        return Response(PAGE, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": POLICY})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def failed(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = Refusal(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}", **(error.headers or {}))
        found = refusal(error)
        content: dict[str, Any] = {"error": found.message}
        if request.url.path.startswith("/v1/"):
            content = completions.failure(found.message, found.status)
        return JSONResponse(content, found.status, headers=found.headers)

    for kind in (Refusal, AcceleratorError, Unavailable, HTTPException, Exception):
        app.add_exception_handler(kind, failed)
    app.add_middleware(Measured, metrics=service.metrics)
    return app
