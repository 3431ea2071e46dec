"""Simulated time on programs of two or three processes, cycle by cycle against times found by hand.

A process begins a cycle after what starts it; a loop takes a cycle to enter and one to leave. Iteration i reads at its start s(i) and
writes at s(i) + depth - 1; s(i + 1) = s(i) + II unless it waits. A token can be read a cycle after it was written, its place is free a
cycle after it was read. A region ends a cycle after the last of its processes.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from attnc.kernels.network import Loop
from attnc.resources import data_path
from attnc.sim.deadlock import circle, edges, freeing
from attnc.verify.cosim import CosimRun, Timing, Tracing, run_cosim

SOURCE = Path(__file__).with_name("two_processes.cpp")
LOOPS = {
    "produce.PRODUCE": Loop("", depth=3),
    "relay.RELAY": Loop("", depth=5),
    "consume.CONSUME": Loop("", depth=4),
    "load.LOAD": Loop("", depth=2),
    "load_late.LOAD": Loop("", depth=2),
    "store.STORE": Loop("", depth=3),
}
Levels = dict[str, list[tuple[int, int]]]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, kernels = tmp_path_factory.mktemp("time"), data_path("hls_kernels")
    flags = ["-std=c++14", "-Wall", "-Wno-unused-label", "-DATTNC_COSIM", f"-I{kernels}/sim", f"-I{kernels}/include"]
    command = [*shlex.split(os.environ.get("CXX", "g++")), *flags, "-c", str(SOURCE), "-o", str(folder / "program.o")]
    subprocess.run(command, check=True)
    subprocess.run(["g++", str(folder / "program.o"), "-o", str(folder / "program")], check=True)
    return folder / "program"


def simulate(program: Path, name: str, style: str, timing: Timing | None = None, **loops: Loop) -> tuple[CosimRun, Levels]:
    """The run, and every FIFO's levels as (time, level)."""
    timing = timing or Timing()
    timing = Timing(timing.read_latency, timing.write_response, timing.bytes_per_cycle, timing.ports, {**LOOPS, **loops})
    trace = program.with_name("trace.txt")
    run = run_cosim(program, Path(name), style, timing, trace=Tracing(trace))
    names, levels = {}, Levels()
    for line in trace.read_text().splitlines():
        kind, number, *rest = line.split()
        if kind == "F":
            names[number] = rest[0]
            levels[rest[0].rpartition("/")[2]] = []
        elif kind == "L":
            levels[names[number].rpartition("/")[2]].append((int(rest[0]), int(rest[1])))
    return run, levels


def process(run: CosimRun, name: str) -> tuple[int, int, dict[str, int]]:
    """Cycles of a process, those with an iteration, and waiting by cause where there was any."""
    found = next(p for p in run.processes if p.path == name)
    return found.active, found.working, {cause: cycles for cause, cycles in found.waited.items() if cycles}


@pytest.mark.parametrize("style", ["stp", "flp"])
def test_two_processes_that_keep_step(program: Path, style: str) -> None:
    run, levels = simulate(program, "pair", style)
    # Both start at 1 and enter their loops at 2. Token i is written at 2 + i + 3 - 1 and read at 5 + i.
    written, read = [4 + i for i in range(10)], [5 + i for i in range(10)]
    assert levels["fifo"] == _levels(written, read)
    # The last iteration of the reader begins at 14, ends at 18, the loop at 19; the region at 20.
    assert run.cycles == 20
    assert process(run, "top/produce") == (15 - 1, 10, {})
    assert process(run, "top/consume") == (19 - 1, 10, {"empty": 3})


@pytest.mark.parametrize("style", ["stp", "flp"])
def test_a_slow_reader_holds_its_writer_back(program: Path, style: str) -> None:
    run, levels = simulate(program, "pair", style, **{"consume.CONSUME": Loop("", depth=4, ii=2)})
    # Token i is read at 5 + 2 i. Token n >= 2 needs the place of token n - 2, free at 2 n + 2: from the fourth on all wait.
    read = [5 + 2 * i for i in range(10)]
    written = [4, 5, *(2 * n + 2 for n in range(2, 10))]
    assert levels["fifo"] == _levels(written, read)
    assert run.cycles == read[-1] + 4 + 1 + 1
    # The pipeline stands a cycle for each of tokens 3 to 9: every second cycle, as a token would leave it in each.
    assert process(run, "top/produce")[2] == {"full": 7}
    fifo = run.fifos[0]
    assert (fifo.depth, fifo.most, fifo.tokens, fifo.full) == (2, 2, 10, 7)


def test_pipelines_that_stall_keep_what_is_in_them(program: Path) -> None:
    slow = {"produce.PRODUCE": Loop("", depth=3, ii=10)}
    # The writer's tokens leave at 4 + 10 i where they flush, and are read at 5 + 10 i. Its own pipeline never waits.
    flushed, levels = simulate(program, "three", "flp", **slow)
    start = [5 + 10 * i for i in range(10)]
    assert levels["out"] == _levels([s + 4 for s in start], [s + 5 for s in start])
    # A pipeline of 5 that stalls gives a token when 4 further iterations have begun, the last four when the loop drains.
    stalled, levels = simulate(program, "three", "stp", **slow)
    written = [start[i + 4] if i + 4 < 10 else start[9] + i + 4 - 9 for i in range(10)]
    assert levels["out"] == _levels(written, [w + 1 for w in written])
    assert flushed.cycles == stalled.cycles == start[9] + 5 + 4 + 2


def test_a_stall_can_be_a_deadlock(program: Path) -> None:
    assert simulate(program, "loop", "flp")[0].deadlock is None
    run, _ = simulate(program, "loop", "stp")
    # `answer` gives a token at 1, `relay` reads it at 2 and keeps it for the second, at 3.
    assert run.deadlock == 3
    # `back` never had a writer; the flushing run knows who it is, and that one keeps the token.
    found = edges(run, simulate(program, "loop", "flp")[0].fifos)
    back, there = circle(found)
    assert (back.wait.process, back.wait.fifo, back.wait.cycle, back.wait.loop) == ("top/answer", "top/back", 1, "-")
    assert (there.wait.process, there.wait.fifo, there.wait.cycle, there.wait.loop) == ("top/relay", "top/there", 3, "relay.RELAY")
    assert [(edge.partner, edge.held) for edge in (back, there)] == [("top/relay", 1), ("top/answer", 0)]
    assert not circle(edges(run))
    assert freeing(lambda depths: [run], [run]) is None


@pytest.mark.parametrize("style", ["stp", "flp"])
def test_least_depths_free_a_deadlock(program: Path, style: str) -> None:
    timing = Timing(loops=LOOPS)
    run = run_cosim(program, Path("crossed"), style, timing)
    # Four tokens leave at 4 to 7; the fifth waits from then on, which its loop (the iterations until then begun at 2 to 8) says.
    assert run.deadlock is not None and {(b.process, b.cause, b.fifo) for b in run.blocked} == {
        ("top/writer", "full", "top/first"),
        ("top/reader", "empty", "top/second"),
    }
    depths = freeing(lambda depths: [run_cosim(program, Path("crossed"), style, timing, depths)], [run])
    assert depths == {"first": 7}
    for depth, lives in ((6, False), (7, True)):
        assert (run_cosim(program, Path("crossed"), style, timing, {"first": depth}).deadlock is None) == lives


@pytest.mark.parametrize("style", ["stp", "flp"])
def test_memory_answers_late(program: Path, style: str) -> None:
    timing = Timing(read_latency=60, write_response=30)
    # Asked for at 0; the loop is entered at 1; words come at 60 to 79; then depth 2, and a cycle to leave.
    assert simulate(program, "load", style, timing)[0].cycles == 79 + 2 + 1
    assert process(simulate(program, "load", style, timing)[0], "top")[2] == {"memory": 59}
    # Two requests share one latency.
    assert simulate(program, "load twice", style, timing)[0].cycles == 75 + 2 + 1
    # Words leave at 3 to 7; the answer comes 30 cycles after the last one, and the loop ends before it does.
    assert simulate(program, "store", style, timing)[0].cycles == 7 + 30


@pytest.mark.parametrize("style", ["stp", "flp"])
def test_ports_are_shared_and_the_ddr_has_a_rate(program: Path, style: str) -> None:
    apart = Timing(ports={"a": "HP0", "b": "HP1"})
    # Asked for at 1, so words at 61 to 80; depth 2, a cycle to leave, one for the region.
    assert simulate(program, "two loads", style, apart)[0].cycles == 80 + 2 + 1 + 1
    # 16 words at a time: the first loader's at 61 to 76, the second's at 77 to 92, then 4 each at 93 to 96 and 97 to 100.
    shared = Timing(ports={"a": "HP0", "b": "HP0"})
    run, _ = simulate(program, "two loads", style, shared)
    assert run.cycles == 100 + 2 + 1 + 1
    assert run.ports == (("HP0", 40, 0),)
    # Words of 8 bytes at 4 bytes per cycle: 16 of them keep the DDR busy for 32 cycles, so requests are served from 61, 93, 125 and 133.
    slow = Timing(ports={"a": "HP0", "b": "HP1"}, bytes_per_cycle=4)
    assert simulate(program, "two loads", style, slow)[0].cycles == 133 + 3 + 2 + 1 + 1


@pytest.mark.parametrize("style", ["stp", "flp"])
def test_an_adapter_keeps_what_comes(program: Path, style: str) -> None:
    # Asked for at 0, in the adapter from 60 on; from 201 on one is taken per cycle.
    assert simulate(program, "load late", style)[0].cycles == 201 + 20 - 1 + 2 + 1
    assert process(simulate(program, "load late", style)[0], "top")[2] == {}
    # One port for both: each gets 16 words in turn until the adapter of the late one holds 1,024; then the other gets all. Both processes
    # begin at 1; the late one takes a word per cycle from 3,202 on, which its port brings as fast.
    run, _ = simulate(program, "a late one beside", style, Timing(ports={"a": "HP0", "b": "HP0"}))
    assert process(run, "top/soon")[0] == 61 + 1024 + 2000 - 1 + 2 + 1 - 1
    assert process(run, "top/late") == (3202 + 2000 - 1 + 2 + 1 - 1, 5200, {})


@pytest.mark.parametrize("style", ["stp", "flp"])
def test_writes_wait_in_the_adapter(program: Path, style: str) -> None:
    # Words leave from 3 on, the DDR takes one in two cycles: the 125th 16 of them pass from 3 + 124 * 32 on, and are answered 30 later.
    # Up to 1,024 words wait in the adapter: the loop of 1,000 is not held back, and what waits at the end is its answer.
    run, _ = simulate(program, "store much", style, Timing(bytes_per_cycle=4))
    assert run.cycles == 3 + 124 * 32 + 15 + 30
    run, _ = simulate(program, "store 1000", style, Timing(bytes_per_cycle=4))
    assert process(run, "top")[2]["memory"] == run.cycles - (1 + 1000 - 1 + 3 + 1)


@pytest.mark.parametrize("style", ["stp", "flp"])
def test_two_runs_are_equal(program: Path, style: str) -> None:
    assert simulate(program, "three", style) == simulate(program, "three", style)


def _levels(written: list[int], read: list[int]) -> list[tuple[int, int]]:
    """Levels at the end of every cycle in which something happens; a cycle with a write and a read has both."""
    changes: dict[int, int] = {}
    for time, step in [*((w, 1) for w in written), *((r, -1) for r in read)]:
        changes[time] = changes.get(time, 0) + step
    level, found = 0, []
    for time in sorted(changes):
        level += changes[time]
        found.append((time, level))
    return found
