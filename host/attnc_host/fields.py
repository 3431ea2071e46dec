"""Fields of a manifest: read with their types and ranges checked, naming file and field when they are wrong."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from attnc_host.errors import AcceleratorError

MAX_ELEMENTS = 1 << 31
"""Elements of one tensor."""


class Fields:
    """An object of the manifest, with getters that name file and field when they fail."""

    def __init__(self, data: Any, root: Path, file: str, where: str) -> None:
        if not isinstance(data, dict):
            raise AcceleratorError(f"{file}: field {where or '(top)'!r}: needed an object, found {type(data).__name__}")
        self.data: dict[str, Any] = data
        self.root, self.file, self.where = root, file, where

    def name(self, key: str) -> str:
        """The path of a field from the top."""
        return f"{self.where}.{key}" if self.where else key

    def fail(self, key: str, needed: str, found: object) -> Any:
        """Raise: what was `needed` in the field, and what was `found`."""
        text = repr(found)
        raise AcceleratorError(
            f"{self.file}: field {self.name(key)!r}: needed {needed}, found {text if len(text) < 80 else text[:77] + '...'}"
        )

    def get(self, key: str) -> Any:
        """The value of a field, which must be there."""
        if key not in self.data:
            raise AcceleratorError(f"{self.file}: field {self.name(key)!r} is missing")
        return self.data[key]

    def integer(self, key: str, low: int | None = None, high: int = (1 << 62)) -> int:
        """A whole number in [low, high]."""
        found = self.get(key)
        if isinstance(found, bool) or not isinstance(found, int):
            self.fail(key, "a whole number", found)
        if (low is not None and found < low) or found > high:
            self.fail(key, f"a whole number from {low} to {high}" if high < 1 << 62 else f"a whole number of {low} or more", found)
        return int(found)

    def integers(self, key: str, low: int | None) -> tuple[int, ...]:
        """A list of whole numbers of `low` or more."""
        found = self.get(key)
        valid = isinstance(found, list) and all(isinstance(i, int) and not isinstance(i, bool) and abs(i) <= 1 << 40 for i in found)
        if not valid or (low is not None and any(i < low for i in found)):
            self.fail(key, "a list of whole numbers" + ("" if low is None else f" of {low} or more"), found)
        return tuple(found)

    def shape(self, key: str, low: int = 1) -> tuple[int, ...]:
        """A list of sizes of `low` or more."""
        found = self.integers(key, low)
        if math.prod(found) > MAX_ELEMENTS:
            self.fail(key, f"at most {MAX_ELEMENTS} elements", list(found))
        return found

    def flag(self, key: str) -> bool:
        """true or false."""
        found = self.get(key)
        if not isinstance(found, bool):
            self.fail(key, "true or false", found)
        return bool(found)

    def text(self, key: str) -> str:
        """A text that is not empty."""
        found = self.get(key)
        if not isinstance(found, str) or not found:
            self.fail(key, "a text", found)
        return str(found)

    def dtype(self, key: str) -> np.dtype[Any]:
        """A NumPy type of numbers."""
        found = self.text(key)
        try:
            dtype = np.dtype(found)
        except (TypeError, ValueError):
            dtype = np.dtype(object)
        if dtype.kind not in "fiub":
            self.fail(key, "the name of a NumPy type of numbers", found)
        return dtype

    def path(self, key: str, optional: bool = False) -> Any:
        """A file inside the build folder; None where it is `optional` and null."""
        found = self.get(key)
        if found is None and optional:
            return None
        path = self.inside(self.text(key), self.name(key))
        if not path.is_file():
            raise AcceleratorError(f"{self.file}: field {self.name(key)!r}: the file {found!r} is missing from the build folder")
        return path

    def inside(self, name: str, where: str) -> Path:
        """The path of `name`, which must stay inside the build folder, links included."""
        pure = PurePosixPath(name)
        escapes = pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or not pure.parts
        if not escapes:
            base, real = os.path.realpath(self.root), os.path.realpath(self.root / name)
            escapes = os.path.commonpath([base, real]) != base
        if escapes:
            raise AcceleratorError(f"{self.file}: field {where!r}: needed a path inside the build folder, found {name!r}")
        return self.root / name

    def child(self, key: str) -> Fields:
        """The object in a field."""
        return Fields(self.get(key), self.root, self.file, self.name(key))

    def children(self, key: str) -> list[Fields]:
        """The objects of a list that is not empty."""
        found = self.get(key)
        if not isinstance(found, list) or not found:
            self.fail(key, "a list that is not empty", found)
        return [Fields(entry, self.root, self.file, f"{self.name(key)}[{i}]") for i, entry in enumerate(found)]
