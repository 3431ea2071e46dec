"""attnc approx: errors, costs and pictures of nonlinear functions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from attnc.cli import main
from attnc.ops.functions import FUNCTIONS

Capture = pytest.CaptureFixture[str]
OTHERS = ("softmax", "layer_normalization", "rms_normalization", "reciprocal")


def error_of(capsys: Capture, *args: object) -> str:
    assert main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


def test_table(capsys: Capture) -> None:
    assert main(["approx", "gelu", "--bits", "8", "--impl", "all"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and all(f"│ {name}" in out for name in ("delta8", "delta16", "delta32", "chord", "polynomial", "table *"))
    assert "every s8 in steps of 2**-4" in out and "estimates" in out


def test_other_names(capsys: Capture) -> None:
    assert main(["approx", "quick_gelu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["function"] == "gelu_sigmoid"


@pytest.mark.parametrize("function", [*FUNCTIONS, *OTHERS])
def test_measured_errors_are_within_the_stated_ones(capsys: Capture, function: str) -> None:
    for bits in (8,) if function in ("exp", "softsign") else (8, 16):
        assert main(["approx", function, "--bits", str(bits), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["function"] == function and found["auto"] in [row["implementation"] for row in found["implementations"]]
        for row in found["implementations"]:
            # Of a softmax the stated error is that of the exponential; its scores round too.
            slack = 3.5e-4 if function == "softmax" else 1e-4 * 16 if function == "leaky_relu" else 0
            assert row["max_error"] <= row["stated_max_error"] + slack, (bits, row)
            assert row["rms_error"] <= row["max_error"] and row["per_lane"]["lut"] > 0


def test_picture(capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for function in ("gelu", "softmax", "rms_normalization"):
        picture = tmp_path / f"{function}.png"
        assert main(["approx", function, "--plot", str(picture)]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
        assert str(picture) in capsys.readouterr().out


def test_picture_without_matplotlib(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'attnc[plot]'" in error_of(capsys, "approx", "gelu", "--plot", tmp_path / "x.png")


def test_picture_that_cannot_be_written(capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert "does not exist" in error_of(capsys, "approx", "gelu", "--plot", tmp_path / "missing" / "x.png")


def test_errors(capsys: Capture) -> None:
    assert "--bits: needed 8 for exp" in error_of(capsys, "approx", "exp", "--bits", "16")
    assert "function: needed one of elu, erf, exp, gelu" in error_of(capsys, "approx", "cosh")
    assert "--bits: needed 8 or 16, found 9" in error_of(capsys, "approx", "gelu", "--bits", "9")
    assert "--impl: needed all or one of delta8, " in error_of(capsys, "approx", "gelu", "--impl", "cordic")
    assert "found 'table'" in error_of(capsys, "approx", "gelu", "--bits", "16", "--impl", "table")
    assert main(["approx", "leaky_relu_0.2", "--impl", "table", "--json"]) == 0
    assert [row["implementation"] for row in json.loads(capsys.readouterr().out)["implementations"]] == ["table"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gelu", "needed FUNCTION=NAME"),
        ("=x", "needed FUNCTION=NAME"),
        ("tanh=table", "the model has on the device"),
        ("gelu=x", "needed one of auto"),
    ],
)
def test_option_of_compile(capsys: Capture, tmp_path: Path, text: str, message: str) -> None:
    model = Path(__file__).resolve().parents[2] / "models" / "vit_digits" / "vit_digits.onnx"
    err = error_of(capsys, "compile", model, "--quiet", "-o", tmp_path / "build", "--implementation", text)
    assert message in err and not (tmp_path / "build").exists()


def test_error_target_of_compile(capsys: Capture, tmp_path: Path) -> None:
    model = Path(__file__).resolve().parents[2] / "models" / "vit_digits" / "vit_digits.onnx"
    err = error_of(capsys, "compile", model, "--quiet", "-o", tmp_path / "build", "--error-target", "0")
    assert "--error-target: " in err and "greater than 0" in err
