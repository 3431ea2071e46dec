"""Emitted projects pass every check, and compile without a warning: no exception is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.kernels.loops import LOOPS
from harness import slowly
from synthesis.compilers import OLD, flags, warnings_of, warnings_of_clang
from synthesis.lint import lint_project, project
from synthesis.projects import PROJECTS, emit

FAMILIES = ("t5", "modernbert", "dinov3", "beit", "swinv2", "segformer", "svtr", "whisper", "gptneox", "bloom", "gemma2", "phi", "bitnet")
"""Those that bring kernels, or arguments of them, that the others do not have."""
LIBRARIES = ["installed", *(["old"] if OLD.is_file() else [])]
"""`make test` installs the old one."""


QUICK = ("digits", "attention", "decoding", "mixture")
"""Projects whose integers of any width are compiled in the quick tests too."""


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what compilers need."""
    return tmp_path_factory.mktemp("tools")


def assert_no_finding(folder: Path) -> None:
    assert not (found := lint_project(folder)), "\n".join(map(str, found))


def assert_no_warning(folder: Path, types: str, tools: Path, libraries: list[str], source: str = "attnc_top.cpp") -> None:
    for library in libraries:
        assert not warnings_of(library, folder / source, flags(folder, types), tools)
    assert not warnings_of_clang(folder / source, flags(folder, types))


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_has_no_finding(name: str, tmp_path: Path, tools: Path) -> None:
    assert_no_finding(emit(name, tmp_path))
    assert_no_warning(tmp_path, "native", tools, LIBRARIES)


@pytest.mark.parametrize("name", [*QUICK, *slowly(*((name,) for name in PROJECTS if name not in QUICK))])
def test_integers_of_any_width(name: str, tmp_path: Path, tools: Path) -> None:
    """One compiler: it takes seconds."""
    source = emit(name, tmp_path) / "attnc_top.cpp"
    assert not warnings_of(LIBRARIES[-1], source, flags(tmp_path, "ap"), tools)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_all_compilers_take_integers_of_any_width(name: str, tmp_path: Path, tools: Path) -> None:
    assert_no_warning(emit(name, tmp_path), "ap", tools, LIBRARIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "decoder"])  # with beats of a word and of two
@pytest.mark.parametrize("types", ["native", "ap"])
def test_all_compilers_take_the_test_bench(name: str, types: str, tmp_path: Path, tools: Path) -> None:
    assert_no_warning(emit(name, tmp_path), types, tools, LIBRARIES, "testbench.cpp")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_warning_is_seen(library: str, tmp_path: Path, tools: Path) -> None:
    (tmp_path / "source.cpp").write_text("int f(int x, int y) { return x; }\n")
    assert "unused parameter 'y'" in warnings_of(library, tmp_path / "source.cpp", flags(tmp_path, "native"), tools)


@pytest.mark.slow
def test_every_loop_is_looked_at(tmp_path: Path) -> None:
    seen = set()
    for name in PROJECTS:
        program = project(emit(name, tmp_path / name))
        seen |= {f"{loop.function.name}.{loop.label}" for code in program.codes.values() for loop in code.loops}
    assert seen >= LOOPS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_no_finding(name: str, tmp_path: Path, tools: Path) -> None:
    assert_no_finding(emit(name, tmp_path))
    assert_no_warning(tmp_path, "native", tools, LIBRARIES)


@pytest.mark.slow
def test_the_sentence_encoder_has_no_finding(tmp_path: Path, tools: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra zoo")
    from models.minilm.export import NAMES, export

    export(tmp_path / "minilm.onnx")
    shapes = dict.fromkeys(NAMES, (1, 128))
    options = CompileOptions(output=tmp_path / "build", shapes=shapes, activations="dynamic", check=False)
    build = compile_model(tmp_path / "minilm.onnx", options)
    assert_no_finding(build / "hls")
    for types in ("native", "ap"):
        assert_no_warning(build / "hls", types, tools, LIBRARIES)
