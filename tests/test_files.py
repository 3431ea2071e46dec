"""The table of files as users have them: how rows are judged and shown. `make files` makes all of them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")
from models import files


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
