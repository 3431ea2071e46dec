"""Emitted C++ under sanitizers: nothing is computed that C++ leaves undefined, and nothing from what was never written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnc.golden import run_golden
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


@pytest.mark.parametrize("name", [name if name in FAST or not BOTH else pytest.param(name, marks=pytest.mark.slow) for name in PROJECTS])
def test_nothing_is_undefined(name: str) -> None:
    run(name, UNDEFINED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-per-token", "decoder"])  # minutes each
def test_nothing_is_undefined_on_integers_of_any_width(name: str) -> None:
    run(name, UNDEFINED_BESIDE_AP, "ap")


@pytest.mark.parametrize("name", PROJECTS)
def test_nothing_is_undefined_and_all_was_written(name: str, with_clang: None) -> None:
    run(name, UNWRITTEN)


@pytest.mark.slow
def test_a_shift_of_a_negative_number_is_seen() -> None:
    with pytest.raises(AssertionError, match="left shift of negative value"):
        run("digits", UNDEFINED, patch=SHIFTED)


@pytest.mark.slow
@pytest.mark.parametrize(("patch", "message"), [(SHIFTED, "left shift of negative value"), (FORGOTTEN, "use-of-uninitialized-value")])
def test_clang_sees_both(patch: Patch, message: str, with_clang: None) -> None:
    with pytest.raises(AssertionError, match=message):
        run("digits", UNWRITTEN, patch=patch)
