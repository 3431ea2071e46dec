"""Text from a decoder: prompts to tokens, tokens to text as they come.

The service needs no more of a decoder than `Generator` says; everything here runs in the thread that owns the accelerator.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from attnc_host.errors import InputError
from attnc_host.serve.worker import Job

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""How a tokenizer shows bytes that are not yet a whole character."""


@runtime_checkable
class Generator(Protocol):
    """A decoder with its tokenizer. It may also have `context`, the tokens that prompt and answer take together at most, and
    `chat_prompt(messages) -> str`, the model's own way to write a conversation."""

    def encode(self, text: str) -> Sequence[int]:
        """Tokens of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens."""

    def generate(self, ids: Sequence[int], *, max_new_tokens: int) -> Iterator[int]:
        """The tokens that follow, one after the other, until the model ends or there are so many. The most likely one each time."""


def chat_prompt(generator: Generator, messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as a prompt: as the model writes it, else a line for each message."""
    own: Callable[[Sequence[Mapping[str, str]]], str] | None = getattr(generator, "chat_prompt", None)
    if own is not None:
        return own(messages)
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"


class Pieces:
    """Text of tokens that come one by one, given out as soon as it cannot change. What one token means may depend on the one before, so
    a few are decoded together; characters of several tokens wait for the last of them."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._ids: list[int] = []
        self._start = self._shown = 0

    def add(self, token: int) -> str:
        """The text that this token completes, perhaps none."""
        self._ids.append(token)
        text = self._new()
        if not text or text.endswith(INCOMPLETE):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return text

    def rest(self) -> str:
        """What is left at the end, complete or not."""
        return self._new()

    def _new(self) -> str:
        before = self._generator.decode(self._ids[self._start : self._shown]) if self._shown > self._start else ""
        return self._generator.decode(self._ids[self._start :])[len(before) :]


class Stops:
    """Ends a text before the first of some words. What may be the beginning of one is held back."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words, self._held = words, ""
        self.found = False

    def add(self, text: str) -> str:
        """What may be shown of all text so far and has not been."""
        text = self._held + text
        places = [at for at in (text.find(word) for word in self._words) if at >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max((self._overlap(text, word) for word in self._words), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back for nothing."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, word: str) -> int:
        """Characters at the end of a text that begin a word."""
        return next((size for size in range(min(len(text), len(word) - 1), 0, -1) if text.endswith(word[:size])), 0)


@dataclass(frozen=True)
class Finish:
    """How a text ended ("stop" or "length"), and the tokens of both sides."""

    reason: str
    prompt_tokens: int
    completion_tokens: int


class Generation(Job):
    """A text to be generated. `prompt` is text, tokens, or messages of a conversation; `emit` is called with every piece of text, in the
    worker's thread; the result is a `Finish`. `tokens` is None for as many as fit, up to `most`."""

    def __init__(
        self,
        prompt: str | Sequence[int] | Sequence[Mapping[str, str]],
        tokens: int | None,
        most: int,
        stops: Sequence[str],
        emit: Callable[[str], None],
        count: Callable[[], None],
    ) -> None:
        super().__init__()
        self.prompt, self.tokens, self.most, self.stops = prompt, tokens, most, stops
        self.emit, self.count = emit, count
        self._left = threading.Event()

    def call_off(self) -> None:
        """Nobody reads on: not begun, it never begins; begun, it ends after the token that is being computed."""
        self._left.set()
        self.future.cancel()

    def execute(self, accelerator: Any) -> Finish:
        """Generate; raises `InputError` for a prompt that does not fit."""
        prompt = self._encoded(accelerator)
        limit = self._limit(accelerator, len(prompt))
        pieces, stops, made = Pieces(accelerator), Stops(self.stops), 0
        tokens = accelerator.generate(prompt, max_new_tokens=limit)
        try:
            while not stops.found and made < limit and not self._left.is_set():
                token = next(tokens, None)
                if token is None:
                    break
                made += 1
                self.count()
                self._show(stops.add(pieces.add(int(token))))
        finally:
            close = getattr(tokens, "close", None)
            if close is not None:
                close()
        if not stops.found:
            self._show(stops.add(pieces.rest()))
        if not stops.found:
            self._show(stops.rest())
        return Finish("length" if made == limit and not stops.found else "stop", len(prompt), made)

    def _show(self, text: str) -> None:
        if text:
            self.emit(text)

    def _encoded(self, generator: Generator) -> list[int]:
        prompt = self.prompt
        if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
            prompt = chat_prompt(generator, [message for message in prompt if isinstance(message, Mapping)])
        ids = list(generator.encode(prompt)) if isinstance(prompt, str) else [token for token in prompt if isinstance(token, int)]
        if not ids:
            raise InputError("prompt: needed at least one token, found none")
        return ids

    def _limit(self, generator: Generator, prompt: int) -> int:
        """How many tokens may follow a prompt of so many."""
        context: int | None = getattr(generator, "context", None)
        if context is None:
            return self.tokens or self.most
        room = context - prompt
        if room < (self.tokens or 1):
            asked = "" if self.tokens is None else f" and an answer of {self.tokens}"
            raise InputError(f"prompt: needed at most {context} tokens with the answer, found {prompt} tokens{asked}")
        return self.tokens or min(room, self.most)
