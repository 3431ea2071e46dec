"""Files of JSON, read without trusting them, and written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnc_host.errors import AcceleratorError


def read_json(path: Path) -> Any:
    """What a JSON file of a build folder holds; whatever is wrong with it is an `AcceleratorError`."""
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_object)
    except FileNotFoundError:
        raise AcceleratorError(f"{path}: is missing, the build folder is damaged") from None
    except OSError as error:
        raise AcceleratorError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AcceleratorError(f"{path}: not valid JSON, the build folder is damaged: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ; JSON itself would keep the last in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return found


def write_json(facts: Mapping[str, Any], path: Path) -> None:
    """The facts as JSON, whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(facts, indent=1) + "\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
