"""Loops: each has a name or goes away, ends after a number of turns that a tool can know, and says so inside."""

from __future__ import annotations

from collections.abc import Iterator

from synthesis.program import Code, Finding, Loop, Program
from synthesis.values import Scope, Values


def check(program: Program) -> Iterator[Finding]:
    """All loops that the accelerator has."""
    values = Values(program)
    for code in program.codes.values():
        for loop in code.loops:
            yield from _loop(values, code, loop)


def _loop(values: Values, code: Code, loop: Loop) -> Iterator[Finding]:
    what = f"loop {loop.label or '(without a label)'} of {code.function.name}"

    def finding(found: str, advice: str) -> Finding:
        return Finding(code.function.file, loop.node.line, "loop", f"{what} {found}", advice)

    known = _is_counted(values, code, loop)
    if loop.pragma("UNROLL"):
        if not known and "factor" not in loop.pragmas[0].options:
            yield finding("is to be unrolled, but its turns are not known when it is compiled", "give it constant bounds")
        return
    pipelined = _pipelined_around(code, loop)
    if pipelined is not None:
        yield finding(f"is inside {pipelined}, which is pipelined", "unroll it, or make one loop of both")
    elif not loop.label:
        yield finding("has no label", "reports and settings know it by its label")
    if not known and not loop.pragma("LOOP_TRIPCOUNT"):
        yield finding("has bounds that only run time knows", "say LOOP_TRIPCOUNT min and max just inside")
    plain = loop.pragma("PIPELINE") is None and pipelined is None and all(inner.pragma("UNROLL") for inner in loop.inner)
    if plain and not _calls_hardware(values, code, loop):
        yield finding("is neither pipelined nor unrolled and has no loop inside", "say PIPELINE II = 1 or UNROLL just inside")


def _is_counted(values: Values, code: Code, loop: Loop) -> bool:
    """Whether its turns are known when the source is compiled; counters of unrolled loops around it are."""
    around, outer = [], loop.outer
    while outer is not None:
        around.insert(0, outer)
        outer = outer.outer
    scope, set_here = Scope(code.function), []
    for one in around:
        turns = values.trips(one.node, scope) if one.pragma("UNROLL") else None
        counter = values.counter(one.node)
        if turns and counter is not None:
            values.known[counter] = turns[0]
            set_here.append(counter)
    known = values.trips(loop.node, scope) is not None
    for counter in set_here:
        del values.known[counter]
    return known


def _pipelined_around(code: Code, loop: Loop) -> str | None:
    outer = loop.outer
    while outer is not None:
        if outer.pragma("PIPELINE"):
            return f"loop {outer.label}"
        outer = outer.outer
    return f"function {code.function.name}" if code.has("PIPELINE") else None


def _calls_hardware(values: Values, code: Code, loop: Loop) -> bool:
    """Whether it runs functions with loops or a region: it cannot be a pipeline then."""
    waiting, seen = [node.key for node in loop.body.walk() if node.kind == "call"], set[int]()
    while waiting:
        callee = values.program.codes.get(waiting.pop())
        if callee is None or callee.function.key in seen:
            continue
        seen.add(callee.function.key)
        if callee.has("DATAFLOW") or any(inner.pragma("UNROLL") is None for inner in callee.loops):
            return True
        assert callee.function.body is not None
        waiting += [node.key for node in callee.function.body.walk() if node.kind == "call"]
    return False
