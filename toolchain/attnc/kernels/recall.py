"""What is computed once for all that agree in the numbers that it follows from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")
Read = tuple[str, Hashable]
"""A number that was read: its name, and what it was."""


@dataclass
class _Branch(Generic[Result]):
    """Results by the number that is read next; `name` is that of none where there is a `result`."""

    name: str = ""
    ways: dict[Hashable, _Branch[Result]] = field(default_factory=dict)
    result: Result | None = None


class Recall(Generic[Result]):
    """Results of one function of named numbers, by those numbers alone that it read to find them. Which one it reads next may depend on
    those before and on nothing else, so all that has been read makes a tree."""

    def __init__(self) -> None:
        self._root: _Branch[Result] = _Branch()

    def find(self, number: Callable[[str], Hashable]) -> Result | None:
        """The result for numbers by name, if it is known."""
        branch: _Branch[Result] | None = self._root
        while branch is not None and branch.name:
            branch = branch.ways.get(number(branch.name))
        return None if branch is None else branch.result

    def keep(self, reads: Sequence[Read], result: Result) -> Result:
        """Take note of a result and of what was read for it, in order."""
        branch = self._root
        for name, number in reads:
            assert branch.name in ("", name) and branch.result is None
            branch.name = name
            branch = branch.ways.setdefault(number, _Branch())
        branch.result = result
        return result
