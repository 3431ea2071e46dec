"""compile, eval and inspect on the shipped model, through the command line."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attnc.cli import main
from attnc_host.progress import Progress
from small_build import write_model

MODEL = Path(__file__).resolve().parents[2] / "models" / "vit_digits" / "vit_digits.onnx"
CALIB, HELDOUT = MODEL.parent / "calib.npz", MODEL.parent / "heldout.npz"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-O1")


@pytest.fixture
def vit(compiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled, tmp_path / "vit"))


def error_of(capsys: Capture, *args: object) -> str:
    assert main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()[-1]


def test_json_alone_on_stdout(capsys: Capture, tmp_path: Path) -> None:
    output, dump = tmp_path / "b", tmp_path / "dump"
    model = write_model(tmp_path / "small.onnx")
    assert main(["compile", str(model), "-o", str(output), "--json", "--no-check", "--dump", str(dump), "--clock", "150"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["build"] == str(output) and report["schema"] == 1 and report["target"]["clock_mhz"] == 150
    assert report == {"build": str(output), **json.loads((output / "report.json").read_text())}
    assert "the figures say little about real data" in err and "calibrating" in err.splitlines()
    assert len(list(dump.iterdir())) > 3


def test_calibration_that_lies_beside_the_model(capsys: Capture, tmp_path: Path) -> None:
    model, output = write_model(tmp_path / "small.onnx"), tmp_path / "b"
    (name,) = (value.name for value in onnx.load(model).graph.input)

    def compiled(**arrays: np.ndarray) -> tuple[str, str]:
        np.savez(tmp_path / "calib.npz", **arrays)
        assert main(["compile", str(model), "-o", str(output), "--no-check", "--json"]) == 0
        out, err = capsys.readouterr()
        return json.loads(out)["calibration"]["source"], err

    (shape,) = ([d.dim_value or 4 for d in v.type.tensor_type.shape.dim] for v in onnx.load(model).graph.input)
    source, err = compiled(**{name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)})
    assert source == "calib.npz" and "which lies beside the model" in err
    source, err = compiled(another=np.zeros(4, np.float32))
    assert source == "synthetic" and "beside the model" not in err


def test_quiet_is_quiet(capsys: Capture, tmp_path: Path) -> None:
    model = write_model(tmp_path / "small.onnx")
    assert main(["compile", str(model), "-o", str(tmp_path / "b"), "--no-check", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_eval(capsys: Capture, vit: Path, tmp_path: Path) -> None:
    with np.load(HELDOUT) as data:
        np.savez(tmp_path / "some.npz", image=data["image"][:50], y=data["label"][:50])
    assert main(["eval", str(vit), "--inputs", str(tmp_path / "some.npz"), "--labels", "y", "--model", str(MODEL), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    accuracy = facts["evaluation"]["accuracy_percent"]
    assert accuracy["C++"] == accuracy["golden"] >= 96 and accuracy["float"] >= 96
    assert (facts["evaluation"]["elements"], facts["evaluation"]["mismatches"]) == (500, 0)
    assert json.loads((vit / "report.json").read_text()) == facts and "accuracy" in (vit / "report.txt").read_text()


def test_eval_without_labels_or_model(capsys: Capture, vit: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.zeros((2, 1, 8, 8), np.float32))
    assert main(["eval", str(vit), "--inputs", str(tmp_path / "x.npz"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "accuracy_percent" not in json.loads(out)["evaluation"] and "was not found" in err
    assert "needed the labels 'y', found 'image'" in error_of(capsys, "eval", vit, "--inputs", tmp_path / "x.npz", "--labels", "y")
    other = onnx.load(MODEL)
    other.producer_name = "somebody else"
    onnx.save(other, tmp_path / "other.onnx")
    found = error_of(capsys, "eval", vit, "--inputs", tmp_path / "x.npz", "--model", tmp_path / "other.onnx")
    assert "is not the model that" in found


def test_errors(capsys: Capture, tmp_path: Path) -> None:
    def fail(*args: object) -> str:
        return error_of(capsys, "compile", *args, "-o", tmp_path / "out")

    assert "no such file" in fail(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("This is no model.")
    assert "not an ONNX file" in fail(tmp_path / "text.onnx")
    assert "did you mean kv260?" in fail(MODEL, "--target", "kv26")
    (tmp_path / "board.yaml").write_text("name: x\npart: y\n")
    assert "lut" in fail(MODEL, "--target", tmp_path / "board.yaml")
    assert "no such file" in fail(MODEL, "--calib", tmp_path / "none.npz")
    np.savez(tmp_path / "calib.npz", picture=np.zeros((2, 1, 8, 8)))
    assert "'image' is missing" in fail(MODEL, "--calib", tmp_path / "calib.npz")
    np.save(tmp_path / "calib.npy", np.zeros((2, 1, 8, 8)))
    assert "found a single array" in fail(MODEL, "--calib", tmp_path / "calib.npy")
    assert "'pixels'" in fail(MODEL, "--shape", "pixels=1,1,8,8")
    assert not (tmp_path / "out").exists()


def test_only_builds_are_replaced(capsys: Capture, tmp_path: Path, vit: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert "attnc did not make it" in error_of(capsys, "compile", MODEL, "-o", mine)
    assert (mine / "thesis.txt").exists()
    assert main(["compile", str(write_model(tmp_path / "small.onnx")), "-o", str(vit), "--no-check", "--quiet"]) == 0


def test_inspect(capsys: Capture) -> None:
    assert main(["inspect", str(MODEL)]) == 0
    assert "can be compiled" in capsys.readouterr().out
    assert main(["inspect", str(MODEL), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compilable"] and found["counts"]["unsupported"] == 0 and len(found["nodes"]) == sum(found["counts"].values())


def test_inspect_unsupported(capsys: Capture, tmp_path: Path) -> None:
    """A cumulative sum between two matrix products can be neither on the device nor on the host. Both commands name all of them, those
    with one reason together, and say what to do."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [8, 8], np.eye(8, dtype=np.float32).ravel())
    axis = helper.make_tensor("axis", TensorProto.INT64, [], [1])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("CumSum", ["a", "axis"], ["b"], name="odd [red]one[/red]"),
        helper.make_node("MatMul", ["b", "w"], ["c"], name="second"),
        helper.make_node("CumSum", ["c", "axis"], ["d"], name="odd two"),
        helper.make_node("MatMul", ["d", "w"], ["y"], name="third"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, 8]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, axis])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    bad = [node for node in found["nodes"] if node["where"] == "unsupported"]
    assert [node["operator"] for node in bad] == ["CumSum"] * 2 and bad[0]["reason"] == bad[1]["reason"] and not found["compilable"]
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 4, 8), np.float32))
    assert main(["inspect", str(tmp_path / "m.onnx"), "--calib", str(tmp_path / "x.npz")]) == 1
    assert "odd [red]one[/red], odd two" in capsys.readouterr().out
    said = error_of(capsys, "compile", tmp_path / "m.onnx", "-o", tmp_path / "out")
    assert f"nodes 'odd [red]one[/red]', 'odd two' (CumSum): {bad[0]['reason']}" in said and "onnx.utils.extract_model" in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress() -> None:
    plain, terminal, quick, quiet = io.StringIO(), Terminal(), io.StringIO(), io.StringIO()
    for delay, silent, stream in ((0, False, plain), (0, False, terminal), (2, False, quick), (0, True, quiet)):
        with Progress(delay, silent, stream) as progress:
            progress.stage("one")
            progress.update(1, 2)
            progress.stage("two")
    assert plain.getvalue() == "one\ntwo\n"
    assert quick.getvalue() == quiet.getvalue() == ""
    assert terminal.getvalue().startswith("\r\x1b[Kone") and terminal.getvalue().endswith("\r\x1b[K") and "\n" not in terminal.getvalue()
