"""The completion and chat-completion protocol of language models, streamed as server-sent events where asked for."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field, ValidationError

from attnc_host.decoder import Sampling
from attnc_host.errors import InputError
from attnc_host.serve.generation import Finish, Generation, Generator, Wanted
from attnc_host.serve.http import Message, Service, read_body, refusal, while_connected
from attnc_host.serve.limits import Refusal
from attnc_host.serve.tensors import Strict, explain

MOST_STOPS = 4
MOST_TEXTS = 16
SENDING = 10.0
"""Seconds for the end of a stream, after its time is over, to reach a client that reads slowly."""
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Part(Strict):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    def plain(self) -> dict[str, str]:
        """As models take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class StreamOptions(Strict):
    """What a stream says beside the text."""

    include_usage: bool = False


class Asked(Strict):
    """What both kinds of requests share. Fields that would change the answer and that attnc does not have take no value but the one that
    leaves the answer alone. Without a temperature the likeliest token follows."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_TEXTS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """0 and -1: all. This one and `repetition_penalty` are not of the protocol; servers of language models take them by these names."""
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=0)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=0)] | None = None
    ignore_eos: Literal[False] | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=0)] | None = None

    def tokens(self) -> int | None:
        """That are asked for."""
        return self.max_tokens

    def settings(self) -> dict[str, Any]:
        """Of the template of conversations."""
        return {}


class TextFormat(Strict):
    """Of an answer."""

    type: Literal["text"]


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None
    """Settings of the model's chat template, as `enable_thinking`; servers of language models take them by this name."""
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None

    def tokens(self) -> int | None:
        """That are asked for."""
        return self.max_completion_tokens or self.max_tokens

    def settings(self) -> dict[str, Any]:
        """Of the template of conversations."""
        return self.chat_template_kwargs or {}


class TextRequest(Asked):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] | list[Annotated[int, Field(ge=0, lt=1 << 31)]]
    max_tokens: int | None = Field(16, ge=1)
    logprobs: Literal[0] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None


A = TypeVar("A", bound=Asked)


class Texts:
    """A generation on its way to a client: pieces of text, each with the number of its text, then how all ended."""

    def __init__(self, service: Service, prompt: Any, asked: Asked) -> None:
        self.count = asked.n or 1
        tokens, most = asked.tokens(), service.limits.tokens // self.count
        if tokens is not None and tokens > most:
            raise InputError(f"max_tokens: needed at most {most}, found {tokens}")
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        self._loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str]]()
        sampling = Sampling(asked.temperature or 0.0, max(asked.top_k or 0, 0), asked.top_p or 1.0, asked.repetition_penalty or 1.0)
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        wanted = Wanted(prompt, tokens, most, stops, sampling, seed, self.count, asked.settings())
        self.job = Generation(wanted, self._emit, service.metrics.tokens.inc)
        service.worker.submit(self.job)
        self.finished = asyncio.wrap_future(self.job.future)

    def _emit(self, number: int, text: str) -> None:
        """In the worker's thread."""
        try:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (number, text))
        except RuntimeError:  # the loop has ended, and with it every client
            self.job.call_off()

    async def next(self) -> tuple[int, str] | None:
        """The next piece; None at the end, when `finished` has the result."""
        if self._pieces.empty() and not self.finished.done():
            getter = asyncio.ensure_future(self._pieces.get())
            try:
                await asyncio.wait({getter, self.finished}, return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    return getter.result()
            finally:
                getter.cancel()
        if not self._pieces.empty():
            return self._pieces.get_nowait()
        self.finished.result()
        return None


class EventStream(StreamingResponse):
    """Server-sent events of a generation. When the client leaves, or does not read until the time is over, the generation is called off and
    its `place` given back."""

    def __init__(self, events: AsyncIterator[str], texts: Texts, place: ExitStack, until: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._texts, self._place, self._until = texts, place, until

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Send them."""
        with self._place:
            try:
                await asyncio.wait_for(super().__call__(scope, receive, send), self._until - time.monotonic())
            finally:
                self._texts.job.call_off()


def routes(service: Service) -> APIRouter:
    """All of them."""
    router = APIRouter(prefix="/v1")
    described = {"id": service.name, "object": "model", "created": service.started, "owned_by": "attnc"}

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [described] if isinstance(service.accelerator, Generator) else []}

    @router.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        _check_decoder(service)
        _check_model(service, name)
        return described

    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        def prompt(asked: ChatRequest) -> list[dict[str, str]]:
            return [message.plain() for message in asked.messages]

        return await _answer(service, request, ChatRequest, prompt, CHAT)

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        def prompt(asked: TextRequest) -> str | Sequence[int]:
            only = asked.prompt[0] if isinstance(asked.prompt, list) and asked.prompt and isinstance(asked.prompt[0], str) else None
            return only if only is not None else asked.prompt  # type: ignore[return-value]

        return await _answer(service, request, TextRequest, prompt, TEXT)

    return router


def _check_decoder(service: Service) -> None:
    if not isinstance(service.accelerator, Generator):
        raise Refusal(404, f"{service.name!r} is no decoder, so it generates no text: use /v2/models/{service.name}/infer")


def _check_model(service: Service, name: str) -> None:
    if name != service.name:
        raise Refusal(404, f"model: needed {service.name!r}, found {name!r:.200}")


@dataclass(frozen=True)
class Form:
    """How answers are written: the beginning of their names, what whole ones and parts are called, the part that begins a stream, and
    how text stands in a part and in the whole."""

    prefix: str
    whole: str
    chunk: str
    first: dict[str, Any] | None
    part: Callable[[str], dict[str, Any]]
    all: Callable[[str], dict[str, Any]]


TEXT = Form("cmpl", "text_completion", "text_completion", None, lambda text: {"text": text}, lambda text: {"text": text})
CHAT = Form(
    "chatcmpl",
    "chat.completion",
    "chat.completion.chunk",
    {"delta": {"role": "assistant", "content": ""}},
    lambda text: {"delta": {"content": text} if text else {}},
    lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
)


async def _answer(service: Service, request: Request, kind: type[A], prompt: Callable[[A], Any], form: Form) -> Response:
    """Read a request, wait for the first of the text, then answer with a stream or with the whole."""
    begin = time.monotonic()
    _check_decoder(service)
    with ExitStack() as place:
        place.enter_context(service.place(request))
        try:
            asked = kind.model_validate_json(await read_body(request, service.limits))
        except ValidationError as error:
            raise InputError(explain(error)) from None
        _check_model(service, asked.model)
        texts = Texts(service, prompt(asked), asked)
        try:
            first = await _connected(request, texts.next(), begin + service.limits.deadline)
            written = _Written(service.name, form)
            if asked.stream:
                usage = asked.stream_options is not None and asked.stream_options.include_usage
                until = begin + service.limits.stream
                return EventStream(_events(texts, first, written, usage, until), texts, place.pop_all(), until + SENDING)
            whole = await _connected(request, _collected(texts, first), begin + service.limits.stream)
            return JSONResponse(written.all(whole, texts.finished.result()))
        except BaseException:
            texts.job.call_off()
            raise


async def _connected(request: Request, coroutine: Any, until: float) -> Any:
    return await while_connected(request, asyncio.ensure_future(coroutine), until)


async def _collected(texts: Texts, piece: tuple[int, str] | None) -> list[str]:
    parts: list[list[str]] = [[] for _ in range(texts.count)]
    while piece is not None:
        parts[piece[0]].append(piece[1])
        piece = await texts.next()
    return ["".join(part) for part in parts]


class _Written:
    """One answer, or the events of one."""

    def __init__(self, model: str, form: Form) -> None:
        self.form = form
        self.common = {"id": f"{form.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def all(self, texts: Sequence[str], finish: Finish) -> dict[str, Any]:
        choices = [
            {"index": index, **self.form.all(text), "logprobs": None, "finish_reason": reason}
            for index, (text, reason) in enumerate(zip(texts, finish.reasons, strict=True))
        ]
        return {**self.common, "object": self.form.whole, "choices": choices, "usage": usage_of(finish)}

    def event(self, index: int, part: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": index, **part, "logprobs": None, "finish_reason": reason}
        return _event({**self.common, "object": self.form.chunk, "choices": [choice]})

    def usage(self, finish: Finish) -> str:
        return _event({**self.common, "object": self.form.chunk, "choices": [], "usage": usage_of(finish)})


def usage_of(finish: Finish) -> dict[str, int]:
    """Tokens of a text, as clients know them."""
    total = finish.prompt_tokens + finish.completion_tokens
    return {"prompt_tokens": finish.prompt_tokens, "completion_tokens": finish.completion_tokens, "total_tokens": total}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def failure(message: str, status: int) -> dict[str, Any]:
    """An error as clients of this protocol know it."""
    kinds = {404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def _events(texts: Texts, piece: tuple[int, str] | None, written: _Written, usage: bool, until: float) -> AsyncIterator[str]:
    for index in range(texts.count):
        if written.form.first is not None:
            yield written.event(index, written.form.first)
    try:
        while piece is not None:
            yield written.event(piece[0], written.form.part(piece[1]))
            piece = await asyncio.wait_for(texts.next(), max(0.0, until - time.monotonic()))
    except Exception as error:  # the status is gone; clients look for this in a stream
        found = refusal(error)
        yield _event(failure(found.message, found.status))
        return
    finish = texts.finished.result()
    for index, reason in enumerate(finish.reasons):
        yield written.event(index, written.form.part(""), reason)
    if usage:
        yield written.usage(finish)
    yield "data: [DONE]\n\n"
