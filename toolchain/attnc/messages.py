"""How text from files and libraries becomes part of what a terminal shows: escaped, short, and never like a message of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST_WORD, LONGEST = 300, 1500
"""Characters of a word (a name, a path) and of a message that are shown, unless --verbose asks for all."""


def clean(text: str) -> str:
    """Control characters and such escaped: names come from files, and a terminal obeys what is printed."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def brief(text: str, longest_word: int = LONGEST_WORD, longest: int = LONGEST) -> str:
    """A message of bounded length: what is long is cut in its middle, words first."""

    def cut(part: str, longest: int) -> str:
        left_out = f"...({len(part) - longest} characters)..."
        return part if len(part) <= longest + len(left_out) else part[: longest * 2 // 3] + left_out + part[-longest // 3 :]

    return cut(re.sub(rf"\S{{{longest_word},}}", lambda word: cut(word[0], longest_word), text), longest)


def message(kind: str, text: str, whole: bool = False) -> str:
    """One message of the command line, all of it if `whole`. What follows its first line is indented: lines of a compiler, or of a name
    that has some, cannot be taken for messages."""
    shown = clean(text) if whole else brief(clean(text))
    return f"attnc: {kind}: " + "\n  ".join(line for line in shown.splitlines() if line.strip())


def shown(value: object) -> str:
    """A value that was found where another was needed."""
    try:
        return repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits; lists in lists
        return f"{type(value).__name__} that is too long to show"


def one_line(error: BaseException) -> str:
    """What an error of a library says, in a line."""
    return " ".join(str(error).split()) or type(error).__name__


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names of nodes, the first of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"node{'s' if len(names) > 1 else ''} {', '.join(names[:most])}{more}"
