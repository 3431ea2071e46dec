"""Pragmas: known to the tool, where they count, and about something that is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from synthesis.pragmas import DIRECTIVES, NUMBER, Pragma, mistakes
from synthesis.program import Code, Finding, Program
from synthesis.regions import is_stream
from synthesis.tree import Node, Type, Variable

STATED = {"LOOP_TRIPCOUNT": "min", "PIPELINE": "II", "STREAM": "depth"}
"""What the tool would choose where it is left out."""


def check(program: Program) -> Iterator[Finding]:
    """All pragmas of the sources, those of functions that the accelerator has with their surroundings."""
    for pragma in program.all_pragmas:
        for mistake in mistakes(pragma):
            yield _finding(pragma, mistake, "see UG1399")
        option = STATED.get(pragma.name)
        if option and option not in pragma.options and "off" not in pragma.words:
            yield _finding(pragma, f"{pragma.name} leaves {option} to the tool", "state it")
        yield from _numbers(program, pragma)
    for code in program.codes.values():
        for pragma in code.pragmas:
            if pragma.name in DIRECTIVES:
                yield from _place(program, code, pragma)
                yield from _variable(code, pragma)


def _finding(pragma: Pragma, found: str, advice: str) -> Finding:
    return Finding(pragma.file, pragma.line, "pragma", f"{found} ({pragma.text})", advice)


def _place(program: Program, code: Code, pragma: Pragma) -> Iterator[Finding]:
    place = DIRECTIVES[pragma.name].place
    in_loop = any(pragma in loop.pragmas for loop in code.loops)
    if place == "loop" and not in_loop:
        yield _finding(pragma, f"{pragma.name} stands in no loop, or behind the first statement of one", "put it just inside the loop")
    elif place == "function" and pragma not in code.own:
        yield _finding(pragma, f"{pragma.name} does not stand at the top of a function", "put it before the first statement")
    elif place == "either" and not in_loop and pragma not in code.own:
        yield _finding(pragma, f"{pragma.name} stands at the top of no loop and no function", "put it before the first statement")
    elif pragma.name == "INTERFACE" and code.function is not program.top:
        yield _finding(pragma, f"{code.function.name} is not what is synthesized", "describe its ports there")


def _variable(code: Code, pragma: Pragma) -> Iterator[Finding]:
    if not pragma.variable or (pragma.name == "INTERFACE" and pragma.variable == "return"):
        return
    name, *fields = pragma.variable.split(".")
    variable = _in_scope(code, pragma, name)
    if variable is None:
        yield _finding(pragma, f"no variable {name} is declared before it, around it", "name one that is")
        return
    described: Type = variable.type
    for part in fields:
        if part not in described.fields:
            yield _finding(pragma, f"{variable.name} has no field {part}", "name one that it has")
            return
        described = described.fields[part]
    dim = pragma.options.get("dim", "1")
    if pragma.name in ("ARRAY_PARTITION", "ARRAY_RESHAPE") and dim.isdigit() and not int(dim) <= len(described.dims):
        yield _finding(pragma, f"{pragma.variable} has {len(described.dims)} dimensions", "name one of them")
    of_streams = pragma.name == "STREAM" or pragma.options.get("type") == "fifo"
    if of_streams and not is_stream(variable):
        yield _finding(pragma, f"{variable.name} is no stream", "name one that is")


def _in_scope(code: Code, pragma: Pragma, name: str) -> Variable | None:
    """The variable that a name means where a pragma stands: the last one declared before it in a block around it."""
    assert code.function.body is not None
    found = next((one for one in code.function.parameters if one.name == name), None)

    def visit(node: Node) -> None:
        nonlocal found
        if node.kind == "variable" and node.name == name and node.line <= pragma.line:
            found = code.function.variables.get(node.key, found)
        for child in node.children:
            if child.kind not in ("block", "for") or child.line <= pragma.line <= child.end:
                visit(child)

    visit(code.function.body)
    return found


@cache
def _words(file: Path) -> frozenset[str]:
    """What a source names outside its pragmas."""
    lines = (line for line in file.read_text().splitlines() if not line.lstrip().startswith("#pragma"))
    return frozenset(re.findall(r"[A-Za-z_]\w*", "\n".join(lines)))


def _numbers(program: Program, pragma: Pragma) -> Iterator[Finding]:
    """A number may be made of constants, which exist."""
    directive = DIRECTIVES.get(pragma.name)
    for option, value in pragma.options.items() if directive else ():
        if directive is not None and directive.options.get(option, "") is NUMBER:
            for name in re.findall(r"\b[A-Za-z_]\w*", value):
                if not any(name in _words(file) for file in program.files):
                    yield _finding(pragma, f"{option} is made of {name}, which nothing declares", "name a constant")
