"""Least depths of FIFOs: the search on a made-up simulator, and `attnc cosim --size-fifos` from a model to the build that has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from attnc.cli import main
from attnc.errors import BuildError, DeadlockError, DifferenceError
from attnc.schedule.edit import with_fifos
from attnc.schedule.fifos import Queue
from attnc.sim import sizing
from attnc.sim.program import load_listing
from attnc.verify.cosim import Blocked, CosimRun, Fifo, Timing

CYCLES = 10_000


@dataclass(frozen=True)
class Listed:
    fifos: Mapping[str, Queue]


@dataclass
class Made:
    """A design whose FIFOs cost so many `cycles` per element that they lack of what they want `most`, and which stands still where one has
    less than it `needs`; with a memory of other latencies they need `later`."""

    queues: Mapping[str, Queue]
    cycles: Mapping[str, int]
    most: Mapping[str, int]
    needs: Mapping[str, int] = field(default_factory=dict)
    later: Mapping[str, int] = field(default_factory=dict)
    exact: bool = True
    timing: Timing = field(default_factory=Timing)
    depths: dict[str, int] = field(default_factory=dict)
    runs: int = 0

    @property
    def listing(self) -> Listed:
        return Listed(self.queues)

    def run(self, style: str, depths: Mapping[str, int] | None = None, unbounded: bool = False) -> CosimRun:
        self.runs += 1
        given = {**{name: queue.depth for name, queue in self.queues.items()}, **self.depths, **(depths or {})}
        given = {name: self.most[name] if unbounded or not depth else depth for name, depth in given.items()}
        needs = self.needs if self.timing.read_latency == 60 else {**self.needs, **self.later}
        short = [name for name, least in needs.items() if given[name] < least]
        cycles = CYCLES + sum(self.cycles[name] * max(0, self.most[name] - depth) for name, depth in given.items())
        fifos = tuple(Fifo(f"top/{name}", given[name], min(depth, self.most[name]), 1, 0, 0) for name, depth in given.items())
        blocked = tuple(Blocked("p", "full", f"top/{name}", 7, "-", given[name]) for name in short)
        return CosimRun(style, cycles, (), (), fifos, (), (), self.exact and not short, deadlock=7 if short else None, blocked=blocked)


def made(**changes: Any) -> Made:
    names = [f"f{number}" for number in range(9)]
    most = {name: 3 * number for number, name in enumerate(names)}
    cycles = {name: 7 if number % 3 == 0 else 0 for number, name in enumerate(names)}
    return replace(Made({name: Queue(32, 8 + number) for number, name in enumerate(names)}, cycles, most, {"f2": 4, "f4": 9}), **changes)


def found(simulator: Made) -> dict[str, int]:
    return sizing.Sizing.of(simulator, lambda done, total: None).search()  # type: ignore[arg-type]


def holds(simulator: Made, depths: Mapping[str, int]) -> bool:
    run = simulator.run("stp", depths)
    return run.deadlock is None and run.cycles <= 1.01 * CYCLES


def test_no_depth_can_be_less() -> None:
    simulator = made()
    depths = found(simulator)
    assert simulator.runs < 100 and holds(simulator, depths)
    assert list(depths) == list(simulator.queues) and all(2 <= depth <= 24 for depth in depths.values())
    for name, depth in depths.items():
        assert depth == 2 or not holds(simulator, {**depths, name: depth - 1}), name
    assert depths["f2"] == 4 and depths["f4"] == 9 and depths["f1"] == depths["f5"] == 2


def test_depths_that_cost_too_much_grow() -> None:
    simulator = made(cycles={**made().cycles, "f8": 20}, most={**made().most, "f8": 60})
    assert not holds(simulator, {}) and holds(simulator, found(simulator)) and found(simulator)["f8"] > 32


def test_both_styles_count(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Made.run

    def slower(self: Made, style: str, depths: Mapping[str, int] | None = None, unbounded: bool = False) -> CosimRun:
        run = usual(self, style, depths, unbounded)
        return replace(run, cycles=run.cycles + 1_000 * (style == "flp" and run.fifos[5].depth < 6))

    monkeypatch.setattr(Made, "run", slower)
    assert found(made())["f5"] == 6


def test_other_memories_may_need_more() -> None:
    simulator = made(later={"f1": 3, "f4": 12})
    depths = sizing._lasting(simulator, found(simulator))  # type: ignore[arg-type]
    assert (depths["f1"], depths["f4"]) == (3, 12) and {**depths, "f1": 2, "f4": 9} == found(simulator)
    with pytest.raises(BuildError, match="no depths of FIFOs free the build where the memory answers after 0 cycles"):
        sizing._lasting(made(later={"f1": 40}), found(simulator))  # type: ignore[arg-type]


def test_what_stands_still_or_differs_is_not_sized() -> None:
    with pytest.raises(DeadlockError, match="stands still with stp pipelines as it is"):
        found(made(needs={"f2": 40}))
    with pytest.raises(DifferenceError, match="differ from golden with stp pipelines"):
        found(made(exact=False))


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-O0")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A linear layer, a softmax, a linear layer."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=(24, 24)).astype(np.float32), name) for name in ("w", "v")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 24]) for name in "xy"]
    nodes = [
        helper.make_node(op, inputs, [out]) for op, inputs, out in (("MatMul", "xw", "a"), ("Softmax", "a", "b"), ("MatMul", "bv", "y"))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_build_gets_the_depths_that_were_found(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = model.parent / "first", model.parent / "second"
    assert main(["compile", str(model), "-o", str(first), "--no-check", "--quiet"]) == 0
    before = (first / "schedule.yaml").read_text()
    assert main(["cosim", str(first), "--size-fifos", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    text = (first / "schedule.yaml").read_text()
    depths = {fifo["fifo"]: fifo["least"] for fifo in facts["fifos"]}
    assert yaml.safe_load(text) == {**yaml.safe_load(before), "fifos": depths}
    assert [line for line in before.splitlines() if line not in text.splitlines()] == []
    assert facts["storage"]["least"]["lut"] < facts["storage"]["emitted"]["lut"]
    assert all(fifo["least"] <= fifo["emitted"] for fifo in facts["fifos"]) and any(f["least"] < f["emitted"] for f in facts["fifos"])

    assert main(["compile", str(model), "-o", str(second), "--schedule", str(first / "schedule.yaml"), "--quiet"]) == 0
    report = json.loads((second / "report.json").read_text())
    assert (
        report["fifos"] == depths and report["estimate"]["resources"]["lut"]["used"] < load(first)["estimate"]["resources"]["lut"]["used"]
    )
    for style, run in facts["styles"].items():
        simulated = report["simulation"][style]
        assert simulated["bit_exact"] and not simulated["deadlock"] and simulated["cycles"] == run["cycles"]
        assert run["cycles"] <= 1.01 * min(run["cycles_emitted"], run["cycles_unbounded"])
    assert (first / "golden" / "expected.bin").read_bytes() == (second / "golden" / "expected.bin").read_bytes()
    assert yaml.safe_load((second / "schedule.yaml").read_text())["fifos"] == depths
    assert main(["estimate", str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimate"]["resources"] == report["estimate"]["resources"]


def test_depths_with_which_it_stands_still_are_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row of probabilities waits until the factor of the row is known."""
    build, schedule = model.parent / "build", model.parent / "schedule.yaml"
    assert main(["compile", str(model), "-o", str(build), "--no-check", "--quiet"]) == 0
    (build / "schedule.yaml").rename(schedule)
    (name,) = (name for name in load_listing(build).fifos if name.endswith("softmax.probabilities"))
    with_fifos(schedule, {name: 1}, write=True)
    before = (build / "report.json").read_bytes()
    capsys.readouterr()
    assert main(["compile", str(model), "-o", str(build), "--schedule", str(schedule), "--quiet"]) == 1
    err = capsys.readouterr().err
    assert (
        "stands still" in err
        and "because of the depths of FIFOs that the schedule gives" in err
        and f"depths that free it: {name} 1 -> " in err
    )
    assert (build / "report.json").read_bytes() == before


def load(build: Path) -> dict[str, Any]:
    found = json.loads((build / "report.json").read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("option", [["--style", "stp"], ["--depth", "engine_0.x=3"], ["--plot", "a.png"]])
def test_sizing_takes_no_other_wishes(build: Path, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cosim", str(build), "--size-fifos", *option]) == 2
    assert "--size-fifos: runs both styles with depths of its own" in capsys.readouterr().err


def test_no_schedule_to_write_to(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cosim", str(build), "--size-fifos"]) == 2
    assert "schedule.yaml: cannot be read" in capsys.readouterr().err


def test_a_build_that_stands_still(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cosim", str(planted), "--size-fifos"]) == 1
    assert "stands still with stp pipelines as it is" in capsys.readouterr().err
    assert "fifos" not in (planted / "schedule.yaml").read_text()
