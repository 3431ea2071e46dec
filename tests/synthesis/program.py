"""A source as the checks see it: functions that the accelerator reaches, their loops, and the pragmas where they belong."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from synthesis.pragmas import Pragma, pragmas
from synthesis.tree import STUBS, Function, Key, Node, Unit, Variable

LOOPS = ("for", "while", "do", "range-for")
FLAGS = ["-std=c++14", "-D__SYNTHESIS__", f"-I{STUBS}"]
"""As a tool for synthesis reads it: with integers of any width, and without what `__SYNTHESIS__` keeps for simulation."""


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and what to do about it."""

    file: Path
    line: int
    rule: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: [{self.rule}] {self.found}; {self.advice}"


@dataclass(eq=False)
class Loop:
    """A loop with the pragmas just inside, its label, and the loop around it."""

    node: Node
    function: Function
    label: str
    outer: Loop | None
    pragmas: list[Pragma] = field(default_factory=list)
    inner: list[Loop] = field(default_factory=list)

    def pragma(self, name: str) -> Pragma | None:
        """That one, where it is there and not switched off."""
        return next((one for one in self.pragmas if one.name == name and "off" not in one.words), None)

    @property
    def body(self) -> Node:
        """What it repeats."""
        return self.node.children[0] if self.node.kind == "do" else self.node.children[-1]


@dataclass(eq=False)
class Code:
    """A function with all its loops, all pragmas inside, and those of its `own` that stand at its top."""

    function: Function
    loops: list[Loop] = field(default_factory=list)
    pragmas: list[Pragma] = field(default_factory=list)
    own: list[Pragma] = field(default_factory=list)

    def has(self, name: str, *words: str) -> bool:
        """Whether a pragma of the whole function is there, with these words."""
        return any(one.name == name and all(word in one.words for word in words) for one in self.own)


class Program:
    """A source, parsed and preprocessed. `codes` are the functions with a body that `top` reaches, `all_pragmas` those of every file.
    Raises `ValueError` where it is not C++."""

    def __init__(self, source: Path, includes: list[Path], top: str) -> None:
        arguments = [*FLAGS, *(f"-I{folder}" for folder in includes)]
        self.unit = Unit(source, [*arguments, "-nostdinc", *(f"-isystem{folder}" for folder in system_folders())])
        self.all_pragmas: list[Pragma] = []
        self.codes: dict[Key, Code] = {}
        self.given: dict[Key, list[Node]] = {}
        if self.unit.errors:
            raise ValueError("\n".join(self.unit.errors))
        self.top = self.unit.top(top)
        ours = (one for one in pragmas(_preprocessed(source, arguments)) if not str(one.file).startswith(system_folders()))
        self.all_pragmas = list(ours)
        self.files = {one.file for one in self.all_pragmas}
        by_file: dict[Path, list[Pragma]] = {}
        for pragma in self.all_pragmas:
            by_file.setdefault(pragma.file, []).append(pragma)
        for function in self.unit.functions.values():
            if function.body is not None:
                inside = [one for one in by_file.get(function.file, []) if function.line <= one.line <= function.last_line]
                self.codes[function.key] = _code(function, inside)
        for function in self.functions():
            for node in function.body.walk() if function.body else ():
                if node.kind == "call":
                    for parameter, argument in zip(self.unit.functions[node.key].parameters, node.children, strict=False):
                        self.given.setdefault(parameter.key, []).append(argument)

    def functions(self) -> Iterator[Function]:
        """Those with a body."""
        return (code.function for code in self.codes.values())

    def callee(self, node: Node) -> Code | None:
        """What a call runs, where its body is known."""
        return self.codes.get(node.key) if node.kind in ("call", "method") else None

    def variable(self, key: Key, function: Function) -> Variable | None:
        """A variable of a function, or a global one."""
        return function.variables.get(key) or self.unit.globals.get(key)


def _code(function: Function, inside: list[Pragma]) -> Code:
    code = Code(function, pragmas=inside)
    assert function.body is not None

    def visit(node: Node, outer: Loop | None, label: str) -> None:
        if node.kind in LOOPS:
            loop = Loop(node, function, label, outer)
            loop.pragmas = [one for one in inside if stands_at_top(one, loop.body)]
            code.loops.append(loop)
            if outer is not None:
                outer.inner.append(loop)
            outer = loop
        for child in node.children:
            visit(child, outer, node.name if node.kind == "label" else "")

    visit(function.body, None, "")
    code.own = [one for one in inside if stands_at_top(one, function.body, function.line)]
    return code


def stands_at_top(pragma: Pragma, block: Node, line: int = 0) -> bool:
    """Whether it is in a block, before the first statement."""
    if block.kind != "block":
        return False
    first = min((child.line for child in block.children), default=block.end + 1)
    return max(block.line, line) <= pragma.line < first and pragma.line <= block.end


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "g++"))


@cache
def system_folders() -> tuple[str, ...]:
    """Where the C++ compiler of this machine keeps its headers: libclang brings none."""
    said = subprocess.run([*compiler(), "-E", "-v", "-x", "c++", os.devnull], capture_output=True, text=True, check=True).stderr
    return tuple(said.split("search starts here:\n")[-1].split("End of search")[0].split())


def _preprocessed(source: Path, arguments: list[str]) -> str:
    return subprocess.run([*compiler(), "-E", *arguments, source], capture_output=True, text=True, check=True).stdout
