"""The command line: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import attnc
from attnc.cli import main
from attnc.console import parse_shapes
from attnc.errors import ConfigError, DataError
from attnc.npz import load_npz, save_npz
from attnc_host.integrity import sha256
from small_build import random_inputs

COMMANDS = ("compile", "csim", "run", "eval", "inspect", "targets", "approx")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-O1")
    monkeypatch.setenv("COLUMNS", "140")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    np.savez(tmp_path / "x.npz", **random_inputs(4))
    return tmp_path / "x.npz"


def error_of(capsys: Capture, *args: object) -> str:
    """The one message of a command that ends with exit code 2 and prints nothing else."""
    assert main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert err.startswith("attnc: error: ") and err.endswith("\n"), err
    return err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(capsys: Capture, command: str) -> None:
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert "Examples:" in out and re.search(rf"^\s+attnc {command}", out, re.MULTILINE) and err == ""


def test_help_lists_the_commands(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {command} ", out, re.MULTILINE) for command in COMMANDS) and "..." not in out.replace("[ARGS]...", "")
    main([])
    assert "Usage: attnc" in "".join(capsys.readouterr())


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"attnc {attnc.__version__}\n"


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "attnc", "--version"], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (0, f"attnc {attnc.__version__}\n")


def environment() -> dict[str, str]:
    """The compiler importable from any directory."""
    import attnc_host

    paths = [str(Path(str(module.__file__)).parents[1]) for module in (attnc, attnc_host)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize(
    "args", [["frobnicate"], ["csim"], ["csim", "build", "--typos", "x"], ["run", "b", "--backend", "fpga"], ["compile", "--seed", "x"]]
)
def test_usage_errors(capsys: Capture, args: list[str]) -> None:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Usage:" in err


def test_targets(capsys: Capture) -> None:
    assert main(["targets"]) == 0
    assert re.search(r"kv260.*117,120.*1,248", capsys.readouterr().out)
    assert main(["targets", "--json"]) == 0
    boards = json.loads(capsys.readouterr().out)
    assert {"name": "kv260", "lut": 117_120}.items() <= next(b for b in boards if b["name"] == "kv260").items()


def test_csim(capsys: Capture, build: Path, inputs: Path) -> None:
    assert main(["csim", str(build)]) == 0
    out, err = capsys.readouterr()
    assert "equal, bit for bit" in out and "attnc:" not in err  # a slow machine sees progress there
    assert main(["csim", str(build), "--inputs", str(inputs), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["bit_exact"], result["elements"], result["mismatches"], result["first_mismatch"]) == (True, 80, 0, None)


def test_csim_that_differs(capsys: Capture, build: Path) -> None:
    header = build / "hls" / "include" / "attnc" / "linear.hpp"
    header.write_text(header.read_text().replace("(first ? AccT(0) : part[r][pe])", "part[r][pe]"))
    assert main(["csim", str(build), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["bit_exact"] is False and result["mismatches"] > 0
    assert set(result["first_mismatch"]) == {"output", "sample", "index", "expected", "found"}
    assert main(["csim", str(build)]) == 1
    assert "first mismatch" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["golden", "csim"])
def test_run(capsys: Capture, build: Path, inputs: Path, tmp_path: Path, backend: str) -> None:
    output = tmp_path / "y.npz"
    assert main(["run", str(build), "--inputs", str(inputs), "--output", str(output), "--backend", backend, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["outputs"] == {"y": {"shape": [4, 4, 5], "dtype": "float32"}}
    assert load_npz(output)["y"].shape == (4, 4, 5)
    first = output.read_bytes()
    assert main(["run", str(build), "--inputs", str(inputs), "--output", str(output), "--backend", "golden"]) == 0
    assert output.read_bytes() == first and sorted(p.name for p in tmp_path.glob("*.npz*")) == ["x.npz", "y.npz"]


def test_labels_are_left_out(capsys: Capture, build: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", label=np.arange(2), **random_inputs(2))
    assert main(["csim", str(build), "--inputs", str(tmp_path / "both.npz"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["samples"] == 2 and "'label' is left out" in err


def test_errors_of_run(capsys: Capture, build: Path, inputs: Path, tmp_path: Path) -> None:
    y = tmp_path / "y.npz"
    assert "no such build folder" in error_of(capsys, "run", tmp_path / "none", "--inputs", inputs, "--output", y)
    assert "no build of attnc" in error_of(capsys, "csim", tmp_path)
    assert "no such file" in error_of(capsys, "run", build, "--inputs", tmp_path / "none.npz", "--output", y)
    assert "is a folder" in error_of(capsys, "run", build, "--inputs", inputs, "--output", tmp_path)
    assert "does not exist" in error_of(capsys, "run", build, "--inputs", inputs, "--output", tmp_path / "no" / "y.npz")
    np.savez(tmp_path / "z.npz", z=np.zeros(3))
    assert "input 'x' is missing, the file has 'z'" in error_of(capsys, "run", build, "--inputs", tmp_path / "z.npz", "--output", y)
    np.savez(tmp_path / "z.npz", x=np.zeros((2, 4, 7)))
    assert "needed shape [samples, 4, 6] or [samples, 1, 4, 6], found [2, 4, 7]" in error_of(
        capsys, "csim", build, "--inputs", tmp_path / "z.npz"
    )
    assert not y.exists()


def test_damaged_build(capsys: Capture, build: Path) -> None:
    (build / "golden" / "graph.json").write_text("{" * os.path.getsize(build / "golden" / "graph.json"))
    assert "graph" in error_of(capsys, "csim", build)
    (build / "manifest.json").write_text("nonsense")
    assert "not valid JSON" in error_of(capsys, "csim", build, "--json")


def test_verify_finds_changed_weights(capsys: Capture, build: Path, inputs: Path, tmp_path: Path) -> None:
    path = build / "weights" / "weights.bin"
    path.write_bytes(path.read_bytes()[::-1])
    output = ["--inputs", inputs, "--output", tmp_path / "y.npz"]
    for args in (["run", build, *output], ["run", build, *output, "--backend", "golden"], ["csim", build], ["eval", build, *output[:2]]):
        assert "weights.bin: the checksum differs" in error_of(capsys, *args)
    assert main([str(arg) for arg in ("run", build, *output, "--backend", "golden", "--no-verify")]) == 0


def test_edited_sources_are_for_simulations_that_compare(capsys: Capture, build: Path, inputs: Path, tmp_path: Path) -> None:
    with open(build / "hls" / "attnc_top.cpp", "a") as file:
        file.write("// edited\n")
    output = tmp_path / "y.npz"
    assert "attnc_top.cpp: needed" in error_of(capsys, "run", build, "--inputs", inputs, "--output", output)
    assert main(["csim", str(build)]) == 0
    assert main(["run", str(build), "--inputs", str(inputs), "--output", str(output), "--no-verify"]) == 0


def test_errors_of_compile(capsys: Capture, tmp_path: Path) -> None:
    model = tmp_path / "none.onnx"
    assert "--shape: needed NAME=1,128" in error_of(capsys, "compile", model, "--shape", "x=1,a")
    assert "--shape: needed NAME=1,128" in error_of(capsys, "compile", model, "--shape", "x=1,-1")
    assert "given twice" in error_of(capsys, "compile", model, "--shape", "x=1", "--shape", "x=2")
    assert "--clock: " in error_of(capsys, "compile", model, "--clock", "0")


def test_shapes() -> None:
    assert parse_shapes(["a=1,128", "b=c=2"]) == {"a": (1, 128), "b=c": (2,)}
    assert parse_shapes(None) == {}
    for text in ("a", "=1", "a=", "a=1,,2", "a=-1"):
        with pytest.raises(ConfigError):
            parse_shapes([text])


def test_unexpected_errors(capsys: Capture, build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("attnc.verify.csim.compare_build", broken)
    assert main(["csim", str(build)]) == 70
    assert capsys.readouterr().err == "attnc: internal error: ZeroDivisionError: surprise (-v for the traceback)\n"
    for args in (["csim", str(build), "-v"], ["-v", "csim", str(build)]):
        assert main(args) == 70
        err = capsys.readouterr().err
        assert "Traceback" in err and err.endswith("attnc: internal error: ZeroDivisionError: surprise\n")


def test_verbose_shows_the_traceback_of_an_error(capsys: Capture, tmp_path: Path) -> None:
    assert main(["csim", str(tmp_path), "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["csim", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"), [(KeyboardInterrupt(), 130, "attnc: interrupted\n"), (MemoryError(), 2, "attnc: error: out of memory\n")]
)
def test_interruption(capsys: Capture, build: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr("attnc.verify.csim.compare_build", stop)
    assert main(["csim", str(build)]) == code
    assert capsys.readouterr().err == message


def test_interrupting_a_simulation_leaves_no_process(build: Path) -> None:
    """Ctrl-C goes to attnc alone here; the simulator, which would run for ever, must go with it."""
    (build / "hls" / "csim_native").write_text(f"#!/bin/sh\necho $$ > {build}/pid\nexec sleep 1000\n")
    (build / "hls" / "csim_native").chmod(0o755)
    (build / "hls" / "csim_native.sha256").write_text(sha256(build / "hls" / "csim_native"))
    command = [sys.executable, "-m", "attnc", "csim", str(build)]
    # A shell's background jobs, and what they start, ignore Ctrl-C.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    deadline = time.monotonic() + 60
    while not (build / "pid").exists() or not (build / "pid").read_text().strip():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err.splitlines()[-1] == "attnc: interrupted" and "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(int((build / "pid").read_text()), 0)


def test_a_closed_pipe_is_quiet() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m attnc targets --json | head -c 1"], capture_output=True, text=True, env=environment()
    )
    assert done.stdout == "[" and done.stderr == ""


def test_control_characters_do_not_reach_the_terminal(capsys: Capture, tmp_path: Path) -> None:
    assert "\x1b" not in error_of(capsys, "csim", tmp_path / "a\x1b[31mb")


def test_npz_round_trip(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "/layer/out:0": np.float32([[1.5]]), "scalar": np.array(2.0)}
    save_npz(tmp_path / "a.npz", arrays)
    found = load_npz(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert (tmp_path / "a.npz").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_npz_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.arange(1000))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[200:300] = b"\xff" * 100
    for content in (b"", b"text", whole[: len(whole) // 2], bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not an .npz archive of numbers, or a damaged one"):
            load_npz(path)
    with open(path, "wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(DataError, match="found a single array"):
        load_npz(path)
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"not an .npz archive of numbers"):
        load_npz(path)
    np.savez(path)
    with pytest.raises(DataError, match="empty"):
        load_npz(path)
    with pytest.raises(DataError, match="is no file"):
        load_npz(tmp_path)
