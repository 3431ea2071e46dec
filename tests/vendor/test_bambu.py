"""Kernels of a build in bambu: what it is given, what it is called with, and what becomes of what it gives. bambu is a stand-in that
compiles the C++ of the kernel and its test bench, and runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from attnc.cli import main
from attnc.vendor import recording
from attnc.vendor.bambu import OPTIONS
from attnc.vendor.recording import Recording, numbers, record
from attnc_host import manifest as manifests
from attnc_host.csim import ap_include
from vendor.conftest import Run, StandIns
from vendor.scripts import ODD

BAMBU = Path(__file__).with_name("bambu.py")
DIGITS = Path(__file__).resolve().parents[2] / "models" / "vit_digits"
KERNELS = ["engine_0_0_rescale", "engine_0_1_linear", "engine_0_2_softmax", "engine_0_3_add"]


@pytest.fixture(scope="session")
def kept(compiled_small: Path) -> Recording:
    return record(manifests.load(compiled_small, edited=True))


@pytest.fixture
def bambu(stand_ins: StandIns, kept: Recording, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    """It and its simulator on PATH; the C++ of the small build is not run again."""
    stand_ins.put("bambu", "verilator", program=BAMBU)
    monkeypatch.setattr(recording, "record", lambda manifest: kept)
    return stand_ins


def test_what_passes_the_streams_is_kept(kept: Recording) -> None:
    assert all(len(kept[f"engine_0.chain_{number}"]) == 1 for number in (1, 2, 3))
    tokens = numbers(kept["engine_0.chain_1"][0], 16, True)
    assert tokens.shape[0] * tokens.shape[1] == 32 and np.ptp(tokens) > 100
    assert any(name.startswith("engine_0_2_softmax.") for name in kept)


def test_every_kernel_gives_what_golden_gives(compiled_small: Path, tmp_path: Path, bambu: StandIns, attnc: Run) -> None:
    build = Path(shutil.copytree(compiled_small, tmp_path / ODD / "build"))
    before = sorted(build.rglob("*"))
    code, out, err = attnc("cosim", build, "--tool", "bambu", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert [row["kernel"] for row in facts["kernels"]] == KERNELS and facts["bit_exact"]
    assert all((row["elements"], row["mismatches"], row["cycles"], row["calls"]) == (32, 0, 4321, 1) for row in facts["kernels"])
    assert bambu.calls == 4 * [["bambu", *OPTIONS, "--clock-period=4.000"]]
    assert "-O1" in OPTIONS and "--generate-interface=INFER" in OPTIONS and sorted(build.rglob("*")) == before
    written = build.with_name("build.bambu") / "engine_0_2_softmax"
    assert "#pragma HLS" in (build / "hls" / "include" / "attnc" / "softmax.hpp").read_text()
    assert not [path for path in written.rglob("*.hpp") if "#pragma HLS" in path.read_text()]
    code, out, _ = attnc("cosim", build, "--tool", "bambu", "--kernel", "add", "--work", tmp_path / "work")
    assert code == 0 and "equal, bit for bit" in out and (tmp_path / "work" / "engine_0_3_add" / "bambu.log").is_file()


def test_a_difference_and_a_refusal(
    compiled_small: Path, tmp_path: Path, bambu: StandIns, attnc: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = ["--tool", "bambu", "--work", tmp_path / "work"]
    with monkeypatch.context() as differing:
        differing.setenv("STAND_IN_DIFFERS", "1")
        code, out, _ = attnc("cosim", compiled_small, *work, "--kernel", "engine_0_3_add")
        assert code == 1 and "DIFFERENT: token 0, lane 1: expected " in out
    monkeypatch.setenv("STAND_IN_REFUSES", "engine_0_")
    log = tmp_path / "work" / "engine_0_3_add" / "bambu.log"
    code, _, err = attnc("cosim", compiled_small, *work, "--kernel", "add")
    assert code == 2 and str(log) in err and "This function is not supported: recursion" in err
    assert attnc("cosim", compiled_small, *work)[0] == 2  # it took none
    monkeypatch.setenv("STAND_IN_REFUSES", "rescale linear softmax")
    code, out, _ = attnc("cosim", compiled_small, *work, "--json")
    rows = {row["function"]: row for row in json.loads(out)["kernels"]}
    assert code == 0 and "recursion" in rows["linear"]["refused"] and rows["add"]["bit_exact"]


def test_without_the_tools(compiled_small: Path, stand_ins: StandIns, attnc: Run) -> None:
    for there, missing in (([], "needed bambu on PATH"), (["bambu"], "needed verilator on PATH")):
        stand_ins.put(*there, program=BAMBU)
        code, out, err = attnc("cosim", compiled_small, "--tool", "bambu")
        assert (code, out) == (2, "") and missing in err and err.count("\n") == 1


def test_a_kernel_that_is_not_there(compiled_small: Path, bambu: StandIns, attnc: Run) -> None:
    code, _, err = attnc("cosim", compiled_small, "--tool", "bambu", "--kernel", "rotary")
    assert code == 2 and f"--kernel: needed one of {', '.join(KERNELS)}, found 'rotary'" in err
    code, _, err = attnc("cosim", compiled_small, "--kernel", "linear")
    assert code == 2 and "--kernel means nothing to it" in err


@pytest.mark.slow
def test_kernels_of_the_digits_on_ap_int(tmp_path: Path, stand_ins: StandIns, attnc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.put("bambu", "verilator", program=BAMBU)
    monkeypatch.setenv("STAND_IN_TYPES", f"-isystem {ap_include()}")
    model = ["compile", str(DIGITS / "vit_digits.onnx"), "--calib", str(DIGITS / "calib.npz"), "--weights", "ternary", "--engine", "lookup"]
    assert main([*model, "-o", str(tmp_path / "build"), "--no-check", "--quiet"]) == 0
    code, out, err = attnc("cosim", tmp_path / "build", "--tool", "bambu", "--json")
    assert code == 0, err
    found = [row["function"] for row in json.loads(out)["kernels"] if row["bit_exact"]]
    assert {"add", "attention", "layer_normalization", "ternary_lookup"} <= {*found} and len(found) > 5
