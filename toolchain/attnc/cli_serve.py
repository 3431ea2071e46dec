"""`attnc serve`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attnc.console import Backend, BuildOrArchive, Verbose

SERVE: dict[str, Any] = {
    "short_help": "Serve a build over HTTP.",
    "no_args_is_help": True,
    "epilog": "\b\nExamples:\n"
    "  attnc serve app.zip --backend golden\n"
    "  attnc serve build/ --backend golden --port 9000 --queue 16 --samples 8 --deadline 2\n\n"
    "On a board, without the compiler: python -m attnc_host serve. What it answers: docs/service.md.",
}


def serve(
    build: BuildOrArchive,
    backend: Annotated[Backend, typer.Option("--backend", help="What runs the program; auto: a board, else csim.")] = "auto",
    host: Annotated[str, typer.Option("--host", help="Address to listen at; by default this machine alone can ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any that is free.")] = 8000,
    queue: Annotated[int | None, typer.Option("--queue", help="Requests that are taken at a time (64); a further one gets 429.")] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="Of a request, and of those that run together (16).")] = None,
    body: Annotated[int | None, typer.Option("--body", metavar="BYTES", help="Of a request; by default as the samples need.")] = None,
    deadline: Annotated[
        float | None, typer.Option("--deadline", metavar="SECONDS", help="Until the answer, or the first token of a text (30).")
    ] = None,
    stream: Annotated[float | None, typer.Option("--stream", metavar="SECONDS", help="Until the last token of a text (600).")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Of a text (1024).")] = None,
    grace: Annotated[float | None, typer.Option("--grace", metavar="SECONDS", help="To finish in after SIGTERM or Ctrl-C (30).")] = None,
    verbose: Verbose = False,
) -> None:
    """Serve a build over HTTP: Open Inference Protocol, streamed text of decoders, metrics, and a page to try it. One accelerator, a
    bounded queue; ends at SIGTERM or Ctrl-C, after what it took is answered."""
    from attnc_host.serve import command

    limits = {"queue": queue, "samples": samples, "body": body, "deadline": deadline, "stream": stream, "tokens": tokens, "grace": grace}
    command.serve(build, backend, host, port, **limits)
