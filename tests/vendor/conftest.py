"""A small build with its report, and a PATH on which stand-ins for the programs of Vitis can be put."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attnc.cli import main

PROGRAM = Path(__file__).with_name("program.py")


@pytest.fixture(scope="session")
def compiled_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = softmax(x w) + x, compiled; not to be written to."""
    folder = tmp_path_factory.mktemp("vendor")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8]) for name in ("x", "y")]
    name = '"; exec touch owned; # [exec touch owned] $(touch owned)'
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name=name),
        helper.make_node("Softmax", ["a"], ["b"]),
        helper.make_node("Add", ["b", "x"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], [numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), folder / "m.onnx")
    assert main(["compile", str(folder / "m.onnx"), "-o", str(folder / "build"), "--no-check", "--quiet"]) == 0
    return folder / "build"


@pytest.fixture
def vendor_build(compiled_small: Path, tmp_path: Path) -> Path:
    """A copy of it, which has been simulated as it seems."""
    build = Path(shutil.copytree(compiled_small, tmp_path / "build"))
    report = json.loads((build / "report.json").read_text())
    report["simulation"] = {"stp": {"cycles": 800}, "flp": {"cycles": 790}}
    (build / "report.json").write_text(json.dumps(report))
    return build


class StandIns:
    """Programs in a folder of their own, and the calls that they wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.record = folder / "bin", folder / "calls.jsonl"
        self.folder.mkdir()

    def put(self, *names: str, program: Path = PROGRAM) -> None:
        """Stand-ins under these names."""
        for name in names:
            path = self.folder / name
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$0" "$@"\n')
            path.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        """Name and arguments of each."""
        found = [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.is_file() else []
        return [[call["program"], *call["args"]] for call in found]


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    """On PATH, none yet."""
    made = StandIns(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([str(made.folder), os.environ["PATH"]]))
    monkeypatch.setenv("STAND_IN_CALLS", str(made.record))
    return made


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def attnc(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line: exit code, stdout, stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return code, out, err

    return run
