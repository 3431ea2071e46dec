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
"""Tokens that are decoded again with what follows: what one means may depend on those before it."""


class Tokenizer(Protocol):
    """Both ways."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens."""

    @property
    def ends(self) -> frozenset[int]:
        """Tokens with which models end a text."""


class Bytes:
    """UTF-8."""

    def encode(self, text: str) -> list[int]:
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

    def __init__(self, path: Path) -> None:
        try:
            library: Any = importlib.import_module("tokenizers")
        except ImportError as error:
            raise AcceleratorError(f"{path} needs the package tokenizers, which is not installed: pip install tokenizers") from error
        try:
            self._tokenizer = library.Tokenizer.from_file(str(path))
        except Exception as error:  # it raises plain exceptions
            raise AcceleratorError(f"{path}: is no tokenizer ({error})") from error

    def encode(self, text: str) -> list[int]:
        """As the model was trained."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Without special tokens."""
        return str(self._tokenizer.decode(list(ids)))

    @property
    def ends(self) -> frozenset[int]:
        """Those that have a usual name; a `tokenizer.json` does not say which they are."""
        found = (self._tokenizer.token_to_id(name) for name in ENDS)
        return frozenset(token for token in found if token is not None)


def open_tokenizer(path: Path | None, vocabulary: int) -> Tokenizer:
    """That of a build."""
    if path is not None:
        return Trained(path)
    if vocabulary < BYTES:
        raise InputError(f"the build has no tokenizer, and a vocabulary of {vocabulary} is too small for bytes: give token ids (--ids)")
    return Bytes()


def pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> Generator[str, None, None]:
    """Text of tokens as they come, given out as soon as it cannot change: characters of several tokens wait for the last of them."""
    kept: list[int] = []
    shown = ""
    for token in ids:
        kept.append(token)
        text = tokenizer.decode(kept)
        if text.endswith(REPLACEMENT) and len(kept) < HELD:
            continue
        yield text[len(shown) :] if text.startswith(shown) else text
        kept, shown = kept[-1:], tokenizer.decode(kept[-1:])
    if kept:
        text = tokenizer.decode(kept)
        yield text[len(shown) :] if text.startswith(shown) else text
