"""Chains of lanes between reading a memory and writing it again.

An unrolled loop that goes on from what was read, lane after lane, has all of these operations in the one cycle that a pipeline leaves
between the read of an element and the write of its next value.
"""

from __future__ import annotations

from collections.abc import Iterator

from synthesis.accesses import Accesses, Path
from synthesis.program import Code, Finding, Loop, Program
from synthesis.storage import storage
from synthesis.tree import Key, Node, Variable
from synthesis.values import Scope, Values


def check(program: Program) -> Iterator[Finding]:
    """All pipelined loops."""
    for code in program.codes.values():
        for loop in code.loops:
            if loop.pragma("PIPELINE"):
                yield from _loop(program, code, loop)


def _loop(program: Program, code: Code, loop: Loop) -> Iterator[Finding]:
    chains, inside = _Chains(program, code, loop), set(loop.body.walk())
    for inner in code.loops:
        if inner.node in inside and inner.pragma("UNROLL") and len(chains.values.trips(inner.node, chains.scope) or "12") > 1:
            for node, memory in chains.of(inner.node):
                yield Finding(code.function.file, node.line, "chain",
                              f"unrolled loop at line {inner.node.line} goes on from an element of {memory.name}, lane after lane, and "
                              "its last value goes back",
                              "reduce the lanes by a tree first, then take the element in one step")  # fmt: skip


class _Chains:
    """Those of a pipelined loop."""

    def __init__(self, program: Program, code: Code, loop: Loop) -> None:
        self.program, self.scope, self.values = program, Scope(code.function), Values(program)
        self.accesses = Accesses(program, self.values)
        self.assigned = [node for node in loop.body.walk() if node.kind in ("assign", "variable") and node.children]
        self.counters = {self.values.counter(one.node) for one in code.loops if one.pragma("UNROLL")}

    def of(self, inner: Node) -> Iterator[tuple[Node, Variable]]:
        """(assignment, memory) of those that an unrolled loop makes."""
        counter, body = self.values.counter(inner), inner.children[-1]
        declared = {node.key for node in body.walk() if node.kind == "variable"}
        for node, target, seen in self.changes(body):
            path = None if counter in _names(target) else self.accesses.resolve(target, self.scope)
            if path is None or path[0].key in declared:
                continue
            if path[0].key not in seen:
                continue  # the last lane's value stays, and the others feed nothing
            memory = path[0] if self.is_memory(path) else self.fed(path[0], inner)
            if memory is not None:
                yield node, memory

    def changes(self, body: Node) -> Iterator[tuple[Node, Node, set[Key]]]:
        """(statement, what it changes, what the new value depends on): assignments, and calls that are handed a variable to change."""
        for node in body.walk():
            if node.kind == "assign":
                goes_on = _names(node.children[0]) if node.name != "=" else set()
                yield node, node.children[0], goes_on | _names(node.children[1]) | _conditions(body, node)
            callee = self.program.callee(node)
            for parameter, argument in zip(callee.function.parameters if callee else (), node.children, strict=False):
                if parameter.type.passed and not parameter.type.const:
                    yield node, argument, _names(node)

    def is_memory(self, path: Path) -> bool:
        """Whether a path has an index that only run time knows and that chooses no register."""
        variable, owner, steps = path
        partitioned = storage(self.program, variable, owner).partitioned
        for number, step in enumerate((step for step in steps if isinstance(step, list)), 1):
            names = {key for part in step for key in self.values.names(*part)} - self.counters
            if names and not {0, number} & partitioned:
                return True
        return False

    def fed(self, variable: Variable, inner: Node) -> Variable | None:
        """The memory that a variable's value came from before a loop and goes to behind it."""
        sources = {memory for node in self.assigned if node.line < inner.line and _target(node) == variable.key
                   for memory in self.memories(node.children[-1], self.scope)}  # fmt: skip
        carried = {variable.key}
        for node in self.assigned:
            if node.line > inner.end and _names(node.children[-1]) & carried:
                path = self.accesses.resolve(node.children[0], self.scope) if node.kind == "assign" else None
                if path is not None and path[0] in sources:
                    return path[0]
                carried.add(_target(node))
        return None

    def memories(self, node: Node, scope: Scope) -> set[Variable]:
        """Memories that an expression reads, constants followed."""
        found = set()
        for part in node.walk():
            if part.kind == "index" and (path := self.accesses.resolve(part, scope)) and self.is_memory(path):
                found.add(path[0])
            elif part.kind == "name" and (stands_for := self.values.constant(part, scope)):
                found |= self.memories(*stands_for)
        return found


def _names(node: Node) -> set[Key]:
    return {part.key for part in node.walk() if part.kind == "name"}


def _target(node: Node) -> Key:
    return node.key if node.kind == "variable" else node.children[0].key if node.children[0].kind == "name" else -1


def _conditions(body: Node, target: Node) -> set[Key]:
    """What the conditions around a statement name."""
    return {key for node in body.walk() if node.kind == "if" and any(target in way.walk() for way in node.children[1:])
            for key in _names(node.children[0])}  # fmt: skip
