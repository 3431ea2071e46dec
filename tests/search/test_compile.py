"""`attnc compile --weights auto --budget ...`, on a small model and on the shipped one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from attnc.arrays import Array
from attnc.cli import main
from attnc.search import sensitivity
from attnc.search.layers import Layers
from attnc.search.state import Store
from attnc_host import Accelerator

DIGITS = Path(__file__).resolve().parents[2] / "models" / "vit_digits"
T, C, H = 6, 64, 96
Capture = pytest.CaptureFixture[str]


def write_model(path: Path, ternary: bool = False) -> Path:
    """y = (relu(x A + a) B + b) D: layers that matter differently; with `ternary`, B lies on a ternary grid."""
    rng = np.random.default_rng(3)
    b = rng.normal(size=(H, C)) if not ternary else 0.05 * rng.integers(-1, 2, (H, C))
    arrays = {"A": rng.normal(size=(C, H)), "a": rng.normal(size=H), "B": b, "b": rng.normal(size=C), "D": rng.normal(size=(C, 10))}
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["m1"], name="first"),
        helper.make_node("Add", ["m1", "a"], ["s1"]),
        helper.make_node("Relu", ["s1"], ["r"]),
        helper.make_node("MatMul", ["r", "B"], ["m2"], name="second"),
        helper.make_node("Add", ["m2", "b"], ["s2"]),
        helper.make_node("Relu", ["s2"], ["r2"]),
        helper.make_node("MatMul", ["r2", "D"], ["y"], name="third"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, T, C])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, T, 10])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, rng = tmp_path_factory.mktemp("auto"), np.random.default_rng(0)
    mixing = rng.normal(size=(C, C)) / 8
    draw = lambda count: (rng.normal(size=(count, T, C)) @ mixing).astype(np.float32)  # noqa: E731
    (folder / "samples").mkdir()  # beside the model they would calibrate by themselves
    np.savez(folder / "samples" / "calib.npz", x=draw(32), label=np.zeros(32, int))
    np.savez(folder / "samples" / "other.npz", x=draw(12))
    write_model(folder / "model.onnx")
    write_model(folder / "ternary.onnx", ternary=True)
    return {path.stem: path for path in folder.rglob("*.*")}


def search(files: dict[str, Path], output: Path, *more: str, budget: str = "cosine>=0.995") -> int:
    calib = ["--calib", str(files["calib"]), "--weights", "auto", "--budget", budget]
    return main(["compile", str(files["model"]), *calib, "-o", str(output), "--no-check", "--quiet", *more])


def hashes(build: Path) -> dict[str, str]:
    """Every file of a build but its reports."""
    paths = [path for path in sorted(build.rglob("*")) if path.is_file() and path.name not in ("report.json", "report.txt")]
    return {str(path.relative_to(build)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def facts(build: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((build / "report.json").read_text())["search"]
    return found


def cosines(model: Path, build: Path, x: Array) -> Array:
    """Of golden, as the build runs it, and onnxruntime."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    real = np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in x]).reshape(len(x), -1).astype(np.float64)
    with Accelerator.open(build, "golden") as accelerator:
        found = accelerator.run({"x": x})["y"].reshape(len(x), -1).astype(np.float64)
    result: Array = (real * found).sum(axis=1) / np.linalg.norm(real, axis=1) / np.linalg.norm(found, axis=1)
    return result


@pytest.fixture(scope="module")
def built(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("built") / "build"
    assert search(files, build) == 0
    return build


def test_the_budget_holds_on_samples_held_out(files: dict[str, Path], built: Path) -> None:
    found, x = facts(built), np.load(files["calib"])["x"][3::4]
    each = cosines(files["model"], built, x)
    assert found["value"] == pytest.approx(each.mean(), abs=1e-9) and found["samples"] == 8
    assert found["margin"] == pytest.approx(2 * each.std(ddof=1) / 8**0.5, abs=1e-9)
    assert found["value"] - found["margin"] >= 0.995
    chosen = [point for point in found["curve"] if point["chosen"]]
    assert len(chosen) == 1 and chosen[0]["bits_per_weight"] == found["bits_per_weight"] < 7
    assert chosen[0]["bits_per_weight"] == min(point["bits_per_weight"] for point in found["curve"] if point["holds"])
    assert any(not point["holds"] for point in found["curve"])
    report = json.loads((built / "report.json").read_text())
    assert report["calibration"]["samples"] == 24 and report["files"]["config"] == "attnc.yaml"
    assert "bits per weight" in (built / "report.txt").read_text()


def test_the_config_makes_the_same_build(files: dict[str, Path], built: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    config = ["--calib", str(files["calib"]), "--config", str(built / "attnc.yaml")]
    assert main(["compile", str(files["model"]), *config, "-o", str(again), "--no-check", "--quiet"]) == 0
    assert hashes(again) == hashes(built) and "attnc.yaml" in hashes(built)
    assert not (tmp_path / "again.search").exists()
    assert main(["compile", str(files["model"]), *config, "-o", str(again), "--no-check", "--quiet", "--weights", "int4"]) == 0


def test_a_second_search_starts_from_the_first(
    files: dict[str, Path], built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The same budget repeats nothing; another budget quantizes nothing."""
    monkeypatch.setattr(sensitivity, "quantized", None)
    with monkeypatch.context() as patch:
        patch.setattr(Layers, "run", None)
        before = hashes(built)
        assert search(files, built) == 0
    assert hashes(built) == before
    assert search(files, built, budget="cosine>=0.9") == 0
    assert facts(built)["bits_per_weight"] < 4
    assert search(files, built) == 0 and hashes(built) == before
    capsys.readouterr()


@pytest.mark.parametrize(("method", "after"), [("put_weight", 5), ("put_gain", 2), ("put_score", 4)])
def test_an_interrupted_search_goes_on(
    files: dict[str, Path], built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, method: str, after: int
) -> None:
    original, calls = getattr(Store, method), 0

    def interrupted(self: Store, *args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Store, method, interrupted)
        assert search(files, tmp_path / "build") == 130
    assert not (tmp_path / "build").exists() and {path.name for path in tmp_path.iterdir()} == {"build.search"}
    assert "interrupted" in capsys.readouterr().err
    done = []
    monkeypatch.setattr(Store, method, lambda self, *args: (done.append(args[0]), original(self, *args))[1])
    assert search(files, tmp_path / "build") == 0
    assert hashes(tmp_path / "build") == hashes(built) and facts(tmp_path / "build")["curve"] == facts(built)["curve"]


def test_a_stale_or_damaged_state_is_not_used(files: dict[str, Path], built: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "build"
    command = ["compile", str(files["model"]), "--calib", str(files["calib"]), "--weights", "auto", "--no-check", "-o", str(output)]
    assert main([*command, "--budget", "cosine>=0.995", "--calibration", "minmax", "--quiet"]) == 0
    capsys.readouterr()
    assert main([*command, "--budget", "cosine>=0.995", "--json"]) == 0
    assert (
        "belongs to another model, other samples, other settings or another version of attnc; the search starts afresh"
        in capsys.readouterr().err
    )
    assert hashes(output) == hashes(built)
    state = tmp_path / "build.search" / "state.json"
    state.write_text(state.read_text().replace("0.99", "0.98"))
    assert main([*command, "--budget", "cosine>=0.995", "--json"]) == 0
    assert "damaged (checksum); the search starts afresh" in capsys.readouterr().err
    assert hashes(output) == hashes(built)


def test_layers_with_formats_of_their_own_keep_them(files: dict[str, Path], tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text('weights: int6\nlayers:\n  - {match: "second", weights: auto}\n')
    command = [
        "compile",
        str(files["model"]),
        "--calib",
        str(files["calib"]),
        "--config",
        str(config),
        "-o",
        str(tmp_path / "b"),
        "--no-check",
        "--quiet",
    ]
    assert main([*command, "--budget", "sqnr>=20", "--heldout", str(files["other"])]) == 0
    found = facts(tmp_path / "b")
    assert [layer["searched"] for layer in found["layers"]] == [False, True, False]
    assert [layer["weights"] for layer in found["layers"]][::2] == ["int6", "int6"]
    assert found["samples"] == 12 and found["source"] == "other.npz" and found["value"] - found["margin"] >= 20
    assert yaml.safe_load((tmp_path / "b" / "attnc.yaml").read_text())["hold_out"] == 0


def test_weights_on_a_grid_stay_there(files: dict[str, Path], tmp_path: Path) -> None:
    command = ["compile", str(files["ternary"]), "--calib", str(files["calib"]), "--no-check", "--quiet"]
    assert main([*command, "--weights", "auto", "--budget", "cosine>=0.995", "-o", str(tmp_path / "b")]) == 0
    middle = facts(tmp_path / "b")["layers"][1]
    assert (middle["weights"], middle["searched"]) == ("ternary", False)
    assert main([*command, "--config", str(tmp_path / "b" / "attnc.yaml"), "-o", str(tmp_path / "c")]) == 0
    assert hashes(tmp_path / "c") == hashes(tmp_path / "b")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget", "cosine>0.9"], 'needed "cosine>=0.99"'),
        (["--budget", "cosine>=nan"], "cosine lies in 0 to 1"),
        ([], "weights: auto needs a search; give `attnc compile` a --budget"),
        (["--budget", "cosine>=0.9", "--weights", "int4"], "--budget is for weights that a search may choose; give --weights auto"),
        (["--budget", "cosine>=0.9", "--calib", ""], "--budget needs --calib"),
        (["--pool", "mean:x"], "--pool is for a search over formats of weights"),
        (["--budget", "cosine>=0.9", "--pool", "mean:mask"], "needed mean:MASK or rows:MASK with MASK one of x, found"),
        (["--budget", "cosine>=0.9", "--pool", "mean:x"], "no output begins with the shape of x"),
        (["--budget", "accuracy_drop<=1", "--labels", "truth"], "needed the labels 'truth', found 'x', 'label'"),
        (["--budget", "accuracy_drop<=1", "--heldout", "other"], "accuracy_drop needs labels beside the samples"),
        (["--budget", "cosine>=0.9", "--heldout", "nowhere.npz"], "no such file"),
        (["--budget", "cosine>=0.9", "--heldout", "calib"], "is the file of --calib; leave it out, and some of the samples are held out"),
        (["--budget", "cosine>=0.9", "--quantizer", "binary"], "quantizer binary makes none of the formats of a search"),
        (["--budget", "cosine>=0.99999"], "--budget cosine>=0.99999 cannot be held: the finest formats"),
    ],
)
def test_errors(files: dict[str, Path], tmp_path: Path, capsys: Capture, more: list[str], message: str) -> None:
    given = {"--calib": str(files["calib"]), "--weights": "auto", "-o": str(tmp_path / "build")}
    given |= {key: str(files[value]) if value in files else value for key, value in zip(more[::2], more[1::2], strict=True)}
    assert main(["compile", str(files["model"]), *(part for key, value in given.items() if value for part in (key, value))]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and message in err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} <= {"build.search"}


def test_too_few_samples_and_bad_ones(files: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    for x, message in (
        (np.zeros((9, T, C)), "1 sample in 4 is held out for the search; needed 8 that differ or --heldout, found 1"),
        (np.random.default_rng(0).normal(size=(7, T, C)), "needed 8 that differ or --heldout, found 7"),
        (np.full((9, T, C), np.nan), "NaN"),
    ):
        np.savez(tmp_path / "bad.npz", x=x.astype(np.float32))
        assert search({**files, "calib": tmp_path / "bad.npz"}, tmp_path / "build") == 2
        assert message in capsys.readouterr().err
    assert search(files, tmp_path / "build", "--heldout", str(tmp_path / "bad.npz")) == 2 and "NaN" in capsys.readouterr().err


def test_a_folder_that_is_no_build_is_refused_before_the_search(files: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "thesis.txt").write_text("x")
    assert search(files, tmp_path / "build") == 2 and "attnc did not make it" in capsys.readouterr().err


@pytest.mark.slow
def test_digits_within_a_point(tmp_path: Path) -> None:
    """The example of the README."""
    data = ["--calib", str(DIGITS / "calib.npz"), "--weights", "auto", "--quantizer", "mse", "--budget", "accuracy_drop<=1"]
    assert main(["compile", str(DIGITS / "vit_digits.onnx"), *data, "-o", str(tmp_path / "build"), "--no-check", "--quiet"]) == 0
    found = facts(tmp_path / "build")
    assert found["metric"] == "accuracy_drop" and found["value"] <= 1 and found["bits_per_weight"] < 4
