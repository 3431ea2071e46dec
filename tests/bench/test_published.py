"""The cost model beside published designs: what is within 35 % stays so, and what is not is known."""

from __future__ import annotations

import pytest
from bench.published import POINTS, Published, compare

WITHIN = {
    "CoQMoE": {"latency_ms", "bram36", "dsp", "watts"},
    "UbiMoE": {"dsp"},
    "TeLLMe": {"latency_ms", "lut", "dsp", "uram", "watts"},
}


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=() if p.repeats > 1 else pytest.mark.slow) for p in POINTS], ids=[p.name.split()[0] for p in POINTS]
)
def test_deviation(point: Published) -> None:
    rows = compare(point)
    assert {row["figure"] for row in rows} == point.figures.keys()
    assert {row["figure"] for row in rows if row["within"]} == WITHIN[point.name.split()[0]]
