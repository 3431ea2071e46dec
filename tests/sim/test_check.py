"""The last step of a compilation: what differs from golden is not left behind, and what was not compared says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attnc.cli import main
from attnc.codegen import project
from attnc.schedule.program import Program
from planted import PLANTED

Capture = pytest.CaptureFixture[str]
K = 40


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-O0")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One linear layer."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(K, K)).astype(np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, K]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def patched(monkeypatch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    """Every build from now on has this in its linear.hpp."""
    real = project.write_sources

    def write_sources(program: Program, folder: Path, *more: Any) -> int:
        number = real(program, folder, *more)
        header = folder / "include" / "attnc" / "linear.hpp"
        text = header.read_text()
        assert right in text
        header.write_text(text.replace(right, wrong))
        return number

    monkeypatch.setattr(project, "write_sources", write_sources)


def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every build from now on has two processes that wait for each other."""
    real = project.write_sources

    def write_sources(program: Program, folder: Path, *more: Any) -> int:
        number = real(program, folder, *more)
        before, region, behind = (folder / "attnc_top.cpp").read_text().rpartition("  ATTNC_REGION\n")
        assert region
        (folder / "attnc_top.cpp").write_text(before + PLANTED + behind)
        return number

    monkeypatch.setattr(project, "write_sources", write_sources)


def compile_(model: Path, *more: str) -> int:
    return main(["compile", str(model), "-o", str(model.parent / "build"), *more])


def found(model: Path) -> dict[str, object]:
    check = json.loads((model.parent / "build" / "report.json").read_text())["check"]
    assert isinstance(check, dict)
    return check


def test_a_build_is_compared(model: Path, capsys: Capture) -> None:
    assert compile_(model) == 0
    samples = int(str(found(model)["samples"]))
    assert samples > 0 and found(model) == {"samples": samples, "elements": samples * 4 * K}
    assert f"equal in all {samples * 4 * K:,} elements of the build's own {samples} samples" in " ".join(capsys.readouterr().out.split())
    assert not list((model.parent / "build").rglob("c*sim_native*"))  # made for this machine
    simulation = json.loads((model.parent / "build" / "report.json").read_text())["simulation"]
    in_time = json.loads((model.parent / "build" / "cosim.json").read_text())
    for style in ("stp", "flp"):
        assert simulation[style]["cycles"] == in_time["styles"][style]["cycles"] > 0 and not simulation[style]["deadlock"]
    assert f"{simulation['stp']['cycles']:,} cycles" in (model.parent / "build" / "report.txt").read_text()
    assert compile_(model, "--quiet") == 0  # over a build that is as attnc made it
    assert capsys.readouterr() == ("", "")


def test_a_build_that_differs_is_not_written(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    patched(monkeypatch, "(first ? AccT(0) : part[r][pe])", "part[r][pe]")
    assert compile_(model, "--quiet") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("attnc: error: the emitted C++ differs from golden in ") and err.count("\n") == 1
    assert "a bug in attnc, so no build was written (--no-check writes it as it is); the first: output 'y', sample " in err
    assert [path.name for path in model.parent.iterdir()] == ["m.onnx"]
    assert compile_(model, "--no-check") == 0
    out, err = capsys.readouterr()
    assert found(model) == {"unchecked": "--no-check"} and "the C++ was not compared with golden: --no-check" in err
    assert "NOT COMPARED: --no-check; `attnc csim` compares" in " ".join(out.split())
    assert main(["csim", str(model.parent / "build")]) == 1


def test_a_build_that_stands_still_is_not_written(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    planted(monkeypatch)
    assert compile_(model, "--quiet") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("attnc: error: the emitted C++ stands still from cycle ") and err.count("\n") == 1
    assert "engine_0.first is full (depth 4), read by reader" in err and "engine_0.second is empty (depth 4), written by writer" in err
    assert "a bug in attnc, so no build was written" in err and "least depths that free it: engine_0.first 4 -> 7" in err
    assert [path.name for path in model.parent.iterdir()] == ["m.onnx"]


def test_a_build_that_differs_replaces_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compile_(model, "--no-check", "--quiet") == 0
    before = (model.parent / "build" / "report.json").read_bytes()
    patched(monkeypatch, "(first ? AccT(0) : part[r][pe])", "part[r][pe]")
    assert compile_(model, "--quiet", "--clock", "100") == 1
    assert (model.parent / "build" / "report.json").read_bytes() == before


@pytest.mark.parametrize(("wrong", "message"), [("#error broken", "broken"), ("no pragma", "compiler failed")])
def test_code_that_does_not_compile_is_not_written(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, wrong: str, message: str
) -> None:
    patched(monkeypatch, "#pragma once", wrong)
    assert compile_(model, "--quiet") == 2
    err = capsys.readouterr().err
    assert "the emitted C++ cannot be simulated, which is a bug in attnc" in err and message in err
    assert [path.name for path in model.parent.iterdir()] == ["m.onnx"]


def test_without_a_compiler_nothing_is_compared(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compile_(model, "--quiet") == 0
    reason = "'no-such-compiler' is not installed or not on PATH"
    assert capsys.readouterr().err == f"attnc: note: the C++ was not compared with golden: {reason}\n"
    assert found(model) == {"unchecked": reason}
    assert f"NOT COMPARED: {reason}" in " ".join((model.parent / "build" / "report.txt").read_text().split())
