"""Boards: known ones by name, others from a file, mistakes explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnc.errors import ConfigError
from attnc.schedule.devices import BOARDS, find_board

FIELDS = "name: mine\npart: xc7z020clg400-1\nlut: 1000\nff: 2000\ndsp: 10\nbram36: 5\nddr_gb_s: 1.5\n"


@pytest.mark.parametrize("name", [*BOARDS, "KV260", "pynq_z2", "Ultra96-V2", "alveo-u50"])
def test_names(name: str) -> None:
    assert find_board(name).lut > 0


def test_files(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(FIELDS)
    (tmp_path / "b.toml").write_text(FIELDS.replace(": ", " = ").replace("mine", '"mine"').replace("xc7z020clg400-1", '"xc7z020clg400-1"'))
    assert find_board(str(tmp_path / "b.yaml")) == find_board(str(tmp_path / "b.toml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FIELDS.replace("lut: 1000", "lut: -1"), "'lut'"),
        (FIELDS + "luts: 3\n", "'luts'"),
        (FIELDS.replace("part: xc7z020clg400-1", 'part: "a; exec rm"'), "'part'"),
        (FIELDS.replace("ddr_gb_s: 1.5", "ddr_gb_s: .nan"), "'ddr_gb_s'"),
        (FIELDS + 'board_part: "a:b [exec rm]"\n', "'board_part'"),
        (FIELDS + 'platform: "a\\n[connectivity]"\n', "'platform'"),
        ("- 1\n- 2\n", "table"),
        ("a: [", "YAML"),
        ("", "table"),
    ],
)
def test_bad_files(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        find_board(str(tmp_path / "b.yaml"))


def test_unknown_names_are_guessed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean kv260"):
        find_board("kv206")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_board(str(tmp_path / "absent.yaml"))
