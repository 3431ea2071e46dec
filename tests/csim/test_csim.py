"""The simulator of a build folder: equal to golden, and loud when it is not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from attnc.errors import BuildError, ConfigError, DataError
from attnc.verify.csim import compare_build, compare_images
from attnc.verify.simulator import build_simulator as checked_simulator
from attnc_host import AcceleratorError, boundary, manifest
from attnc_host.csim import CsimBackend, build_simulator
from attnc_host.signals import uninterrupted
from small_build import random_inputs


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-O1")


def images(build: Path, samples: int) -> boundary.Image:
    description = manifest.load(build, edited=True)
    return boundary.to_image(description, boundary.prepare(description, boundary.check_inputs(description, random_inputs(samples))).values)


def test_stored_vectors(build: Path) -> None:
    result = compare_build(build)
    assert result.bit_exact and result.mismatches == 0 and result.first_mismatch is None
    assert (result.samples, result.elements, result.types) == (3, 3 * 4 * 5, "native")
    assert result.depths and all(depth > 0 for depth in result.depths.values()) and "engine_0.x" in result.depths
    json.dumps(result.to_json())


def test_inputs_and_ap_types(build: Path) -> None:
    result = compare_build(build, random_inputs(5), types="ap")
    assert result.bit_exact and result.elements == 5 * 20 and result.types == "ap"


def test_a_planted_bug_is_found(build: Path) -> None:
    header = build / "hls" / "include" / "attnc" / "linear.hpp"
    text = header.read_text()
    assert "(first ? AccT(0) : part[r][pe])" in text
    header.write_text(text.replace("(first ? AccT(0) : part[r][pe])", "part[r][pe]"))
    result = compare_build(build)
    assert not result.bit_exact and 0 < result.mismatches <= result.elements
    first = result.first_mismatch
    assert first is not None and first["output"] == "y" and first["expected"] != first["found"]


def test_changed_weights_are_found(build: Path) -> None:
    weights = build / "hls" / "data" / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)  # a copy of the folder has no hard links: only the simulator sees it
    weights.write_bytes(data)
    with pytest.raises(AcceleratorError, match="the checksum differs"):
        compare_build(build, random_inputs(2))
    assert not compare_build(manifest.load(build, verify=False), random_inputs(2)).bit_exact


def test_changed_vectors_are_found(build: Path) -> None:
    expected = build / "golden" / "expected.bin"
    data = bytearray(expected.read_bytes())
    data[0] ^= 1
    expected.write_bytes(data)
    result = compare_build(manifest.load(build, verify=False))
    assert result.mismatches == 1
    assert result.first_mismatch is not None and (result.first_mismatch["sample"], result.first_mismatch["index"]) == (0, [0, 0])
    assert result.first_mismatch["expected"] == result.first_mismatch["found"] ^ 1


def test_first_mismatch_is_the_first(shared_build: Path) -> None:
    description = manifest.load(shared_build)
    expected = {"y": np.zeros((3, 4, 5), np.int8)}
    found = {"y": expected["y"].copy()}
    found["y"][1, 2, 3], found["y"][2, 0, 0] = 7, 9
    result = compare_images(description, [boundary.write_outputs(description, expected)], boundary.write_outputs(description, found))
    assert result.mismatches == 2 and result.elements == 60
    assert result.first_mismatch == {"output": "y", "sample": 1, "index": [2, 3], "expected": 0, "found": 7}


def test_processes_change_nothing(build: Path) -> None:
    given = images(build, 5)
    alone, several = CsimBackend(manifest.load(build), processes=1), CsimBackend(manifest.load(build), processes=3)
    np.testing.assert_array_equal(alone.execute(given), several.execute(given))
    assert alone.depths == several.depths


def test_a_stream_failure_surfaces(build: Path) -> None:
    """A vector that nobody reads is left over."""
    top = build / "hls" / "attnc_top.cpp"
    source = top.read_text()
    assert "  ATTNC_REGION\n" in source
    top.write_text(source.replace("  ATTNC_REGION\n", '  ATTNC_REGION\n  hls::stream<int> lost("engine_0.lost"); lost.write(1);\n', 1))
    backend = CsimBackend(manifest.load(build, edited=True))
    with pytest.raises(AcceleratorError, match=r"stopped at a stream.*'engine_0.lost': left over when the stream ended"):
        backend.execute(images(build, 1))


def ignoring_sizes(build: Path) -> manifest.Manifest:
    data = json.loads((build / "manifest.json").read_text())
    data["files"] = {}
    (build / "manifest.json").write_text(json.dumps(data))
    return manifest.load(build, verify=False)


def test_read_only_build(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every folder can be written, so the answer of the system is replaced."""
    hls = build / "hls"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != hls)
    before = {path: path.stat().st_mtime_ns for path in hls.rglob("*")}
    backend = CsimBackend(manifest.load(build))
    assert backend.program.parent != hls
    backend.execute(images(build, 2))
    copy = backend.program.parent
    backend.close()
    assert not copy.exists() and {path: path.stat().st_mtime_ns for path in hls.rglob("*")} == before


def test_a_failing_compiler_is_quoted(build: Path) -> None:
    (build / "hls" / "attnc_top.cpp").write_text("#error deliberately broken\n")
    with pytest.raises(AcceleratorError, match=r"(?s)the C\+\+ compiler failed.*deliberately broken"):
        build_simulator(build / "hls")
    with pytest.raises(BuildError, match="deliberately broken"):
        checked_simulator(build / "hls")


def test_missing_tools(build: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(AcceleratorError, match="needs 'no-such-compiler', which is not installed"):
        build_simulator(build / "hls")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AcceleratorError, match="needs 'make'"):
        build_simulator(build / "hls")


def test_unknown_types(build: Path) -> None:
    with pytest.raises(ConfigError, match="--types: needed one of native, ap, found 'float'"):
        checked_simulator(build / "hls", "float")
    with pytest.raises(AcceleratorError, match="types: needed one of native, ap"):
        CsimBackend(manifest.load(build), "float")


def test_ap_without_headers(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XILINX_HLS", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"ap_int\.h: install the extra"):
        checked_simulator(build / "hls", "ap")


def test_a_damaged_simulator_is_built_again(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """make sees that it is newer than its sources, and nothing else."""
    program = CsimBackend(manifest.load(build)).program
    whole = program.read_bytes()
    for damaged in (bytes([*whole[:200], whole[200] ^ 1, *whole[201:]]), b"#!/bin/sh\n"):
        program.write_bytes(damaged)
        assert CsimBackend(manifest.load(build)).program.read_bytes() == whole
    program.write_bytes(b"#!/bin/sh\n")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != build / "hls")
    backend = CsimBackend(manifest.load(build))
    assert backend.program.parent != build / "hls"
    backend.close()


def test_a_program_of_another_machine(build: Path) -> None:
    backend = CsimBackend(manifest.load(build))
    given = images(build, 1)
    backend.program.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(AcceleratorError, match="cannot run"):
        backend.execute(given)
    backend.program.write_text("#!/bin/sh\nkill -ILL $$\n")
    with pytest.raises(AcceleratorError, match="SIGILL; it was compiled on another machine: remove"):
        backend.execute(given)


def test_missing_files(build: Path) -> None:
    shutil.rmtree(build / "hls" / "data")
    with pytest.raises(AcceleratorError, match="missing"):
        compare_build(build)


def test_damaged_vectors(build: Path) -> None:
    description = ignoring_sizes(build)
    (build / "golden" / "inputs.bin").write_bytes(b"123")
    with pytest.raises(BuildError, match=rf"needed a multiple of {description.input_bytes} bytes"):
        compare_build(description)
    (build / "golden" / "inputs.bin").unlink()
    with pytest.raises(DataError, match="no such file"):
        compare_build(description)


def test_an_interrupt_waits_for_a_process_that_starts() -> None:
    """It would not be known to whoever ends it."""
    done = []
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            timer.start()
            timer.join()
            time.sleep(0.1)
            done.append(True)
        assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
