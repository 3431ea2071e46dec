"""Dataflow regions: what may stand in them, and what their processes may share (UG1399, canonical form)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from synthesis.program import Code, Finding, Program
from synthesis.tree import Function, Key, Node, Variable

READS = ("read", "read_nb", "empty", "operator>>")
WRITES = ("write", "write_nb", "full", "operator<<")


def check(program: Program) -> Iterator[Finding]:
    """All regions that the accelerator has."""
    for code in program.codes.values():
        if code.has("DATAFLOW"):
            yield from _form(program, code)
            yield from _streams(program, code)
            yield from _ports(code)
            yield from _statics(program, code)


def _finding(code: Code, node: Node, rule: str, found: str, advice: str) -> Finding:
    return Finding(code.function.file, node.line, rule, found, advice)


def _processes(code: Code) -> list[Node]:
    assert code.function.body is not None
    return [node for node in code.function.body.walk() if node.kind == "call"]


def _form(program: Program, code: Code) -> Iterator[Finding]:
    """Declarations without a value and calls of processes, whose arguments are names."""
    assert code.function.body is not None
    where = f"dataflow region {code.function.name}"
    for node in code.function.body.children:
        if node.kind == "declarations":
            for one in node.children:
                if one.kind == "variable" and any(
                    part.kind not in ("list", "text", "int") for child in one.children for part in child.walk()
                ):
                    yield _finding(code, one, "region", f"{where} computes {one.name}", "hand it in as an argument")
        elif node.kind != "call":
            yield _finding(code, node, "region", f"{where} holds a statement of kind {node.kind}", "put it into a process")
        elif program.unit.functions[node.key].returns.name != "void":
            yield _finding(code, node, "region", f"process {node.name} of {where} returns a value", "let it write to a stream")
        else:
            for number, argument in enumerate(node.children):
                if argument.kind not in ("name", "int"):
                    yield _finding(code, node, "region", f"argument {number} of process {node.name} in {where} is computed on the spot",
                                   "pass a variable")  # fmt: skip


def is_stream(variable: Variable) -> bool:
    """Whether a variable is a stream."""
    return variable.type.name.startswith("hls::stream<")


def _streams(program: Program, code: Code) -> Iterator[Finding]:
    use = _stream_use(program)
    for variable in code.function.variables.values():
        if not is_stream(variable):
            continue
        ends: dict[str, list[Node]] = {"reads": [], "writes": []}
        for process in _processes(code):
            for number, argument in enumerate(process.children):
                if argument.kind == "name" and argument.key == variable.key:
                    for way in use(process.key, number):
                        ends[way].append(process)
        node = Node("variable", variable.line, [])
        for way, processes in ends.items():
            names = " and ".join(process.name for process in processes)
            if len(processes) > 1:
                yield _finding(
                    code, node, "stream", f"{names} both have the end of stream {variable.name} that {way}", "give each a stream of its own"
                )
            if not processes and variable.storage != "parameter":
                yield _finding(code, node, "stream", f"no process {way} stream {variable.name}", "a stream has one reader and one writer")
        at = {way: processes[0].line for way, processes in ends.items() if processes}
        if len(at) == 2 and at["reads"] < at["writes"]:
            yield _finding(code, node, "stream", f"{ends['reads'][0].name} reads stream {variable.name} and stands before its writer "
                           f"{ends['writes'][0].name}", "let processes stand in the order in which data passes them")  # fmt: skip


def _stream_use(program: Program) -> Callable[[Key, int], frozenset[str]]:
    """Whether a function "reads" or "writes" the stream that is its argument of that number, itself or through others."""

    @cache
    def use(function: Key, number: int) -> frozenset[str]:
        code = program.codes.get(function)
        if code is None or number >= len(code.function.parameters):
            return frozenset()
        parameter, found = code.function.parameters[number].key, set[str]()
        assert code.function.body is not None
        for node in code.function.body.walk():
            if node.kind == "method" and node.children and node.children[0].kind == "name" and node.children[0].key == parameter:
                found |= {"reads"} if node.name in READS else {"writes"} if node.name in WRITES else set()
            elif node.kind == "call":
                for at, argument in enumerate(node.children):
                    if argument.kind == "name" and argument.key == parameter:
                        found |= use(node.key, at)
        return frozenset(found)

    return use


def _ports(code: Code) -> Iterator[Finding]:
    """A memory port is one process's; an array has a process that fills it and one that takes it."""
    for variable in code.function.variables.values():
        users = [process for process in _processes(code) if any(one.key == variable.key for one in process.children if one.kind == "name")]
        names = ", ".join(process.name for process in users)
        if variable.type.word is not None and len(users) > 1:
            yield _finding(code, users[1], "port", f"port {variable.name} goes to processes {names}", "give each a port")
        if variable.type.dims and len(users) > 2:
            yield _finding(code, users[2], "port", f"array {variable.name} goes to processes {names}", "two at most share an array")
        if variable.type.dims and variable.storage == "static" and len(users) > 1:
            yield _finding(code, users[1], "static", f"static array {variable.name} goes to processes {names}", "let it belong to one")


def _statics(program: Program, code: Code) -> Iterator[Finding]:
    """No array that outlives a call belongs to two processes."""
    reached = [(process, _static_arrays(program, process)) for process in _processes(code)]
    for number, (process, own) in enumerate(reached):
        for other, others in reached[:number]:
            for variable, function in (own[key] for key in own.keys() & others.keys()):
                yield _finding(code, process, "static", f"processes {other.name} and {process.name} both have the static {variable.name} "
                               f"of {function.name} ({function.file.name}:{variable.line})",
                               "let their template arguments differ, or run them in one process")  # fmt: skip


def _static_arrays(program: Program, process: Node) -> dict[Key, tuple[Variable, Function]]:
    found: dict[Key, tuple[Variable, Function]] = {}
    waiting, seen = [process.key], set[Key]()
    while waiting:
        key = waiting.pop()
        code = program.codes.get(key)
        if code is None or key in seen:
            continue
        seen.add(key)
        function = code.function
        assert function.body is not None
        for node in function.body.walk():
            if node.kind in ("call", "method"):
                waiting.append(node.key)
            variable = program.variable(node.key, function) if node.kind == "name" else None
            if variable is not None and variable.storage in ("static", "global") and not variable.type.const:
                found[variable.key] = variable, function
    return found
