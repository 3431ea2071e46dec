"""The table of the tool's speed: every target of the project is in it, and says whether it is met."""

from __future__ import annotations

import pytest

from bench import speed


@pytest.mark.parametrize(
    ("name", "runs", "target", "met"),
    [
        ("compile_s", [89.0, 200.0, 80.0], "at most 90", True),
        ("golden_over_onnxruntime", [4.1], "at most 4", False),
        ("csim_gmac_s", [0.9], "at least 1", False),
        ("cxx_12_over_1", [1.25], "at least 0.8, at most 1.2", False),
        ("cxx_12_over_1", [0.7], "at least 0.8, at most 1.2", False),
        ("cxx_12_over_1", [1.1], "at least 0.8, at most 1.2", True),
    ],
)
def test_targets(name: str, runs: list[float], target: str, met: bool, capsys: pytest.CaptureFixture[str]) -> None:
    found = speed.entry(name, runs)
    assert (found["target"], found["met"]) == (target, met)
    speed.show({name: found}, {name: {"median": 7.0}})
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.endswith("met" if met else "MISSED") and "7.000" in shown


def test_what_has_no_target_has_no_verdict() -> None:
    assert set(speed.entry("golden_s", [1.0, 3.0, 2.0])) == {"median", "runs"}
