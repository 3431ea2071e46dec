"""Text to tokens and back: by the model's tokenizer where the build has one (the package `tokenizers`), else a token is a byte."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from attnc_host.errors import AcceleratorError, InputError

BYTES = 256
"""Tokens of a vocabulary of bytes."""
REPLACEMENT = "\ufffd"
"""What stands for bytes that are no character, or not yet."""
ENDS = ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "[EOS]")
"""Usual names of tokens that end a text, or an answer."""
HELD = 8
"""Tokens that wait for a whole character, at most; then they are shown as they are."""


class Decodes(Protocol):
    """One way."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens."""


class Tokenizer(Decodes, Protocol):
    """Both ways."""

    def encode(self, text: str, begins: bool = True) -> list[int]:
        """Tokens of a text; of one that `begins` with what the tokenizer puts in front (<s>) or behind."""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens with which models end a text."""


class Bytes:
    """UTF-8."""

    def encode(self, text: str, begins: bool = True) -> list[int]:
        """A token for each byte."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """What is no character becomes a replacement character; so does a token that is no byte."""
        return bytes(token if token < BYTES else 0xFF for token in ids).decode(errors="replace")

    @property
    def ends(self) -> frozenset[int]:
        """None: bytes have no end of their own."""
        return frozenset()


class Trained:
    """A `tokenizer.json`."""

    def __init__(self, path: Path, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        try:
            library: Any = importlib.import_module("tokenizers")
        except ImportError as error:
            raise AcceleratorError(f"{path} needs the package tokenizers, which is not installed: pip install tokenizers") from error
        try:
            self._tokenizer = library.Tokenizer.from_file(str(path))
            self._tokenizer.no_truncation()  # some files have a length that others trained with
            self._tokenizer.no_padding()
        except Exception as error:  # it raises plain exceptions
            raise AcceleratorError(f"{path}: is no tokenizer ({error})") from error

    def encode(self, text: str, begins: bool = True) -> list[int]:
        """As the model was trained."""
        return list(self._tokenizer.encode(text, add_special_tokens=begins).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Without special tokens."""
        return str(self._tokenizer.decode(list(ids)))

    @property
    def ends(self) -> frozenset[int]:
        """Those that have a usual name; a `tokenizer.json` does not say which they are. A model may know fewer tokens."""
        found = (self._tokenizer.token_to_id(name) for name in ENDS)
        return frozenset(token for token in found if token is not None and token < self._vocabulary)


def open_tokenizer(path: Path | None, vocabulary: int) -> Tokenizer:
    """That of a build."""
    if path is not None:
        return Trained(path, vocabulary)
    if vocabulary < BYTES:
        raise InputError(f"the build has no tokenizer, and a vocabulary of {vocabulary} is too small for bytes: give token ids (--ids)")
    return Bytes()


class Pieces:
    """Text of tokens as they come behind those of a prompt, given out as soon as it cannot change: characters of several tokens wait for
    the last of them."""

    def __init__(self, tokenizer: Decodes, before: Sequence[int] = ()) -> None:
        self._tokenizer, self._before, self._waiting = tokenizer, list(before), list[int]()
        self._shown = tokenizer.decode(self._before) if self._before else ""

    def add(self, token: int) -> str | None:
        """What a token adds; None where that waits for more."""
        self._waiting.append(token)
        text = self._tokenizer.decode([*self._before, *self._waiting])
        if (text == self._shown or text.endswith(REPLACEMENT)) and len(self._waiting) < HELD:
            return None
        found = self._behind(text)
        # What tokens mean may depend on those before them (bytes of characters, spaces between words), so a whole piece is decoded again.
        self._before, self._waiting = self._waiting, []
        self._shown = self._tokenizer.decode(self._before)
        return found

    def rest(self) -> str | None:
        """What waited for nothing; None where there was nothing."""
        return self._behind(self._tokenizer.decode([*self._before, *self._waiting])) if self._waiting else None

    def _behind(self, text: str) -> str:
        """What a text has behind that which was shown; the end of that may have been half a character."""
        same = (at for at, (new, old) in enumerate(zip(text, self._shown, strict=False)) if new != old)
        return text[next(same, min(len(text), len(self._shown))) :]


def pieces(tokenizer: Decodes, ids: Iterable[int], before: Sequence[int] = ()) -> Generator[str, None, None]:
    """The same of one iterable."""
    found = Pieces(tokenizer, before)
    for token in ids:
        if (text := found.add(token)) is not None:
            yield text
    if (text := found.rest()) is not None:
        yield text
