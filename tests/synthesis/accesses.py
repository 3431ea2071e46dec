"""What a pipelined body reads and writes of arrays in one turn: inner loops laid out, functions inlined, as a tool does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import prod

from synthesis.program import LOOPS, Code, Program
from synthesis.tree import Function, Key, Node, Type, Variable
from synthesis.values import Scope, Value, Values

Index = list[tuple[Node, Scope]]
"""An index, a sum: what was passed as the address of an element is indexed from there."""
Path = tuple[Variable, Function, list[Index | str]]
"""A variable, the function that declares it, and the steps to a part of it: indices, names of fields."""


@dataclass(eq=False)
class Access:
    """An element, or a struct with all its parts, of an array. `steps` lead there: indices, and names of fields."""

    variable: Variable
    owner: Function
    steps: list[Index | str]
    writes: bool
    node: Node
    inside: Function
    loops: list[tuple[Node, Scope]]


@dataclass(eq=False)
class Either:
    """Of several ways one is taken."""

    ways: list[Items] = field(default_factory=list)


Items = list[Access | Either]


class Accesses:
    """Collects them; functions that are hardware of their own are not looked into."""

    def __init__(self, program: Program, values: Values) -> None:
        self.program, self.values = program, values
        self._loops: list[tuple[Node, Scope]] = []
        self._running: list[Key] = []

    def of_body(self, body: Node, function: Function) -> Items:
        """Those of one turn of a body."""
        return self._visit(body, Scope(function))

    def _visit(self, node: Node, scope: Scope) -> Items:
        if node.kind in ("if", "choice"):
            return self._branch(node, scope)
        if node.kind in LOOPS:
            self._loops.append((node, scope))
            found = self._visit(node.children[-1], scope)
            self._loops.pop()
            return found
        if node.kind in ("name", "member", "index"):
            return self._indices(node, scope) + self._touch(node, scope, writes=False)
        if node.kind == "assign":
            target, value = node.children
            found = self._visit(value, scope) + self._indices(target, scope)
            if node.name != "=":
                found += self._touch(target, scope, writes=False)
            return found + self._touch(target, scope, writes=True)
        if node.kind == "unary" and node.name in ("++", "--"):
            target = node.children[0]
            return self._indices(target, scope) + self._touch(target, scope, False) + self._touch(target, scope, True)
        variable = self.values.variable(node, scope) if node.kind == "variable" else None
        if variable is not None and variable.type.passed and node.children:
            scope.bound[node.key] = (node.children[0], scope)
            return self._indices(node.children[0], scope)
        if node.kind == "call":
            return self._call(node, scope)
        found = [item for child in node.children for item in self._visit(child, scope)]
        if node.kind == "variable" and node.children and (variable is None or variable.storage == "local"):
            found += self._touch(Node("name", node.line, [], node.name, node.key), scope, writes=True)
        return found

    def _branch(self, node: Node, scope: Scope) -> Items:
        condition, *ways = node.children
        found, value = self._visit(condition, scope), self.values.evaluate(condition, scope)
        if isinstance(value, int):
            taken = ways[0] if value else ways[1] if len(ways) > 1 else None
            return found + ([] if taken is None else self._visit(taken, scope))
        return [*found, Either([self._visit(way, scope) for way in ways])]

    def _call(self, node: Node, scope: Scope) -> Items:
        callee = self.program.callee(node)
        inside = Scope(scope.function if callee is None else callee.function)
        found: Items = []
        parameters = callee.function.parameters if callee else []
        for number, argument in enumerate(node.children):
            shared = number < len(parameters) and parameters[number].type.passed
            found += self._indices(argument, scope) if shared else self._visit(argument, scope)
            if number < len(parameters):
                inside.bound[parameters[number].key] = (argument, scope)
        if callee is not None and callee.function.body is not None and not is_hardware(callee) and node.key not in self._running:
            self._running.append(node.key)
            found += self._visit(callee.function.body, inside)
            self._running.pop()
        return found

    def _indices(self, node: Node, scope: Scope) -> Items:
        """What the indices of a path read."""
        if node.kind == "index":
            return self._indices(node.children[0], scope) + self._visit(node.children[1], scope)
        if node.kind == "member" or (node.kind == "unary" and node.name in ("&", "*")):
            return self._indices(node.children[0], scope)
        return [] if node.kind == "name" else self._visit(node, scope)

    def _touch(self, node: Node, scope: Scope, writes: bool) -> Items:
        found = self.resolve(node, scope)
        if found is None:
            return []
        variable, owner, steps = found
        if not any(isinstance(step, list) for step in steps) and not has_array(variable.type):
            return []
        return [Access(variable, owner, steps, writes, node, scope.function, list(self._loops))]

    def resolve(self, node: Node, scope: Scope) -> Path | None:
        """The variable that a path begins with, and the steps from there."""
        if node.kind == "name":
            if node.key in scope.bound and ((variable := self.values.variable(node, scope)) is None or variable.type.passed):
                return self.resolve(*scope.bound[node.key])
            variable = self.values.variable(node, scope)
            return None if variable is None else (variable, scope.function, [])
        if node.kind == "unary" and node.name in ("&", "*"):
            found = self.resolve(node.children[0], scope)
            return None if found is None else (*found[:2], [*found[2], "&"]) if node.name == "&" else found
        if node.kind not in ("member", "index"):
            return None
        found = self.resolve(node.children[0], scope)
        if found is None:
            return None
        variable, owner, steps = found
        if node.kind == "member":
            return variable, owner, [*steps, node.name]
        if steps and steps[-1] == "&" and len(steps) > 1 and isinstance(steps[-2], list):
            return variable, owner, [*steps[:-2], [*steps[-2], (node.children[1], scope)]]
        return variable, owner, [*steps, [(node.children[1], scope)]]

    def addresses(self, access: Access, dims: list[bool], is_word: bool) -> Iterator[tuple[tuple[Value, ...], tuple[Value, ...]]]:
        """(bank, place in it) of every element that an access touches; `dims` says of each index whether it chooses a bank. What `is_word`
        is one element."""
        indices = [step for step in access.steps if isinstance(step, list)]
        parts = [] if is_word else [range(count) for count in rest(access.variable.type, access.steps)]
        for _ in self.layouts(access):
            values = [self.sum(index) for index in indices]
            for inner in product(*parts):
                every: list[Value] = [*values, *inner]
                marks = [*dims, *([False] * (len(every) - len(dims)))]
                yield (
                    tuple(value for value, chooses in zip(every, marks, strict=False) if chooses),
                    tuple(value for value, chooses in zip(every, marks, strict=False) if not chooses),
                )

    def sum(self, index: Index) -> Value:
        """The value of an index."""
        values = [self.values.evaluate(*part) for part in index]
        if all(isinstance(value, int) for value in values):
            return sum(int(value) for value in values)
        return " + ".join(map(str, values))

    def layouts(self, access: Access) -> Iterator[None]:
        """Sets the counters of the loops around an access that its indices depend on, one combination after the other."""
        needed = {key for step in access.steps if isinstance(step, list) for part in step for key in self.values.names(*part)}
        loops = []
        for loop, scope in reversed(access.loops):
            counter = self.values.counter(loop)
            if counter in needed:
                loops.insert(0, (loop, scope, counter))
                needed.update(key for part in loop.children[:3] for key in self.values.names(part, scope))
        yield from self._lay_out(loops)

    def _lay_out(self, loops: list[tuple[Node, Scope, Key | None]]) -> Iterator[None]:
        if not loops:
            yield
            return
        loop, scope, counter = loops[0]
        assert counter is not None
        for value in self.values.trips(loop, scope) or []:
            self.values.known[counter] = value
            yield from self._lay_out(loops[1:])
        self.values.known.pop(counter, None)


def is_hardware(code: Code) -> bool:
    """Whether a function stays one, with memories of its own for each call."""
    return code.has("INLINE", "off") or code.has("PIPELINE") or code.has("DATAFLOW")


def has_array(given: Type) -> bool:
    """Whether a type is an array, or a struct with one."""
    return bool(given.dims) or any(has_array(part) for part in given.fields.values())


def rest(given: Type, steps: list[Index | str]) -> list[int]:
    """Elements that are left of each dimension when a path has been followed: all of the arrays in a struct that is taken as a whole."""
    dims = list(given.dims)
    for step in steps:
        if isinstance(step, list):
            dims = dims[1:]
        elif step in given.fields:
            given = given.fields[step]
            dims = list(given.dims)
    if dims:
        return dims
    inner = [rest(part, []) for part in given.fields.values() if has_array(part)]
    return max(inner, key=prod, default=[])
