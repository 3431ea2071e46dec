"""The table of files as users have them: how rows are judged and shown. `make files` makes all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
from models import files, files_shipped, kept_compiler, processes
from models.file_kinds import Skipped


def _row(kind: str, sqnr: float, **more: Any) -> dict[str, Any]:
    return {"model": "bert", "kind": kind, "elements": 8, "sqnr_db": sqnr, "varying": 0.5, **more}


def test_a_file_is_judged_by_what_the_plain_export_reaches(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [_row("plain", 34.0), _row("ort-basic", 33.1), _row("ort-all", 32.9), {"model": "vit", "kind": "ort-all", "error": "no"}]
    rows.append({"model": "khmersm", "kind": "shipped", "skipped": "gone"})
    files.judge(rows)
    assert [row.get("ok") for row in rows] == [True, True, False, False, None]
    files.show(rows)
    text = " ".join(capsys.readouterr().out.split())
    assert "exports │ 1 │ 1 │ 1 │ +0.0" in text and "optimized by onnxruntime │ 3 │ 2 │ 1 │ -1.1" in text
    assert "34.0 (plain)" in text and "failed: no" in text and "2 of 4 files compile" in text and "skipped: gone" in text


def test_what_a_kind_is_compared_with_is_a_kind() -> None:
    assert all(set(kind.models) <= set(files.KINDS[kind.beside].models) for kind in files.KINDS.values())


def test_every_kind_is_counted_once() -> None:
    groups = [name for kind in files.KINDS for name, beginnings in files.GROUPS.items() if kind.startswith(beginnings)]
    assert len(groups) == len(files.KINDS) and set(groups) == set(files.GROUPS)


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        files.main(["--kind", "nothing"])
    assert caught.value.code == 2 and "ort-basic" in capsys.readouterr().err


def test_a_package_is_installed_once_and_what_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, asked = files_shipped.FILES["khmersm"], list[list[str]]()

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        pinned = Path(command[-1]).read_text()
        asked.append([*command, pinned])
        if "1.4.2" not in pinned:
            return subprocess.CompletedProcess(command, 1, "", "searching\nno such thing\n")
        made = Path(command[command.index("--target") + 1]) / entry.file
        made.parent.mkdir(parents=True)
        made.write_bytes(b"model")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(files_shipped, "SHIPPED", tmp_path)
    monkeypatch.setattr(files_shipped.subprocess, "run", pip)
    for _ in range(2):
        assert (files_shipped.installed(entry) / entry.file).read_bytes() == b"model"
    assert len(asked) == 1 and "--no-deps" in asked[0] and asked[0][-1] == f"khmersm==1.4.2 --hash=sha256:{entry.sha256}\n"
    with pytest.raises(Skipped, match="khmersm==0: no such thing"):
        files_shipped.installed(files_shipped.Shipped("khmersm==0", *list(vars(entry).values())[1:]))


def test_what_is_alike_is_compiled_once(tmp_path: Path) -> None:
    """A compiler that counts its runs; sources, headers and objects in folders of any name."""
    counter = tmp_path / "counter.py"
    counter.write_text("import sys; open(sys.argv[1], 'a').write('x'); open(sys.argv[sys.argv.index('-o') + 1], 'w').write('made')")
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    kept.mkdir()

    def made(folder: str, header: str, *arguments: str) -> int:
        place = tmp_path / folder
        (place / "include" / "attnc").mkdir(parents=True, exist_ok=True)
        (place / "top.cpp").write_text("top")
        (place / "include" / "attnc" / "a.hpp").write_text(header)
        command = [sys.executable, kept_compiler.__file__, str(kept), sys.executable, str(counter), str(runs), *arguments]
        subprocess.run(command, cwd=place, check=True)
        assert (place / arguments[-1]).read_text() == "made"
        return len(runs.read_text())

    compiling, linking = ("-c", "top.cpp", "-o", "top.o"), ("top.o", "-o", "program")
    assert made("one", "a", *compiling) == 1 and made("two", "a", *compiling) == 1
    assert made("two", "b", *compiling) == 2 and made("two", "b", "-O1", *compiling) == 3
    assert made("one", "a", *linking) == 4 and made("two", "b", *linking) == 4


def test_a_row_is_made_in_a_process_of_its_own() -> None:
    row = processes.run(dict, [("sqnr_db", 31.5), ("process", 1)])
    assert row["sqnr_db"] == 31.5 and row["seconds"] >= row["cpu_seconds"] >= 0
    assert processes.run(int, "four")["error"].startswith("invalid literal")
    assert processes.run(os._exit, 3)["error"] == "stopped with exit code 3"
