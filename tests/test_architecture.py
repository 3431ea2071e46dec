"""The shape of the code base: who imports whom, where operators are named, what kernels are made of."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from attnc.ops import OPERATORS

ROOT = Path(__file__).resolve().parents[1]
COMPILER, HOST = ROOT / "toolchain" / "attnc", ROOT / "host" / "attnc_host"
KERNELS = sorted((ROOT / "hls_kernels" / "include").rglob("*.hpp"))
MAX_LINES = 400

# A part imports only parts of the rows above it, and of its own row as long as no cycle arises.
LAYERS = (
    {"__init__", "errors"},
    {"arrays", "blas", "config", "files", "fixedpoint", "npz", "messages", "pictures", "resources", "settings_file", "tensors", "weights"},
    {"ir"},
    {"model"},
    {"kernels"},
    {"ops"},
    {"frontend", "golden", "passes", "quant"},
    {"decoding"},
    {"schedule"},
    {"codegen"},
    {"verify"},
    {"approx", "console", "outputs", "process", "cost_tables", "decoder_report", "original", "report", "report_tables", "speed", "tables"},
    {"sim"},
    {"gates", "page", "routings", "vendor"},
    {"pipeline"},
    {"compiler", "estimation", "evaluation"},
    {"search"},
    {
        "cli_approx",
        "cli_bambu",
        "cli_compile",
        "cli_cosim",
        "cli_export",
        "cli_generate",
        "cli_package",
        "cli_report",
        "cli_run",
        "cli_serve",
        "cli_vitis",
        "cost_commands",
    },
    {"cli"},
    {"__main__"},
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}


@cache
def modules(package: Path) -> dict[str, Path]:
    """Dotted name to file, for every module of a package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(name: str, path: Path, known: frozenset[str], tree: ast.AST | None = None) -> Iterator[tuple[str, int]]:
    """Every (module, line) that a module imports, at its top or inside functions."""
    for node in ast.walk(tree or syntax(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in known else base), node.lineno


def part(module: str) -> str:
    """The row entry of LAYERS that a module of the compiler belongs to."""
    return [*module.split("."), "__init__"][1]


def test_parts_have_a_layer() -> None:
    missing = {part(name) for name in modules(COMPILER)} - RANK.keys()
    assert not missing, f"give {sorted(missing)} a row in LAYERS"


def test_imports_point_down() -> None:
    known = frozenset(modules(COMPILER))
    wrong = []
    for name, path in modules(COMPILER).items():
        for target, line in imports(name, path, known):
            if target.split(".")[0] == "attnc" and part(target) != part(name) and RANK[part(target)] > RANK[part(name)]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_imports_have_no_cycle() -> None:
    known = frozenset(modules(COMPILER))
    graph = {name: {target for target, _ in imports(name, path, known)} & known for name, path in modules(COMPILER).items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


SERVICE = {"fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"}


def test_host_stands_alone() -> None:
    """numpy is all that it needs; onnxruntime where it is loaded on use, and the service's packages inside the service."""
    known = frozenset(modules(HOST))
    wrong = []
    for name, path in modules(HOST).items():
        lazy = {
            (target, line)
            for function in ast.walk(syntax(path))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for target, line in imports(name, path, known, function)
        }
        for target, line in imports(name, path, known):
            top = target.split(".")[0]
            allowed = top in {"numpy", "attnc_host"} or top in sys.stdlib_module_names
            allowed = allowed or (name.startswith("attnc_host.serve.") and top in SERVICE)
            if not allowed and not (top == "onnxruntime" and (target, line) in lazy):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {target}")
            if target.startswith("attnc_host.serve") and not name.startswith("attnc_host.serve") and (target, line) not in lazy:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: imports {target}, which needs more than numpy")
    assert not wrong, "\n".join(wrong)


def test_operators_are_named_in_their_files_alone() -> None:
    generic = [path for name, path in modules(COMPILER).items() if part(name) in {"schedule", "codegen", "golden"}]
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path in generic
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in OPERATORS
    ]
    assert not wrong, "\n".join(wrong)


def test_operators_make_no_walk_themselves() -> None:
    """`Lowering` does, and forgets neither zero point nor width."""
    for name, path in modules(COMPILER).items():
        calls = [node.func for node in ast.walk(syntax(path)) if isinstance(node, ast.Call)]
        made = any(isinstance(func, ast.Name) and func.id == "Walk" for func in calls)
        assert not made or name in ("attnc.kernels.call", "attnc.kernels.lowering"), f"{name} makes a walk"


def test_modules_are_short() -> None:
    lines = {path: len(path.read_text().splitlines()) for package in (COMPILER, HOST) for path in modules(package).values()}
    long = [f"{path.relative_to(ROOT)}: {count} lines, at most {MAX_LINES}" for path, count in lines.items() if count > MAX_LINES]
    assert not long, "\n".join(long)


STRING = r'"(?:\\.|[^"\\\n])*"'


def without_comments(text: str) -> str:
    """C++ without comments; string literals stay."""
    return re.sub(
        rf"({STRING})|//[^\n]*|/\*.*?\*/",
        lambda match: match.group(1) or re.sub(r"[^\n]", "", match.group(0)),
        text,
        flags=re.DOTALL,
    )


def for_synthesis(text: str) -> str:
    """C++ without comments, strings and what `#ifndef __SYNTHESIS__` keeps for simulation; line numbers stay."""
    kept, stack = [], []
    for line in without_comments(text).splitlines():
        directive = line.strip()
        if directive.startswith("#if"):
            stack.append(directive.split() == ["#ifndef", "__SYNTHESIS__"])
        elif directive.startswith(("#else", "#elif")) and stack:
            stack[-1] = False
        elif directive.startswith("#endif") and stack:
            stack.pop()
        kept.append("" if any(stack) else re.sub(STRING, '""', line))
    return "\n".join(kept)


def static_asserts(text: str) -> Iterator[tuple[int, str]]:
    """(line, text between the parentheses) of every static_assert."""
    code = re.sub(STRING, '""', without_comments(text))
    for match in re.finditer(r"\bstatic_assert\s*\(", code):
        depth, end = 1, match.end()
        while depth and end < len(code):
            depth += {"(": 1, ")": -1}.get(code[end], 0)
            end += 1
        yield code.count("\n", 0, match.start()) + 1, code[match.end() : end - 1]


FORBIDDEN = re.compile(r"\b(float|double|new|malloc|calloc|throw|virtual)\b|\bstd::(vector|string)\b")


@pytest.mark.parametrize("path", KERNELS, ids=[path.stem for path in KERNELS])
def test_kernel_is_synthesizable(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^#pragma once$", text, re.MULTILINE), "no #pragma once"
    found = [f"{path.name}:{n}: {line.strip()}" for n, line in enumerate(for_synthesis(text).splitlines(), 1) if FORBIDDEN.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", KERNELS, ids=[path.stem for path in KERNELS])
def test_static_asserts_state_the_requirement(path: Path) -> None:
    silent = [f"{path.name}:{line}: static_assert({inner})" for line, inner in static_asserts(path.read_text()) if '"' not in inner]
    assert not silent, "\n".join(silent)


def test_kernel_checks_see_what_they_forbid() -> None:
    text = "#ifndef __SYNTHESIS__\nfloat a;\n#endif\nint x;  // float\n/* new */ double y;\n"
    text += 'static_assert((1) < 2);\nstatic_assert(f(1), "(throw");\nstatic_assert(true);\n'
    hits = [n for n, line in enumerate(for_synthesis(text).splitlines(), 1) if FORBIDDEN.search(line)]
    assert hits == [5]
    assert [line for line, inner in static_asserts(text) if '"' not in inner] == [6, 8]
