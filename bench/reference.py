"""The commands in docs/reference.md, written from the command line itself.

python bench/reference.py           # rewrites what stands between the marks (make docs)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import typer

from attnc.cli import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
BEGIN, END = "<!-- commands: written by make docs -->", "<!-- commands: end -->"
EVERYWHERE = ("--verbose", "--help")
"""Options that every command has; the page says so once."""


def commands() -> dict[str, Any]:
    """By name, as the command line lists them."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def options(command: Any) -> list[Any]:
    """Options and arguments of a command that are its own."""
    return [param for param in command.params if not param.hidden and param.opts[0] not in EVERYWHERE]


def text(command: Any) -> str:
    """A command as Markdown: what it does, a table of what it takes, examples and what its help says behind them."""
    rows = ["| | | |", "|---|---|---|", *(_row(param) for param in options(command))]
    epilog = "\n".join(line.rstrip() for line in (command.epilog or "").replace("\b\n", "").splitlines())
    return f"### attnc {command.name}\n\n{command.help}\n\n" + "\n".join(rows) + f"\n\n```text\n{epilog.strip()}\n```\n"


def _row(param: Any) -> str:
    """Name, value, meaning; the default where there is one to name."""
    argument = not param.opts[0].startswith("-")
    names = param.metavar or param.opts[0].upper() if argument else ", ".join(sorted(param.opts, key=len) + param.secondary_opts)
    flag = getattr(param, "is_flag", False)
    value = "needed" if argument and param.required else "" if argument or flag else _value(param)
    default = param.default if isinstance(param.default, int | float | str | Path) and not flag else None
    named = param.show_default if isinstance(param.show_default, str) else None if default in (None, "") else f"{default}"
    meaning = (param.help or "") + (f" Default: {named}." if named is not None and "[default" not in (param.help or "") else "")
    more = "" if argument or not param.required else " Needed."
    return f"| {_code(names)} | {_code(value) if value and value != 'needed' else value} | {_cell(meaning + more)} |"


def _value(param: Any) -> str:
    """What an option takes."""
    annotation = param.type_descriptor.annotation
    words = [word for part in (annotation, *get_args(annotation)) for word in get_args(part) if isinstance(word, str)]
    return param.metavar or "|".join(dict.fromkeys(words)) or {"Path": "PATH"}.get(getattr(annotation, "__name__", ""), "VALUE")


def _code(words: str) -> str:
    return f"`{words}`".replace("|", "\\|")


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


def with_commands(page: str) -> str:
    """A page with every command between its two marks."""
    before, found, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise SystemExit(f"{PAGE}: needed the marks {BEGIN} and {END}")
    return before + BEGIN + "\n\n" + "\n".join(text(command) for command in commands().values()) + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(with_commands(PAGE.read_text()))
