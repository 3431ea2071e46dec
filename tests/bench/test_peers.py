"""The comparison with hls4ml: attnc's side always, the other where it is installed, a note where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import peers


def test_without_the_packages_a_note_stands_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "versions", lambda: None)
    results = peers.measure(1)
    assert results["attnc"]["exact"] and results["attnc"]["mmac_s"]["median"] > 0
    peers.show(results, {})
    assert "not installed: pip install -e '.[peers]'" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(peers.versions() is None, reason=peers.MISSING)
def test_hls4ml_is_exact_on_its_path(tmp_path: Path) -> None:
    found = peers.run_hls4ml(tmp_path)
    assert found["exact"] and found["mmac_s"] > 0
