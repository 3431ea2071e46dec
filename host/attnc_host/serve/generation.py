"""Text from a decoder: prompts to tokens, tokens to text as they come.

The service needs no more of a decoder than `Generator` says; everything here runs in the thread that owns the accelerator.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from collections.abc import Generator as Iteration
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from attnc_host.accelerator import Accelerator
from attnc_host.branches import generate_many
from attnc_host.chat import Chat
from attnc_host.decoder import Sampling, Session, decoder_of
from attnc_host.errors import InputError
from attnc_host.serve.worker import Job
from attnc_host.text import Pieces, open_tokenizer

Tokens = Iteration[tuple[int, int], None, None]
"""Each with the number of its text."""


@runtime_checkable
class Generator(Protocol):
    """A decoder with its tokenizer. It may also have `context`, the tokens that prompt and answer take together at most, and
    `chat_tokens(messages, settings)`, the tokens of a conversation as the model writes it, and `generate_many`, several texts together, as
    `Decoder` has both."""

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
        self.encode, self.decode, self.ends = self.tokenizer.encode, self.tokenizer.decode, self.tokenizer.ends | {*decoder.ends}
        self.chat = None if decoder.chat is None else Chat(decoder.chat)
        self.run, self.close = accelerator.run, accelerator.close
        self._numbers = [*range(decoder.sessions)]
        """Sessions, those that were used last behind the others."""

    def generate(self, ids: Sequence[int], max_new_tokens: int, *, sampling: Sampling, seed: int, stop: Sequence[int]) -> Iterator[int]:
        """The tokens that follow, one after the other."""
        return self._session(ids).generate(ids, max_new_tokens, sampling, stop, seed)

    def generate_many(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> Iterator[tuple[int, int]]:
        """(number, token) of what follows several prompts; options as those of `attnc_host.branches.generate_many`."""
        return generate_many(self._session(prompts[0]), prompts, max_new_tokens, **options)

    def chat_tokens(self, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any]) -> Sequence[int]:
        """Of a conversation: by the model's template, which has what the tokenizer would put in front; else a line for each message."""
        if self.chat is None:
            return self.encode(chat_prompt(messages, settings))
        return self.encode(self.chat.text(messages, settings), begins=False)

    def _session(self, ids: Sequence[int]) -> Session:
        held = self.accelerator.held(ids)
        number = self._numbers[0] if held is None else held
        self._numbers.remove(number)
        self._numbers.append(number)
        return self.accelerator.session(number)


def chat_prompt(messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any] | None = None) -> str:
    """A conversation for a model that has no template of its own: a line for each message; there is nothing to set."""
    if settings:
        raise InputError(f"chat_template_kwargs: needed none, since the build has no chat template, found {', '.join(settings)}")
    # Answers begin with the blank behind "assistant:", so what comes back of them has one already, and is to be what caches hold.
    texts = [(message["role"], message["content"]) for message in messages]
    return "".join(f"{role}:{'' if text.startswith(' ') else ' '}{text}\n" for role, text in texts) + "assistant:"


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
    """How each text ended ("stop" or "length"), and the tokens of both sides."""

    reasons: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Wanted:
    """What a client asks for. `prompt` is text, tokens, or messages of a conversation; `tokens` is None for as many as fit, up to `most`;
    `stops` are words. So many `texts` follow, each with a seed one higher. `settings` are the chat template's."""

    prompt: str | Sequence[int] | Sequence[Mapping[str, str]]
    tokens: int | None
    most: int
    stops: Sequence[str] = ()
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    texts: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)


class _Text:
    """One text on its way: tokens in, pieces out."""

    def __init__(self, generator: Generator, prompt: Sequence[int], stops: Sequence[str], emit: Callable[[str], None]) -> None:
        self._pieces, self._stops, self._emit = Pieces(generator, prompt), Stops(stops), emit
        self.made, self.ended = 0, False

    def ends_with(self, token: int, ends: Collection[int], count: Callable[[], None]) -> bool:
        """Take a token, which is counted unless it ends the text by itself; whether the text is at its end."""
        if token in ends:
            self.ended = True
        else:
            self.made += 1
            count()
            self._add(self._pieces.add(token))
        return self.ended

    def close(self) -> None:
        """What was held back."""
        if not self._stops.found:
            self._add(self._pieces.rest())
        if not self._stops.found:
            self._show(self._stops.rest())

    def _add(self, piece: str | None) -> None:
        if piece is not None:
            self._show(self._stops.add(piece))
            self.ended = self.ended or self._stops.found

    def _show(self, text: str) -> None:
        if text:
            self._emit(text)


class Generation(Job):
    """Texts to be generated: `emit` is called with the number of each and every piece of it, `count` for every token, in the worker's
    thread; the result is a `Finish`."""

    def __init__(self, wanted: Wanted, emit: Callable[[int, str], None], count: Callable[[], None]) -> None:
        super().__init__()
        self.wanted, self.emit, self.count = wanted, emit, count
        self._left = threading.Event()

    def call_off(self) -> None:
        """Nobody reads on: not begun, it never begins; begun, it ends after the token that is being computed."""
        self._left.set()
        self.future.cancel()

    def execute(self, accelerator: Any) -> Finish:
        """Generate; raises `InputError` for a prompt that does not fit."""
        wanted, prompt, over = self.wanted, self._encoded(accelerator), set[int]()
        limit = self._limit(accelerator, len(prompt))
        texts = [_Text(accelerator, prompt, wanted.stops, partial(self.emit, number)) for number in range(wanted.texts)]
        with contextlib.closing(self._tokens(accelerator, prompt, limit, over)) as found:
            for number, token in found:
                if self._left.is_set():
                    break
                if number not in over and texts[number].ends_with(token, accelerator.ends, self.count):
                    over.add(number)
                if len(over) == len(texts):
                    break
        for text in texts:
            text.close()
        reasons = tuple("length" if text.made == limit and not text.ended else "stop" for text in texts)
        return Finish(reasons, len(prompt), sum(text.made for text in texts))

    def _tokens(self, generator: Generator, prompt: Sequence[int], limit: int, over: set[int]) -> Tokens:
        """(number, token) of all texts; those `over` need none any more. Together where the generator can, else one after the other."""
        wanted, stop = self.wanted, sorted(generator.ends)
        many: Any = getattr(generator, "generate_many", None) if wanted.texts > 1 else None
        if many is not None:
            prompts = [prompt] * wanted.texts
            with contextlib.closing(many(prompts, limit, sampling=wanted.sampling, seed=wanted.seed, stop=stop, over=over)) as found:
                yield from found
            return
        for number in range(wanted.texts):
            alone: Any = generator.generate(prompt, limit, sampling=wanted.sampling, seed=wanted.seed + number, stop=stop)
            with contextlib.closing(alone):
                for token in alone:
                    yield number, int(token)
                    if number in over:
                        break

    def _encoded(self, generator: Generator) -> list[int]:
        prompt = self.wanted.prompt
        if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
            messages = [message for message in prompt if isinstance(message, Mapping)]
            own: Callable[..., Sequence[int]] | None = getattr(generator, "chat_tokens", None)
            settings = self.wanted.settings
            prompt = chat_prompt(messages, settings) if own is None else own(messages, settings)
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
