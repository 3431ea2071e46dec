"""Conversations as a model was trained to read them: by the template that comes with its tokenizer, in jinja2's sandbox (the package
`jinja2`). What templates may use is what `transformers` gives them."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnc_host.errors import AcceleratorError, InputError
from attnc_host.json_file import read_json

TOKENS = ("bos_token", "eos_token")
"""Texts of tokens that templates name."""


class Chat:
    """A template, from a file with its text and those of `TOKENS`."""

    def __init__(self, path: Path) -> None:
        facts = read_json(path)
        if not isinstance(facts, dict) or not all(isinstance(facts.get(name), str) for name in ("template", *TOKENS)):
            raise AcceleratorError(f"{path}: needed the texts template, {' and '.join(TOKENS)}, found others")
        self._tokens = {name: facts[name] for name in TOKENS}
        self._template = compiled(facts["template"], str(path))

    def text(self, messages: Sequence[Mapping[str, str]], settings: Mapping[str, Any] | None = None) -> str:
        """A conversation up to where the next answer begins, with `settings` that the template knows, as `enable_thinking`; raises
        `InputError` where it takes no such conversation."""
        try:
            given = {"messages": [dict(message) for message in messages], "add_generation_prompt": True, **self._tokens}
            return str(self._template.render(**given, **(settings or {})))
        except Exception as error:  # templates can raise whatever expressions can
            raise InputError(f"messages: the model's chat template does not take them ({error})") from error


def compiled(template: str, where: str) -> Any:
    """A jinja2 template; raises `AcceleratorError` where it is none."""
    try:
        sandbox: Any = importlib.import_module("jinja2.sandbox")
    except ImportError as error:
        raise AcceleratorError(f"{where} needs the package jinja2, which is not installed: pip install jinja2") from error
    extensions: Any = importlib.import_module("jinja2.ext")
    marked = type("Marked", (extensions.Extension,), {"tags": {"generation"}, "parse": _marked})
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", marked]
    )
    environment.filters["tojson"] = _json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": time.strftime}
    try:
        return environment.from_string(template)
    except Exception as error:  # jinja2 compiles to Python, which may refuse it too
        line = getattr(error, "lineno", None)
        raise AcceleratorError(
            f"{where}: needed a chat template in jinja2, found {'' if line is None else f'in line {line}: '}{error}"
        ) from error


def _json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    """jinja2's own is for pages, with &lt; for <."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise InputError(message)


def _marked(_: Any, parser: Any) -> Any:
    """`{% generation %}` marks answers for training: what is in it, without it."""
    next(parser.stream)
    return parser.parse_statements(("name:endgeneration",), drop_needle=True)
