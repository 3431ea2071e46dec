"""FIFOs of a design: one list of names, depths and widths, which the sources, the resources and a schedule's `fifos` all follow."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from attnc.codegen.render import write_sources
from attnc.errors import ConfigError
from attnc.kernels.design import Design
from attnc.kernels.storage import fifo
from attnc.schedule.cost import estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.edit import with_fifos
from attnc.schedule.fifos import fifos
from attnc.schedule.file import read_schedule
from attnc.schedule.program import Program, build_program
from schedule.graphs import layer_graph

STREAM = re.compile(
    r'hls::stream<([^\n]*)> (\w+)\("([\w.]+)"\);\n#pragma HLS STREAM variable = \2 depth = (\d+)\n'
    r"(#pragma HLS BIND_STORAGE variable = \2 type = fifo impl = bram\n)?  ATTNC_DEPTH\(\2, \4\)\n"
)


@pytest.fixture(scope="module", params=[1, 2])
def program(request: pytest.FixtureRequest) -> Program:
    return build_program(layer_graph(), Design.of(8, 16, 16, 2, beat=2, parallel=request.param), None)


def emitted(program: Program, folder: Path) -> dict[str, tuple[int, bool]]:
    """Depth, and whether it lies in block memory, of every stream that the sources declare."""
    write_sources(program, folder, "part", 200)
    text = (folder / "attnc_top.cpp").read_text()
    found = STREAM.findall(text)
    assert len(found) == text.count("#pragma HLS STREAM") == text.count("ATTNC_DEPTH(")
    return {name: (int(depth), bool(bram)) for _, _, name, depth, bram in found}


def test_the_sources_declare_the_list(program: Program, tmp_path: Path) -> None:
    usual = {name: queue.depth for name, queue in fifos(program).items()}
    assert emitted(program, tmp_path / "usual") == {name: (depth, depth > 32) for name, depth in usual.items()}
    given = {name: 2 + 45 * (number % 2) for number, name in enumerate(usual)}
    assert emitted(replace(program, depths=given), tmp_path / "given") == {name: (depth, depth > 32) for name, depth in given.items()}


def bits(element: str, lanes: int) -> int:
    """Of the C++ type of an element."""
    element = {"word_t": "attnc::Word<LANES>", "beat_t": "attnc::Word<2 * LANES>"}.get(element, element)
    vector = re.fullmatch(r"attnc::Vec<attnc::U?Int<(\d+)>, (\w+)>", element)
    if vector:
        return int(vector[1]) * (lanes if vector[2] == "LANES" else int(vector[2]))
    word = re.fullmatch(r"attnc::Word<(?:(\d+) \* )?(\w+)>", element)
    if word:
        return 8 * int(word[1] or 1) * (lanes if word[2] == "LANES" else int(word[2]))
    if element == "attnc::SoftmaxScale":
        return 24
    return int(re.fullmatch(r"attnc::U?Int<(\d+)>", element)[1])  # type: ignore[index]


def test_widths_are_those_of_the_elements(program: Program, tmp_path: Path) -> None:
    write_sources(program, tmp_path, "part", 200)
    found = STREAM.findall((tmp_path / "attnc_top.cpp").read_text())
    assert {name: bits(element, program.design.lanes) for element, _, name, *_ in found} == {n: q.bits for n, q in fifos(program).items()}


def test_resources_follow_the_depths(program: Program) -> None:
    board, usual = BOARDS["kv260"], fifos(program)
    before = estimate(program, board, 200).resources.astuple()
    for depth in (2, 20, 600):
        after = estimate(replace(program, depths=dict.fromkeys(usual, depth)), board, 200).resources.astuple()
        for name, (old, new) in zip(("lut", "ff", "dsp", "bram36", "uram"), zip(before, after, strict=True), strict=True):
            more = sum(getattr(fifo(queue.bits, depth), name) - getattr(queue.resources, name) for queue in usual.values())
            assert new - old == pytest.approx(more)


def test_storage_of_a_fifo() -> None:
    assert [fifo(100, depth).lut for depth in (2, 16, 17, 32)] == [50, 50, 100, 100]
    assert fifo(100, 33).bram36 == 1.5 and fifo(100, 32).bram36 == 0


REST = "# mine\nschema: 1\ndesign: {lanes: 16, pe: 32, rows: 32, queries: 2}  # wide\n"


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (REST, REST + "fifos:\n  a: 3\n  b.c: 4\n"),
        (REST + "# end", REST + "fifos:\n  a: 3\n  b.c: 4\n# end"),
        (REST.rstrip(), REST + "fifos:\n  a: 3\n  b.c: 4"),
        (REST + "fifos: {x: 1,\n  y: 2}  # old\nports: {}\n", REST + "fifos:\n  a: 3\n  b.c: 4  # old\nports: {}\n"),
        (REST + "fifos:\n  x: 1  # why\n\n# end\nports: {}\n", REST + "fifos:\n  a: 3\n  b.c: 4  # why\n\n# end\nports: {}\n"),
        ("fifos: {}\n" + REST, "fifos:\n  a: 3\n  b.c: 4\n" + REST),
        (REST.replace("\n", "\r\n"), (REST + "fifos:\n  a: 3\n  b.c: 4\n").replace("\n", "\r\n")),
    ],
)
def test_only_the_depths_of_a_file_change(tmp_path: Path, text: str, changed: str) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_bytes(text.encode())
    assert with_fifos(path, {"a": 3, "b.c": 4}) == changed and path.read_bytes() == text.encode()
    with_fifos(path, {"a": 3, "b.c": 4}, write=True)
    assert path.read_bytes() == changed.encode() and read_schedule(path).fifos == {"a": 3, "b.c": 4}
    assert [file.name for file in tmp_path.iterdir()] == ["schedule.yaml"]


@pytest.mark.parametrize("text", ["{schema: 1, design: {lanes: 16, pe: 32, rows: 32, queries: 2}}\n", "schema: 1\n", "", "\ufeff" + REST])
def test_a_file_of_another_form_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(text)
    try:
        assert with_fifos(path, {"a": 3}).replace("fifos:\n  a: 3\n", "") == text  # a form that can be told apart after all
    except ConfigError as error:
        assert "schedule.yaml" in str(error)
    assert path.read_text() == text
