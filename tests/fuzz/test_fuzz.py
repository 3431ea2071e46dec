"""The fuzzer itself: a few of its mutants, and that it sees what it is there for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fuzz import judge
from fuzz.mutants import MAKERS, Mutants
from fuzz.workers import run_one


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("fuzz")
    Mutants(0, found / "builds").prepare()
    return found


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("TMPDIR", "/tmp")  # so that both are as they were afterwards
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.mark.parametrize("kind", [maker.__name__ for maker, _ in MAKERS])
def test_a_few_mutants(root: Path, kind: str) -> None:
    mutants = Mutants(7, root / "builds", kind)
    for number in range(2):
        found, _ = run_one(mutants, number, root)
        assert found is None, found


def test_a_number_is_a_mutant(root: Path, tmp_path: Path) -> None:
    """Whenever it is asked for: else a finding could not be looked at."""
    for number in range(20):
        made = []
        for folder in (tmp_path / f"{number}a", tmp_path / f"{number}b"):
            folder.mkdir()
            mutant = Mutants(3, root / "builds").make(number, folder)
            files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            made.append((mutant.what, [part.replace(str(folder), "") for part in mutant.command], files))
        assert made[0] == made[1]


def leave(name: str) -> None:
    Path(name).write_text("")


WRONG: dict[str, tuple[Callable[[], object], int, str]] = {
    "internal": (lambda: print("attnc: internal error: X", file=sys.stderr), 70, "exit code 70: attnc: internal error: X"),
    "silent": (lambda: None, 2, "exit code 2 without one error"),
    "two errors": (lambda: print("attnc: error: a\nattnc: error: b", file=sys.stderr), 2, "exit code 2 without one error"),
    "stray": (lambda: print("RuntimeWarning: overflow", file=sys.stderr), 0, "stray text on stderr"),
    "control": (lambda: print("\x1b[31m"), 0, "control characters"),
    "long": (lambda: print("attnc: error: " + "x" * 5000, file=sys.stderr), 2, "a message of 5014 characters"),
    "memory": (lambda: print("attnc: error: out of memory", file=sys.stderr), 2, "runs out of memory"),
    "peak": (lambda: np.ones(1 << 18).sum(), 0, " MiB"),
    "hang": (lambda: [None for _ in iter(int, 1)], 0, "takes more than 0.2 s"),
    "folder": (lambda: leave("half"), 2, "leaves 'half' behind"),
    "output": (lambda: leave("out"), 2, "leaves 'out' behind"),
    "temporary": (lambda: leave("tmp/x"), 0, "leaves 'x' behind"),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_sees_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    act, code, message = WRONG[case]

    def command(argv: Sequence[str]) -> int:
        act()
        return code

    monkeypatch.setattr(judge, "main", command)
    monkeypatch.setattr(judge, "SECONDS", 0.2)
    monkeypatch.setattr(judge, "MEMORY", 1 << 20 if case == "peak" else 1 << 30)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    verdict = judge.judge([], tmp_path, tmp_path / "tmp", 0)
    assert any(message in text for text in verdict.wrong), verdict


def test_it_sees_nothing_where_nothing_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(argv: Sequence[str]) -> int:
        print("attnc: note: a\nattnc: error: b\n  more of it", file=sys.stderr)
        return 2

    monkeypatch.setattr(judge, "main", command)
    (tmp_path / "tmp").mkdir()
    assert not judge.judge([], tmp_path, tmp_path / "tmp", 0).wrong
