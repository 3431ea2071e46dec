"""Changes one key of a schedule.yaml and nothing else of the file: comments, order and spelling of the rest stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from attnc.errors import ConfigError
from attnc.files import write_whole
from attnc.schedule.file import read_schedule

KEY = "fifos"


def with_fifos(path: Path, depths: Mapping[str, int], write: bool = False) -> str:
    """The text of a schedule with these depths of FIFOs in place of those that it has, if any; with `write` the file gets it, as a whole.
    Raises `ConfigError` where the file is no schedule, or has a form that keeps other text from being told apart."""
    read_schedule(path)
    text = path.read_bytes().decode()
    changed = _changed(text, depths)
    if _parsed(changed) != {**_parsed(text), KEY: dict(depths)}:
        raise ConfigError(f"schedule {path}: needed a table with a key per line, to change {KEY!r} and nothing else; found another form")
    if write:
        write_whole(path, changed.encode())
    return changed


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return {}


def _changed(text: str, depths: Mapping[str, int]) -> str:
    line = "\r\n" if "\r\n" in text else "\n"
    block = line.join([f"{KEY}:", *(f"  {name}: {depth}" for name, depth in depths.items())]) if depths else f"{KEY}: {{}}"
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    old = next(((key, value) for key, value in root.value if key.value == KEY), None)
    if old is not None:
        return text[: old[0].start_mark.index] + block + text[_end(old[1]) :]
    end = text.find("\n", _end(root))  # of the line, with a comment that it may have
    at = len(text) if end < 0 else end - len(line) + 1
    return text[:at] + line + block + text[at:]


def _end(node: yaml.Node) -> int:
    """Where the last value of a node ends; a block itself ends only where the next one begins, behind comments."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _end(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _end(node.value[-1])
    return int(node.end_mark.index)
