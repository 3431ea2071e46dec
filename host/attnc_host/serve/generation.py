"""Text from a decoder: prompts to tokens, tokens to text as they come.

The service needs no more of a decoder than `Generator` says; everything here runs in the thread that owns the accelerator.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from attnc_host.accelerator import Accelerator
from attnc_host.decoder import Sampling, decoder_of
from attnc_host.errors import InputError
from attnc_host.serve.worker import Job
from attnc_host.text import open_tokenizer, pieces


@runtime_checkable
class Generator(Protocol):
    """A decoder with its tokenizer. It may also have `context`, the tokens that prompt and answer take together at most, and
    `chat_prompt(messages) -> str`, the model's own way to write a conversation."""

    def encode(self, text: str) -> Sequence[int]:
        """Tokens of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens."""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens with which the model ends a text."""

    def generate(self, ids: Sequence[int], max_new_tokens: int, *, sampling: Sampling, seed: int, stop: Sequence[int]) -> Iterator[int]:
        """The tokens that follow, one after the other, until one of `stop` has come, or so many; `close` of the iterator ends it early."""


class Decoder:
    """An accelerator that generates tokens, with the tokenizer of its build, as a `Generator`. A conversation that goes on does so in the
    caches that it has; a new one gets those that nobody used for the longest time."""

    def __init__(self, accelerator: Accelerator) -> None:
        decoder = decoder_of(accelerator.manifest)
        self.accelerator, self.manifest = accelerator, accelerator.manifest
        self.tokenizer, self.context = open_tokenizer(decoder.tokenizer, decoder.vocabulary), decoder.length
        self.encode, self.decode, self.ends = self.tokenizer.encode, self.tokenizer.decode, self.tokenizer.ends
        self.run, self.close = accelerator.run, accelerator.close
        self._numbers = [*range(decoder.sessions)]
        """Sessions, those that were used last behind the others."""

    def generate(self, ids: Sequence[int], max_new_tokens: int, *, sampling: Sampling, seed: int, stop: Sequence[int]) -> Iterator[int]:
        """The tokens that follow, one after the other."""
        held = self.accelerator.held(ids)
        number = self._numbers[0] if held is None else held
        self._numbers.remove(number)
        self._numbers.append(number)
        return self.accelerator.session(number).generate(ids, max_new_tokens, sampling, stop, seed)


def chat_prompt(generator: Generator, messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as a prompt: as the model writes it, else a line for each message."""
    own: Callable[[Sequence[Mapping[str, str]]], str] | None = getattr(generator, "chat_prompt", None)
    if own is not None:
        return own(messages)
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"


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


@dataclass(frozen=True)
class Wanted:
    """What a client asks for. `prompt` is text, tokens, or messages of a conversation; `tokens` is None for as many as fit, up to `most`;
    `stops` are words."""

    prompt: str | Sequence[int] | Sequence[Mapping[str, str]]
    tokens: int | None
    most: int
    stops: Sequence[str] = ()
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0


class Generation(Job):
    """A text to be generated: `emit` is called with every piece of it, `count` for every token, in the worker's thread; the result is a
    `Finish`."""

    def __init__(self, wanted: Wanted, emit: Callable[[str], None], count: Callable[[], None]) -> None:
        super().__init__()
        self.wanted, self.emit, self.count = wanted, emit, count
        self._left = threading.Event()

    def call_off(self) -> None:
        """Nobody reads on: not begun, it never begins; begun, it ends after the token that is being computed."""
        self._left.set()
        self.future.cancel()

    def execute(self, accelerator: Any) -> Finish:
        """Generate; raises `InputError` for a prompt that does not fit."""
        wanted, prompt = self.wanted, self._encoded(accelerator)
        limit, stops, made, ended = self._limit(accelerator, len(prompt)), Stops(self.wanted.stops), 0, False

        def tokens() -> Iterator[int]:
            nonlocal made, ended
            found = accelerator.generate(prompt, limit, sampling=wanted.sampling, seed=wanted.seed, stop=sorted(accelerator.ends))
            with contextlib.closing(found):
                for token in found:
                    ended = token in accelerator.ends
                    if ended or self._left.is_set():
                        return
                    made += 1
                    self.count()
                    yield int(token)

        with contextlib.closing(pieces(accelerator, tokens())) as texts:
            for text in texts:
                self._show(stops.add(text))
                if stops.found:
                    break
        if not stops.found:
            self._show(stops.rest())
        return Finish("length" if made == limit and not (stops.found or ended) else "stop", len(prompt), made)

    def _show(self, text: str) -> None:
        if text:
            self.emit(text)

    def _encoded(self, generator: Generator) -> list[int]:
        prompt = self.wanted.prompt
        if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
            prompt = chat_prompt(generator, [message for message in prompt if isinstance(message, Mapping)])
        ids = list(generator.encode(prompt)) if isinstance(prompt, str) else [token for token in prompt if isinstance(token, int)]
        if not ids:
            raise InputError("prompt: needed at least one token, found none")
        return ids

    def _limit(self, generator: Generator, prompt: int) -> int:
        """How many tokens may follow a prompt of so many."""
        context: int | None = getattr(generator, "context", None)
        asked, most = self.wanted.tokens, self.wanted.most
        if context is None:
            return asked or most
        room = context - prompt
        if room < (asked or 1):
            answer = "" if asked is None else f" and an answer of {asked}"
            raise InputError(f"prompt: needed at most {context} tokens with the answer, found {prompt} tokens{answer}")
        return asked or min(room, most)
