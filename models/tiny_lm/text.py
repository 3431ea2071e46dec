"""English that is on every machine with Python: the documentation of the language and of its standard library, and licences."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import numpy as np
import numpy.typing as npt

HELD_OUT = 16
"""Every so-many-th document is held out."""
SHORTEST = 200


def documents() -> list[str]:
    """Docstrings of the standard library, module by module, the topics of `help()`, and licences: in an order that is always the same."""
    root, found = Path(sysconfig.get_paths()["stdlib"]), []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"} & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, OSError):
            continue
        if parts == ("pydoc_data", "topics.py"):
            found += [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            continue
        nodes = (node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))
        texts = [text for node in nodes if (text := ast.get_docstring(node))]
        found.append("\n\n".join(texts))
    for folder in (root, Path("/usr/share/common-licenses")):
        found += [path.read_text(errors="replace") for path in sorted(folder.glob("[A-Z]*")) if path.is_file() and not path.is_symlink()]
    return [text for text in found if len(text) >= SHORTEST]


def split() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Bytes to train on, and bytes that are held out."""
    parts: tuple[list[str], list[str]] = [], []
    for number, text in enumerate(documents()):
        parts[number % HELD_OUT == HELD_OUT - 1].append(text)
    train, held = (np.frombuffer("\n\n".join(part).encode("ascii", "ignore"), np.uint8) for part in parts)
    return train, held
