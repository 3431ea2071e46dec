"""Reading csynth.xml: a hand-written one in the documented format, reports with holes, and hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnc.errors import DataError
from attnc.verify.csynth import MAX_DEPTH, read_csynth

REPORT = Path(__file__).with_name("csynth.xml")


def test_fields_of_top_and_modules() -> None:
    report = read_csynth(REPORT)
    assert (report.version, report.part, report.target_ns) == ("2022.2", "xck26-sfvc784-2LV-c", 4.0)
    top = report.top
    assert (top.name, top.latency_best, top.latency_worst, top.interval, top.clock_ns) == ("attnc_top", None, None, None, 2.92)
    assert top.resources == {"lut": 80_000, "ff": 90_000, "dsp": 700, "bram36": 75, "uram": 4}
    engine = report.engine(0)
    assert engine is not None and engine.name == "p_anonymous_namespace_engine_0"
    assert (engine.latency_best, engine.latency_worst, engine.interval, engine.clock_ns) == (120, 4000, 3990, 2.5)
    assert engine.resources == {"lut": 4800, "ff": 5000, "dsp": 32, "bram36": 1.5, "uram": None}


def test_engines_are_not_mixed_up_and_holes_are_none() -> None:
    report = read_csynth(REPORT)
    assert report.engine(1) is None
    ten = report.engine(10)
    assert ten is not None and ten.latency_worst is None and set(ten.resources.values()) == {None}
    assert report.modules[1].resources["lut"] is None and report.modules[3].name == "?"


BOMB = '<!DOCTYPE p [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><profile><AreaEstimates>&b;</AreaEstimates></profile>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "found a DOCTYPE"),
        ('<!DOCTYPE p SYSTEM "file:///etc/passwd"><profile/>', "found a DOCTYPE"),
        (BOMB.encode("utf-16"), "found a DOCTYPE"),
        ("<a>" * (MAX_DEPTH + 1), "nested elements"),
        ("<profile/>", "needed a csynth.xml of Vitis HLS .* found <profile>"),
        ("<profile>", "not valid XML"),
        ("", "not valid XML"),
        (b"\x00\xff" * 50, "not valid XML"),
        ('<?xml version="1.0" encoding="klingon"?><profile/>', "cannot be read|not valid XML"),
    ],
)
def test_hostile_reports_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "csynth.xml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=message):
        read_csynth(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_csynth(tmp_path / "none.xml")


def test_absurd_numbers(tmp_path: Path) -> None:
    path = tmp_path / "csynth.xml"
    path.write_text(f"<profile><AreaEstimates><Resources><LUT>{'9' * 10_000}</LUT><FF>-3</FF></Resources></AreaEstimates></profile>")
    report = read_csynth(path)
    assert report.top.resources["lut"] == 1e18 and report.top.resources["ff"] is None and report.modules == ()
