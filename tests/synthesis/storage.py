"""Arrays: what a pipelined loop asks of them in one turn, which is one cycle.

An array is a memory for each value of its partitioned indices, and a memory has two ports. In one turn, with its unrolled loops laid out
and of each branch the way that needs more, no memory gives and takes more than two elements (one written and any number read in a RAM of
that kind, any number in a ROM that says so). Of an automatic array, indices that are constants then need no partition: it is registers.
So a vector whose lane is chosen while it runs has to be partitioned, because all its lanes come at a time, and an array with one place per
turn is a memory as it is.

Where indices choose a bank, or a register, no lane of an unrolled loop chooses among all of them: an index that sums the lane and something
that only run time knows costs a multiplexer over the whole array in every lane.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from synthesis.accesses import Access, Accesses, Either, Items
from synthesis.program import Code, Finding, Program
from synthesis.tree import Function, Node, Type, Variable
from synthesis.values import Value, Values

PORTS = 2
Touched = dict[tuple[Value, ...], set[tuple[bool, tuple[Value, ...]]]]
"""By bank the elements that are touched: (written, place)."""


@dataclass
class Storage:
    """How an array is kept: dimensions that are partitioned, 0 for all; whether its structs are words; the type of the memory."""

    partitioned: set[int]
    is_word: bool
    kind: str


def check(program: Program) -> Iterator[Finding]:
    """All that is pipelined: loops, and functions."""
    for code in program.codes.values():
        assert code.function.body is not None
        if code.has("PIPELINE"):
            yield from _body(program, code, code.function.body, code.function.line)
        for loop in code.loops:
            if loop.pragma("PIPELINE"):
                yield from _body(program, code, loop.body, loop.node.line)


def _body(program: Program, code: Code, body: Node, line: int) -> Iterator[Finding]:
    values = Values(program)
    accesses = Accesses(program, values)
    items = accesses.of_body(body, code.function)
    found = list(_flat(items))
    for variable, owner in {(one.variable, one.owner) for one in found}:
        own = [one for one in found if one.variable is variable]
        described = storage(program, variable, owner)
        marks = [_banks(accesses, own, described, number) for number in range(max(len(_indices(one, described)) for one in own))]
        yield from _lanes(accesses, own, described, marks)
        if described.kind == "rom_np" or (not marks and _is_automatic(variable)):
            continue  # read as often as one likes, or only copied, which takes no memory
        touched = _touched(accesses, items, variable, described, marks)
        worst = max(touched.values(), key=lambda places: _ports(places, described), default=set())
        if _ports(worst, described) > PORTS:
            written = sum(writes for writes, _ in worst)
            advice = (
                "BIND_STORAGE type = rom_np"
                if variable.type.const and variable.storage == "static"
                else "partition the dimension of the lanes, or AGGREGATE a word"
            )
            yield Finding(own[0].inside.file, own[0].node.line, "partition",
                          f"a turn of the pipeline at line {line} reads {len(worst) - written} and writes {written} elements of one memory "
                          f"of {variable.name} ({owner.file.name}:{variable.line})", advice)  # fmt: skip


def _ports(places: set[tuple[bool, tuple[Value, ...]]], described: Storage) -> int:
    written = sum(writes for writes, _ in places)
    if described.kind == "ram_1wnr":
        return PORTS + 1 if written > 1 else 0
    return len(places)


def storage(program: Program, variable: Variable, owner: Function) -> Storage:
    """What the pragmas of a variable say, or those of the one that is passed for it."""
    made = Storage(set(), False, "")
    code = program.codes.get(owner.key)
    for pragma in code.pragmas if code else ():
        if pragma.options.get("variable", "").split(".")[0] != variable.name:
            continue
        if pragma.name == "AGGREGATE":
            made.is_word = True
        elif pragma.name == "BIND_STORAGE":
            made.kind = pragma.options.get("type", "")
        elif pragma.name == "ARRAY_PARTITION" and "complete" in (*pragma.words, pragma.options.get("type", "complete")):
            before = _depth(variable.type, pragma.options["variable"].split(".")[1:])
            dim = int(pragma.options.get("dim", "1"))
            made.partitioned |= {before + dim} if dim else {0}
    for argument in program.given.get(variable.key, ()):
        for function in program.functions():
            passed = function.variables.get(argument.key) if argument.kind == "name" else None
            if passed is not None:
                other = storage(program, passed, function)
                made = Storage(made.partitioned | other.partitioned, made.is_word or other.is_word, made.kind or other.kind)
    return made


def _depth(described: Type, fields: list[str]) -> int:
    """Indices of a path before its last field."""
    depth = 0
    for name in fields:
        depth += len(described.dims)
        described = described.fields.get(name, described)
    return depth


def _flat(items: Items) -> Iterator[Access]:
    for item in items:
        if isinstance(item, Either):
            for way in item.ways:
                yield from _flat(way)
        else:
            yield item


def _indices(access: Access, described: Storage) -> list[int]:
    """Positions among the steps of the indices that count: of what is one word, those before its first field."""
    steps = access.steps
    if described.is_word:
        stop = next((at for at, step in enumerate(steps) if isinstance(step, str)), len(steps))
        steps = steps[:stop]
    return [at for at, step in enumerate(steps) if isinstance(step, list)]


def _is_automatic(variable: Variable) -> bool:
    return variable.storage == "local" or (variable.storage == "parameter" and not variable.type.passed)


def _banks(accesses: Accesses, own: list[Access], described: Storage, number: int) -> bool:
    """Whether index `number` chooses a memory of its own, or a register: partitioned, or constant wherever an automatic array is used."""
    if 0 in described.partitioned or number + 1 in described.partitioned:
        return True
    if not _is_automatic(own[0].variable):
        return False
    return all(isinstance(value, int) for one in own for value in _values(accesses, one, described, number))


def _values(accesses: Accesses, access: Access, described: Storage, number: int) -> set[Value]:
    positions = _indices(access, described)
    if number >= len(positions):
        return set()
    step = access.steps[positions[number]]
    assert isinstance(step, list)
    return {accesses.sum(step) for _ in accesses.layouts(access)}


def _lanes(accesses: Accesses, own: list[Access], described: Storage, marks: list[bool]) -> Iterator[Finding]:
    for access in own:
        for number, chooses in enumerate(marks):
            values = _values(accesses, access, described, number) if chooses else set()
            unknown = {value for value in values if isinstance(value, str)}
            if len(values) > 1 and unknown and not _are_two(accesses, access, described, number):
                yield Finding(access.inside.file, access.node.line, "lanes",
                              f"each of {len(values)} lanes chooses among all elements of dimension {number + 1} of {access.variable.name}",
                              "make two dimensions of it, that of the lanes and that of the choice")  # fmt: skip


def _are_two(accesses: Accesses, access: Access, described: Storage, number: int) -> bool:
    """Whether an index is one constant or another: a choice between two."""
    step = access.steps[_indices(access, described)[number]]
    assert isinstance(step, list)
    return len(step) == 1 and all(isinstance(value, int) for _ in accesses.layouts(access) for value in accesses.values.choices(*step[0]))


def _touched(accesses: Accesses, items: Items, variable: Variable, described: Storage, marks: list[bool]) -> Touched:
    found: Touched = defaultdict(set)
    for item in items:
        if isinstance(item, Either):
            ways = [_touched(accesses, way, variable, described, marks) for way in item.ways]
            for bank in {bank for way in ways for bank in way}:
                found[bank] |= max((way.get(bank, set()) for way in ways), key=len)
        elif item.variable is variable:
            steps = [item.steps[at] for at in _indices(item, described)] if described.is_word else item.steps
            word = Access(item.variable, item.owner, steps, item.writes, item.node, item.inside, item.loops)
            for bank, place in accesses.addresses(word, marks, described.is_word):
                found[bank].add((item.writes, place))
    return found
