"""Expressions evaluated as far as they are known: a number, or a text that is the same where the value is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from synthesis.program import LOOPS, Program
from synthesis.tree import Function, Key, Node, Variable

Value = int | str
MOST_TRIPS = 1 << 16
BINARY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "<<": operator.lshift, ">>": operator.rshift, "&": operator.and_,
    "|": operator.or_, "^": operator.xor, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "==": operator.eq,
    "!=": operator.ne, "&&": lambda a, b: bool(a) and bool(b), "||": lambda a, b: bool(a) or bool(b),
    "/": lambda a, b: int(a / b) if b else 0, "%": lambda a, b: a - b * int(a / b) if b else 0,
}  # fmt: skip
UNARY: dict[str, Callable[[int], int]] = {"-": operator.neg, "~": operator.invert, "!": operator.not_, "+": operator.pos}


@dataclass(eq=False)
class Scope:
    """A function as it runs inside another: what its parameters, and references that it declares, stand for there."""

    function: Function
    bound: dict[Key, tuple[Node, Scope]] = field(default_factory=dict)


class Values:
    """Evaluates expressions of a program. `known` holds the counters of the loops that are laid out, by their declarations."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.known: dict[Key, int] = {}

    def variable(self, node: Node, scope: Scope) -> Variable | None:
        """What a name is."""
        return self.program.variable(node.key, scope.function)

    def constant(self, node: Node, scope: Scope) -> tuple[Node, Scope] | None:
        """What a name stands for all the time: the argument of a parameter, or what a constant began with."""
        if node.key in scope.bound:
            return scope.bound[node.key]
        variable = self.variable(node, scope)
        fixed = variable is not None and variable.init is not None and variable.type.const and not variable.type.dims
        return (variable.init, scope) if fixed and variable and variable.init else None

    def evaluate(self, node: Node, scope: Scope) -> Value:
        """The value of an expression."""
        if node.kind == "int":
            return node.value
        if node.kind == "name":
            if node.key in self.known:
                return self.known[node.key]
            stands_for = self.constant(node, scope)
            return f"{node.name}@{node.key}" if stands_for is None else self.evaluate(*stands_for)
        if node.kind == "binary":
            return self._binary(node, scope)
        if node.kind == "unary" and len(node.children) == 1:
            value = self.evaluate(node.children[0], scope)
            return int(UNARY[node.name](value)) if isinstance(value, int) and node.name in UNARY else f"{node.name}{value}"
        if node.kind == "choice":
            condition = self.evaluate(node.children[0], scope)
            if isinstance(condition, int):
                return self.evaluate(node.children[1 if condition else 2], scope)
            return f"({condition} ? {self.evaluate(node.children[1], scope)} : {self.evaluate(node.children[2], scope)})"
        if node.kind == "call":
            return self._call(node, scope)
        return f"{node.kind} {node.name}({', '.join(str(self.evaluate(child, scope)) for child in node.children)})"

    def _binary(self, node: Node, scope: Scope) -> Value:
        left, right = (self.evaluate(child, scope) for child in node.children)
        if isinstance(left, int) and isinstance(right, int) and node.name in BINARY:
            return int(BINARY[node.name](left, right))
        if node.name in ("&&", "||"):
            decides = node.name == "||"
            if any(isinstance(side, int) and bool(side) == decides for side in (left, right)):
                return int(decides)
        if node.name == "*" and 0 in (left, right):
            return 0
        if node.name in ("+", "-") and right == 0:
            return left
        return f"({left} {node.name} {right})"

    def _call(self, node: Node, scope: Scope) -> Value:
        """Of a function that is a single expression the value of that."""
        callee = self.program.callee(node)
        if callee is None or callee.function.body is None:
            return f"{node.name}({', '.join(str(self.evaluate(child, scope)) for child in node.children)})"
        body = callee.function.body.children
        arguments = [self.evaluate(child, scope) for child in node.children]
        if len(body) == 1 and body[0].kind == "return" and all(isinstance(one, int) for one in arguments):
            numbers = (Node("int", node.line, [], value=int(one)) for one in arguments)
            given = {one.key: (number, scope) for one, number in zip(callee.function.parameters, numbers, strict=False)}
            return self.evaluate(body[0].children[0], Scope(callee.function, given))
        return f"{node.name}({', '.join(map(str, arguments))})"

    def choices(self, node: Node, scope: Scope) -> list[Value]:
        """The values of an expression: of a choice at its end both, where nobody knows which it will be."""
        stands_for = self.constant(node, scope) if node.kind == "name" and node.key not in self.known else None
        if stands_for is not None:
            return self.choices(*stands_for)
        if node.kind == "choice" and not isinstance(self.evaluate(node.children[0], scope), int):
            return [value for way in node.children[1:] for value in self.choices(way, scope)]
        return [self.evaluate(node, scope)]

    def counter(self, loop: Node) -> Key | None:
        """The variable that counts the turns of a `for` loop."""
        if loop.kind != "for" or len(loop.children) != 4 or loop.children[0].kind != "declarations":
            return None
        declared = loop.children[0].children
        return declared[0].key if len(declared) == 1 else None

    def trips(self, loop: Node, scope: Scope) -> list[int] | None:
        """What the counter of a `for` loop holds, turn by turn; None where that is not known when the source is compiled."""
        counter = self.counter(loop)
        if counter is None:
            return None
        start, condition, step, _ = loop.children
        if not start.children[0].children:
            return None
        value, seen = self.evaluate(start.children[0].children[0], scope), list[int]()
        before = self.known.get(counter)
        try:
            while isinstance(value, int) and len(seen) <= MOST_TRIPS:
                self.known[counter] = value
                goes_on = self.evaluate(condition, scope)
                if not isinstance(goes_on, int):
                    return None
                if not goes_on:
                    return seen
                seen.append(value)
                value = self._stepped(step, counter, value, scope)
            return None
        finally:
            self.known.pop(counter, None)
            if before is not None:
                self.known[counter] = before

    def _stepped(self, step: Node, counter: Key, value: int, scope: Scope) -> Value:
        if not step.children or step.children[0].key != counter:
            return "?"
        if step.kind == "unary":
            return value + {"++": 1, "--": -1}.get(step.name, 0) if step.name in ("++", "--") else "?"
        if step.kind == "assign" and len(step.children) == 2:
            amount = self.evaluate(step.children[1], scope)
            if isinstance(amount, int) and step.name[:-1] in BINARY:
                return int(BINARY[step.name[:-1]](value, amount))
        return "?"

    def names(self, node: Node, scope: Scope) -> Iterator[Key]:
        """Declarations that the value of an expression depends on, constants followed to what they are made of."""
        for part in node.walk():
            if part.kind == "name":
                stands_for = self.constant(part, scope)
                if stands_for is None or part.key in self.known:
                    yield part.key
                else:
                    yield from self.names(*stands_for)


def inner_loops(node: Node) -> Iterator[Node]:
    """Loops of a statement."""
    return (part for part in node.walk() if part.kind in LOOPS)
