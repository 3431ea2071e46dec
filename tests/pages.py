"""Pages of the documentation as tests read them: blocks of code, those to be run, links, and lines that call attnc."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import attnc
import attnc_host

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TUTORIAL = ROOT / "docs" / "tutorial.md"


@dataclass(frozen=True)
class Block:
    """A fenced block: the words behind its fence (language, then `run` or `file=NAME`), the number of its first line, its lines."""

    words: tuple[str, ...]
    line: int
    text: str

    @property
    def runs(self) -> bool:
        """Whether the page is wrong where this does not work."""
        return "run" in self.words or any(word.startswith("file=") for word in self.words)


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page."""
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        yield Block(tuple(match[1].split()), page.read_text().count("\n", 0, match.start()) + 2, match[2])


def calls(page: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, words) of every call of attnc, in blocks and between backticks. A synopsis, with brackets, is none."""
    fenced = {block.line + at for block in blocks(page) for at in range(block.text.count("\n"))}
    for number, line in enumerate(page.read_text().splitlines(), 1):
        code = r"^ *(attnc .*)$" if number in fenced else r"^    (attnc .*)$"
        found = re.findall(r"`(attnc [^`]*)`", line) + re.findall(code, line)
        for call in found:
            if not re.search(r"[\[\]<>…]|\.\.\.", re.sub(r'"[^"]*"', "x", call)):
                yield number, shlex.split(re.sub(r"\s{2,}\S.*", "", call), comments=True)  # a remark may stand behind it


def prose(page: Path) -> str:
    """A page without its blocks of code, fenced or indented."""
    fenced = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", fenced, flags=re.MULTILINE)


def environment() -> dict[str, str]:
    """Both packages importable in processes of their own."""
    paths = [str(Path(str(module.__file__)).parents[1]) for module in (attnc, attnc_host)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The working folder, for as long as the block lasts."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_page(page: Path, folder: Path) -> None:
    """Run what a page marks, in order, in a folder. Commands run in this process, which saves them their start."""
    for block in blocks(page):
        if block.runs:
            with inside(folder):
                _run(page, block)


def _run(page: Path, block: Block) -> None:
    from attnc.cli import main

    where, name = f"{page.name}:{block.line}", next((word[5:] for word in block.words if word.startswith("file=")), None)
    if name is not None:
        Path(name).write_text(block.text)
    elif block.words[0] == "python":
        _process([sys.executable, "-c", block.text], where)
    else:
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["attnc"]:
                assert main(words[1:]) == 0, f"{where}: {line}"
            elif words[:1] == ["python"]:
                _process([sys.executable, *words[1:]], where)
            elif words:
                raise AssertionError(f"{where}: only attnc and python are run, found {line!r}")


def _process(command: list[str], where: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, f"{where}: {done.stderr}"
