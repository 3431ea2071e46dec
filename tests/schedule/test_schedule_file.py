"""schedule.yaml: what is written can be given back, and nonsense is refused with file, field, needed and found."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest
import yaml

from attnc.errors import ConfigError, FitError
from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.schedule.cost import estimate, overrun
from attnc.schedule.design import QUERY_CHOICES, SCORES, candidates, check_fit, choose_design, multiplier_choices
from attnc.schedule.devices import BOARDS, Board, with_utilisation
from attnc.schedule.file import check_board, check_program, design_of, read_schedule, schedule_text
from attnc.schedule.program import Programs, build_program
from schedule.graphs import layer_graph

KV260 = BOARDS["kv260"]
DESIGN = {"lanes": 16, "pe": 32, "rows": 32, "queries": 2}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return layer_graph()


def write(folder: Path, **fields: Any) -> Path:
    path = folder / "schedule.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "design": DESIGN, **fields}))
    return path


def test_what_is_written_can_be_given_back(graph: Graph, tmp_path: Path) -> None:
    design = Design.of(16, 32, 32, 2, rows_at_once=3)
    depths = {"engine_1_1_linear.sums": 2, "engine_1.x_0": 40}
    program = replace(build_program(graph, design, None), depths=depths)
    places = {"linear.w_buffer": "uram", "linear.x_buffer": "lutram"}
    cost = estimate(program, KV260, 222.0, places, {"weights_0": "HP3"})
    path = tmp_path / "schedule.yaml"
    path.write_text(schedule_text(program, cost, KV260, "latency", "stp"))
    assert "#   engine_1: layer_normalization > linear: 1\n" in path.read_text()
    schedule = read_schedule(path)
    check_board(schedule, path, KV260)
    check_program(schedule, path, program, cost, KV260)
    assert design_of(schedule, path, graph) == design and schedule.clock_mhz == 222 and schedule.ports["weights_0"] == "HP3"
    assert schedule.fifos == depths and schedule.pipelines == schedule.given.pipelines == "stp"
    assert schedule.memory == cost.places and {**cost.places, **places} == cost.places
    again = estimate(program, KV260, 222.0, schedule.memory, schedule.ports)
    assert again == cost
    assert schedule_text(program, again, KV260, "latency", schedule.pipelines) == path.read_text()


def test_older_files_have_numbers_of_usual_engines_beside_the_others(tmp_path: Path) -> None:
    assert read_schedule(write(tmp_path)).design.design("") == Design.of(16, 32, 32, 2, rows_at_once=1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"design": {**DESIGN, "pe": 24}}, r"'design.engines.linear.pe': needed a power of two, found 24"),
    ({"design": {**DESIGN, "pe": 8}}, r"'design.engines.linear.pe': needed a multiple of design.lanes \(16\), at least 2, found 8"),
    (
        {"design": {**DESIGN, "lanes": 1, "pe": 1}},
        r"'design.engines.linear.pe': needed a multiple of design.lanes \(1\), at least 2, found 1",
    ),
    ({"design": {**DESIGN, "rows": 0}}, r"'design.rows': .*greater than or equal to 1, found 0"),
    ({"design": {**DESIGN, "rows": True}}, r"'design.rows': .*integer, found True"),
    ({"design": {**DESIGN, "queries": 10**9}}, r"'design.engines.attention.queries': .*less than or equal to 4096"),
    ({"design": {**DESIGN, "rows_at_once": 0}}, r"'design.engines.linear.rows_at_once': .*greater than or equal to 1, found 0"),
    ({"design": {**DESIGN, "rows_at_once": 2.5}}, r"'design.engines.linear.rows_at_once': .*integer, found 2.5"),
    ({"design": {**DESIGN, "rows_at_once": 33}}, r"'design.engines.linear.rows_at_once': needed at most its rows \(32\), found 33"),
    ({"design": {**DESIGN, "parallel": 3}}, r"'design.parallel': needed 1 .*or 2 .*, found 3"),
    ({"design": {**DESIGN, "beat": 2, "weight_ports": 3}}, r"'design.engines.linear.weight_ports': needed 1, 2 or 4 .*, found 3"),
    ({"design": {**DESIGN, "wings": 2}}, r"'design.wings': .*found 2"),
    ({"design": {"lanes": 16}}, r"'design.rows': Field required"),
    ({"colour": "red"}, r"'colour': .*found 'red'"),
    ({"schema": 7}, r"'schema': .*found 7"),
    ({"fifos": {"engine_0.x": 0}}, r"'fifos.engine_0.x': .*greater than or equal to 1, found 0"),
    ({"fifos": {"engine_0.x": 65537}}, r"'fifos.engine_0.x': .*less than or equal to 65536, found 65537"),
    ({"fifos": {"engine_0.x": True}}, r"'fifos.engine_0.x': .*integer, found True"),
    ({"fifos": ["engine_0.x"]}, r"'fifos': .*dictionary"),
    ({"pipelines": "frp"}, r"'pipelines': .*'stp' or 'flp', found 'frp'"),
    ({"memory": {"linear.x_buffer": "flash"}}, r"'memory.linear.x_buffer': .*'uram', found 'flash'"),
    ({"utilisation": {"lut": 1.5}}, r"'utilisation.lut': .*less than or equal to 1, found 1.5"),
    ({"clock_mhz": float("nan")}, r"'clock_mhz'"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=[message for _, message in WRONG])
def test_nonsense_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"schedule.yaml: field {message}"):
        read_schedule(write(tmp_path, **fields))


@pytest.mark.parametrize("text", ["- 1", "", "a: [", "a: !!python/object/apply:os.system [true]", "\0"])
def test_what_is_no_schedule_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"schedule\.yaml: "):
        read_schedule(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_schedule(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": "zcu102"}, r"'target': needed 'kv260'.*found 'zcu102'"),
        ({"design": {**DESIGN, "lanes": 32}}, r"'design.lanes': needed at most 16, the bytes of a memory port of kv260, found 32"),
        ({"ports": {"load_0": "HP7"}}, r"'ports.load_0': needed one of the 4 memory ports of kv260 \(HP0, HP1, HP2, HP3\), found 'HP7'"),
        ({"ports": {"load_9": "HP0"}}, r"'ports': needed only program, load_0, .*weights_0.*found 'load_9'"),
        ({"fifos": {"engine_1.y": 3}}, r"'fifos': needed a FIFO of this design, such as engine_1.y_.*, found 'engine_1.y'"),
        ({"memory": {"linear.z": "bram"}}, r"'memory': needed only attention.*linear.y_buffer, found 'linear.z'"),
    ],
)
def test_board_and_program_are_checked(graph: Graph, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = write(tmp_path, **fields)
    schedule = read_schedule(path)
    with pytest.raises(ConfigError, match=message):
        check_board(schedule, path, KV260)
        program = build_program(graph, design_of(schedule, path, graph), None)
        check_program(schedule, path, program, estimate(program, KV260, 250), KV260)


@pytest.mark.parametrize(
    ("engines", "expected"), [({"linear": {}}, "dsp"), ({"lookup": {}}, "lookup"), ({}, None), ({"linear": {}, "lookup": {}}, None)]
)
def test_the_engine_that_is_there_serves_all(tmp_path: Path, engines: dict[str, Any], expected: str | None) -> None:
    """As in the build that the schedule is from; nodes that have an engine keep it."""
    graph = layer_graph()
    linear = [node for node in graph.nodes if node.op == "linear"]
    linear[0].attrs["engine"] = "lookup"
    path = write(tmp_path, design={"lanes": 8, "rows": 16, "engines": engines})
    design_of(read_schedule(path), path, graph)
    assert [node.attrs.get("engine") for node in linear] == ["lookup", *[expected] * (len(linear) - 1)]


def test_heads_bound_the_lanes(tmp_path: Path) -> None:
    path = write(tmp_path, design={**DESIGN, "lanes": 16})
    with pytest.raises(ConfigError, match=r"'design.lanes': needed a divisor of 8, the channels of a head, found 16"):
        design_of(read_schedule(path), path, layer_graph(heads=8))


def test_no_uram_on_a_board_without(graph: Graph, tmp_path: Path) -> None:
    path, board = write(tmp_path, memory={"linear.x_buffer": "uram"}), BOARDS["zcu102"]
    schedule = read_schedule(path)
    program = build_program(graph, design_of(schedule, path, graph), None)
    with pytest.raises(ConfigError, match=r"'memory.linear.x_buffer': needed bram or lutram, because zcu102 has no URAM, found 'uram'"):
        check_program(schedule, path, program, estimate(program, board, 250), board)


def test_limits_can_be_set() -> None:
    board = with_utilisation(KV260, "lut=0.5, bram=0.9")
    assert (board.utilisation.lut, board.utilisation.bram36, board.utilisation.dsp) == (0.5, 0.9, 0.8)
    assert board.limits["lut"] == KV260.lut / 2
    for text in ("lut", "lut=x", "lut=2", "rocks=0.5", "lut=0.1,lut=0.2", ""):
        with pytest.raises(ConfigError, match="--utilisation"):
            with_utilisation(KV260, text)


def test_misfit_names_the_resource_and_the_smallest_change(graph: Graph) -> None:
    design = Design.of(16, 256, 32, 2)
    program = build_program(graph, design, None)
    text = check_fit(graph, design, estimate(program, KV260, 250), KV260, 250)
    assert text is not None and "dsp needs" in text and "the limit is 998 of 1248" in text
    assert "design linear.pe 256 -> " in text and "--target " in text
    small = Design.of(16, 16, 32, 1)
    assert check_fit(graph, small, estimate(build_program(graph, small, None), KV260, 250), KV260, 250) is None
    tiny = Board(name="tiny", part="x", lut=30_000, ff=60_000, dsp=300, bram36=60, ddr_gb_s=4)
    with pytest.raises(FitError, match=r"does not fit tiny, even with the smallest engines: (lut|ff) needs .*--target pynq-z2"):
        choose_design(graph, tiny, 100)


def cost_of(graph: Graph, objective: Any) -> Any:
    return estimate(build_program(graph, choose_design(graph, KV260, 250, objective), None), KV260, 250)


@pytest.mark.slow  # two more searches
def test_other_objectives(graph: Graph) -> None:
    fast, frugal = cost_of(graph, "latency"), cost_of(graph, "energy")
    assert fast.cycles <= frugal.cycles and cost_of(graph, "throughput") == fast


def test_objectives(graph: Graph) -> None:
    fast, small = cost_of(graph, "latency"), cost_of(graph, "area")
    assert fast.cycles <= small.cycles
    assert max(small.used()[name] / getattr(KV260, name) for name in small.used()) <= max(
        fast.used()[name] / getattr(KV260, name) for name in fast.used()
    )
    assert small.resources.lut < fast.resources.lut


@pytest.mark.parametrize("share", [60, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("objective", ["latency", "area", pytest.param("energy", marks=pytest.mark.slow)])
def test_the_search_finds_what_trying_everything_does(objective: Any, share: int) -> None:
    """It leaves out designs that others beat; no one of every `share` that are cut alike in all engines is better than the best."""
    graph, found = layer_graph(rows=40), []
    programs = Programs(graph)
    pairs = multiplier_choices(programs, 16, 2 * KV260.limits["dsp"])
    assert (1, 16) not in pairs and {(1, 1), (1, 6), (2, 3)} < set(pairs)
    for lanes in (16, 8, 4):
        starts = candidates(programs, lanes, KV260, multiplier_choices(programs, lanes, 2 * KV260.limits["dsp"]))
        every = product(starts, QUERY_CHOICES, (1, 2), (1, 2))
        for start, queries, copies, parallel in islice(every, random.Random(lanes).randrange(share), None, share):
            design = start.having(queries=queries, copies=copies, parallel=parallel)
            cost = estimate(programs.build(design), KV260, 250)
            assert 0 < programs.least_cycles(design) <= cost.cycles
            if overrun(cost.resources, KV260) is None:
                found.append((SCORES[objective](cost, KV260, lanes), cost.cycles, cost.resources.lut))
    chosen = choose_design(graph, KV260, 250, objective)
    cost = estimate(build_program(graph, chosen, None), KV260, 250)
    best = SCORES[objective](cost, KV260, chosen.lanes), cost.cycles, cost.resources.lut
    assert best <= min(found)
    assert objective != "latency" or chosen.linear.rows_at_once > 1
