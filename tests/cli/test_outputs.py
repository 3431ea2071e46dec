"""What commands write: nothing of the user's is lost, nothing half done stays."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import attnc
import attnc_host
from attnc.cli import main
from attnc.codegen.folder import foreign, staged
from attnc.errors import BuildError
from attnc.search.state import Store
from small_build import WIDTH as K
from small_build import random_inputs, write_model

Capture = pytest.CaptureFixture[str]


def write_samples(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=np.random.default_rng(1).normal(size=(8, 4, K)).astype(np.float32))
    return path


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder, the hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def compiled(*args: object) -> int:
    return main(["compile", *map(str, args), "--no-check", "--quiet"])


def refused(capsys: Capture, tmp_path: Path, *args: object) -> str:
    """The message of a command that fails and changes nothing."""
    before = everything(tmp_path)
    assert main([*map(str, args)]) == 2
    assert everything(tmp_path) == before
    return capsys.readouterr().err


BOARD = "{name: b, part: p, lut: 1000000, ff: 1000000, dsp: 999, bram36: 99, ddr_gb_s: 9}"
INPUTS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "--calib": (lambda folder: write_samples(folder / "c.npz"), ()),
    "--heldout": (lambda folder: write_samples(folder / "c.npz"), ("--weights", "auto", "--budget", "sqnr>=9")),
    "--config": (lambda folder: _text(folder / "c.yaml", "weights: int8"), ()),
    "--schedule": (lambda folder: _text(folder / "s.yaml", "schema: 1\ndesign: {lanes: 16, pe: 16, rows: 4, queries: 1}"), ()),
    "--target": (
        lambda folder: _text(folder / "b.yaml", BOARD),
        (),
    ),
}


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("option", INPUTS)
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_folder_that_holds_an_input_is_refused(capsys: Capture, tmp_path: Path, option: str, force: tuple[str, ...]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    make, others = INPUTS[option]
    model, samples = write_model(tmp_path / "m.onnx"), write_samples(tmp_path / "x.npz")
    args = ["compile", model, "--calib", samples, *others, option, make(folder), "-o", folder, *force]
    assert f"holds the {'board file' if option == '--target' else f'file of {option}'}" in refused(capsys, tmp_path, *args)


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_folder_that_holds_the_model_is_refused(capsys: Capture, tmp_path: Path, force: tuple[str, ...]) -> None:
    inside = write_model(tmp_path / "mine" / "deep" / "m.onnx")
    assert "holds the model" in refused(capsys, tmp_path, "compile", inside, "-o", tmp_path / "mine", *force)
    assert "holds the model" in refused(capsys, tmp_path, "compile", inside, "-o", tmp_path / "mine" / "deep" / ".." / "deep", *force)
    (tmp_path / "link.onnx").symlink_to(inside)
    assert "holds the model" in refused(capsys, tmp_path, "compile", tmp_path / "link.onnx", "-o", tmp_path / "mine", *force)
    outside = write_model(tmp_path / "out.onnx", external="data/w.bin")
    assert "holds the external data 'w.bin'" in refused(capsys, tmp_path, "compile", outside, "-o", tmp_path / "data", *force)


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_working_home_and_root_folder_are_refused(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: tuple[str, ...]
) -> None:
    model = write_model(tmp_path / "m.onnx")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    for output in (".", "..", "", tmp_path / "a", tmp_path / "link" / ".." / "a" / "b"):
        assert "is the working folder or holds it" in refused(capsys, tmp_path, "compile", model, "-o", output, *force)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "a" / "b"))
    assert "is the home folder or holds it" in refused(capsys, tmp_path, "compile", model, "-o", tmp_path / "a", *force)
    assert "is the root folder or holds it" in refused(capsys, tmp_path, "compile", model, "-o", "/", *force)


def test_what_is_not_a_build_is_moved_aside(capsys: Capture, tmp_path: Path) -> None:
    model, mine = write_model(tmp_path / "m.onnx"), tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (mine / "manifest.json").write_text(json.dumps({"schema": 1, "files": {}}))
    assert "thesis.txt" in refused(capsys, tmp_path, "compile", model, "-o", mine)
    for number in (1, 2):
        assert compiled(model, "-o", mine, "--force") == 0
        old = tmp_path / f"mine.old-{number}"
        assert f"{mine} held files that attnc did not make; what was there is now {old}" in capsys.readouterr().err
        assert (old / "thesis.txt").read_text() == "years of work" and not list(foreign(mine))
        (mine / "thesis.txt").write_text("years of work")
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "mine", "mine.old-1", "mine.old-2"}


def test_a_build_with_changes_of_the_user_is_no_build(capsys: Capture, tmp_path: Path) -> None:
    model, build = write_model(tmp_path / "m.onnx"), tmp_path / "b"
    assert compiled(model, "-o", build) == 0
    (build / "hls" / "csim_native").write_text("a simulator")
    report = build / "report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "evaluation": {}}))
    assert compiled(model, "-o", build) == 0 and not (build / "hls" / "csim_native").exists()
    for name, shown in (("hls/attnc_top.cpp", " (changed)"), ("schedule.yaml", " (changed)"), ("hls/attnc_top_project/solution.log", "")):
        path = build / name
        path.parent.mkdir(exist_ok=True)
        with open(path, "a") as file:
            file.write("# by hand\n")
        assert f"as it is now: {name}{shown}" in refused(capsys, tmp_path, "compile", model, "-o", build)
        assert compiled(model, "-o", build, "--force") == 0
    assert len(list(tmp_path.glob("b.old-*"))) == 3
    capsys.readouterr()
    edited = build / "schedule.yaml"
    assert "holds the file of --schedule" in refused(capsys, tmp_path, "compile", model, "-o", build, "--schedule", edited)


def test_folders_of_dump(capsys: Capture, tmp_path: Path) -> None:
    model, build, dump = write_model(tmp_path / "m.onnx"), tmp_path / "b", tmp_path / "d"
    assert "outside of the build" in refused(capsys, tmp_path, "compile", model, "-o", build, "--dump", build / "dump")
    dump.mkdir()
    (dump / "notes.txt").write_text("mine")
    for _ in range(2):
        assert compiled(model, "-o", build, "--dump", dump) == 0
    (dump / "9_thesis.txt").write_text("mine")
    assert "9_thesis.txt is there already" in refused(capsys, tmp_path, "compile", model, "-o", build, "--dump", dump)


def test_outputs_of_run(capsys: Capture, build: Path, tmp_path: Path) -> None:
    inputs, output = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(inputs, **random_inputs(2))

    def command(path: object) -> list[str]:
        return ["run", str(build), "--inputs", str(inputs), "--output", str(path), "--backend", "golden"]

    (tmp_path / "link.npz").symlink_to(inputs)
    os.mkfifo(tmp_path / "pipe")
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    for path, message in (
        (inputs, "this command reads"), (tmp_path / "link.npz", "this command reads"), (build / "manifest.json", "this command reads"),
        (build / "golden" / "params.npz", "this command reads"), (tmp_path / "other.npz", "attnc did not make it"),
        (tmp_path / "pipe", "is a device or a pipe"),
    ):  # fmt: skip
        assert message in refused(capsys, tmp_path, *command(path))
    assert main(command("/dev/null")) == 2 and Path("/dev/null").is_char_device()
    for _ in range(2):
        assert main(command(output)) == 0
    (tmp_path / "named.npz").symlink_to(output)
    output.unlink()
    assert main(command(tmp_path / "named.npz")) == 0 and (tmp_path / "named.npz").is_symlink() and output.is_file()


def test_outputs_of_export_and_approx(capsys: Capture, build: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx")
    assert "attnc did not make it" in refused(capsys, tmp_path, "export-qdq", build, "-o", model)
    assert "this command reads" in refused(capsys, tmp_path, "export-qdq", build, "-o", build / "golden" / "params.npz")
    assert "attnc did not make it" in refused(capsys, tmp_path, "approx", "gelu", "--impl", "table", "--plot", model)
    for _ in range(2):
        assert main(["export-qdq", str(build), "-o", str(tmp_path / "q.onnx")]) == 0
        assert main(["approx", "gelu", "--impl", "table", "--plot", str(tmp_path / "p.png")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"build", "m.onnx", "q.onnx", "p.png"}


def test_a_search_removes_its_own_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "b.search"
    Store(folder, "key", print)
    for name in ("thesis.txt", "0123456789abcdef.npz", "attnc.yaml"):
        (folder / name).write_text("mine")
    assert Store(folder, "other", print).resumed == 0
    (folder / "state.json").write_text("mine too")
    assert Store(folder, "other", print).resumed == 0
    kept = everything(folder)
    assert kept.pop("state.json.old-1") == b"mine too" and kept.pop("state.json")
    assert kept == dict.fromkeys(("thesis.txt", "0123456789abcdef.npz", "attnc.yaml"), b"mine")


def fill(folder: Path) -> None:
    folder.mkdir()
    (folder / "old.txt").write_text("old")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_what_was_there_stays_when_the_work_fails(tmp_path: Path, error: BaseException) -> None:
    fill(tmp_path / "b")
    for output in (tmp_path / "b", tmp_path / "new" / "deep" / "b"):
        with pytest.raises(BuildError if isinstance(error, OSError) else type(error)), staged(output, True, {}, print) as stage:
            (stage / "half").write_text("half")
            raise error
    assert everything(tmp_path) == {"b/old.txt": b"old"} and [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("ours", [False, True])
def test_what_was_there_stays_when_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bool, shared_build: Path) -> None:
    """The second of the two renames fails."""
    output, renames = tmp_path / "b", []
    if ours:
        shutil.copytree(shared_build, output)
    else:
        fill(output)
    assert any(foreign(output)) != ours
    before, rename = everything(tmp_path), os.rename

    def failing(source: Path, target: Path) -> None:
        renames.append(target)
        if len(renames) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(BuildError, match="Input/output"), staged(output, True, {}, print) as stage:
        (stage / "new").write_text("new")
    assert everything(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["b"]


def test_an_interrupt_waits_for_the_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "b")
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "rename", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), staged(tmp_path / "b", True, {}, print) as stage:
            (stage / "new").write_text("new")
    finally:
        signal.signal(signal.SIGINT, before)
    assert everything(tmp_path) == {"b/new": b"new", "b.old-1/old.txt": b"old"}


def test_a_folder_that_turns_up_during_the_work_is_moved_aside(tmp_path: Path) -> None:
    notes: list[str] = []
    with staged(tmp_path / "b", False, {}, notes.append) as stage:
        (stage / "new").write_text("new")
        fill(tmp_path / "b")
    assert everything(tmp_path) == {"b/new": b"new", "b.old-1/old.txt": b"old"} and "is now" in notes[0]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(str(m.__file__)).parents[1]) for m in (attnc, attnc_host))}


def test_a_request_to_end_cleans_up(tmp_path: Path) -> None:
    fill(tmp_path / "b")
    body = f"""
import os, signal, time
from pathlib import Path
from attnc import process
from attnc.codegen.folder import staged
def command():
    with staged(Path({str(tmp_path / "b")!r}), True, {{}}, print) as stage:
        (stage / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
raise SystemExit(process.run(command))
"""
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    assert everything(tmp_path) == {"b/old.txt": b"old"} and [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """No file of the build gets beyond 1,000 bytes."""
    model = write_model(tmp_path / "m.onnx")
    fill(tmp_path / "b")
    before = everything(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "attnc", "compile", str(model), "-o", str(tmp_path / "b"), "--force", "--quiet"],
        capture_output=True, text=True, env={**environment(), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "") and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert everything(tmp_path) == before
