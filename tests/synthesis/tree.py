"""Functions of a translation unit as plain trees, templates instantiated, read with libclang.

Conversions, parentheses and copies are left out, operators of classes look like those of integers, and what is left of a template parameter
is its value. So a rule sees `acc[l] = acc[l] + in.v[l]` and nothing else, whatever the types are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from clang import cindex
from clang.cindex import CursorKind, TypeKind

Key = int
"""A declaration: two names are one thing where their keys are the same."""


@dataclass(eq=False, slots=True)
class Node:
    """A statement or expression. Of kind "name" and "member", `name` is what is named and `key` its declaration; of "call" and "method" the
    function; of "binary", "assign" and "unary" it is the operator; of "int", `value` the number. `end` is the last line of a statement."""

    kind: str
    line: int
    children: list[Node]
    name: str = ""
    key: Key = 0
    value: int = 0
    end: int = 0

    def walk(self) -> Iterator[Node]:
        """It and all below."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(eq=False, slots=True)
class Type:
    """`name` without const and references; `dims` of an array; `fields` of a struct of our own; what a memory port moves: `word`, its size
    and alignment in bytes."""

    name: str
    dims: tuple[int, ...] = ()
    const: bool = False
    passed: bool = False  # a reference or a pointer: what is written to it is written to another's
    floating: bool = False
    fields: dict[str, Type] = field(default_factory=dict)
    word: tuple[int, int] | None = None


@dataclass(eq=False, slots=True)
class Variable:
    """A declared variable or parameter; `storage` is "local", "static", "global" or "parameter"."""

    key: Key
    name: str
    type: Type
    storage: str
    file: Path
    line: int
    init: Node | None = None


@dataclass(eq=False, slots=True)
class Function:
    """A function, one for each instance of a template. `variables` are its parameters and all that it declares, in order."""

    key: Key
    name: str
    file: Path
    line: int
    last_line: int
    parameters: list[Variable] = field(default_factory=list)
    variables: dict[Key, Variable] = field(default_factory=dict)
    body: Node | None = None
    virtual: bool = False
    returns: Type = field(default_factory=lambda: Type("void"))

    @property
    def is_stub(self) -> bool:
        """Whether it is one of the vendor's, which the stubs only declare."""
        return _is_stub(self.file)


TRANSPARENT = {
    CursorKind.UNEXPOSED_EXPR, CursorKind.PAREN_EXPR, CursorKind.CSTYLE_CAST_EXPR, CursorKind.CXX_FUNCTIONAL_CAST_EXPR,
    CursorKind.CXX_STATIC_CAST_EXPR,
}  # fmt: skip
NOT_CODE = {
    CursorKind.TYPE_REF, CursorKind.TEMPLATE_REF, CursorKind.NAMESPACE_REF, CursorKind.STATIC_ASSERT, CursorKind.TYPEDEF_DECL,
    CursorKind.TYPE_ALIAS_DECL,
}  # fmt: skip
PLAIN = {
    CursorKind.COMPOUND_STMT: "block", CursorKind.DECL_STMT: "declarations", CursorKind.FOR_STMT: "for", CursorKind.IF_STMT: "if",
    CursorKind.WHILE_STMT: "while", CursorKind.DO_STMT: "do", CursorKind.CXX_FOR_RANGE_STMT: "range-for", CursorKind.RETURN_STMT: "return",
    CursorKind.SWITCH_STMT: "switch", CursorKind.CASE_STMT: "case", CursorKind.DEFAULT_STMT: "default", CursorKind.BREAK_STMT: "break",
    CursorKind.CONTINUE_STMT: "continue", CursorKind.NULL_STMT: "nothing", CursorKind.CONDITIONAL_OPERATOR: "choice",
    CursorKind.ARRAY_SUBSCRIPT_EXPR: "index", CursorKind.INIT_LIST_EXPR: "list", CursorKind.CXX_NEW_EXPR: "new",
    CursorKind.CXX_DELETE_EXPR: "delete", CursorKind.CXX_THROW_EXPR: "throw", CursorKind.CXX_TRY_STMT: "try",
    CursorKind.FLOATING_LITERAL: "float", CursorKind.GOTO_STMT: "goto", CursorKind.STRING_LITERAL: "text",
}  # fmt: skip
OPERATORS = (
    "?", ".*", "->*", "*", "/", "%", "+", "-", "<<", ">>", "<=>", "<", ">", "<=", ">=", "==", "!=", "&", "^", "|", "&&", "||",
    "=", "*=", "/=", "%=", "+=", "-=", "<<=", ">>=", "&=", "^=", "|=", ",",
)  # fmt: skip
"""By the numbers that libclang gives them."""
UNARY = ("?", "++", "--", "++", "--", "&", "*", "+", "-", "~", "!")
FLOATING = {TypeKind.FLOAT, TypeKind.DOUBLE, TypeKind.LONGDOUBLE, TypeKind.HALF, TypeKind.FLOAT128}


class Unit:
    """A parsed file. `functions` fills with what is asked for; `errors` are those of the compiler."""

    def __init__(self, source: Path, arguments: list[str]) -> None:
        self.unit = cindex.Index.create().parse(str(source), args=arguments)
        self.errors = [str(one) for one in self.unit.diagnostics if one.severity >= cindex.Diagnostic.Error]
        self.functions: dict[Key, Function] = {}
        self.globals: dict[Key, Variable] = {}
        self._types: dict[str, Type] = {}

    def top(self, name: str) -> Function:
        """The function of this name that has a body and is no template."""
        for cursor in self._declared(self.unit.cursor):
            if cursor.kind == CursorKind.FUNCTION_DECL and cursor.spelling == name and cursor.is_definition():
                return self.function(cursor)
        raise LookupError(f"no function {name!r} in {self.unit.spelling}")

    def _declared(self, cursor: cindex.Cursor) -> Iterator[cindex.Cursor]:
        for child in cursor.get_children():
            if child.kind in (CursorKind.NAMESPACE, CursorKind.LINKAGE_SPEC, CursorKind.UNEXPOSED_DECL):
                yield from self._declared(child)
            else:
                yield child

    def function(self, cursor: cindex.Cursor) -> Function:
        """What a cursor declares, with the functions that it calls."""
        cursor = cursor.get_definition() or cursor
        key = _key(cursor)
        if key in self.functions:
            return self.functions[key]
        file, line = _place(cursor)
        made = Function(key, cursor.spelling, file, line, cursor.extent.end.line, virtual=cursor.is_virtual_method())
        self.functions[key] = made
        made.returns = self._type(cursor.result_type)
        for child in cursor.get_children():
            if child.kind == CursorKind.PARM_DECL:
                made.parameters.append(self._variable(child, made))
            elif child.kind == CursorKind.COMPOUND_STMT and not _is_stub(file):
                made.body = self._node(child, made)
        return made

    def _variable(self, cursor: cindex.Cursor, owner: Function | None) -> Variable:
        key = _key(cursor)
        known = self.globals if owner is None else owner.variables
        if key not in known:
            storage = "parameter" if cursor.kind == CursorKind.PARM_DECL else "global" if owner is None else "local"
            if owner is not None and cursor.storage_class == cindex.StorageClass.STATIC:
                storage = "static"
            file, line = _place(cursor)
            known[key] = Variable(key, cursor.spelling, self._type(cursor.type), storage, file, line)
            if storage == "parameter" and known[key].type.dims:
                known[key].type = replace(known[key].type, passed=True)
            init = _c("clang_Cursor_getVarDeclInitializer", cindex.Cursor, cursor)
            if init.kind != CursorKind.INVALID_FILE and not init.kind.is_invalid():
                init._tu = cursor._tu
                value = _evaluate(init) if known[key].type.const and not known[key].type.dims else None
                known[key].init = self._node(init, owner) if value is None else Node("int", line, [], value=value)
        return known[key]

    def _type(self, given: cindex.Type) -> Type:
        name = given.spelling
        if name not in self._types:
            made = self._types[name] = Type(name)
            kind = given.get_canonical()
            if kind.kind in (TypeKind.LVALUEREFERENCE, TypeKind.RVALUEREFERENCE, TypeKind.POINTER):
                made.passed = True
                kind = kind.get_pointee().get_canonical()
            dims = []
            while kind.kind == TypeKind.CONSTANTARRAY:
                dims.append(kind.element_count)
                kind = kind.element_type.get_canonical()
            made.dims, made.const, made.floating = (
                tuple(dims),
                kind.spelling.startswith("const ") or (bool(dims) and name.startswith("const ")),
                kind.kind in FLOATING,
            )
            made.name = kind.spelling.removeprefix("const ")
            declared = kind.get_declaration()
            if made.name.startswith("hls::burst_maxi<"):
                word = kind.get_template_argument_type(0)
                made.word = word.get_size(), word.get_align()
            if kind.kind == TypeKind.RECORD and not _is_stub(_place(declared)[0]):
                made.fields = {one.spelling: self._type(one.type) for one in kind.get_fields()}
        return self._types[name]

    def _node(self, cursor: cindex.Cursor, owner: Function | None) -> Node:
        kind = cursor.kind
        if kind in PLAIN:
            return Node(PLAIN[kind], _line(cursor), self._below(cursor, owner), end=cursor.extent.end.line)
        if kind in TRANSPARENT:
            return self._through(cursor, owner)
        if kind == CursorKind.DECL_REF_EXPR:
            return self._named(cursor, owner)
        if kind == CursorKind.MEMBER_REF_EXPR:
            below = self._below(cursor, owner)
            return Node("member", _line(cursor), below, cursor.spelling) if below else Node("name", _line(cursor), [], cursor.spelling, -1)
        if kind in (CursorKind.INTEGER_LITERAL, CursorKind.CXX_BOOL_LITERAL_EXPR, CursorKind.CHARACTER_LITERAL):
            return Node("int", _line(cursor), [], value=_evaluate(cursor) or 0)
        if kind in (CursorKind.BINARY_OPERATOR, CursorKind.COMPOUND_ASSIGNMENT_OPERATOR):
            operator = OPERATORS[_c("clang_getCursorBinaryOperatorKind", ctypes.c_int, cursor)]
            return self._operator(operator, cursor, self._below(cursor, owner))
        if kind == CursorKind.UNARY_OPERATOR:
            operator = UNARY[_c("clang_getCursorUnaryOperatorKind", ctypes.c_int, cursor)]
            return Node("unary", _line(cursor), self._below(cursor, owner), operator)
        if kind == CursorKind.LABEL_STMT:
            return Node("label", _line(cursor), self._below(cursor, owner), cursor.spelling)
        if kind == CursorKind.VAR_DECL:
            variable = self._variable(cursor, owner)
            return Node("variable", variable.line, [] if variable.init is None else [variable.init], variable.name, variable.key)
        if kind == CursorKind.CALL_EXPR:
            return self._call(cursor, owner)
        value = _evaluate(cursor) if kind.is_expression() else None
        if value is not None:
            return Node("int", _line(cursor), [], value=value)
        return Node("other", _line(cursor), self._below(cursor, owner), kind.name)

    def _below(self, cursor: cindex.Cursor, owner: Function | None) -> list[Node]:
        return [self._node(child, owner) for child in cursor.get_children() if child.kind not in NOT_CODE]

    def _through(self, cursor: cindex.Cursor, owner: Function | None) -> Node:
        """What is inside a conversion, or its value where that is a constant without parts."""
        inside = self._below(cursor, owner)
        if len(inside) != 1:
            value = _evaluate(cursor)
            if value is not None:
                return Node("int", _line(cursor), [], value=value)
            return Node("list", _line(cursor), inside)
        return inside[0]

    def _named(self, cursor: cindex.Cursor, owner: Function | None) -> Node:
        declared = cursor.referenced
        if (
            not cursor.spelling
            or declared is None
            or declared.kind in (CursorKind.ENUM_CONSTANT_DECL, CursorKind.TEMPLATE_NON_TYPE_PARAMETER)
        ):
            return Node("int", _line(cursor), [], value=_evaluate(cursor) or 0)
        if declared.kind == CursorKind.VAR_DECL and (owner is None or _key(declared) not in owner.variables):
            self._variable(declared, owner if declared.storage_class == cindex.StorageClass.STATIC and _is_local(declared) else None)
        return Node("name", _line(cursor), [], cursor.spelling, _key(declared))

    def _operator(self, operator: str, cursor: cindex.Cursor, below: list[Node]) -> Node:
        assigns = operator.endswith("=") and operator not in ("==", "!=", "<=", ">=")
        return Node("assign" if assigns else "binary", _line(cursor), below, operator)

    def _call(self, cursor: cindex.Cursor, owner: Function | None) -> Node:
        function, name, line = cursor.referenced, cursor.spelling, _line(cursor)
        children = [child for child in cursor.get_children() if child.kind not in NOT_CODE]
        if function is None or function.kind == CursorKind.CONSTRUCTOR:
            below = [self._node(child, owner) for child in children]
            return below[0] if len(below) == 1 else Node("list", line, below)
        if function.kind == CursorKind.CONVERSION_FUNCTION:
            below = [self._node(child, owner) for child in children]
            return below[0].children[0] if below and below[0].kind == "member" else Node("list", line, below)
        if name.startswith("operator") and not name[8:9].isalnum():
            arguments = [self._node(child, owner) for child in children if child.spelling != name]
            if len(arguments) == 2 and name[8:] in OPERATORS:
                return self._operator(name[8:], cursor, arguments)
            return Node("unary", line, arguments, name[8:])
        made = self.function(function)
        if function.kind == CursorKind.CXX_METHOD and children and children[0].kind == CursorKind.MEMBER_REF_EXPR:
            of = self._below(children[0], owner)
            arguments = [self._node(child, owner) for child in children[1:]]
            return Node("method", line, [*(of or [Node("name", line, [], "this", -1)]), *arguments], name, made.key)
        return Node("call", line, [self._node(child, owner) for child in children[1:]], name, made.key)


def _key(cursor: cindex.Cursor) -> Key:
    return cursor.canonical.data[0] or 0


def _line(cursor: cindex.Cursor) -> int:
    return int(cursor.extent.start.line)


@cache
def _path(name: str) -> Path:
    return Path(name)


def _place(cursor: cindex.Cursor) -> tuple[Path, int]:
    location = cursor.location
    return _path(location.file.name if location.file else ""), location.line


STUBS = Path(__file__).parent / "stubs"


@cache
def _is_stub(file: Path) -> bool:
    return file.parent == STUBS


def _is_local(cursor: cindex.Cursor) -> bool:
    parent = cursor.semantic_parent
    return parent is not None and parent.kind in (CursorKind.FUNCTION_DECL, CursorKind.CXX_METHOD)


def _c(name: str, result: type, cursor: cindex.Cursor) -> object:
    """A function of libclang that its bindings leave out."""
    function = getattr(cindex.conf.lib, name)
    function.argtypes, function.restype = [cindex.Cursor], result
    return function(cursor)


def _evaluate(cursor: cindex.Cursor) -> int | None:
    """The value of a constant integer expression."""
    library = cindex.conf.lib
    result = _c("clang_Cursor_Evaluate", ctypes.c_void_p, cursor)
    if not result:
        return None
    library.clang_EvalResult_getKind.argtypes = library.clang_EvalResult_dispose.argtypes = [ctypes.c_void_p]
    library.clang_EvalResult_getAsLongLong.argtypes = [ctypes.c_void_p]
    library.clang_EvalResult_getAsLongLong.restype = ctypes.c_longlong
    try:
        return library.clang_EvalResult_getAsLongLong(result) if library.clang_EvalResult_getKind(result) == 1 else None
    finally:
        library.clang_EvalResult_dispose(result)
