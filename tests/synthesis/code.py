"""What no hardware is made of: floating point, a heap, recursion, exceptions, virtual calls; and words that memory ports cannot move."""

from __future__ import annotations

from collections.abc import Iterator

from synthesis.program import Code, Finding, Program
from synthesis.tree import Key

FORBIDDEN = {"new": "takes memory from a heap", "delete": "gives memory back to a heap", "throw": "throws", "try": "catches exceptions",
             "float": "computes with floating point", "goto": "jumps"}  # fmt: skip


def check(program: Program) -> Iterator[Finding]:
    """All functions that the accelerator has, and its ports."""
    for code in program.codes.values():
        yield from _statements(program, code)
        yield from _types(code)
        if code.function.virtual:
            yield _finding(code, code.function.line, "is virtual", "let a template choose")
        if _calls_itself(program, code.function.key):
            yield _finding(code, code.function.line, "calls itself", "write a loop with constant bounds")
    for port in program.top.parameters:
        if port.type.word is not None:
            size, align = port.type.word
            if size & (size - 1) or align != size:
                yield Finding(port.file, port.line, "word", f"port {port.name} moves words of {size} bytes that are aligned to {align}",
                              "align them to their size, a power of two: a burst may be refused else")  # fmt: skip


def _finding(code: Code, line: int, found: str, advice: str) -> Finding:
    return Finding(code.function.file, line, "code", f"{code.function.name} {found}", advice)


def _statements(program: Program, code: Code) -> Iterator[Finding]:
    assert code.function.body is not None
    for node in code.function.body.walk():
        if node.kind in FORBIDDEN:
            yield _finding(code, node.line, FORBIDDEN[node.kind], "hardware has nothing for it")
        elif node.kind in ("call", "method") and node.key not in program.codes and not program.unit.functions[node.key].is_stub:
            yield _finding(code, node.line, f"calls {node.name}, whose body is not in the sources", "hardware is made of what is there")


def _types(code: Code) -> Iterator[Finding]:
    for variable in code.function.variables.values():
        if variable.type.floating or any(one.floating for one in variable.type.fields.values()):
            yield _finding(code, variable.line, f"has {variable.name} in floating point", "use integers of a declared width")
    if code.function.returns.floating:
        yield _finding(code, code.function.line, "returns floating point", "use integers of a declared width")


def _calls_itself(program: Program, start: Key) -> bool:
    waiting, seen = [start], set[Key]()
    while waiting:
        code = program.codes.get(waiting.pop())
        if code is None:
            continue
        assert code.function.body is not None
        for node in code.function.body.walk():
            if node.kind in ("call", "method"):
                if node.key == start:
                    return True
                if node.key not in seen:
                    seen.add(node.key)
                    waiting.append(node.key)
    return False
