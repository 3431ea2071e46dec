"""The choice between implementations."""

from __future__ import annotations

import pytest

from attnc.ir import GraphError
from attnc.kernels.resources import Resources
from attnc.ops.approximation import Implementation, choose, times

OFFERS = [
    Implementation("rough", 1e-2, 0, Resources(lut=100)),
    Implementation("good", 1e-4, 640, Resources(lut=100, dsp=1)),
    Implementation("best", 1e-6, 18432, Resources(lut=50, bram36=0.5)),
]


@pytest.mark.parametrize(("target", "name"), [(1.0, "rough"), (1e-2, "rough"), (9e-3, "good"), (1e-5, "best"), (0.0, "best")])
def test_auto(target: float, name: str) -> None:
    assert choose("auto", OFFERS, target, "here").name == name


def test_names() -> None:
    assert choose("good", OFFERS, 1.0, "here").name == "good"
    with pytest.raises(GraphError, match="here: needs one of the implementations auto, rough, good, best, found 'cordic'"):
        choose("cordic", OFFERS, 1.0, "here")


def test_cost_weighs_resources() -> None:
    assert [offer.cost for offer in OFFERS] == [100, 200, 450]
    assert times(Resources(lut=3, dsp=1), 4) == Resources(lut=12, dsp=4)
