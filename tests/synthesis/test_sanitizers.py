"""Emitted C++ under sanitizers: nothing is computed that C++ leaves undefined, and nothing from what was never written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.golden import run_golden
from attnc.verify.simulator import build_simulator
from decoding.decoders import write_decoder
from decoding.test_keys_at_once import BLOCK, LENGTH, MODELS, SCHEDULE
from harness import Patch, random_feeds, simulate
from synthesis.compilers import CLANG, has_memory_sanitizer
from synthesis.projects import PROJECTS

UNDEFINED = "-O0 -fsanitize=address,undefined -fno-sanitize-recover=all"
UNDEFINED_BESIDE_AP = f"{UNDEFINED} -fno-sanitize=shift"
"""The class of integers of any width shifts negative numbers itself."""
OWN = Path(__file__).parent / "sanitizers"
UNWRITTEN = f"-O0 -g -fsanitize=memory,undefined -fno-sanitize-recover=all -fsanitize-ignorelist={OWN / 'ignored.txt'} -I{OWN}"
"""Of clang, both at once. Its standard library is not instrumented: elements pass streams of our own, and what a heap gives counts as
written."""
BOTH = has_memory_sanitizer()
FAST = ("others",)
SINGLE = [name for name in PROJECTS if not name.startswith("decoding")]
"""Those that are a run of their own."""
SHIFTED = {"layer_normalization.hpp": ("COUNT - 1])) * T(T(1) << (8 * (COUNT - 1))));", "COUNT - 1])) << (8 * (COUNT - 1)));")}
FORGOTTEN = {"layer_normalization.hpp": ("  int tile = 0, row = 0;\n", "  int tile = 0, row;\n  if (call.rows < 0) row = 0;\n")}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")
    monkeypatch.setenv("MSAN_OPTIONS", "poison_in_malloc=0:poison_in_free=0")


@pytest.fixture
def with_clang(monkeypatch: pytest.MonkeyPatch) -> None:
    if not BOTH:
        pytest.skip("no clang with a sanitizer of memory (Debian packages clang, libclang-rt-dev)")
    assert CLANG is not None
    monkeypatch.setenv("CXX", CLANG)


def run(name: str, flags: str, types: str = "native", patch: Patch | None = None) -> None:
    """A project on random inputs and corners, against golden."""
    graph, design = PROJECTS[name][0](), PROJECTS[name][1]
    feeds = random_feeds(graph, 3)
    found, expected = simulate(graph, feeds, design, types, patch, flags), run_golden(graph, feeds)
    for output in graph.outputs:
        np.testing.assert_array_equal(found[output], expected[output], err_msg=output)


@pytest.mark.parametrize("name", [name if name in FAST or not BOTH else pytest.param(name, marks=pytest.mark.slow) for name in SINGLE])
def test_nothing_is_undefined(name: str) -> None:
    run(name, UNDEFINED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-per-token", "decoder"])  # minutes each
def test_nothing_is_undefined_on_integers_of_any_width(name: str) -> None:
    run(name, UNDEFINED_BESIDE_AP, "ap")


@pytest.mark.parametrize("name", SINGLE)
def test_nothing_is_undefined_and_all_was_written(name: str, with_clang: None) -> None:
    run(name, UNWRITTEN)


def test_nor_in_the_runs_of_a_decoder(tmp_path: Path, with_clang: None) -> None:
    """Blocks and tokens, several keys at a time, a ring, caches of 4 bits through two ports."""
    cache, numbers, model = MODELS["of 4 bits, through two ports"]
    (tmp_path / "schedule.yaml").write_text(SCHEDULE % numbers)
    options = {"max_length": LENGTH, "block": BLOCK, "cache": cache, "check": False, "schedule": tmp_path / "schedule.yaml"}
    build = compile_model(write_decoder(tmp_path / "decoder.onnx", **model), CompileOptions(**options, output=tmp_path / "build"))
    data, found = build / "hls" / "data", tmp_path / "outputs.bin"
    done = subprocess.run(
        [build_simulator(build / "hls", "native", UNWRITTEN), data, data / "inputs.bin", found], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert found.read_bytes() == (data / "expected.bin").read_bytes()


@pytest.mark.slow
def test_a_shift_of_a_negative_number_is_seen() -> None:
    with pytest.raises(AssertionError, match="left shift of negative value"):
        run("digits", UNDEFINED, patch=SHIFTED)


@pytest.mark.slow
@pytest.mark.parametrize(("patch", "message"), [(SHIFTED, "left shift of negative value"), (FORGOTTEN, "use-of-uninitialized-value")])
def test_clang_sees_both(patch: Patch, message: str, with_clang: None) -> None:
    with pytest.raises(AssertionError, match=message):
        run("digits", UNWRITTEN, patch=patch)
