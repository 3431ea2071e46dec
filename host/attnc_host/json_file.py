"""Files of JSON, read without trusting them."""

from __future__ import annotations

import json
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
