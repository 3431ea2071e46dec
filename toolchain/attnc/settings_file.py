"""Files of settings (YAML, TOML): read without trusting them; whatever is wrong with one is a `ConfigError` that says where."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from attnc.errors import ConfigError
from attnc.messages import one_line, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
"""Lists and tables inside each other."""
MAX_VALUES = 20_000
"""Values in a file, keys included; more take seconds to read."""


def read_settings(path: Path, what: str) -> Any:
    """What a YAML or TOML file holds; None where it is empty. `what` it is stands in front of every message."""
    where = f"{what} {path}"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{where}: needed at most {MAX_BYTES} bytes, found more")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: cannot be read: needed text in UTF-8, found byte {data[error.start]:#x} at {error.start}") from error
    toml = path.suffix.lower() == ".toml"
    try:
        return tomllib.loads(text) if toml else yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}{place}") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else one_line(error)
        raise ConfigError(f"{where}: not valid {'TOML' if toml else 'YAML'}: {reason}") from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # published without types
    """Refuses a key that is given twice, of which YAML would silently keep the last; aliases, which may stand for more than memory
    holds; and what is nested so deep, or is so long, that reading it takes for ever."""

    depth = values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A value, or a key."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            found = f'aliases are not supported, found *{event.anchor}; a pattern that starts with * needs quotes: "*.up"'
            raise yaml.composer.ComposerError(None, None, found, event.start_mark)
        self.depth, self.values = self.depth + 1, self.values + 1
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"needed at most {MAX_DEPTH} levels, found more", event.start_mark)
        if self.values > MAX_VALUES:
            raise yaml.composer.ComposerError(None, None, f"needed at most {MAX_VALUES} values, found more", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys differ."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)


Validated = TypeVar("Validated", bound=BaseModel)


def validated(model: type[Validated], data: Any, where: str) -> Validated:
    """`data`, a table, as a `model`; what is wrong with it becomes a `ConfigError` that names the field, what was needed and found."""
    if not isinstance(data, dict):
        names = [field.alias or name for name, field in model.model_fields.items()]
        raise ConfigError(f"{where}: needed a table with the fields {', '.join(names)}, found {type(data).__name__}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(f"{where}: field {field!r}: {first['msg']}, found {shown(first.get('input'))}") from error
    except (RecursionError, OverflowError) as error:
        raise ConfigError(f"{where}: cannot be read: it nests too deep, or holds a number that is too large") from error
