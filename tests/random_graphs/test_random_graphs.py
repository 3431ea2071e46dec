"""A few of the graphs that `make sweep` compares by the thousand, and that it would see a difference."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, strategies

from attnc.errors import AttncError, ConfigError
from attnc.schedule.design_fields import check_numbers
from random_graphs import sweep
from random_graphs.grow import KINDS, Growth, Style, grown
from random_graphs.pack import Settings, compare, drawn_design

PHASES = [Phase.generate, Phase.shrink]
SATURATES = ("rounded_t(high) < rounded ? high : OutT(rounded)", "rounded_t(high) < rounded ? OutT(high - 1) : OutT(rounded)")


def test_fewer_steps_are_a_prefix() -> None:
    for seed in range(20):
        whole = grown(seed, Style())
        for steps in range(1, len(whole.steps) + 1):
            part = grown(seed, Style(), steps=steps)
            assert part.steps == whole.steps[:steps] and part.nodes == whole.nodes[: len(part.nodes)]


def test_every_kind_of_step_and_setting_comes_up() -> None:
    settings = [sweep.settings_of(0, build) for build in range(200)]
    assert {kind for seed in range(200) for kind in grown(seed, Style()).steps} == set(KINDS)
    assert {one.design.parallel for one in settings} == {1, 2} and {one.every for one in settings} == {0, 1, 2, 3}
    assert {one.types for one in settings} == {"native", "ap"}
    assert {one.arrives for one in settings} == {"float", "u8", "s8"} and {one.activations for one in settings} == {"static", "dynamic"}


def test_designs_are_those_that_a_schedule_may_ask_for() -> None:
    dice = Random(0)
    for _ in range(100):
        design = drawn_design(lambda *options: options[dice.randrange(len(options))])
        check_numbers(design, "")


@strategies.composite
def builds(draw: strategies.DrawFn, graphs: int) -> tuple[list[Growth], Settings]:
    """Graphs that share a build. Dice that throw low make few and plain ones."""
    dice = strategies.randoms(use_true_random=False)
    settings = Settings.drawn(draw(dice))
    return [grown(place, settings.style, f"g{place}_", dice=draw(dice)) for place in range(graphs)], settings


def test_graphs_are_exact() -> None:
    """In as many builds as there is time for: `make sweep` goes through thousands of graphs."""
    equal = []

    @hypothesis.given(builds(10))
    @hypothesis.settings(
        max_examples=4,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[*HealthCheck],
        phases=[Phase.generate, Phase.shrink],
    )
    def check(build: tuple[list[Growth], Settings]) -> None:
        record = sweep.outcome(*build)
        assert not record["differ"] and not record["failed"], record
        equal.append(record["equal"])

    check()
    assert sum(equal) >= 20


def test_a_difference_is_seen() -> None:
    """A kernel that saturates one too low."""
    graphs = [graph for graph in (grown(seed, Style(), f"g{seed}_") for seed in range(8)) if accepted(graph)]
    assert any(one.differs for one in compare(graphs[:4], Settings(), {"fixedpoint.hpp": SATURATES}))


def accepted(graph: Growth) -> bool:
    """Whether nothing in it is refused."""
    try:
        sweep.only_quantized([graph], Settings())
    except AttncError:
        return False
    return True


def test_what_is_refused_or_fails_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that names a graph leaves that one out; else each is tried alone. What is none of attnc's refusals is a failure."""
    tried = []

    def compared(graphs: list[Growth], settings: Settings) -> list[Any]:
        tried.append([graph.prefix for graph in graphs])
        if "g1_" in tried[-1]:
            raise ConfigError("node 'g1_t0' is not for us")
        if "g2_" in tried[-1]:
            raise ZeroDivisionError
        return []

    monkeypatch.setattr(sweep, "compare", compared)
    monkeypatch.setattr(sweep, "only_quantized", lambda graphs, settings: None)
    record = sweep.run_build((0, 0, 4))
    assert list(record["refused"]) == ["1"] and list(record["failed"]) == ["2"] and "ZeroDivisionError" in record["failed"]["2"]
    assert tried[-1] == ["g0_", "g3_"]


def test_the_log_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "sweep.jsonl"
    done = {"seed": 3, "build": 0, "equal": 38, "host": 0, "differ": {}, "refused": {"1": "ConfigError: no"}, "failed": {}, "seconds": 1}
    log.write_text(json.dumps(done) + "\n" + json.dumps({**done, "seed": 4, "differ": {"0": {"y": 1}}}) + "\n")
    monkeypatch.setattr(sweep, "run_build", None)
    assert sweep.sweep(30, 3, 1, log) == 0 and sweep.sweep(30, 4, 1, log) == 1
    assert "38 graphs, 1 builds, 0 differ, 0 failed, 1 refused" in capsys.readouterr().out
