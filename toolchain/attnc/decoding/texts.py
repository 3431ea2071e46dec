"""What lies beside a language model for its texts, by the names that hubs give: `tokenizer.json`, the template of conversations
(`chat_template.jinja`, or in `tokenizer_config.json`), and the tokens that end a text (`generation_config.json` or `config.json`).

Whatever is there must be sound; nothing has to be there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnc.errors import DataError
from attnc_host import AcceleratorError
from attnc_host.chat import TOKENS, compiled

TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
ENDING = ("generation_config.json", "config.json")
FILES = (TOKENIZER, SETTINGS, TEMPLATE, *ENDING)
MOST_BYTES = 64 << 20
"""Of a file; a large `tokenizer.json` has 35 million."""


@dataclass(frozen=True)
class Texts:
    """`tokenizer`: the file. `chat`: its template of conversations, with the texts of the tokens that this may name. `ends`: ids of tokens
    that end a text."""

    tokenizer: Path | None = None
    chat: dict[str, str] | None = None
    ends: tuple[int, ...] = ()


def find_texts(folder: Path, vocabulary: int) -> Texts:
    """Of a model in a folder; tokens that it does not know end nothing."""
    tokenizer = folder / TOKENIZER
    ends, chat = {token for name in ENDING for token in _ending(folder / name)}, None
    if tokenizer.is_file():
        settings = _object(folder / SETTINGS)
        special = {name: _token(folder / SETTINGS, settings, name) for name in TOKENS}
        ends |= set(_ids(tokenizer, special["eos_token"])) if special["eos_token"] else set()
        template = _template(folder, settings)
        chat = None if template is None else {"template": template, **special}
    known = tuple(sorted(token for token in ends if 0 <= token < vocabulary))
    return Texts(tokenizer if tokenizer.is_file() else None, chat, known)


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The one for conversations, parsed once; of several the one that is called default."""
    path = folder / TEMPLATE
    if path.is_file():
        found: Any = _text(path)
    else:
        path, found = folder / SETTINGS, settings.get("chat_template")
        if isinstance(found, list):
            found = next((each.get("template") for each in found if isinstance(each, dict) and each.get("name") == "default"), None)
    if found is None:
        return None
    if not isinstance(found, str):
        raise DataError(f"{path}: chat_template: needed a text, or a list with one called default, found {type(found).__name__}")
    try:
        compiled(found, str(path))
    except AcceleratorError as error:
        raise DataError(str(error)) from error
    return found


def _token(path: Path, settings: dict[str, Any], name: str) -> str:
    """The text of a token, which may stand in an object of its own; empty where there is none."""
    found = settings.get(name)
    if isinstance(found, dict):
        found = found.get("content")
    if found is not None and not isinstance(found, str):
        raise DataError(f"{path}: {name}: needed the text of a token, found {type(found).__name__}")
    return found or ""


def _ids(path: Path, text: str) -> Iterator[int]:
    """Of a token that the tokenizer has beside its vocabulary."""
    added = _object(path).get("added_tokens")
    for each in added if isinstance(added, list) else ():
        if isinstance(each, dict) and each.get("content") == text and type(each.get("id")) is int:
            yield each["id"]


def _ending(path: Path) -> list[int]:
    """`eos_token_id`: a number, or several."""
    found = _object(path).get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(token) is int for token in ids):
        raise DataError(f"{path}: eos_token_id: needed a number or a list of numbers, found {found!r:.80}")
    return ids


def _object(path: Path) -> dict[str, Any]:
    """What a file of JSON holds; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: needed JSON, found something else ({error!s:.80})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: needed an object of JSON, found {type(found).__name__}")
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path}: needed at most {MOST_BYTES} bytes, found {path.stat().st_size}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: needed text in UTF-8 that can be read ({error!s:.80})") from error
